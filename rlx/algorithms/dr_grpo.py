"""`algorithm=dr_grpo`: GRPO done right (Liu et al., arXiv 2503.20783, section 3).

    A_i = r_i - mean_group
    L   = sum over sampled tokens of -min(rho A, clip(rho) A) / (rows * most tokens a completion may have)

Neither the standard deviation, which weighs easy and hard prompts up, nor a row's length, by which long wrong answers
are punished less, is in it. The constant is decode.max_tokens, and rows divide too (verl's scale factor leaves them
out, so that its rate means another one).
"""

from dataclasses import dataclass

from rlx.algorithms.base import Normalization
from rlx.algorithms.policy_gradient import GroupConfig, GroupRelative, StdNormalization
from rlx.options import option


@option("algorithm", "dr_grpo")
@dataclass(kw_only=True, slots=True)
class DrGrpoConfig(GroupConfig):
    """GRPO without its biases of length and difficulty."""

    normalization: Normalization = Normalization.constant
    """How the per-token loss becomes one number: token, sequence, constant or sum."""

    std_normalization: StdNormalization = StdNormalization.none
    """What advantages are divided by: none, group or batch."""

    def build(self) -> "GroupRelative[DrGrpoConfig]":
        return GroupRelative(self)
