"""`merge=linear`: the weighted mean of the parents' weights (model soups, arXiv 2203.05482).

sum w_i W_i / sum w_i per tensor. Accumulated in float32 whatever the parents' dtype (mergekit accumulates in the
tensors' own dtype, so bfloat16 parents lose bits there). `normalize=false` leaves out the division.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import MergeConfig, Output, Shapes, same_shapes, weighted_sum
from rlx.options import option


@option("merge", "linear")
@dataclass(kw_only=True, slots=True)
class LinearConfig(MergeConfig):
    """Weighted mean."""

    weights: list[float] | None = None
    """One weight a parent; null: equal."""
    normalize: bool = True
    """Divide the weights by their sum."""

    def __post_init__(self) -> None:
        weights = self.weights
        if weights is None:
            return
        if self.models and len(weights) != len(self.models):
            raise ConfigError(
                f"merge.weights has {len(weights)} numbers for {len(self.models)} models; give one a model"
            )
        if self.normalize and abs(sum(weights)) < 1e-12:
            raise ConfigError(f"merge.weights={list(weights)} sum to 0; change them, or set merge.normalize=false")

    def build(self) -> "Linear":
        return Linear(self)


class Linear:
    """The method at one setting."""

    def __init__(self, config: LinearConfig) -> None:
        self.config = config

    def plan(self, parents: Sequence[Shapes]) -> Iterable[Output]:
        return same_shapes(parents)

    def tensor(self, output: Output, inputs: Sequence[Tensor]) -> Tensor:
        weights = self.config.weights or [1.0] * len(inputs)
        scale = sum(weights) if self.config.normalize else 1.0
        return weighted_sum(inputs, [weight / scale for weight in weights])
