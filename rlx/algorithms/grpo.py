"""`algorithm=grpo`: group-relative policy optimization (Shao et al., arXiv 2402.03300, section 4.1).

    A_i = (r_i - mean_group) / (std_group + eps)
    L   = mean_i mean_t [ -w min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) + kl_coefficient * k3 ]

Choices where sources differ:
1. The standard deviation has Bessel's correction (as TRL, verl, OpenRLHF and oat have it); eps is 1e-4 (TRL).
2. A group whose rewards are equal up to 1e-6 gets advantage exactly 0, not noise over eps.
3. The default normalization is the paper's, per sequence; TRL's and verl's is `token`, Dr. GRPO's `constant` with
   `std_normalization=false`.
4. The log-probabilities of the old policy are those recorded while sampling, and w is 1. With
   `importance_sampling_cap=C` they are the trainer's own before the first update, and w = min(exp(old - sampled), C) a
   token, without gradient: truncated importance sampling (Yao et al., fengyao.notion.site/off-policy-rl), as TRL has
   it. w weighs the policy's term alone, not those of kl and entropy.
5. log-ratios are clamped to [-20, 20] before exp. k3 = exp(d) - 1 - d with d = reference - current.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.algorithms.base import (
    AlgorithmConfig,
    Normalization,
    Totals,
    group_mean,
    group_std,
    importance_weights,
    reduce,
)
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.options import option

EQUAL = 1e-6
"""Groups whose rewards spread less than this carry no signal."""


@option("algorithm", "grpo")
@dataclass(kw_only=True, slots=True)
class GrpoConfig(AlgorithmConfig):
    """Clipped policy gradient on group-normalised rewards."""

    clip_low: float = 0.2
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: float = 0.2
    """The ratio is clipped above at 1 + clip_high."""
    std_normalization: bool = True
    """Divide advantages by the group's standard deviation."""
    std_eps: float = 1e-4
    """Added to that standard deviation."""
    normalization: Normalization = Normalization.sequence
    """How the per-token loss becomes one number: token, sequence or constant."""
    kl_coefficient: float = 0.0
    """Weight of the k3 estimate of KL(policy || starting policy) in the loss."""
    entropy_coefficient: float = 0.0
    """Weight of the mean entropy that is subtracted from the loss."""
    importance_sampling_cap: float | None = None
    """Weigh tokens by trained over sampled probability, at most by this (2 is usual); null: no weights."""

    def __post_init__(self) -> None:
        AlgorithmConfig.__post_init__(self)
        if self.group_size < 2:
            raise ConfigError(
                f"algorithm.group_size={self.group_size}: grpo compares a prompt's samples; take 2 or more"
            )
        if self.clip_low < 0 or self.clip_high < 0 or self.clip_low >= 1:
            raise ConfigError(
                f"algorithm.clip_low={self.clip_low} must be in [0, 1) and clip_high={self.clip_high} at least 0"
            )

        if self.std_eps < 0 or self.kl_coefficient < 0:
            raise ConfigError(
                f"algorithm.std_eps={self.std_eps} and kl_coefficient={self.kl_coefficient} must be at least 0"
            )
        if self.importance_sampling_cap is not None and self.importance_sampling_cap < 1:
            raise ConfigError(
                f"algorithm.importance_sampling_cap={self.importance_sampling_cap} must be at least 1; 2 is usual"
            )

    def build(self) -> "Grpo":
        return Grpo(self)


class Grpo:
    """The algorithm at one setting."""

    def __init__(self, config: GrpoConfig) -> None:
        self.config = config
        needs = {"reference": config.kl_coefficient, "old_logprobs": config.importance_sampling_cap}
        self.needs = frozenset(name for name, asked in needs.items() if asked)
        self.silent_at_zero = not (config.kl_coefficient or config.entropy_coefficient)

    def select(self, batch: RolloutBatch) -> RolloutBatch:
        return batch

    def advantages(self, batch: RolloutBatch) -> Tensor:
        rewards = batch.returns().double()  # equal float32 rewards then have their own value as their mean
        mean, _ = group_mean(rewards, batch.group)
        std = group_std(rewards, batch.group)
        advantage = rewards - mean
        if self.config.std_normalization:
            advantage = advantage / (std + self.config.std_eps)
        advantage = advantage.masked_fill(std < EQUAL, 0.0)
        return advantage.to(batch.loss_mask.dtype)[:, None] * batch.loss_mask

    def losses(
        self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor, totals: Totals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        config, mask = self.config, batch.loss_mask
        old = batch.logprobs if config.importance_sampling_cap is None else batch.old_logprobs
        assert old is not None, "the stage supplies what an algorithm needs"
        ratio = (out.logprobs - old).clamp(-20, 20).exp()
        clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
        per_token = -torch.minimum(ratio * advantages, clipped * advantages)
        metrics = {
            "clip_ratio/low_mean": ((ratio < 1 - config.clip_low) & (advantages < 0)).float(),
            "clip_ratio/high_mean": ((ratio > 1 + config.clip_high) & (advantages > 0)).float(),
        }
        if config.importance_sampling_cap is not None:
            per_token = importance_weights(batch, config.importance_sampling_cap) * per_token
        if batch.reference_logprobs is not None:
            gap = (batch.reference_logprobs - out.logprobs).clamp(-20, 20)
            kl = gap.exp() - 1 - gap
            per_token = per_token + config.kl_coefficient * kl
            metrics["kl"] = kl.detach()
        if config.entropy_coefficient and out.entropy is not None:
            per_token = per_token - config.entropy_coefficient * out.entropy
        means = {name: (value * mask).sum() / max(totals.tokens, 1.0) for name, value in metrics.items()}
        return {"policy": reduce(per_token, mask, config.normalization, totals)}, means
