"""`algorithm=rloo`: REINFORCE with a leave-one-out baseline (Ahmadian et al., arXiv 2402.14740, section 3.2).

    A_i = r_i - mean of the group's other rewards = G / (G - 1) * (r_i - mean_group)
    L   = mean_i sum_t of -min(rho A, clip(rho) A)

Choices where sources differ:
1. The paper treats a completion as one action, so that its loss is the sum over its tokens (`normalization=sum`). A
   ratio is taken a token, as in PPO; TRL clips that of whole sequences. On the first update of a rollout, where ratios
   are 1, all three have the same gradient.
2. With kl_coefficient the divergence is a cost of the sampled tokens, as in the paper, inside the rewards that are
   compared; TRL's default of 0.05 is not ours (0).
"""

from dataclasses import dataclass

from torch import Tensor

from rlx.algorithms.base import EQUAL, Normalization, group_mean, group_std
from rlx.algorithms.policy_gradient import Clipped, ClippedConfig
from rlx.batches import RolloutBatch
from rlx.options import option


@option("algorithm", "rloo")
@dataclass(kw_only=True, slots=True)
class RlooConfig(ClippedConfig):
    """REINFORCE against the mean of a prompt's other samples."""

    normalization: Normalization = Normalization.sum
    """How the per-token loss becomes one number: token, sequence, constant or sum."""

    def __post_init__(self) -> None:
        ClippedConfig.__post_init__(self)
        self.check_compares()

    def build(self) -> "Rloo":
        return Rloo(self)


class Rloo(Clipped[RlooConfig]):
    """The algorithm at one setting."""

    compares = True

    def estimate(self, batch: RolloutBatch) -> Tensor:
        rewards = self.rewards(batch).sum(-1)
        mean, size = group_mean(rewards, batch.group)
        equal = group_std(rewards, batch.group) < EQUAL
        return (size / (size - 1).clamp(min=1) * (rewards - mean)).masked_fill(equal, 0.0)[:, None]
