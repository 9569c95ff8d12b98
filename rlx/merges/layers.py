"""Results whose layers are not those of their parents: which layer of which parent each is made of.

A layer is the tensors `blocks.<n>.*`. What comes before the layers (the embeddings) is that of the parent whose layer
is first, what comes after them (last norm, heads) that of the parent whose layer is last; a tied head is the embedding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Architecture, Given, Output, Place, Shapes

_BLOCKS = "blocks."
_AFTER = ("norm.", "head.", "places.head.")
"""How tensors begin that come after the layers."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the result: which one of a parent's it is."""

    parent: int
    number: int
    scale: float = 1.0
    """Factor of what it writes into the residual stream."""


@dataclass(frozen=True, slots=True)
class Scaled(Output):
    """A tensor of the result that is one of a parent's, times a number."""

    scale: float = 1.0


class Restacked:
    """A method whose layers are the parents', as `choose` puts them together from how many each parent has."""

    def __init__(self, choose: Callable[[Sequence[int]], Sequence[Layer]]) -> None:
        self.choose = choose

    def plan(self, parents: Sequence[Shapes]) -> list[Scaled]:
        layers = self.choose([layer_count(parent) for parent in parents])
        first, last = layers[0].parent, layers[-1].parent
        names = [name for name in parents[first] if not name.startswith(_BLOCKS)]
        around = [_copy(name, last if name.startswith(_AFTER) else first, parents) for name in names]
        blocks = [output for number, layer in enumerate(layers) for output in _moved(number, layer, parents)]
        end = next((place for place, name in enumerate(names) if name.startswith("norm.")), len(names))
        return [*around[:end], *blocks, *around[end:]]

    def tensor(self, output: Output, given: Given) -> Tensor:
        assert isinstance(output, Scaled), "it is of this method's plan"
        tensor = given.tensors[0]
        if output.scale == 1:
            return tensor
        return tensor * output.scale if output.scale else torch.zeros_like(tensor)  # without its signs


def _copy(name: str, parent: int, parents: Sequence[Shapes]) -> Scaled:
    return Scaled(name, tuple(parents[parent][name]), (Place(parent, name),))


def _moved(number: int, layer: Layer, parents: Sequence[Shapes]) -> Iterator[Scaled]:
    """The tensors of the result's layer `number`."""
    before, after = f"{_BLOCKS}{layer.number}.", f"{_BLOCKS}{number}."
    for name, shape in parents[layer.parent].items():
        if name.startswith(before):
            scale = layer.scale if into_residual(name) else 1.0
            yield Scaled(after + name.removeprefix(before), tuple(shape), (Place(layer.parent, name),), scale)


def layer_count(parent: Shapes) -> int:
    """How many layers a model has, by the names of its tensors.

    Raises:
        ConfigError: none.
    """
    numbers = {name.split(".")[1] for name in parent if name.startswith(_BLOCKS)}
    if not numbers:
        raise ConfigError("a parent of the merge has no layers blocks.<n>; layers are known of models of rlx alone")
    return len(numbers)


def into_residual(name: str) -> bool:
    """True for the tensors that write into the residual stream."""
    return name.removesuffix(".weight").endswith(("mixer.out", "channel.down", "shared.down"))


def layer_names(model: Architecture) -> list[str]:
    """Each layer as `model.layers` writes it.

    Raises:
        ConfigError: rlx has no such model, so that its layers are not known.
    """
    if not model.option:
        raise ConfigError(f"{model.where} is a model that rlx has not, and its layers are not known; take another one")
    written = model.fields["layers"] or [model.plain]
    return [written[number % len(written)] for number in range(model.fields["n_layers"])]


def with_layers(model: Architecture, names: Sequence[str]) -> dict[str, object]:
    """The model's settings with other layers."""
    layers = None if set(names) == {model.plain} else list(names)
    return {**model.fields, "n_layers": len(names), "layers": layers}
