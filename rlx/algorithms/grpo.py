"""`algorithm=grpo`: group-relative policy optimization (Shao et al., arXiv 2402.03300, section 4.1).

    A_i = (r_i - mean_group) / (std_group + eps)
    L   = mean_i mean_t [ -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) + kl_coefficient * k3 ]

Choices where sources differ:
1. eps is 1e-4 (TRL).
2. The default normalization is the paper's, per sequence; TRL's and verl's is `token`, Dr. GRPO's `constant` with
   `std_normalization=none` (`algorithm=dr_grpo`).
3. kl_coefficient is 0 by default (the paper: 0.04; TRL and DAPO: 0).
"""

from dataclasses import dataclass

from rlx.algorithms.base import Normalization
from rlx.algorithms.policy_gradient import GroupConfig, GroupRelative
from rlx.options import option


@option("algorithm", "grpo")
@dataclass(kw_only=True, slots=True)
class GrpoConfig(GroupConfig):
    """Clipped policy gradient on group-normalised rewards."""

    normalization: Normalization = Normalization.sequence
    """How the per-token loss becomes one number: token, sequence, constant or sum."""

    def build(self) -> "GroupRelative[GrpoConfig]":
        return GroupRelative(self)
