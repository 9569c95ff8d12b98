"""`merge=slerp`: spherical interpolation (Shoemake 1985; of models: mergekit's slerp, nuslerp and multislerp).

Two parents: [sin((1-t) theta) a + sin(t theta) b] / sin theta, theta the angle between a and b, t the second's share of
the weights. Three and more: unit vectors u_i, their weighted mean direction m, the tangents v_i = u_i - <u_i, m> m, and
the exponential map at m of sum w_i v_i, times sum w_i |W_i| (mergekit 0.1.5, multislerp).

1. Almost parallel or opposite vectors (|cos| above `lerp_above`) and vectors that are 0 are interpolated linearly:
   0.9995 is mergekit's slerp; its nuslerp goes on to 1 - 1e-16, which is `lerp_above=1`. Short fine-tunes of one base
   have larger cosines than that in most tensors, so that slerp of weights is there linear, and `of=deltas` is not.
2. `of=weights` needs no base. `of=deltas` interpolates what the parents changed and adds it to the base (mergekit does
   so where nuslerp or multislerp have a base).
3. `per=tensor` has one angle a tensor; `per=row` has one for each vector along the last axis (mergekit's nuslerp
   without flatten).
4. Three parents and more whose weighted mean direction is 0 are averaged linearly there; mergekit stops.
5. Weights are divided by their sum.
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, MergeConfig, SameShapes, normalised
from rlx.merges.sphere import SMALL, Per, as_rows, combined, cosines, inverse, length_of, lengths, products
from rlx.options import option

PARALLEL = 1 - 1e-12
"""Absolute cosine above which the angle is all rounding, whatever `lerp_above` says."""


class Of(Enum):
    """What is interpolated."""

    weights = "weights"
    """The parents' tensors."""
    deltas = "deltas"
    """Their differences from the base."""


@option("merge", "slerp")
@dataclass(kw_only=True, slots=True)
class SlerpConfig(MergeConfig):
    """Interpolation along the sphere; of three and more at their mean direction."""

    of: Of = Of.weights
    """What is interpolated: weights, deltas (from the base)."""
    per: Per = Per.tensor
    """What has an angle of its own: tensor, row (each vector along the last axis)."""
    lerp_above: float = 0.9995
    """Of two parents: absolute cosine above which they are interpolated linearly."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        if not 0 <= self.lerp_above <= 1:
            raise ConfigError(f"merge.lerp_above={self.lerp_above} must be from 0 to 1; it is a cosine")
        self.portions(len(self.models) or 2)

    @property
    def needs_base(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """With `of=deltas` the rule is about differences from a base."""
        return self.of is Of.deltas

    def portions(self, count: int) -> list[float]:
        """The weights, divided by their sum."""
        return normalised(self.shares(count), instead="")

    def build(self) -> SameShapes:
        return SameShapes(self.interpolated)

    def interpolated(self, given: Given) -> Tensor:
        """The point between what is given."""
        sources = list(given.deltas() if self.of is Of.deltas else given.tensors)
        rows = [as_rows(source, self.per) for source in sources]
        gram, weights = products(rows), self.portions(len(rows))
        point = between(gram, weights[1], self.lerp_above) if len(rows) == 2 else among(gram, weights)
        result = combined(rows, point).reshape(sources[0].shape)
        return result if given.base is None or self.of is Of.weights else result.add_(given.base)


def between(gram: Tensor, t: float, lerp_above: float) -> Tensor:
    """Coefficients of two vectors, [R, 2], from their inner products [R, 2, 2] and the share t of the second."""
    cosine = cosines(gram)[:, 0, 1]
    linear = (cosine.abs() > min(lerp_above, PARALLEL)) | (lengths(gram) == 0).any(dim=1)
    angle = torch.where(linear, 0.0, cosine).acos()
    first = torch.where(linear, 1 - t, ((1 - t) * angle).sin() / angle.sin())
    second = torch.where(linear, t, (t * angle).sin() / angle.sin())
    return torch.stack([first, second], dim=1)


def among(gram: Tensor, weights: list[float]) -> Tensor:
    """Coefficients of N vectors, [R, N], from their inner products [R, N, N] and their shares."""
    shares, sizes, cosine = gram.new_tensor(weights), lengths(gram), cosines(gram)
    mean = shares.expand_as(sizes)  # of the unit vectors, like all that follows
    length = length_of(mean, cosine)
    mean = mean * inverse(length)
    along = (cosine @ mean.unsqueeze(-1)).squeeze(-1)  # <u_i, m>
    tangent = shares - (shares * along).sum(dim=1, keepdim=True) * mean
    step = length_of(tangent, cosine)
    point = step.cos() * mean + torch.sinc(step / torch.pi) * tangent
    point = point * (shares * sizes).sum(dim=1, keepdim=True) * inverse(sizes)
    return torch.where(length < SMALL, shares, point)
