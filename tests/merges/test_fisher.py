"""The Fisher-weighted mean against its formula in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, Output, Place
from rlx.merges.fisher import FisherConfig, Floored, Norm


def some(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 6, generator=generator) for _ in range(count)]


def merged(
    inputs: list[Tensor], fishers: list[Tensor | None], norms: list[float] | None = None, **settings: Any
) -> Tensor:
    output = Output("w", tuple(inputs[0].shape), tuple(Place(n, "w") for n in range(len(inputs))))
    given = Given(tensors=inputs, statistics=fishers, norms=norms or [1.0] * len(inputs))
    return FisherConfig(**settings).build().tensor(output, given)


def formula(inputs: list[Tensor], fishers: list[Tensor], weights: list[float]) -> Tensor:
    """sum l F W / sum l F."""
    top = sum(w * f.double() * x.double() for w, f, x in zip(weights, fishers, inputs, strict=True))
    bottom = sum(w * f.double() for w, f in zip(weights, fishers, strict=True))
    assert isinstance(top, Tensor) and isinstance(bottom, Tensor)
    return top / bottom


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 3.0, 0.0]], ids=["equal", "unequal"])
@pytest.mark.parametrize("normalize", list(Norm), ids=lambda norm: norm.name)
def test_formula(weights: list[float], normalize: Norm) -> None:
    inputs, fishers, norms = some(3), [x.square() + 1e-3 for x in some(3, seed=1)], [0.5, 20.0, 3.0]
    divisors = {Norm.model: norms, Norm.tensor: [f.double().norm().item() for f in fishers], Norm.none: [1.0] * 3}
    scaled = [weight / norm for weight, norm in zip(weights, divisors[normalize], strict=True)]
    found = merged(inputs, list(fishers), norms, weights=weights, normalize=normalize)
    torch.testing.assert_close(found.double(), formula(inputs, fishers, scaled), atol=1e-6, rtol=1e-6)


def test_equal_fishers_give_the_weighted_mean() -> None:
    inputs, fisher = some(3), some(1, seed=1)[0].square() + 1e-3
    found = merged(inputs, [fisher] * 3, weights=[1.0, 2.0, 5.0])
    torch.testing.assert_close(found, (inputs[0] + 2 * inputs[1] + 5 * inputs[2]) / 8)


@pytest.mark.parametrize("floored", list(Floored), ids=lambda floored: floored.name)
def test_a_parent_without_fisher_counts_next_to_nothing(floored: Floored) -> None:
    inputs, fisher = some(2), some(1, seed=1)[0].square() + 1
    found = merged(inputs, [torch.zeros(5, 6), fisher], floored=floored)
    torch.testing.assert_close(found, inputs[1], atol=1e-5, rtol=1e-5)
    assert not torch.equal(found, inputs[1]), "the floor is what it counts"


def test_where_no_parent_depends_on_an_entry() -> None:
    inputs, nothing = some(2), [torch.zeros(5, 6)] * 2
    mean = 0.25 * inputs[0] + 0.75 * inputs[1]
    torch.testing.assert_close(merged(inputs, list(nothing), weights=[1.0, 3.0]), inputs[0])
    torch.testing.assert_close(merged(inputs, list(nothing), weights=[1.0, 3.0], floored=Floored.all), mean)
    torch.testing.assert_close(merged(inputs, list(nothing), weights=[1.0, 3.0], floor=0.0), mean)
    torch.testing.assert_close(merged(inputs, [None, None], weights=[1.0, 3.0]), mean)


def test_the_floor_comes_before_the_norm() -> None:
    """As in the authors' code: of a parent with a large norm the floor counts little too."""
    inputs, ones = some(2), torch.ones(5, 6)
    found = merged(inputs, [0.1 * ones, ones], [100.0, 1.0], floor=0.5)
    torch.testing.assert_close(found, formula(inputs, [0.5 * ones, ones], [0.01, 1.0]).float())


def test_one_parent_alone_by_its_weight() -> None:
    inputs, fishers = some(2), [x.square() for x in some(2, seed=1)]
    for chosen in range(2):
        weights = [float(number == chosen) for number in range(2)]
        torch.testing.assert_close(merged(inputs, list(fishers), weights=weights), inputs[chosen])
    torch.testing.assert_close(merged(inputs, [fishers[0], torch.zeros(5, 6)], weights=[0.0, 1.0]), inputs[1])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"weights": [1.0, -1.0]}, "must be at least 0"),
        ({"weights": [0.0, 0.0]}, "must be at least 0, and one of them above it"),
        ({"floor": -1.0}, "merge.floor=-1.0 must be at least 0"),
        ({"models": ["a", "b"], "sources": ["x"]}, "merge.sources has 1 names for 2 models"),
        ({"stat_tokens": 0}, "merge.stat_tokens=0 must be at least 1"),
    ],
    ids=["negative", "none", "floor", "sources", "tokens"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        FisherConfig(**values)
    assert "\n" not in str(error.value)
