"""What a merge method is: a rule for one tensor, given the same tensor of every parent."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rlx.errors import ConfigError

Shapes = Mapping[str, tuple[int, ...]]
"""Names and shapes of a model's tensors: what is known before any is read."""


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of the result, made from the parents' tensors of the names in `sources` (one a parent)."""

    name: str
    sources: tuple[str, ...]


class MergeMethod(Protocol):
    """Shapes first, then one output tensor at a time."""

    def plan(self, parents: Sequence[Shapes]) -> Iterable[Output]:
        """The tensors of the result."""
        ...

    def tensor(self, output: Output, inputs: Sequence[Tensor]) -> Tensor:
        """One tensor of the result, in the dtype of the first input."""
        ...


@dataclass(kw_only=True, slots=True)
class MergeConfig:
    """Fields that every merge has."""

    models: list[str] = field(default_factory=list[str])
    """References of the parents, at least two."""

    def build(self) -> MergeMethod:
        raise NotImplementedError


def same_shapes(parents: Sequence[Shapes]) -> list[Output]:
    """One output for every tensor, which all parents must have in the same shape.

    Raises:
        ConfigError: a tensor that one parent lacks or has in another shape, named.
    """
    first = parents[0]
    for number, parent in enumerate(parents[1:], start=2):
        for name in sorted(first.keys() ^ parent.keys()):
            who = number if name in first else 1
            raise ConfigError(f"parent {who} of the merge has no tensor {name}; merge models of one architecture")
        for name, shape in first.items():
            if tuple(parent[name]) != tuple(shape):
                raise ConfigError(
                    f"tensor {name} is {tuple(shape)} in parent 1 and {tuple(parent[name])} in parent {number}; "
                    "merge models of one size and vocabulary"
                )
    return [Output(name, (name,) * len(parents)) for name in first]


def weighted_sum(inputs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum w_i x_i, accumulated in float32 (float64 stays), returned in the first input's dtype."""
    wide = torch.float64 if inputs[0].dtype is torch.float64 else torch.float32
    total = torch.zeros(inputs[0].shape, dtype=wide)
    for tensor, weight in zip(inputs, weights, strict=True):
        total.add_(tensor.to(wide), alpha=weight)
    return total.to(inputs[0].dtype)
