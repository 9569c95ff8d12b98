"""`merge=model_stock`: between the base and the parents' mean, by how much the parents agree (arXiv 2403.19522).

With cos the mean cosine of the angles between two parents' deltas W_i - W0, over all pairs (Jang et al., section 4):
W0 + t (mean of W_i - W0), t = n cos / (1 + (n-1) cos).

1. `clamp=true` takes a mean cosine below 0 as 0, so that t is between 0 and 1; the paper meets none, and its formula
   (mergekit 0.1.5, `clamp=false`) goes beyond the base there and without bound where the denominator is 0, at which
   point t is 0.
2. `per=tensor` has one t a tensor (mergekit, which holds apart the queries, keys and values, and gate and up, that are
   one tensor here), `per=row` one for each vector along the last axis (its filter_wise).
3. Cosines are exact however short the deltas are; mergekit takes products of norms below 1e-6 as 1e-6, so that t is too
   small for tensors that hardly moved. The cosine with a delta that is 0 is 0.
4. The parents count alike: weights are refused.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.merges.base import Given, MergeConfig, SameShapes, refuse_weights
from rlx.merges.sphere import Per, as_rows, combined, cosines, products
from rlx.options import option


@option("merge", "model_stock")
@dataclass(kw_only=True, slots=True)
class ModelStockConfig(MergeConfig):
    """The base moved to the mean as far as the parents agree."""

    needs_base: ClassVar[bool] = True

    per: Per = Per.tensor
    """What has a t of its own: tensor, row (each vector along the last axis)."""
    clamp: bool = True
    """Keep t between 0 and 1 where the parents' deltas point away from each other."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        refuse_weights(self, "the parents of merge=model_stock count alike")

    def build(self) -> SameShapes:
        return SameShapes(self.moved)

    def moved(self, given: Given) -> Tensor:
        """The base and its share of the mean delta."""
        assert given.base is not None, "the stage gives a base to rules that need one"
        rows = [as_rows(delta, self.per) for delta in given.deltas()]
        step = self.step(cosines(products(rows))) / len(rows)
        return combined(rows, step.unsqueeze(-1).expand(-1, len(rows))).view(given.base.shape).add_(given.base)

    def step(self, cosine: Tensor) -> Tensor:
        """t of each row, [R], from the deltas' cosines [R, N, N]."""
        count = cosine.shape[-1]
        pairs = cosine.triu(diagonal=1).sum(dim=(1, 2)) / (count * (count - 1) / 2)
        mean = pairs.clamp(min=0) if self.clamp else pairs
        below = 1 + (count - 1) * mean
        return torch.where(below.abs() < 1e-6, 0.0, count * mean / below)
