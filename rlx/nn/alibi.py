"""Positions told by a bias on the scores (ALiBi, Press et al., arXiv 2108.12409), or by how far each head sees.

1. ALiBi: slope * distance is taken off each score. Slopes are 2^(-8 i / H) for i in 1..H where H is a power of two,
   else those of the power below, then every second of the power above: as in the authors' code.
2. Hard-ALiBi (Repeat After Me, arXiv 2402.01032): heads i in 0..m-1 see the current token and the i before it, the
   others all of the past. No head is told anything else of positions.
"""

import math

import torch
from torch import Tensor

from rlx.nn.rows import Need, Pass, seen_by

NO_END = 2**31 - 1
"""A window that no row is as long as."""


def slopes(n_heads: int) -> Tensor:
    """[H] float32, steepest first."""
    below = 2 ** int(math.log2(n_heads))
    found = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    found += [2 ** (-4 * (2 * i + 1) / below) for i in range(n_heads - below)]
    return torch.tensor(found)


def alibi(n_heads: int, window: int | None) -> tuple[str, Need]:
    """Name and maker of a bias [B, H, T, S] float32: minus slope times distance, -inf where `seen_by` sees nothing."""
    name, seen = seen_by(window)

    def made(known: Pass) -> Tensor:
        mask, positions = seen(known), known.positions
        if known.slots is None:
            place = torch.arange(positions.shape[1], device=positions.device)  # within a document as far as positions
            distance = (place[:, None] - place)[None, None]  # [1, 1, T, T]
        else:
            distance = positions[:, None, :, None] - torch.arange(known.slots, device=positions.device)
        mask = distance >= 0 if mask is None else mask
        bias = slopes(n_heads).to(positions.device)[:, None, None] * -distance.float()
        return bias.masked_fill(~mask, -torch.inf)

    return f"alibi/{n_heads}/{name}", made


def head_windows(n_heads: int, window: int | None, hard: int) -> int | tuple[int, ...] | None:
    """What `seen_by` takes where the first `hard` heads see 1, 2, ... tokens, and all of them at most `window`."""
    if not hard:
        return window
    far = window or NO_END
    return tuple(min(head + 1, far) if head < hard else far for head in range(n_heads))
