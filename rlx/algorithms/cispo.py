"""`algorithm=cispo`: clipped importance weights (MiniMax-M1, arXiv 2506.13585, section 3.1).

    L = mean over tokens of -stop(clip(rho, 1 - clip_low, 1 + clip_high)) A log p

with GRPO's advantages. The weight is clipped, not the update: a token beyond the clip keeps a gradient, where PPO drops
it. As in the paper there is no lower bound by default (`clip_low=1`). `clip_high=4` is a weight of at most 5, ScaleRL's
(arXiv 2510.13786); TRL's epsilon_high is that 5, an absolute cap, verl's is 1 + clip_high as here.
"""

from dataclasses import dataclass

from torch import Tensor

from rlx.algorithms.policy_gradient import GroupConfig, GroupRelative, clip_shares
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.options import option


@option("algorithm", "cispo")
@dataclass(kw_only=True, slots=True)
class CispoConfig(GroupConfig):
    """Policy gradient with clipped weights instead of clipped updates."""

    clip_low: float = 1.0
    """The weight is clipped below at 1 - clip_low; 1: not at all."""
    clip_high: float = 4.0
    """The weight is clipped above at 1 + clip_high."""

    def __post_init__(self) -> None:
        GroupConfig.__post_init__(self)
        if self.dual_clip is not None:
            raise ConfigError("algorithm.dual_clip: cispo's weights are clipped already (clip_high); leave it out")

    def build(self) -> "Cispo":
        return Cispo(self)


class Cispo(GroupRelative[CispoConfig]):
    """The algorithm at one setting."""

    def surrogate(self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        ratio = self.log_ratio(out, batch).exp().detach()
        weight = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
        shares = clip_shares(ratio, advantages, config.clip_low, config.clip_high)
        return -weight * advantages * out.logprobs, shares
