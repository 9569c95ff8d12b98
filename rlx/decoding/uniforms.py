"""Uniform numbers as a pure function of (row key, step): a sample does not depend on its neighbours.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) on a counter: no generator state, nothing to save, and a row keeps its
numbers wherever it is decoded. Multiplication wraps around, as int64 does in torch.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64, which torch shifts arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's output function, int64 to int64, elementwise."""
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)


def uniforms(keys: Tensor, step: int | Tensor) -> Tensor:
    """[B] float64 in (0, 1) for row keys [B] int64 at `step` (>= 0; or [B] int64, a step a row)."""
    counter = (torch.as_tensor(step, device=keys.device) + 1) * _GOLDEN
    bits = _shift_right(mix(mix(keys) + counter), 12)  # 52 bits: with 53 the half would round, and 1.0 come out
    return (bits.double() + 0.5) * 2.0**-52


def sample_keys(keys: Tensor, samples: int) -> Tensor:
    """[P * samples] int64: a key for every sample of every prompt, prompt by prompt, from prompt keys [P] int64."""
    numbers = torch.arange(1, samples + 1, device=keys.device)
    return mix(mix(keys)[:, None] + _GOLDEN * numbers).flatten()
