"""Plain completions as an algorithm sees them, and its loss and gradient beside those of an equation."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.algorithms.base import Algorithm, AlgorithmConfig, Totals
from rlx.batches import PolicyOutput, RolloutBatch
from tests.algorithms.plain import LONGEST, Completion

JUNK = -3.25
"""Stands wherever nothing may be read: prompts and padding of what models say."""


def begins(row: int) -> int:
    """Tokens of a row's prompt."""
    return 1 + row % 3


def spread(values: Sequence[Sequence[float]], extra: int = 0, empty: float = 0.0) -> Tensor:
    """[B, T] float64 of numbers a sampled token, with `empty` on prompts, padding and `extra` columns."""
    width = max(begins(n) + len(row) for n, row in enumerate(values)) + extra
    full = [[empty] * begins(n) + list(row) for n, row in enumerate(values)]
    return torch.tensor([row + [empty] * (width - len(row)) for row in full], dtype=torch.float64)


def batch_of(rows: Sequence[Completion], *, extra: int = 0) -> RolloutBatch:
    """Prompts of several lengths, right-padded, `extra` columns more than needed; rewards on the last token."""
    mask = spread([[1.0] * len(row) for row in rows], extra)
    return RolloutBatch(
        tokens=torch.zeros(mask.shape, dtype=torch.int64),
        loss_mask=mask,
        logprobs=spread([row.sampled for row in rows], extra),
        rewards=spread([[0.0] * (len(row) - 1) + [row.reward] for row in rows], extra),
        group=torch.tensor([row.group for row in rows]),
        turn=torch.zeros(mask.shape, dtype=torch.int64),
        finished=torch.tensor([row.finished for row in rows]),
        correct=torch.tensor([row.correct for row in rows]),
        reference_logprobs=spread([row.reference for row in rows], extra, JUNK),
        old_logprobs=spread([row.trainer for row in rows], extra, 2 * JUNK),
    )


def per_row(values: Tensor, rows: Sequence[Completion]) -> list[list[float]]:
    """What a tensor [B, T] has on sampled tokens; the rest must be 0."""
    found = [values[n, begins(n) : begins(n) + len(row)].tolist() for n, row in enumerate(rows)]
    assert values.abs().sum().item() == pytest.approx(sum(abs(value) for row in found for value in row))
    return found


def advantages_of(algorithm: Algorithm | AlgorithmConfig, rows: Sequence[Completion]) -> list[list[float]]:
    """Advantages of each row's tokens, rewards shaped and rows selected as in an iteration."""
    algorithm = algorithm.build() if isinstance(algorithm, AlgorithmConfig) else algorithm
    return per_row(algorithm.advantages(algorithm.select(shaped(algorithm, batch_of(rows)))), rows)


def shaped(algorithm: Algorithm, batch: RolloutBatch, longest: int = LONGEST) -> RolloutBatch:
    """The batch with the algorithm's parts of the reward on each row's last token."""
    last = (batch.loss_mask * torch.arange(batch.tokens.shape[1])).argmax(-1)
    for part in algorithm.shape(batch, longest).values():
        batch.rewards[torch.arange(len(last)), last] += part
    return batch


def step_of(
    config: AlgorithmConfig, rows: Sequence[Completion], *, extra: int = 0, longest: int = LONGEST
) -> tuple[float, list[list[float]], dict[str, Tensor]]:
    """An iteration of one update: the loss, its gradient a sampled token, the metrics."""
    algorithm = config.build()
    now = spread([[value.item() for value in row.now] for row in rows], extra, 3 * JUNK).requires_grad_()
    batch = algorithm.select(shaped(algorithm, batch_of(rows, extra=extra), longest))
    out = PolicyOutput(logprobs=now, entropy=spread([row.entropy for row in rows], extra, 4 * JUNK))
    losses, metrics = algorithm.losses(out, batch, algorithm.advantages(batch), Totals.of(batch, longest))
    assert list(losses) == ["policy"]
    losses["policy"].backward()
    assert now.grad is not None
    return losses["policy"].item(), per_row(now.grad, rows), metrics


def gradient_of(config: AlgorithmConfig, rows: Sequence[Completion], **more: Any) -> list[list[float]]:
    """Of each sampled token's log-probability."""
    return step_of(config, rows, **more)[1]


def agree(config: AlgorithmConfig, rows: Sequence[Completion], equation: Tensor, *, extra: int = 0) -> None:
    """The algorithm's loss and gradient are the equation's, to 1e-12."""
    loss, gradient, _ = step_of(config, rows, extra=extra)
    slopes = torch.autograd.grad(equation, [value for row in rows for value in row.now], allow_unused=True)
    expected = [0.0 if slope is None else slope.item() for slope in slopes]
    assert max(abs(slope) for slope in expected) > 1e-3, "a gradient worth comparing"
    assert loss == pytest.approx(equation.item(), abs=1e-12)
    assert [slope for row in gradient for slope in row] == pytest.approx(expected, abs=1e-12)
