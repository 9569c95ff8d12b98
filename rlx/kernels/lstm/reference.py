"""A long short-term memory, one token after the other: the definition."""

import torch
from torch import Tensor


def lstm_reference(inputs: Tensor, weight: Tensor, starts: Tensor | None, hidden: Tensor, cell: Tensor) -> Tensor:
    """As `rlx.kernels.lstm.lstm`, hidden states and cells [2, B, T, W]."""
    found = []
    for t in range(inputs.shape[1]):
        if starts is not None:
            hidden, cell = (x.masked_fill(starts[:, t, None], 0.0) for x in (hidden, cell))
        entered, kept, new, shown = (inputs[:, t] + hidden @ weight.T).chunk(4, dim=-1)  # [B, W]
        cell = kept.sigmoid() * cell + entered.sigmoid() * new.tanh()
        hidden = shown.sigmoid() * cell.tanh()
        found.append(torch.stack([hidden, cell]))
    return torch.stack(found, dim=2)
