"""Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split layout that transformers' Llama uses."""

import torch
from torch import Tensor

from rlx.nn.rows import Need


def rotary_of(head_dim: int, theta: float) -> tuple[str, Need]:
    """Name and maker of what `rotate` takes for the tokens of a pass."""
    name = f"rotary/{head_dim}/{theta}"
    return name, lambda known: rotary_tables(known.positions, head_dim=head_dim, theta=theta)


def rotary_tables(positions: Tensor, *, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each [B, 1, T, K] float32, for positions [B, T] int64.

    Frequencies are theta^(-2i/K) for i in 0..K/2-1; both halves of a head share them.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = positions[:, None, :, None].float() * theta**-exponents  # [B, 1, T, K/2]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, H, T, K] turned by its positions, in x's dtype."""
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos + turned * sin).to(x.dtype)
