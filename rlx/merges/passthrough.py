"""`merge=passthrough`: layers of the parents one upon the other, as they are (frankenmerges; mergekit's passthrough).

    merge.slices=[0:0-4,1:2-6]    layers 0 to 3 of the first model, then layers 2 to 5 of the second

1. Embeddings are those of the first slice's model, last norm and head those of the last one's, as in mergekit 0.1.5;
   where the embedding is the head, the result's is the first slice's.
2. mergekit has a `scale` of tensors that a filter names, which configs set for the output projections of attention and
   feed-forward: `merge.scales` is a number a slice for all that writes into the residual stream. 0 makes layers that
   change nothing until they are trained.
3. Models may differ in how many layers they have and of what kind; each layer keeps its kind.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.merges.base import Architecture, MergeConfig, alike, without
from rlx.merges.layers import Layer, Restacked, layer_names, with_layers
from rlx.options import option

_SLICE = re.compile(r"(\d+):(\d+)-(\d+)")


@option("merge", "passthrough")
@dataclass(kw_only=True, slots=True)
class PassthroughConfig(MergeConfig):
    """Layers of the parents, stacked."""

    least: ClassVar[int] = 1

    slices: list[str] | None = None
    """Layers from the bottom up, each <model>:<first>-<end> in numbers from 0, such as 1:2-6 for the second model's
    layers 2 to 5."""
    scales: list[float] | None = None
    """One factor a slice of what its layers write into the residual stream; null: 1 each."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        without(self, "passthrough", ("weights", "weight", "align"))
        slices = self.parsed()
        if self.scales is not None and len(self.scales) != len(slices):
            raise ConfigError(f"merge.scales has {len(self.scales)} numbers for {len(slices)} slices; give one a slice")
        if not self.models:
            return
        used = {parent for parent, _, _ in slices}
        for number, model in enumerate(self.models):
            if number not in used:
                raise ConfigError(f"merge.slices takes no layer of model {number}, {model}; leave it out")

    def parsed(self) -> list[tuple[int, int, int]]:
        """Model, first layer and end of each slice.

        Raises:
            ConfigError: there is none, or what one of them is not.
        """
        if not self.slices:
            raise ConfigError("merge=passthrough needs merge.slices, such as merge.slices=[0:0-4,1:2-6]")
        found: list[tuple[int, int, int]] = []
        for text in self.slices:
            match = _SLICE.fullmatch(text.replace(" ", ""))
            if match is None:
                raise ConfigError(f"merge.slices has {text!r}; expected <model>:<first>-<end>, such as 0:0-4")
            parent, first, end = int(match[1]), int(match[2]), int(match[3])
            if first >= end:
                raise ConfigError(f"merge.slices has {text}, which is no layer; the end is the layer after the last")
            if self.models and parent >= len(self.models):
                raise ConfigError(
                    f"merge.slices has {text}, and merge.models has {len(self.models)}, the first of which is 0"
                )
            found.append((parent, first, end))
        return found

    def layers(self, counts: Sequence[int]) -> list[Layer]:
        """The result's layers, from how many each parent has.

        Raises:
            ConfigError: a slice goes beyond them.
        """
        found: list[Layer] = []
        slices = self.parsed()
        for (parent, first, end), scale in zip(slices, self.scales or [1.0] * len(slices), strict=True):
            if parent >= len(counts) or end > counts[parent]:
                there = f"has {counts[parent]} layers" if parent < len(counts) else "is not there"
                raise ConfigError(f"merge.slices has {parent}:{first}-{end}, and model {parent} {there}")
            found += [Layer(parent, number, scale) for number in range(first, end)]
        return found

    def architecture(self, parents: Sequence[Architecture]) -> Architecture:
        names = [layer_names(parent) for parent in parents]
        model = alike(parents, but=("n_layers", "layers"))
        layers = self.layers([len(each) for each in names])
        return replace(model, fields=with_layers(model, [names[each.parent][each.number] for each in layers]))

    def build(self) -> Restacked:
        return Restacked(self.layers)
