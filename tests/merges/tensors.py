"""Tensors to merge, and what mergekit makes of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.merges.base import Given, MergeConfig, Output, Place


def some(count: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Normal numbers; (5, 6) where no shape is given."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape or (5, 6), generator=generator, dtype=dtype) for _ in range(count)]


class ReadOnce(Sequence[Tensor]):
    """The parents' tensors as the stage gives them: each is a read from a file."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors, self.reads = tensors, [0] * len(tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, number: Any) -> Any:
        if number < len(self):
            self.reads[number] += 1
        return self.tensors[number]


def merged(config: MergeConfig, inputs: Sequence[Tensor], base: Tensor | None = None, seed: int = 0) -> Tensor:
    """What the option's method makes of one tensor; what it is given stays as it was."""
    output = Output("w", tuple(inputs[0].shape), tuple(Place(n, "w") for n in range(len(inputs))))
    sources = ReadOnce(inputs)
    given = Given(tensors=sources, base=base, generator=torch.Generator().manual_seed(seed))
    before = [tensor.clone() for tensor in (*inputs, *([] if base is None else [base]))]
    result = config.build().tensor(output, given)
    assert sources.reads == [1] * len(inputs), "each is read once"
    assert (result.shape, result.dtype) == (inputs[0].shape, inputs[0].dtype)
    after = (*inputs, *([] if base is None else [base]))
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True)), "a rule changes nothing given"
    return result


def mergekit(method: str, inputs: Sequence[Tensor], base: Tensor | None = None, **parameters: Any) -> Tensor:
    """mergekit's result by its method's name."""
    from mergekit.merge_methods import merge_tensors

    tensors = list(inputs) if base is None else [base, *inputs]
    return merge_tensors(tensors, method, parameters=parameters, base_index=None if base is None else 0)


def close(found: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """Equal up to rounding: 1e-6 of float32 and 1e-12 of float64, of the largest entry."""
    if tolerance is None:
        tolerance = 1e-12 if found.dtype == torch.float64 else 1e-6
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected.double(), atol=tolerance * scale, rtol=0)


@contextmanager
def drawn(seed: int) -> Iterator[None]:
    """Both tools' masks are made of the numbers that a rule draws with `merged(..., seed=seed)`."""
    generator = torch.Generator().manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bernoulli", lambda p: (torch.rand(p.shape, generator=generator) < p).to(p.dtype))
        yield


def masks(seed: int, *chances: Tensor) -> list[Tensor]:
    """The masks of the parents of `merged(..., seed=seed)`, from the probabilities of each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(chance.shape, generator=generator) < chance for chance in chances]
