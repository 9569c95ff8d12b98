"""Select, calculate, erase: against the three steps in float64 and mergekit."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.sce import SceConfig
from tests.merges.tensors import close, merged, mergekit, some


def three_steps(inputs: list[Tensor], base: Tensor, share: float) -> Tensor:
    """In float64 on flat vectors."""
    stack = torch.stack([(x.double() - base.double()).flatten() for x in inputs])
    variance = ((stack - stack.mean(dim=0)) ** 2).mean(dim=0)
    stack[:, variance.argsort(descending=True)[int(share * variance.numel()) :]] = 0
    weight = (stack**2).mean(dim=1)
    weight = (weight / weight.sum())[:, None]
    agrees = (stack.sign() == stack.sum(dim=0).sign()) & (stack != 0)
    total = (weight * stack * agrees).sum(dim=0) / (weight * agrees).sum(dim=0).clamp(min=1e-300)
    return base.double() + total.view(base.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("size", [1.0, 1e-6], ids=["large", "small"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_three_steps(share: float, size: float, dtype: torch.dtype) -> None:
    """Also of deltas as small as those of a short fine-tune."""
    inputs = [number * size * x for number, x in enumerate(some(3, 9, 11, dtype=dtype), start=1)]
    base = torch.zeros(9, 11, dtype=dtype)
    found = merged(SceConfig(select=share), inputs, base)
    close(found / size, three_steps(inputs, base, share) / size)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_it_is_mergekits(count: int, share: float) -> None:
    *inputs, base = some(count + 1, 9, 11)
    inputs = [base + number * (x - base) for number, x in enumerate(inputs, start=1)]
    close(merged(SceConfig(select=share), inputs, base), mergekit("sce", inputs, base, select_topk=share), 3e-6)


def test_the_share_is_of_what_differs() -> None:
    first, second, base = some(3, 40)
    first[10:], second[10:] = 1.0, 1.0
    found = merged(SceConfig(select=0.5), [first, second], base)
    assert (found != base).sum() == 5 and torch.equal(found[10:], base[10:])
    assert (merged(SceConfig(select=0.01), [first, second], base) != base).sum() == 1


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_copies_are_the_model(count: int, share: float) -> None:
    model, base = some(2)
    close(merged(SceConfig(select=share), [model] * count, base), model)


def test_a_parent_that_did_not_move_counts_for_nothing() -> None:
    model, base = some(2)
    close(merged(SceConfig(), [base, model], base), model)
    assert torch.equal(merged(SceConfig(scale=0.0), [model, model], base), base)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_order_of_the_models_changes_nothing(share: float) -> None:
    *inputs, base = some(4)
    expected = merged(SceConfig(select=share), inputs, base)
    for order in permutations(range(3)):
        close(merged(SceConfig(select=share), [inputs[n] for n in order], base), expected)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (3, 1, 2)], ids=str)
def test_any_shape(shape: tuple[int, ...], share: float) -> None:
    inputs = [torch.full(shape, float(number)) for number in (1, 2, 5)]
    expected = torch.full(shape, 1 + (1 * 1 + 16 * 4) / 17)
    close(merged(SceConfig(select=share), inputs[1:], inputs[0]), expected)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"select": 0.0}, "select=0.0 must be above 0"),
        ({"select": 1.1}, "select=1.1 must be above 0"),
        ({"weights": [1.0, 2.0]}, "merge.weights is not used: merge=sce takes them from the deltas; leave it out"),
        ({"weight": 0.5}, "merge.weight is not used"),
    ],
    ids=["none", "more", "weights", "weight"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        SceConfig(**values)
    assert "\n" not in str(error.value)
