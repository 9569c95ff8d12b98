"""`merge=grow`: a deeper model from one with fewer layers, which stands for itself and begins no training run.

`stack` is G_stack of Du et al. (arXiv 2405.15319, section 3), `interleave` repeats each layer in place (Gong et al.
2019): with them the result is bit for bit what `init.grow` begins with. With `zero` the layers on top are copies of
those below, from the first on, that write nothing into the residual stream (the block expansion of LLaMA Pro, arXiv
2401.02415, which puts its copies between the layers): the function stays. `init.grow=zero` has fresh weights there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.merges.base import Architecture, MergeConfig, without
from rlx.merges.layers import Layer, Restacked, layer_names, with_layers
from rlx.options import option


class How(Enum):
    """Which layers are added."""

    stack = "stack"
    """All layers again, above themselves."""
    interleave = "interleave"
    """Each layer again, right above itself."""
    zero = "zero"
    """As stack, but what is added writes nothing: the function stays."""


@option("merge", "grow")
@dataclass(kw_only=True, slots=True)
class GrowConfig(MergeConfig):
    """Depth growth of one model."""

    least: ClassVar[int] = 1
    most: ClassVar[int | None] = 1

    how: How = How.stack
    """Which layers are added: stack, interleave, zero."""
    factor: int = 2
    """Layers of the result over those of the model."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        without(self, "grow", ("weights", "weight", "align"))
        if self.factor < 2:
            raise ConfigError(f"merge.factor={self.factor} adds no layer; it must be at least 2")

    def layers(self, counts: Sequence[int]) -> list[Layer]:
        """The result's layers, from how many the model has."""
        before = counts[0]
        numbers = range(before * self.factor)
        if self.how is How.interleave:
            return [Layer(0, number // self.factor) for number in numbers]
        added = 0.0 if self.how is How.zero else 1.0
        return [Layer(0, number % before, 1.0 if number < before else added) for number in numbers]

    def architecture(self, parents: Sequence[Architecture]) -> Architecture:
        model, names = parents[0], layer_names(parents[0])
        return replace(model, fields=with_layers(model, [names[each.number] for each in self.layers([len(names)])]))

    def build(self) -> Restacked:
        return Restacked(self.layers)
