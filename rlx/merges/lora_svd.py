"""`merge=lora_svd`: the weighted sum of adapters at a rank that is told: the nearest matrix of that rank.

The singular value decomposition of sum w_i s_i B_i A_i, its largest `rank` values (PEFT's `svd`): no matrix of that
rank is nearer to the sum (Eckart and Young, 1936). Choices:

1. The sum is never made whole: its factors are brought to triangular form (QR), and the decomposition is that of a
   matrix as wide as the ranks together. It is the same up to rounding.
2. B has the singular values and A is orthogonal, as in PEFT.
3. PEFT 0.21 multiplies with the scale s_i once. Versions before multiplied the weights with it again, though the
   products had it: `scaling=twice`, wrong by the factor s_i where alpha is not the rank.
4. The rank is by default that of the parents, of each matrix the largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.adapters import WeightedConfig, concatenated
from rlx.merges.base import AdapterMethod, Factors
from rlx.options import option

LINALG: Any = torch.linalg
"""It has no types."""


class Scaling(Enum):
    """How often an adapter's scale is taken."""

    once = "once"
    """As the adapter's own product has it."""
    twice = "twice"
    """Once more in the weights."""


@option("merge", "lora_svd")
@dataclass(kw_only=True, slots=True)
class LoraSvdConfig(WeightedConfig):
    """The sum of adapters, cut to a rank."""

    rank: int | None = None
    """Rank of the result, at most; null: the largest of the parents', matrix by matrix."""
    scaling: Scaling = Scaling.once
    """How often an adapter's scale is taken: once, twice (older PEFT)."""

    def __post_init__(self) -> None:
        WeightedConfig.__post_init__(self)
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"merge.rank={self.rank} must be at least 1")

    def build(self) -> AdapterMethod:
        return Truncation(self.rank, self.scaling)


class Truncation:
    """The nearest product of a rank."""

    def __init__(self, rank: int | None, scaling: Scaling) -> None:
        self.rank, self.scaling = rank, scaling

    def combine(self, factors: Sequence[Factors], weights: Sequence[float]) -> Factors:
        if self.scaling is Scaling.twice:
            weights = [weight * each.scale for each, weight in zip(factors, weights, strict=True)]
        rank = self.rank or max(each.a.shape[-2] for each in factors)
        whole = concatenated(factors, weights)
        (left, of_left), (right, of_right) = LINALG.qr(whole.b), LINALG.qr(whole.a.mT)
        u, values, vh = LINALG.svd(of_left @ of_right.mT, full_matrices=False)
        b: Tensor = left @ (u[..., :rank] * values[..., None, :rank])
        return Factors(vh[..., :rank, :] @ right.mT, b, 1.0)
