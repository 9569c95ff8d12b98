"""`merge=task_arithmetic`: the base and the sum of what the parents changed (Ilharco et al., arXiv 2212.04089).

W0 + scale sum w_i (W_i - W0). Weights below 0 take a task out (section 3 of the paper), also that of a single parent.

1. Weights are as given, 1 each by default, so that `scale` is the paper's lambda; `normalize=true` divides them by
   their sum (mergekit 0.1.5 has the same two, and false too).
"""

from dataclasses import dataclass

from torch import Tensor

from rlx.merges.base import Given, MergeConfig, normalised, weighted_sum
from rlx.merges.consensus import DeltaConfig, flat
from rlx.options import option


@option("merge", "task_arithmetic")
@dataclass(kw_only=True, slots=True)
class TaskArithmeticConfig(DeltaConfig):
    """The base plus the weighted sum of the parents' differences from it."""

    normalize: bool = False
    """Divide the weights by their sum."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        self.portions(len(self.models) or 1)

    def portions(self, count: int) -> list[float]:
        """The weights by which deltas are summed."""
        return normalised(self.shares(count)) if self.normalize else self.shares(count)

    def change(self, given: Given) -> Tensor:
        return weighted_sum(flat(given), self.portions(len(given.tensors)))
