"""What an algorithm is, and the pieces that several share.

A loss is returned as a sum over the batch already divided by the denominator of the whole optimizer step, so that
splitting a batch into micro-batches leaves the sum of losses, and the gradient, unchanged.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, cast

import torch
from torch import Tensor

from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.types import Verdict


class Normalization(str, Enum):
    """How a per-token loss becomes one number (papers differ; the sheets of the algorithms say which)."""

    token = "token"
    """Sum over sampled tokens / number of sampled tokens of the step (DAPO)."""
    sequence = "sequence"
    """Mean over rows of each row's mean (GRPO as published)."""
    constant = "constant"
    """Sum over sampled tokens / (rows * most tokens a completion may have) (Dr. GRPO)."""


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sizes of the whole optimizer step that a micro-batch is part of."""

    rows: int
    """Rows with at least one sampled token."""
    tokens: float
    """Sampled tokens."""
    max_tokens: int
    """Most tokens one completion may have."""

    @classmethod
    def of(cls, batch: RolloutBatch, max_tokens: int) -> "Totals":
        mask = batch.loss_mask
        return cls(rows=int((mask.sum(-1) > 0).sum()), tokens=float(mask.sum()), max_tokens=max_tokens)


class Algorithm(Protocol):
    """From rollouts to a loss."""

    needs: frozenset[str]
    """What the stage must supply: "reference" (log-probabilities of the starting policy), "old_logprobs" (the
    trainer's own before the iteration's first update, where those recorded while sampling do not do), "values"."""
    silent_at_zero: bool
    """A row whose advantages are all 0 adds nothing to the gradient, so the stage may leave it out of the update."""

    def select(self, batch: RolloutBatch) -> RolloutBatch:
        """The rows worth training on."""
        ...

    def advantages(self, batch: RolloutBatch) -> Tensor:
        """[B, T] float32, 0 where the loss mask is 0."""
        ...

    def losses(
        self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor, totals: Totals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Named scalar losses, to be summed and differentiated; and detached sums for metrics ([] each)."""
        ...


@dataclass(kw_only=True, slots=True)
class Rewards:
    """What a verdict is worth, by its name."""

    correct: float = 1.0
    wrong: float = 0.0
    illegal: float = 0.0
    malformed: float = 0.0
    truncated: float = 0.0


@dataclass(kw_only=True, slots=True)
class AlgorithmConfig:
    """Fields that every algorithm has."""

    group_size: int = 8
    """Samples per prompt (G)."""
    epochs: int = 1
    """Passes over each rollout."""
    minibatches: int = 1
    """Optimizer steps per pass."""
    rewards: Rewards = field(default_factory=Rewards)
    """Worth of each verdict."""

    def __post_init__(self) -> None:
        if self.group_size < 1 or self.epochs < 1 or self.minibatches < 1:
            raise ConfigError(
                f"algorithm.group_size={self.group_size}, epochs={self.epochs} and minibatches={self.minibatches} "
                "must be at least 1"
            )

    def reward(self, verdict: Verdict) -> float:
        return getattr(self.rewards, verdict.outcome.value)

    def build(self) -> Algorithm:
        raise NotImplementedError


def importance_weights(batch: RolloutBatch, cap: float) -> Tensor:
    """[B, T] truncated importance weights min(exp(old - sampled), cap), from the sampler's to the trainer's arithmetic.

    Log-ratios are clamped to [-20, 20]. Weights are exactly 1 where both log-probabilities are equal.
    """
    assert batch.old_logprobs is not None, "the stage supplies what an algorithm needs"
    return (batch.old_logprobs - batch.logprobs).clamp(-20, 20).exp().clamp(max=cap)


def group_mean(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Per row: the mean of `values` [B] over its group, and the group's size; `group` is [B] int64."""
    numbers, inverse = cast(
        "tuple[Tensor, Tensor]",
        torch.unique(group, return_inverse=True),  # pyright: ignore[reportUnknownMemberType]
    )
    count = values.new_zeros(len(numbers)).index_add_(0, inverse, torch.ones_like(values))
    total = torch.zeros_like(count).index_add_(0, inverse, values)
    return (total / count)[inverse], count[inverse]


def group_std(values: Tensor, group: Tensor) -> Tensor:
    """Per row: the standard deviation of its group with Bessel's correction, 0 for groups of one."""
    mean, count = group_mean(values, group)
    spread, _ = group_mean((values - mean) ** 2, group)
    return (spread * count / (count - 1).clamp(min=1)).sqrt()


def reduce(per_token: Tensor, mask: Tensor, normalization: Normalization, totals: Totals) -> Tensor:
    """This micro-batch's share [] of the step's loss, from a per-token loss [B, T] and mask [B, T]."""
    masked = per_token * mask
    if normalization is Normalization.token:
        return masked.sum() / max(totals.tokens, 1.0)
    if normalization is Normalization.constant:
        return masked.sum() / max(totals.rows * totals.max_tokens, 1)
    return (masked.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / max(totals.rows, 1)
