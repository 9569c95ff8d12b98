"""What travels between data, models and algorithms.

Every per-token tensor is aligned with `tokens`: entry t speaks of token t itself, so `logprobs[:, t]` is the
log-probability of `tokens[:, t]` given the tokens before it, and a loss mask of 1 at t means that predicting token t
counts.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(slots=True, kw_only=True)
class Batch:
    """Rows of packed documents."""

    tokens: Tensor
    """[B, T] int64."""
    positions: Tensor
    """[B, T] int64, position of each token in its own document."""
    documents: Tensor
    """[B, T] int64, number of the token's document in its row; padding is one document of its own."""
    loss_mask: Tensor
    """[B, T] float32, 1 where predicting the token counts."""

    def to(self, device: torch.device | str) -> Self:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def split(self, rows: int) -> list[Self]:
        """The batch in parts of `rows` rows, the last perhaps fewer."""
        parts = {f.name: getattr(self, f.name).split(rows) for f in fields(self)}
        return [replace(self, **dict(zip(parts, values, strict=True))) for values in zip(*parts.values(), strict=True)]


@dataclass(slots=True, kw_only=True)
class RolloutBatch:
    """Prompts with sampled completions, right-padded; what an algorithm sees."""

    tokens: Tensor
    """[B, T] int64: prompt, completion, padding."""
    loss_mask: Tensor
    """[B, T] float32, 1 on sampled tokens, the first end mark included."""
    logprobs: Tensor
    """[B, T] float32, log-probabilities recorded while sampling (0 where the mask is 0)."""
    rewards: Tensor
    """[B, T] float32, token-level rewards; an outcome reward stands on the last sampled token."""
    group: Tensor
    """[B] int64, rows of equal number share a prompt."""
    turn: Tensor
    """[B, T] int64, which turn of the interaction the token belongs to (0 in single-turn rollouts)."""
    finished: Tensor
    """[B] bool, False where the completion was cut at its limit."""
    reference_logprobs: Tensor | None = None
    """[B, T] float32 under the reference policy, for algorithms that need "reference"."""
    old_logprobs: Tensor | None = None
    """[B, T] float32, the trainer's own before an iteration's first update, for algorithms that need "old_logprobs"."""

    def returns(self) -> Tensor:
        """[B] float32: the sum of each row's rewards."""
        return self.rewards.sum(-1)

    def rows(self, index: Tensor) -> Self:
        """The batch with only the rows in `index` ([N] int64), all tensors indexed alike."""
        picked = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value[index] for name, value in picked.items() if value is not None})


@dataclass(slots=True, kw_only=True)
class PolicyOutput:
    """What the current policy says of a rollout's tokens."""

    logprobs: Tensor
    """[B, T] float32, with gradient."""
    entropy: Tensor | None = None
    """[B, T] float32, nats, of the distribution each token was drawn from."""
    values: Tensor | None = None
    """[B, T] float32, for algorithms that need "values"."""
