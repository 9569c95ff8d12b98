"""Rollouts written down row by row, in float64, for hand-worked examples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlx.batches import RolloutBatch


def numbers(rows: Sequence[Sequence[float]], width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """[B, width], zeros on the right."""
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)


def written(masks: Sequence[str], **given: Any) -> RolloutBatch:
    """Rows whose tokens are written as characters: `x` sampled, `.` a prompt's or feedback's, both of them token 1.

    Per-token fields are lists of rows, aligned with the characters, as far as they go; `rewards` may be one number a
    row, which stands on its last sampled token. Rows are one group, right and finished, unless `group`, `correct` or
    `finished` are given.
    """
    rows, width = len(masks), max(len(mask) for mask in masks)
    mask = numbers([[float(letter == "x") for letter in row] for row in masks], width)
    rewards = given.pop("rewards", [0.0] * rows)
    if not isinstance(rewards[0], list):
        rewards = [[0.0] * row.rindex("x") + [worth] for row, worth in zip(masks, rewards, strict=True)]
    tokens = given.pop("tokens", [[1] * len(row) for row in masks])
    flags = {name: torch.tensor(given.pop(name, [True] * rows)) for name in ("correct", "finished")}
    batch = RolloutBatch(
        tokens=numbers(tokens, width, torch.int64),
        loss_mask=mask,
        logprobs=numbers(given.pop("logprobs", [[]] * rows), width),
        rewards=numbers(rewards, width),
        group=torch.tensor(given.pop("group", [0] * rows)),
        turn=torch.zeros(rows, width, dtype=torch.int64),
        **flags,
    )
    for name, value in given.items():
        setattr(batch, name, numbers(value, width))
    return batch
