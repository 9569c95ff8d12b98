"""`merge=karcher`: the weighted mean direction on the sphere, by the geodesics' lengths, times the mean length.

From m = the normalised mean of the unit vectors u_i, m <- exp_m(sum w_i log_m u_i) until the step is below `tolerance`
(Karcher 1977; of models: mergekit 0.1.5, karcher, arXiv 2603.04972); the result is m sum w_i |W_i|.

1. Weights are the config's, divided by their sum; mergekit's are always equal.
2. A vector that is 0 has no direction: the others' weights are divided by their sum for the direction, and it counts
   in the length (mergekit too).
3. Where the mean of the unit vectors is 0 the iteration begins at the first of them (mergekit too); a vector opposite
   to the mean, to which there is no one shortest way, does not pull.
4. `per=tensor` is mergekit's; `per=row` has a mean direction for each vector along the last axis.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, MergeConfig, SameShapes, normalised
from rlx.merges.sphere import SMALL, Per, as_rows, combined, cosines, inverse, length_of, lengths, products
from rlx.options import option


@option("merge", "karcher")
@dataclass(kw_only=True, slots=True)
class KarcherConfig(MergeConfig):
    """Mean on the sphere, found by iteration."""

    per: Per = Per.tensor
    """What has a direction of its own: tensor, row (each vector along the last axis)."""
    iterations: int = 10
    """Most steps."""
    tolerance: float = 1e-5
    """Step (radians) below which the mean is found; also the angle below which two directions are the same."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        if self.iterations < 0:
            raise ConfigError(f"merge.iterations={self.iterations} must be at least 0")
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"merge.tolerance={self.tolerance} must be above 0 and below 1 radian")
        if any(weight < 0 for weight in self.shares(len(self.models))):
            raise ConfigError(f"merge.weights={self.shares(len(self.models))} must not be negative; it is a mean")
        self.portions(len(self.models) or 2)

    def portions(self, count: int) -> list[float]:
        """The weights, divided by their sum."""
        return normalised(self.shares(count), instead="")

    def build(self) -> SameShapes:
        return SameShapes(self.mean)

    def mean(self, given: Given) -> Tensor:
        """The mean of what is given."""
        sources = list(given.tensors)
        rows = [as_rows(source, self.per) for source in sources]
        gram = products(rows)
        weights, sizes = gram.new_tensor(self.portions(len(rows))), lengths(gram)
        point = self.direction(cosines(gram), weights * (sizes > 0))
        scale = (weights * sizes).sum(dim=1, keepdim=True)
        return combined(rows, point * scale * inverse(sizes)).reshape(sources[0].shape)

    def direction(self, cosine: Tensor, weights: Tensor) -> Tensor:
        """Coefficients [R, N] of N unit vectors in their mean direction, from their cosines [R, N, N] and weights."""
        weights = weights * inverse(weights.sum(dim=1, keepdim=True))
        length = length_of(weights, cosine)
        first = torch.eye(weights.shape[1], dtype=weights.dtype)[(weights > 0).int().argmax(dim=1)]
        mean = torch.where(length < SMALL, first, weights * inverse(length))
        for _ in range(self.iterations):
            along = (cosine @ mean.unsqueeze(-1)).squeeze(-1).clamp(-1, 1)
            angle = along.acos()
            apart = (angle >= self.tolerance) & (angle <= torch.pi - self.tolerance)
            logs = weights * torch.where(apart, 1 / torch.sinc(angle / torch.pi), 0.0)
            tangent = logs - (logs * along).sum(dim=1, keepdim=True) * mean
            step = length_of(tangent, cosine)
            moved = step.cos() * mean + torch.sinc(step / torch.pi) * tangent
            moved = moved * inverse(length_of(moved, cosine))
            mean = torch.where(step < self.tolerance, mean, moved)
        return mean
