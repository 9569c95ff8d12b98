"""`merge=dare`: differences dropped at random and scaled up, then merged (Yu et al., arXiv 2311.03099, section 3).

Of each delta W_i - W0 an entry is kept with probability `density` and divided by it; the rest is task arithmetic or
TIES without its trimming.

1. `rescale=inverse` is the paper's and PEFT's; mergekit 0.1.5 keeps the sum of magnitudes (`rescale=l1`), which is
   nearly the same on large tensors, and is not on small ones.
2. `consensus=linear` sums (dare_linear in both tools), `ties` elects signs (dare_ties). mergekit's dare_ties does not
   divide: `divide=none`; PEFT's divides by the count.
3. The default is the paper's drop rate of 0.9.
4. Masks: see `rlx/merges/consensus.py`, 3.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlx.merges.base import Given
from rlx.merges.consensus import EitherConfig, Rescale, blocks, drop
from rlx.options import option


@option("merge", "dare")
@dataclass(kw_only=True, slots=True)
class DareConfig(EitherConfig):
    """Differences kept at random, scaled up."""

    draws: ClassVar[bool] = True

    density: float = 0.1
    """Probability with which an entry of a delta is kept."""
    rescale: Rescale = Rescale.inverse
    """What makes up for dropped entries: inverse (of the probability), l1 (the sum of magnitudes stays), none."""

    def thinned(self, delta: Tensor, given: Given) -> Tensor:
        if self.density >= 1:
            return delta
        chances = ((place, self.density) for place in blocks(delta.numel()))
        return drop(delta, chances, self.rescale, given.generator)
