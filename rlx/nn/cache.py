"""What decoding keeps per layer: preallocated, indexed by row, never concatenated.

Each layer has its own tensors: one stacked tensor updated layer by layer is many times slower in a compiled step.
"""

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor


class LayerCache(Protocol):
    """State of one layer for B rows."""

    def rows(self, index: Tensor) -> Self:
        """The state of the rows in `index` ([N] int64; a row may come several times)."""
        ...

    def first(self, count: int) -> Self:
        """The state of the first `count` rows: what is written there is written here."""
        ...

    def put(self, index: Tensor, other: Self, source: Tensor) -> None:
        """Replace the state of the rows in `index` [N] int64 by that of the rows `source` [N] of a cache that is no
        longer, or is this one."""
        ...


class KeyValueCache:
    """Keys and values of one attention layer: slot s of a row holds its position s.

    Keys lie with their slots innermost: a compiled step of one token then reads them in order (1.7 times faster on a
    CPU than [B, H, S, K]).
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys  # [B, H, K, S]
        self.values = values  # [B, H, S, K]

    @classmethod
    def empty(cls, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Self:
        """Zeros for `shape` [B, H, S, K]."""
        batch, heads, slots, width = shape
        keys = torch.zeros(batch, heads, width, slots, dtype=dtype, device=device)
        return cls(keys, torch.zeros(batch, heads, slots, width, dtype=dtype, device=device))

    def write(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        """Put keys and values [B, H, T, K] at positions [B, T] int64 of their rows."""
        batch = torch.arange(keys.shape[0], device=keys.device)[:, None]  # [B, 1]
        self.keys[batch, :, :, positions] = keys.transpose(1, 2).to(self.keys.dtype)
        self.values[batch, :, positions] = values.transpose(1, 2).to(self.values.dtype)

    def read(self, slots: int) -> tuple[Tensor, Tensor]:
        """Keys [B, H, K, slots] and values [B, H, slots, K] of the first `slots` positions."""
        return self.keys[..., :slots], self.values[:, :, :slots]

    def rows(self, index: Tensor) -> Self:
        return type(self)(self.keys[index], self.values[index])

    def first(self, count: int) -> Self:
        return type(self)(self.keys[:count], self.values[:count])

    def put(self, index: Tensor, other: Self, source: Tensor) -> None:
        slots = other.values.shape[2]
        self.keys[index, :, :, :slots] = other.keys[source]
        self.values[index, :, :slots] = other.values[source]


class StateCache:
    """State of a fixed size: a few tensors whose first axis is the rows. It is written in place."""

    def __init__(self, **tensors: Tensor) -> None:
        self.__dict__.update(tensors)

    def __getattr__(self, name: str) -> Tensor:
        raise AttributeError(name)

    def rows(self, index: Tensor) -> Self:
        return type(self)(**{name: tensor[index] for name, tensor in vars(self).items()})

    def first(self, count: int) -> Self:
        return type(self)(**{name: tensor[:count] for name, tensor in vars(self).items()})

    def put(self, index: Tensor, other: Self, source: Tensor) -> None:
        for name, tensor in vars(self).items():
            tensor[index] = getattr(other, name)[source]


class Cache:
    """The state of all layers for the rows being decoded."""

    def __init__(self, layers: Sequence[LayerCache], length: int) -> None:
        self.layers = list(layers)
        self.length = length
        """Slots allocated per row (tokens)."""

    def rows(self, index: Tensor) -> Self:
        """The state of the rows in `index` [N] int64."""
        return type(self)([layer.rows(index) for layer in self.layers], self.length)

    def first(self, count: int) -> Self:
        """The state of the first `count` rows: what is written there is written here."""
        return type(self)([layer.first(count) for layer in self.layers], self.length)

    def put(self, index: Tensor, other: Self, source: Tensor) -> None:
        """Replace the rows in `index` [N] int64 by the rows `source` [N] of a cache that is no longer, or is
        this one."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.put(index, theirs, source)
