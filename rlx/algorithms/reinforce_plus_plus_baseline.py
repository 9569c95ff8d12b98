"""`algorithm=reinforce_plus_plus_baseline`: REINFORCE++ with the group's mean as baseline (Hu et al., arXiv 2501.03262,
section 3.3; "reinforce_baseline" in OpenRLHF).

    G_t = sum over s >= t of (1[s last] (r - mean_group) - kl_coefficient * k1_s)
    A   = G whitened over all sampled tokens of the iteration

The mean of the whitened tokens is taken off again, so that rows of a group without a signal move too, if little.
"""

from dataclasses import dataclass

from torch import Tensor

from rlx.algorithms.base import group_mean, whitened
from rlx.algorithms.policy_gradient import Clipped, ClippedConfig
from rlx.batches import RolloutBatch
from rlx.options import option


@option("algorithm", "reinforce_plus_plus_baseline")
@dataclass(kw_only=True, slots=True)
class ReinforcePlusPlusBaselineConfig(ClippedConfig):
    """Rewards less their group's mean, whitened over the iteration's tokens."""

    def __post_init__(self) -> None:
        ClippedConfig.__post_init__(self)
        self.check_compares()

    def build(self) -> "ReinforcePlusPlusBaseline":
        return ReinforcePlusPlusBaseline(self)


class ReinforcePlusPlusBaseline(Clipped[ReinforcePlusPlusBaselineConfig]):
    """The algorithm at one setting."""

    compares = True

    def estimate(self, batch: RolloutBatch) -> Tensor:
        outcome = batch.returns().double()
        centred = outcome - group_mean(outcome, batch.group)[0]
        costs = self.rewards(batch) - batch.rewards.double()
        to_go = centred[:, None] + costs.flip(-1).cumsum(-1).flip(-1)
        return whitened(to_go, batch.loss_mask)
