"""`merge=linear`: the weighted mean of the parents' weights (model soups, arXiv 2203.05482).

sum w_i W_i / sum w_i per tensor. Accumulated in float32 whatever the parents' dtype (mergekit accumulates in the
tensors' own dtype, so bfloat16 parents lose bits there). `normalize=false` leaves out the division.
"""

from dataclasses import dataclass

from torch import Tensor

from rlx.merges.base import Given, MergeConfig, SameShapes, normalised, weighted_sum
from rlx.options import option


@option("merge", "linear")
@dataclass(kw_only=True, slots=True)
class LinearConfig(MergeConfig):
    """Weighted mean."""

    normalize: bool = True
    """Divide the weights by their sum."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        if self.normalize:
            normalised(self.shares(len(self.models) or 1))

    def build(self) -> SameShapes:
        return SameShapes(self.mean)

    def mean(self, given: Given) -> Tensor:
        """The weighted sum of what is given."""
        weights = self.shares(len(given.tensors))
        return weighted_sum(given.tensors, normalised(weights) if self.normalize else weights)
