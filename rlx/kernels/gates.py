"""What chunked recurrences with a scalar gate share: decays inside a chunk and across chunks, and resets.

Only differences of cumulated log-gates are exponentiated, of a later and an earlier place, so nothing exceeds 1. The
sums are made in float64 and kept as two float32 numbers: after a few strong gates a sum alone would have lost the
digits of the weak ones that follow (at -3,000 the last bit of a float32 is 2e-4). A reset is no gate of 0, whose
logarithm has no differences: the sums begin anew behind it, and places on two sides of one are masked before the
exponential. There the sums are products with a matrix of ones, so that no rounding of a gradient crosses a reset
either.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Decays(NamedTuple):
    """What gates leave over in a chunk of L places."""

    between: Tensor
    """[..., H, L, L], at place i of what came in at place j <= i; 0 for j > i, and across a reset."""
    since_begin: Tensor
    """[..., H, L], at each place of what was there before the first."""

    @property
    def until_end(self) -> Tensor:
        """[..., H, L], at the last place of what came in at each."""
        return self.between[..., -1, :]


def decays(log_gates: Tensor, starts: Tensor | None, dtype: torch.dtype) -> Decays:
    """Of log-gates [..., L, H] and resets [..., L]; the gate of a reset is 0 whatever its logarithm says."""
    length = log_gates.shape[-2]
    joined, began = torch.ones(length, length, dtype=torch.bool, device=log_gates.device).tril(), None
    if starts is not None:
        log_gates = log_gates.masked_fill(starts[..., None], 0.0)
        resets = starts.cumsum(-1)[..., None, :]  # [..., 1, L]
        joined, began = joined & (resets[..., :, None] == resets[..., None, :]), resets != 0  # [..., 1, L, L]
    log_gates = log_gates.double()
    whole = log_gates.cumsum(-2) if starts is None else joined.squeeze(-3).double() @ log_gates
    whole = whole.transpose(-1, -2)  # [..., H, L]
    high = whole.to(dtype)
    low = (whole - high).detach().to(dtype)
    logs = (high[..., :, None] - high[..., None, :]) + (low[..., :, None] - low[..., None, :])
    since = high.exp()
    return Decays(
        between=logs.masked_fill(~joined, -torch.inf).exp(),
        since_begin=since if began is None else since.masked_fill(began, 0.0),
    )


def in_chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, M, C, ...] from [B, T, ...], with zeros after the last token (gates of 1, nothing that comes in)."""
    missing = -x.shape[1] % chunk
    if missing:
        x = F.pad(x, (*[0, 0] * (x.dim() - 2), 0, missing))
    return x.unflatten(1, (-1, chunk))
