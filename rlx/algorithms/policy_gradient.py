"""Policy gradients: what every algorithm shares that weighs log-probabilities by advantages.

    L = reduce[ w * surrogate(A, log ratio) + kl_coefficient * KL - entropy_coefficient * H ]

1. The log-probabilities of the old policy are those recorded while sampling, and w is 1. With
   `importance_sampling_cap=C` they are the trainer's own before the first update, and w = min(exp(old - sampled), C) a
   token, without gradient: truncated importance sampling (Yao et al., fengyao.notion.site/off-policy-rl; TRL's default
   masks whole sequences instead). w weighs the policy's term alone, not those of kl and entropy, as in TRL.
2. Log-ratios are clamped to [-20, 20] before exp.
3. KL(policy || reference) is estimated from d = reference - current (Schulman, joschu.net/blog/kl-approx): k1 = -d,
   k2 = d^2 / 2, k3 = exp(d) - 1 - d. In the loss it is differentiated: the gradient of k2 is that of KL(policy ||
   reference), the gradient of k3 that of KL(reference || policy), and that of k1 is 0 on average, so k1 is refused
   there. In the reward it is a detached cost of each token, of the policy that sampled: k1 is the usual one.
4. Where an environment rewards turns apart (`RolloutBatch.credit`), advantages are estimated turn by turn, each as if
   the rows' tokens and rewards of that turn were all that there is: a group is then of the rows that have the turn, and
   whitening, standard deviations and baselines are the turn's own. A row's loss stays that of all its tokens, and what
   is charged for a row's length is its last turn's.
5. `signs=negative` trains on completions with negative advantage alone (NSR), `positive` on the others (PSR), with the
   advantages of the whole group (Zhu et al., arXiv 2506.01347; Wu et al., arXiv 2508.21188).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rlx.algorithms.base import (
    EQUAL,
    Algorithm,
    AlgorithmConfig,
    Normalization,
    Totals,
    group_mean,
    group_std,
    importance_weights,
    listed,
    reduce,
)
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError


class KlEstimator(str, Enum):
    """An estimate of KL(policy || reference) from one token."""

    k1 = "k1"
    """current - reference: unbiased, of either sign; no gradient on average."""
    k2 = "k2"
    """Half the squared difference: biased, with the divergence's own gradient."""
    k3 = "k3"
    """exp(d) - 1 - d: unbiased, never negative, with the gradient of the other direction."""


class KlIn(str, Enum):
    """Where the divergence is charged."""

    loss = "loss"
    """A term of the loss."""
    reward = "reward"
    """A cost of each sampled token."""


class Signs(str, Enum):
    """Which advantages are trained on."""

    both = "both"
    """All."""
    positive = "positive"
    """Those above 0."""
    negative = "negative"
    """Those below 0."""


class StdNormalization(str, Enum):
    """What a group's advantages are divided by."""

    none = "none"
    """Nothing (Dr. GRPO)."""
    group = "group"
    """The standard deviation of the group's rewards (GRPO)."""
    batch = "batch"
    """That of the rewards of all rows of the iteration that are trained on (Lite PPO, arXiv 2508.08221)."""


@dataclass(kw_only=True, slots=True)
class PolicyGradientConfig(AlgorithmConfig):
    """Fields of every policy gradient."""

    normalization: Normalization = Normalization.token
    """How the per-token loss becomes one number: token, sequence, constant or sum."""
    kl_coefficient: float = 0.0
    """Weight of the estimate of KL(policy || reference)."""
    kl_estimator: KlEstimator = KlEstimator.k1
    """k1, k2 or k3."""
    kl_in: KlIn = KlIn.reward
    """Whether it is a term of the loss or a cost of each token in the reward."""
    entropy_coefficient: float = 0.0
    """Weight of the mean entropy that is subtracted from the loss."""
    importance_sampling_cap: float | None = None
    """Weigh tokens by trained over sampled probability, at most by this (2 is usual); null: no weights."""
    signs: Signs = Signs.both
    """Which advantages are trained on: both, positive or negative."""
    dynamic_sampling: bool = False
    """Only prompts with right and wrong samples are trained on; more are drawn until there are stage.prompts of them
    (DAPO)."""
    max_draws: int = 8
    """Draws of at most stage.prompts prompts an iteration, with dynamic_sampling; what is short then stays short."""

    overlong_share: float | None = None
    """The last share of decode.max_tokens in which the reward falls by overlong_penalty, as DAPO has it (arXiv
    2503.14476, equation 13: 0.2 is usual); null: length costs nothing."""
    overlong_penalty: float = 1.0
    """What a completion that is cut loses, where overlong_share is given."""
    mask_truncated: bool = False
    """Completions that are cut count in their group's mean and are not trained on (overlong filtering)."""

    def __post_init__(self) -> None:
        AlgorithmConfig.__post_init__(self)
        self.check_at_least_0("kl_coefficient", "overlong_penalty")
        if self.overlong_share is not None and not 0 < self.overlong_share <= 1:
            raise ConfigError(f"algorithm.overlong_share={self.overlong_share} must be in (0, 1]; 0.2 is usual")
        if self.importance_sampling_cap is not None and self.importance_sampling_cap < 1:
            raise ConfigError(
                f"algorithm.importance_sampling_cap={self.importance_sampling_cap} must be at least 1; 2 is usual"
            )
        if self.kl_coefficient and self.kl_in is KlIn.loss and self.kl_estimator is KlEstimator.k1:
            raise ConfigError(
                "algorithm.kl_estimator=k1 has no gradient in the loss; take k2 or k3, or algorithm.kl_in=reward"
            )
        if self.max_draws < 1:
            raise ConfigError(f"algorithm.max_draws={self.max_draws} must be at least 1")
        if self.dynamic_sampling:
            self.check_compares("asks for right and wrong samples of a prompt (dynamic_sampling)")


C = TypeVar("C", bound=PolicyGradientConfig)


class PolicyGradient(Algorithm, Generic[C]):
    """What the fields of `PolicyGradientConfig` ask for; an algorithm says what an advantage is, and its surrogate."""

    def __init__(self, config: C) -> None:
        self.config = config
        needs = {"reference": config.kl_coefficient, "old_logprobs": config.importance_sampling_cap}
        self.needs = frozenset(name for name, asked in needs.items() if asked)
        in_loss = config.kl_coefficient and config.kl_in is KlIn.loss
        self.silent_at_zero = not (in_loss or config.entropy_coefficient)
        self.charges = self.compares and bool(config.kl_coefficient) and config.kl_in is KlIn.reward

    def shape(self, batch: RolloutBatch, max_tokens: int) -> dict[str, Tensor]:
        config = self.config
        if config.overlong_share is None:
            return {}
        return {"overlong": config.overlong_penalty * overlong(batch, max_tokens, config.overlong_share)}

    def select(self, batch: RolloutBatch) -> RolloutBatch:
        """All rows; those that were cut lose their mask where the config asks for it, and keep their rewards."""
        if not self.config.mask_truncated:
            return batch
        return batch.masked(batch.finished)

    def advantages(self, batch: RolloutBatch) -> Tensor:
        found = by_credit(batch, self.estimate)
        if self.config.signs is not Signs.both:
            found = found.clamp(min=0) if self.config.signs is Signs.positive else found.clamp(max=0)
        return found.to(batch.loss_mask.dtype) * batch.loss_mask

    def estimate(self, batch: RolloutBatch) -> Tensor:
        """Advantages [B, T] of any float dtype, or [B, 1] where a row's tokens have the same."""
        raise NotImplementedError

    def rewards(self, batch: RolloutBatch) -> Tensor:
        """[B, T] float64: token-level rewards, the divergence's cost included where it is charged there."""
        rewards = batch.rewards.double()
        if not self.config.kl_coefficient or self.config.kl_in is KlIn.loss:
            return rewards
        assert batch.reference_logprobs is not None, "the stage supplies what an algorithm needs"
        cost = divergence(batch.reference_logprobs - batch.logprobs, self.config.kl_estimator)
        sampled = batch.drawn() > 0  # a row that is masked has its cost too, as those that it is compared with
        return rewards - self.config.kl_coefficient * torch.where(sampled, cost, 0.0).double()

    def old(self, batch: RolloutBatch) -> Tensor:
        """[B, T] log-probabilities of the policy that ratios compare with."""
        found = batch.logprobs if self.config.importance_sampling_cap is None else batch.old_logprobs
        assert found is not None, "the stage supplies what an algorithm needs"
        return found

    def log_ratio(self, out: PolicyOutput, batch: RolloutBatch) -> Tensor:
        """[B, T], with gradient."""
        return (out.logprobs - self.old(batch)).clamp(-20, 20)

    def surrogate(self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss a token [B, T], and what is to be averaged over tokens for the metrics ([B, T] each)."""
        raise NotImplementedError

    def losses(
        self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor, totals: Totals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        config, mask = self.config, batch.loss_mask
        per_token, metrics = self.surrogate(out, batch, advantages)
        if config.importance_sampling_cap is not None:
            per_token = importance_weights(batch, config.importance_sampling_cap) * per_token
        if config.kl_coefficient:
            assert batch.reference_logprobs is not None, "the stage supplies what an algorithm needs"
            kl = divergence(batch.reference_logprobs - out.logprobs, config.kl_estimator)
            metrics["kl"] = kl.detach()
            if config.kl_in is KlIn.loss:
                per_token = per_token + config.kl_coefficient * kl
        if config.entropy_coefficient and out.entropy is not None:
            per_token = per_token - config.entropy_coefficient * out.entropy
        means = {name: (value * mask).sum() / max(totals.tokens, 1.0) for name, value in metrics.items()}
        if "kl" in means and totals.heard is not None:
            means["kl"] = (metrics["kl"] * mask).sum() / max(totals.heard, 1.0)
        return {"policy": reduce(per_token, mask, config.normalization, totals)}, means


def units(batch: RolloutBatch) -> list[tuple[int, Tensor]]:
    """The numbers of the batch's credit, and the tokens [B, T] bool of each; 0 and all tokens where it has none."""
    if batch.credit is None:
        return [(0, torch.ones_like(batch.loss_mask, dtype=torch.bool))]
    numbers: list[int] = listed(batch.credit.flatten())
    return [(number, batch.credit == number) for number in sorted({*numbers} - {-1})]


def by_credit(batch: RolloutBatch, estimate: Callable[[RolloutBatch], Tensor]) -> Tensor:
    """`estimate` [B, T] of a batch; where it has `credit`, number by number, of the rows that have a number, with its
    tokens and rewards alone, and 0 elsewhere. A row whose tokens are masked counts among them."""
    if batch.credit is None:
        return estimate(batch)
    found = torch.zeros(batch.tokens.shape, dtype=torch.float64, device=batch.tokens.device)
    for number, own in units(batch):
        rows = own.any(-1).nonzero().squeeze(1)
        part = batch.rows(rows)
        here = own[rows]
        sampled = part.drawn() * here
        part = replace(part, loss_mask=part.loss_mask * here, rewards=part.rewards * here, sampled=sampled)
        part.credit = torch.where(here, number, -1)
        found[rows] += estimate(part) * here
    return found


def overlong(batch: RolloutBatch, max_tokens: int, share: float) -> Tensor:
    """[B] from 0 to -1: 0 up to L - C tokens, -1 at L and for what is cut, a line between, where L = `max_tokens` and C
    is `share` of it (DAPO, arXiv 2503.14476, equation 13)."""
    buffer = share * max_tokens
    length = batch.loss_mask.sum(-1)
    falling = ((max_tokens - buffer - length) / buffer).clamp(-1, 0)
    return torch.where(batch.finished, falling, torch.full_like(falling, -1.0))


def divergence(gap: Tensor, estimator: KlEstimator) -> Tensor:
    """An estimate of KL(policy || reference) (nats) from the gap reference - current, clamped to [-20, 20]."""
    gap = gap.clamp(-20, 20)
    if estimator is KlEstimator.k1:
        return -gap
    if estimator is KlEstimator.k2:
        return gap.square() / 2
    return gap.exp() - 1 - gap


@dataclass(kw_only=True, slots=True)
class ClippedConfig(PolicyGradientConfig):
    """Fields of policy gradients with a clipped ratio."""

    clip_low: float = 0.2
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: float = 0.2
    """The ratio is clipped above at 1 + clip_high."""
    dual_clip: float | None = None
    """Bad tokens count at most this ratio (dual clip, arXiv 1912.09729; 3 is usual); null: no limit."""

    def __post_init__(self) -> None:
        PolicyGradientConfig.__post_init__(self)
        if self.clip_low < 0 or self.clip_high < 0 or self.clip_low > 1:
            raise ConfigError(
                f"algorithm.clip_low={self.clip_low} must be in [0, 1] and clip_high={self.clip_high} at least 0"
            )
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ConfigError(
                f"algorithm.dual_clip={self.dual_clip} must be above 1 + clip_high = {1 + self.clip_high:g}; 3 is usual"
            )


K = TypeVar("K", bound=ClippedConfig)


class Clipped(PolicyGradient[K]):
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) (PPO, arXiv 1707.06347, equation 7)."""

    def surrogate(self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        ratio = self.log_ratio(out, batch).exp()
        clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
        gain = torch.minimum(ratio * advantages, clipped * advantages)
        if config.dual_clip is not None:
            gain = torch.where(advantages < 0, torch.maximum(gain, config.dual_clip * advantages), gain)
        return -gain, clip_shares(ratio, advantages, config.clip_low, config.clip_high)


def clip_shares(ratio: Tensor, advantages: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """[B, T] float, 1 where a ratio is beyond the clip that its advantage pushes it against; TRL's names."""
    return {
        "clip_ratio/low_mean": ((ratio < 1 - low) & (advantages < 0)).float(),
        "clip_ratio/high_mean": ((ratio > 1 + high) & (advantages > 0)).float(),
    }


@dataclass(kw_only=True, slots=True)
class GroupConfig(ClippedConfig):
    """Fields of the algorithms that compare a prompt's samples with each other."""

    kl_estimator: KlEstimator = KlEstimator.k3
    """k1, k2 or k3."""
    kl_in: KlIn = KlIn.loss
    """Whether it is a term of the loss or a cost of each token in the reward."""
    std_normalization: StdNormalization = StdNormalization.group
    """What advantages are divided by: none, group or batch."""
    std_eps: float = 1e-4
    """Added to that standard deviation."""

    def __post_init__(self) -> None:
        ClippedConfig.__post_init__(self)
        self.check_compares()
        self.check_at_least_0("std_eps")


G = TypeVar("G", bound=GroupConfig)


class GroupRelative(Clipped[G]):
    """(r - mean of the group) / (standard deviation + eps), the same for all tokens of a row.

    The standard deviation has Bessel's correction (as TRL, verl, OpenRLHF and oat have it). A group whose rewards are
    equal up to 1e-6 gets advantage exactly 0, not noise over eps.
    """

    compares = True

    def estimate(self, batch: RolloutBatch) -> Tensor:
        rewards = self.rewards(batch).sum(-1)  # float64: equal rewards then have their own value as their mean
        mean, _ = group_mean(rewards, batch.group)
        std = group_std(rewards, batch.group)
        advantage = rewards - mean
        if self.config.std_normalization is StdNormalization.group:
            advantage = advantage / (std + self.config.std_eps)
        elif self.config.std_normalization is StdNormalization.batch:
            advantage = advantage / (whole_std(rewards, batch) + self.config.std_eps)
        return advantage.masked_fill(std < EQUAL, 0.0)[:, None]


def whole_std(rewards: Tensor, batch: RolloutBatch) -> Tensor:
    """[]: the standard deviation (Bessel's correction) of the rewards [B] of rows with sampled tokens."""
    sampled = rewards[batch.loss_mask.any(-1)]
    return sampled.std() if len(sampled) > 1 else sampled.new_zeros(())
