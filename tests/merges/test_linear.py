"""The weighted mean against its formula in float64."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, Output, Place
from rlx.merges.linear import LinearConfig


def merged(inputs: list[Tensor], **settings: Any) -> Tensor:
    output = Output("w", tuple(inputs[0].shape), tuple(Place(n, "w") for n in range(len(inputs))))
    return LinearConfig(**settings).build().tensor(output, Given(tensors=inputs))


def some(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 6, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "as given"])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], ids=["equal", "positive", "signed"])
def test_formula(weights: list[float] | None, normalize: bool) -> None:
    inputs = some(3)
    given = weights or [1.0, 1.0, 1.0]
    scale = sum(given) if normalize else 1.0
    expected = sum((w * x.double() for w, x in zip(given, inputs, strict=True)), torch.zeros(5, 6).double()) / scale
    found = merged(inputs, weights=weights, normalize=normalize)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    exact = merged([x.double() for x in inputs], weights=weights, normalize=normalize)
    torch.testing.assert_close(exact, expected, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "as given"])
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_one_hot_weights_give_that_model(chosen: int, normalize: bool) -> None:
    inputs = some(3)
    weights = [float(number == chosen) for number in range(3)]
    assert torch.equal(merged(inputs, weights=weights, normalize=normalize), inputs[chosen])
    if normalize:
        assert torch.equal(merged(inputs, weights=[3 * weight for weight in weights]), inputs[chosen])


def test_order_of_the_models_changes_nothing() -> None:
    inputs, weights = some(3), [0.2, 0.5, 0.3]
    expected = merged(inputs, weights=weights)
    for order in permutations(range(3)):
        found = merged([inputs[n] for n in order], weights=[weights[n] for n in order])
        torch.testing.assert_close(found, expected, atol=2e-7, rtol=2e-7)


def test_one_weight_between_two_models() -> None:
    inputs = some(2)
    torch.testing.assert_close(merged(inputs, weight=0.25), 0.75 * inputs[0] + 0.25 * inputs[1])
    assert torch.equal(merged(inputs, weight=0.0), inputs[0]) and torch.equal(merged(inputs, weight=1.0), inputs[1])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"weights": [1.0], "models": ["a", "b"]}, "merge.weights has 1 numbers for 2 models"),
        ({"weights": [1.0, -1.0]}, "sum to 0"),
        ({"weights": []}, "sum to 0"),
        ({"weights": [1.0, 2.0], "weight": 0.5}, "both given"),
        ({"weight": 0.5, "models": ["a", "b", "c"]}, "between two models, and there are 3"),
    ],
    ids=["count", "cancel", "none", "twice", "three"],
)
def test_wrong_weights_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        LinearConfig(**values)
    assert "\n" not in str(error.value)


def test_cancelling_weights_are_fine_without_division() -> None:
    inputs = some(2)
    assert torch.equal(merged(inputs, weights=[1.0, -1.0], normalize=False), inputs[0] - inputs[1])
