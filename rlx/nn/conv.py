"""A short causal convolution of each channel on its own, as before the recurrences of Mamba-2 and DeltaNet."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlx.kernels.precision import wide


class ShortConv(nn.Module):
    """silu(sum of the last `size` tokens' channels, weighted), from and to [B, T, C]; it crosses no document start.

    Written as a sum of shifted products, which a compiler fuses, and which needs no [B, C, T] copy. The weight has
    `nn.Conv1d`'s shape [C, 1, size], oldest token first, and its distribution.
    """

    def __init__(self, channels: int, size: int, *, bias: bool) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(channels, 1, size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def reset_own(self) -> None:
        bound = 1 / math.sqrt(self.size)
        for parameter in (self.weight, *([] if self.bias is None else [self.bias])):
            if not parameter.is_meta:  # torch._dynamo would be imported to draw nothing
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, *, starts: Tensor | None = None, tail: Tensor | None = None) -> Tensor:
        """[B, T, C] in at least float32.

        Args:
            x: [B, T, C].
            starts: [B, T] bool, True on the first token of each document; None: one a row.
            tail: [B, size - 1, C], the tokens before; None: zeros.
        """
        length = x.shape[1]
        before = F.pad(x, (0, 0, self.size - 1, 0)) if tail is None else torch.cat([tail.to(x.dtype), x], dim=1)
        before, weight = wide(before), wide(self.weight)
        total = before[:, self.size - 1 :] * weight[:, 0, -1]
        inside = None if starts is None else ~starts  # [B, T], the token that many places before is of the document
        for lag in range(1, self.size):
            begin = self.size - 1 - lag
            term = before[:, begin : begin + length] * weight[:, 0, -1 - lag]
            if inside is not None and starts is not None:
                term = term * inside[..., None]
                inside = inside & ~F.pad(starts, (lag, 0))[:, :length]
            total = total + term
        return F.silu(total if self.bias is None else total + wide(self.bias))

    def next_tail(self, x: Tensor, tail: Tensor, lengths: Tensor | None) -> Tensor:
        """[B, size - 1, C], the last tokens of the rows that go on from `tail` with the first `lengths` [B] int64
        (None: all) of x [B, T, C]."""
        before, kept = torch.cat([tail, x.to(tail.dtype)], dim=1), self.size - 1
        if lengths is None:
            return before[:, before.shape[1] - kept :]
        place = lengths[:, None] + torch.arange(kept, device=x.device)  # [B, size - 1]
        return before.gather(1, place[..., None].expand(-1, -1, x.shape[2]))

    @property
    def active_numel(self) -> int:
        """Weights that a token is multiplied with."""
        return self.weight.numel()
