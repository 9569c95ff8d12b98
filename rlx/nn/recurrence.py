"""What token mixers with a recurrent state share: its cache, norms with a gate, and how fresh decays are drawn."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlx.kernels.precision import wide
from rlx.nn.cache import StateCache


def fresh_decays(log_decay: Tensor, step_bias: Tensor) -> None:
    """Fill [H] each with Mamba-2's: decay rates uniform in [1, 16], step sizes log-uniform in [0.001, 0.1], which are
    softplus of the bias."""
    if log_decay.is_meta:  # torch._dynamo would be imported to draw nothing
        return
    with torch.no_grad():
        log_decay.uniform_(1, 16).log_()
        step = step_bias.uniform_(math.log(1e-3), math.log(1e-1)).exp()
        step_bias.copy_(step + (-(-step).expm1()).log())


def new_state(
    batch: int, tail: tuple[int, int], state: tuple[int, ...], *, dtype: torch.dtype, device: torch.device
) -> StateCache:
    """Zeros: `tail` [B, ...] in `dtype`, last tokens of a convolution, and `state` [B, ...], at least in float32."""
    kept = torch.promote_types(dtype, torch.float32)
    return StateCache(
        tail=torch.zeros(batch, *tail, dtype=dtype, device=device),
        state=torch.zeros(batch, *state, dtype=kept, device=device),
    )


class GatedNorm(nn.Module):
    """RMS norm over equal groups of the last axis, with a gate silu(z) before it (Mamba-2) or behind it (DeltaNet).

    `weight` has one number for each channel of x, or of a group where the groups share it.
    """

    def __init__(self, width: int, *, groups: int, eps: float, shared: bool, gate_first: bool) -> None:
        super().__init__()
        self.groups, self.eps, self.gate_first = groups, eps, gate_first
        self.weight = nn.Parameter(torch.ones(width // groups if shared else width))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        gate = F.silu(wide(z))
        x = wide(x) * gate if self.gate_first else wide(x)
        parts = x.unflatten(-1, (self.groups, -1))
        parts = parts * (parts.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        parts = parts * wide(self.weight).view(-1, parts.shape[-1])
        x = parts.flatten(-2)
        return (x if self.gate_first else x * gate).to(z.dtype)
