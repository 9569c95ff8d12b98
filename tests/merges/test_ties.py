"""Trim, elect, merge: against the three steps in float64, mergekit and PEFT."""

from itertools import permutations
from typing import Any

import pytest
import torch
from peft.utils import merge_utils
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.consensus import Divide, Elect
from rlx.merges.ties import TiesConfig
from tests.merges.tensors import close, merged, mergekit, some


def three_steps(inputs: list[Tensor], base: Tensor, weights: list[float], density: float) -> Tensor:
    """The paper's, with weighted deltas, in float64 on flat vectors."""
    stack = torch.stack([(x.double() - base.double()).flatten() for x in inputs])
    keep = int(density * stack.shape[1])
    for delta in stack:
        delta[delta.abs().argsort()[: len(delta) - keep]] = 0
    weight = torch.tensor(weights, dtype=torch.float64)[:, None]
    sign = (stack * weight).sum(dim=0).sign()
    agrees = (stack.sign() == sign) & (stack != 0)
    total = (stack * weight * agrees).sum(dim=0) / (weight * agrees).sum(dim=0).clamp(min=1e-300)
    return base.double() + total.view(base.shape)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, 2.0, 0.7]], ids=["equal", "weighted"])
def test_three_steps(weights: list[float], density: float) -> None:
    *inputs, base = some(4)
    close(
        merged(TiesConfig(weights=weights, density=density), inputs, base), three_steps(inputs, base, weights, density)
    )


@pytest.mark.parametrize("density", [1.0, 0.5, 0.07])
@pytest.mark.parametrize("divide", [None, Divide.none], ids=["divided", "summed"])
@pytest.mark.parametrize(
    "weights", [[1.0, 1.0, 1.0], [0.3, 2.0, 0.7], [1.0, -0.5, 0.2]], ids=["equal", "odd", "signed"]
)
def test_it_is_mergekits(weights: list[float], divide: Divide | None, density: float) -> None:
    *inputs, base = some(4, 9, 11)
    found = merged(TiesConfig(weights=weights, density=density, divide=divide, scale=0.7), inputs, base)
    settings = {"weight": weights, "density": density, "normalize": divide is None, "lambda": 0.7}
    close(found, mergekit("ties", inputs, base, **settings))


@pytest.mark.filterwarnings("ignore:The density 1.0")
@pytest.mark.parametrize("density", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("elect", [Elect.unweighted, Elect.count], ids=lambda value: value.name)
@pytest.mark.parametrize(
    "weights", [[1.0, 1.0, 1.0], [0.3, 2.0, 0.7], [1.0, -0.5, 0.2]], ids=["equal", "odd", "signed"]
)
def test_it_is_pefts(weights: list[float], elect: Elect, density: float) -> None:
    *inputs, base = some(4, 9, 11)
    found = merged(TiesConfig(weights=weights, density=density, elect=elect, divide=Divide.count), inputs, base)
    name = {Elect.unweighted: "total", Elect.count: "frequency"}[elect]
    change = merge_utils.ties([x - base for x in inputs], torch.tensor(weights), density, name)
    close(found, base + change)


def test_the_defaults_are_the_papers() -> None:
    config = TiesConfig()
    assert (config.density, config.scale, config.elect, config.divide) == (0.2, 1.0, Elect.weighted, None)
    *inputs, base = some(4)
    every = [
        merged(TiesConfig(elect=elect, divide=divide), inputs, base)
        for elect in (Elect.weighted, Elect.unweighted)
        for divide in (None, Divide.weights, Divide.count)
    ]
    assert all(torch.equal(each, every[0]) for each in every), "with weights of 1 they are one rule"


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_one_hot_weights_give_that_model(chosen: int) -> None:
    *inputs, base = some(4)
    weights = [3.0 * (number == chosen) for number in range(3)]
    close(merged(TiesConfig(weights=weights, density=1.0), inputs, base), inputs[chosen])


@pytest.mark.parametrize("weights", [None, [0.2, 0.5, 0.3]], ids=["equal", "weighted"])
def test_copies_are_the_model_and_scale_0_the_base(weights: list[float] | None) -> None:
    *inputs, base = some(4)
    close(merged(TiesConfig(weights=weights, density=1.0), [inputs[0]] * 3, base), inputs[0])
    assert torch.equal(merged(TiesConfig(weights=weights, scale=0.0), inputs, base), base)


@pytest.mark.parametrize("elect", list(Elect), ids=lambda value: value.name)
def test_order_of_the_models_changes_nothing(elect: Elect) -> None:
    *inputs, base = some(4)
    weights = [0.2, 0.5, 0.3]
    expected = merged(TiesConfig(weights=weights, elect=elect, density=0.6), inputs, base)
    for order in permutations(range(3)):
        config = TiesConfig(weights=[weights[n] for n in order], elect=elect, density=0.6)
        close(merged(config, [inputs[n] for n in order], base), expected)


def test_order_of_the_entries_changes_nothing() -> None:
    """Also where many are equal, as between models in bfloat16."""
    *inputs, base = [(x * 2).round() for x in some(4, 8, 8)]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(5))
    found = merged(TiesConfig(density=0.3), inputs, base).flatten()[order]
    moved = merged(TiesConfig(density=0.3), [x.flatten()[order] for x in inputs], base.flatten()[order])
    assert torch.equal(found, moved)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (3, 1, 2)], ids=str)
def test_any_shape(shape: tuple[int, ...]) -> None:
    inputs = [torch.full(shape, float(number)) for number in (1, 2, 5)]
    assert torch.equal(merged(TiesConfig(), inputs[1:], inputs[0]), torch.full(shape, 3.5))


def test_transposed_tensors() -> None:
    *inputs, base = some(4)
    expected = merged(TiesConfig(), inputs, base)
    assert torch.equal(merged(TiesConfig(), [x.T for x in inputs], base.T), expected.T)
    mixed = [inputs[0], inputs[1].T.contiguous().T, inputs[2]]
    assert torch.equal(merged(TiesConfig(), mixed, base), expected)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"density": 0.0}, "density=0.0 must be above 0 and at most 1"),
        ({"density": 1.5}, "density=1.5 must be above 0 and at most 1"),
        ({"weight": 0.5, "weights": [1.0, 2.0]}, "both given"),
    ],
    ids=["none", "more", "twice"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        TiesConfig(**values)
    assert "\n" not in str(error.value)
