"""`merge=ties`: trim, elect signs, merge what agrees (Yadav et al., arXiv 2306.01708, section 4).

Of each delta W_i - W0 the `density` of largest magnitude is kept; each entry gets the sign of the sum over the parents;
the entries that have it are averaged; W0 + scale times that.

1. Trimmed per tensor, as in mergekit 0.1.5 and PEFT 0.21; the paper trims the whole model's vector at once. Projections
   that rlx holds in one tensor (queries, keys and values; gate and up) are trimmed as one, which mergekit holds apart:
   of folders that rlx has a model for its result differs there. Entries
   equal to the last one kept are kept too (the paper's code), so that no order of entries enters; mergekit and PEFT
   keep an exact number. At least one entry is kept (mergekit).
2. `elect` and `divide`: see `rlx/merges/consensus.py`. mergekit is weighted and weights, PEFT unweighted (or count) and
   count. The paper has weights of 1, for which they are the same.
"""

from dataclasses import dataclass

from torch import Tensor

from rlx.merges.base import Given
from rlx.merges.consensus import AgreeConfig, keep_largest
from rlx.options import option


@option("merge", "ties")
@dataclass(kw_only=True, slots=True)
class TiesConfig(AgreeConfig):
    """Large differences that agree in their sign."""

    density: float = 0.2
    """Share of each delta's entries that is kept, the largest."""

    def thinned(self, delta: Tensor, given: Given) -> Tensor:
        return keep_largest(delta, self.density)
