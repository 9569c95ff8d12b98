"""`algorithm=reinforce`: the score-function gradient (Williams 1992, Machine Learning 8, equation 11).

    A_i = r_i - b,   L = mean_i sum_t of -A_i log p_t

There is no ratio and no clip: later updates of a rollout are off-policy, and nothing corrects for it.

Choices where sources differ:
1. The baseline b is a running mean of the rewards of earlier iterations (`running`); in a run's first iteration, which
   has none, it is that iteration's own. `batch` is the iteration's own mean throughout, `none` is 0.
2. With kl_coefficient the divergence is a cost of the sampled tokens, inside the rewards.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from rlx.algorithms.base import Normalization
from rlx.algorithms.policy_gradient import PolicyGradient, PolicyGradientConfig, units
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.options import option


class Baseline(str, Enum):
    """What is taken off rewards."""

    none = "none"
    """Nothing."""
    batch = "batch"
    """The mean reward of the iteration."""
    running = "running"
    """A running mean of the rewards of earlier iterations."""


@option("algorithm", "reinforce")
@dataclass(kw_only=True, slots=True)
class ReinforceConfig(PolicyGradientConfig):
    """Log-probabilities weighed by rewards less a baseline."""

    normalization: Normalization = Normalization.sum
    """How the per-token loss becomes one number: token, sequence, constant or sum."""
    baseline: Baseline = Baseline.running
    """What is taken off rewards: none, batch or running."""
    baseline_decay: float = 0.9
    """Decay of the running mean, an iteration."""

    def __post_init__(self) -> None:
        PolicyGradientConfig.__post_init__(self)
        if not 0 <= self.baseline_decay < 1:
            raise ConfigError(f"algorithm.baseline_decay={self.baseline_decay} must be in [0, 1)")

    def build(self) -> "Reinforce":
        return Reinforce(self)


class Reinforce(PolicyGradient[ReinforceConfig]):
    """The algorithm at one setting, and its running mean."""

    def __init__(self, config: ReinforceConfig) -> None:
        super().__init__(config)
        self.baselines: dict[int, float] = {}
        """Mean reward of earlier iterations, by the turn where turns are rewarded apart, else that of 0."""

    def estimate(self, batch: RolloutBatch) -> Tensor:
        rewards, config = self.rewards(batch).sum(-1), self.config
        sampled = rewards[batch.loss_mask.any(-1)]
        if not len(sampled):  # all were cut and masked: nothing to learn from, and nothing to average
            return rewards[:, None]
        mean = sampled.mean().item()
        base = {Baseline.none: 0.0, Baseline.batch: mean}.get(config.baseline)
        if base is None:
            ((number, _),) = units(batch)
            base = self.baselines.get(number, mean)
            self.baselines[number] = config.baseline_decay * base + (1 - config.baseline_decay) * mean
        advantage = rewards - base
        return torch.where(advantage.abs() < 1e-9, 0.0, advantage)[:, None]  # equal rewards but for the mean's rounding

    def surrogate(self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return -advantages * out.logprobs, {}

    def state(self) -> dict[str, Any]:
        return {"baselines": dict(self.baselines)}

    def restore(self, state: dict[str, Any]) -> None:
        self.baselines = dict(state.get("baselines", {}))
