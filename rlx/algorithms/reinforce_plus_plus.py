"""`algorithm=reinforce_plus_plus`: REINFORCE++ (Hu et al., arXiv 2501.03262, section 3).

    G_t = sum over s >= t of (1[s last] r - kl_coefficient * k1_s)
    A   = G whitened over all sampled tokens of the iteration
    L   = PPO's clipped surrogate, mean over tokens

1. Without a critic and without groups: a prompt may have one sample. Whitening over tokens weighs long rows more.
2. `reinforce_plus_plus_baseline` takes the group's mean off r first.
"""

from dataclasses import dataclass

from torch import Tensor

from rlx.algorithms.base import whitened
from rlx.algorithms.policy_gradient import Clipped, ClippedConfig
from rlx.batches import RolloutBatch
from rlx.options import option


@option("algorithm", "reinforce_plus_plus")
@dataclass(kw_only=True, slots=True)
class ReinforcePlusPlusConfig(ClippedConfig):
    """Returns to go, whitened over the iteration's tokens."""

    def build(self) -> "ReinforcePlusPlus":
        return ReinforcePlusPlus(self)


class ReinforcePlusPlus(Clipped[ReinforcePlusPlusConfig]):
    """The algorithm at one setting."""

    def estimate(self, batch: RolloutBatch) -> Tensor:
        to_go = self.rewards(batch).flip(-1).cumsum(-1).flip(-1)
        return whitened(to_go, batch.loss_mask)
