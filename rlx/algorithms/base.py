"""What an algorithm is, and the pieces that several share.

A loss is returned as a sum over the batch already divided by the denominator of the whole optimizer step, so that
splitting a batch into micro-batches leaves the sum of losses, and the gradient, unchanged.
"""

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, cast

import torch
from torch import Tensor

from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.options import option_of
from rlx.types import Verdict

EQUAL = 1e-6
"""Rewards that spread less than this are equal: what is left is noise of sums."""


class Normalization(str, Enum):
    """How a per-token loss becomes one number (papers differ; the files of the algorithms say which)."""

    token = "token"
    """Sum over sampled tokens / number of sampled tokens of the step (DAPO)."""
    sequence = "sequence"
    """Mean over rows of each row's mean (GRPO as published)."""
    constant = "constant"
    """Sum over sampled tokens / (rows * most tokens a completion may have) (Dr. GRPO)."""
    sum = "sum"
    """Mean over rows of each row's sum: the gradient of a completion's log-probability (REINFORCE, RLOO)."""


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sizes of the whole optimizer step that a micro-batch is part of."""

    rows: int
    """Rows with at least one sampled token."""
    tokens: float
    """Sampled tokens."""
    max_tokens: int
    """Most tokens one completion may have."""
    heard: float | None = None
    """Sampled tokens of the rows that go through the model, where those without an advantage are left out; None: all
    do. Losses are divided by the whole step's, means of what the model says by these."""

    @classmethod
    def of(cls, batch: RolloutBatch, max_tokens: int) -> "Totals":
        mask = batch.loss_mask
        return cls(rows=int((mask.sum(-1) > 0).sum()), tokens=float(mask.sum()), max_tokens=max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """Iterations that only sample, then a round of training on what was kept of them."""

    iterations: int | None
    """Iterations a round; None: all of the run are one."""
    rounds: int | None
    """Rounds whose samples are trained on, the newest; None: all."""
    batch_rows: int
    """Rows an optimizer step."""
    start_samples: bool
    """The starting policy samples throughout, not the newest."""
    start_trains: bool
    """Every round begins with the starting policy's weights, a new optimizer and a schedule of its own."""

    def times(self, steps: int) -> float:
        """How many rounds train on a completion kept, on average over a run of so many iterations."""
        rounds = 1 if self.iterations is None else max(1, math.ceil(steps / self.iterations))
        trained = [number if self.rounds is None else min(number, self.rounds) for number in range(1, rounds + 1)]
        return sum(trained) / rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrations:
    """Solutions as the task writes them that every update learns from too."""

    rows: int
    """Solutions an update."""
    lr: float | None
    """Peak learning rate of their own optimizer; None: optim.lr."""
    averaged: bool
    """They have an optimizer of their own, and the two steps are averaged; else their loss is added."""
    weight: float
    """Weight of their loss, where it is added."""


class Algorithm:
    """From rollouts to a loss: tensors in, tensors out.

    An iteration calls `shape`, `select`, `advantages` once each, on all of its rows, and `losses` on each micro-batch
    of every update.
    """

    needs: frozenset[str] = frozenset()
    """What the stage must supply: "reference" (log-probabilities of a reference policy), "old_logprobs" (the trainer's
    own before the iteration's first update, where those recorded while sampling do not do), "values" (a critic's)."""
    silent_at_zero: bool = True
    """A row whose advantages are all 0 adds nothing to the gradient, so the stage may leave it out of the update."""
    compares: bool = False
    """A row's advantage is its reward against those of its own group, so a group of equal rewards teaches nothing; else
    one sample of a prompt may teach something."""
    unit: int = 1
    """Neighbouring rows that a loss takes together; a step's rows are never parted within them."""
    gathering: Gathering | None = None
    """How iterations are gathered into rounds; None: every iteration is trained on as it is sampled."""
    demonstrations: Demonstrations | None = None
    """Solutions that are trained on besides."""
    charges: bool = False
    """What a row is compared by has the reference's log-probabilities in it, so that those of rows without a loss mask
    are needed too."""
    undivided: str = ""
    """What it does with rows as wholes ("makes pairs of whole completions"), where a batch's `credit` is of no use to
    it; empty: it honours credit."""

    def shape(self, batch: RolloutBatch, max_tokens: int) -> dict[str, Tensor]:
        """Parts of the reward besides the verifier's, by name: [B] each, added on the last sampled token."""
        return {}

    def select(self, batch: RolloutBatch) -> RolloutBatch:
        """The rows worth training on."""
        return batch

    def advantages(self, batch: RolloutBatch) -> Tensor:
        """[B, T] float32, 0 where the loss mask is 0."""
        raise NotImplementedError

    def losses(
        self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor, totals: Totals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Named scalar losses, to be summed and differentiated; and detached shares of the step's metrics ([] each)."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What else a resumed run needs, as plain values and tensors."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; one of another algorithm (init.state=all) is left."""


@dataclass(kw_only=True, slots=True)
class Rewards:
    """What a verdict is worth, by its name. What goes by right and wrong alone (expert_iteration, rft, dpo, npo) trains
    on the same whatever these are."""

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
    reference_every: int | None = None
    """Iterations after which the reference becomes the policy of the moment; null: it stays the starting policy."""

    def __post_init__(self) -> None:
        if self.group_size < 1 or self.epochs < 1 or self.minibatches < 1:
            raise ConfigError(
                f"algorithm.group_size={self.group_size}, epochs={self.epochs} and minibatches={self.minibatches} "
                "must be at least 1"
            )
        if self.reference_every is not None and self.reference_every < 1:
            raise ConfigError(f"algorithm.reference_every={self.reference_every} must be at least 1")
        refers = hasattr(self, "kl_coefficient") or "reference" in self.build().needs
        if self.reference_every is not None and not refers:
            raise ConfigError("algorithm.reference_every: nothing here has a reference; leave it out")

    def asks_for_reference(self) -> str:
        """What of these settings makes the algorithm need a reference, as typed."""
        return "algorithm.kl_coefficient" if hasattr(self, "kl_coefficient") else f"algorithm={option_of(self).name}"

    def reward(self, verdict: Verdict) -> float:
        return getattr(self.rewards, verdict.outcome.value)

    def build(self) -> Algorithm:
        raise NotImplementedError

    def check_compares(self, why: str = "compares a prompt's samples") -> None:
        """Raise ConfigError for groups of one, where advantages are differences within a group."""
        if self.group_size < 2:
            raise ConfigError(f"algorithm.group_size={self.group_size}: it {why}; take 2 or more")

    def check_unread(self, why: str, *names: str) -> None:
        """Raise ConfigError for one that is not its default, where another setting has taken its place. Not for what a
        switch turns off, such as kl_estimator at kl_coefficient=0: a sweep goes through the switch."""
        for each in fields(self):
            if each.name in names and getattr(self, each.name) != each.default:
                value = getattr(self, each.name)
                raise ConfigError(f"algorithm.{each.name}={getattr(value, 'value', value)}: {why}, or leave it out")

    def check_at_least_0(self, *names: str) -> None:
        """Raise ConfigError for one that is below 0."""
        for name in names:
            if getattr(self, name) < 0:
                raise ConfigError(f"algorithm.{name}={getattr(self, name)} must be at least 0")


def importance_weights(batch: RolloutBatch, cap: float) -> Tensor:
    """[B, T] truncated importance weights min(exp(old - sampled), cap), from the sampler's to the trainer's arithmetic.

    Log-ratios are clamped to [-20, 20]. Weights are exactly 1 where both log-probabilities are equal.
    """
    assert batch.old_logprobs is not None, "the stage supplies what an algorithm needs"
    return (batch.old_logprobs - batch.logprobs).clamp(-20, 20).exp().clamp(max=cap)


def listed(values: Tensor) -> list[Any]:
    """The tensor's numbers as (nested) lists."""
    return cast("list[Any]", values.tolist())  # pyright: ignore[reportUnknownMemberType]


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


def whitened(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """[B, T] with mean 0 and standard deviation 1 (Bessel's correction) over the tokens of `mask`, 0 elsewhere.

    0 everywhere where the values are equal up to `EQUAL`.
    """
    exact, count = values.double(), mask.sum().clamp(min=1)  # equal values then have their own value as their mean
    mean = (exact * mask).sum() / count
    std = (((exact - mean) ** 2 * mask).sum() / (count - 1).clamp(min=1)).sqrt()
    if std < EQUAL:
        return torch.zeros_like(values)
    return ((exact - mean) / (std + eps) * mask).to(values.dtype)


def reduce(per_token: Tensor, mask: Tensor, normalization: Normalization, totals: Totals) -> Tensor:
    """This micro-batch's share [] of the step's loss, from a per-token loss [B, T] and mask [B, T]."""
    masked = per_token * mask
    if normalization is Normalization.token:
        return masked.sum() / max(totals.tokens, 1.0)
    if normalization is Normalization.constant:
        return masked.sum() / max(totals.rows * totals.max_tokens, 1)
    if normalization is Normalization.sum:
        return masked.sum() / max(totals.rows, 1)
    return (masked.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / max(totals.rows, 1)
