"""Neither small nor outliers: against sorting in float64 and mergekit, and on small tensors."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.breadcrumbs import BreadcrumbsConfig
from rlx.merges.consensus import Consensus, Divide
from rlx.merges.task_arithmetic import TaskArithmeticConfig
from tests.merges.tensors import close, merged, mergekit, some

WEIGHTS = pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, 2.0, 0.7]], ids=["equal", "weighted"])


def middle(delta: Tensor, density: float, gamma: float) -> Tensor:
    """A delta without its ends."""
    order = delta.flatten().abs().argsort(descending=True)
    top, left = int(gamma * len(order)), int(density * len(order))
    found = torch.zeros(len(order), dtype=torch.float64)
    found[order[top : top + left]] = delta.flatten().double()[order[top : top + left]]
    return found.view(delta.shape)


@WEIGHTS
@pytest.mark.parametrize(("density", "gamma"), [(0.1, 0.01), (0.5, 0.2), (0.7, 0.3), (0.4, 0.0)])
def test_formula(density: float, gamma: float, weights: list[float]) -> None:
    *inputs, base = some(4, 15, 10)
    change = sum(w * middle(x - base, density, gamma) for w, x in zip(weights, inputs, strict=True))
    config = BreadcrumbsConfig(weights=weights, density=density, gamma=gamma, scale=0.5)
    close(merged(config, inputs, base), base + 0.5 * change)


@WEIGHTS
@pytest.mark.parametrize("consensus", list(Consensus), ids=lambda value: value.name)
@pytest.mark.parametrize(("density", "gamma"), [(0.1, 0.01), (0.5, 0.2), (0.9, 0.3), (1.0, 0.1)])
def test_it_is_mergekits(density: float, gamma: float, consensus: Consensus, weights: list[float]) -> None:
    *inputs, base = some(4, 15, 10)
    config = BreadcrumbsConfig(
        weights=weights, density=density, gamma=gamma, consensus=consensus, divide=Divide.none, scale=0.5
    )
    name = {Consensus.linear: "breadcrumbs", Consensus.ties: "breadcrumbs_ties"}[consensus]
    settings = {"weight": weights, "density": density, "gamma": gamma, "lambda": 0.5}
    close(merged(config, inputs, base), mergekit(name, inputs, base, **settings))


@pytest.mark.parametrize("count", [1, 2, 9, 64, 99])
def test_small_tensors_keep_entries(count: int) -> None:
    (delta,) = some(1, count)
    found = merged(BreadcrumbsConfig(), [delta], torch.zeros(count))
    assert found.count_nonzero() == max(1, count // 10)
    top = delta.abs().argmax()
    assert found[top] == delta[top], "gamma comes to no entry"


def test_equals_of_the_ends_are_kept() -> None:
    delta = torch.tensor([1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 1.0, 0.5, 0.5, 0.1])
    found = merged(BreadcrumbsConfig(density=0.3, gamma=0.2), [delta], torch.zeros(10))
    assert found.tolist() == [0.0, 2.0, 2.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_density_1_is_the_dense_rule() -> None:
    *inputs, base = some(4)
    dense = merged(TaskArithmeticConfig(weights=[1.0, 2.0, 3.0]), inputs, base)
    assert torch.equal(merged(BreadcrumbsConfig(weights=[1.0, 2.0, 3.0], density=1.0), inputs, base), dense)
    assert torch.equal(merged(BreadcrumbsConfig(scale=0.0), inputs, base), base)


def test_order_of_the_models_changes_nothing() -> None:
    *inputs, base = some(4)
    weights = [0.2, 0.5, 0.3]
    expected = merged(BreadcrumbsConfig(weights=weights, density=0.5), inputs, base)
    for order in permutations(range(3)):
        config = BreadcrumbsConfig(weights=[weights[n] for n in order], density=0.5)
        close(merged(config, [inputs[n] for n in order], base), expected)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (3, 1, 2)], ids=str)
def test_any_shape(shape: tuple[int, ...]) -> None:
    inputs = [torch.full(shape, float(number)) for number in (1, 2, 5)]
    assert torch.equal(merged(BreadcrumbsConfig(), inputs[1:], inputs[0]), torch.full(shape, 6.0))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"density": 0.0}, "density=0.0 must be above 0"),
        ({"gamma": 1.0}, "gamma=1.0 must be at least 0 and below 1"),
        ({"gamma": -0.1}, "gamma=-0.1 must be at least 0 and below 1"),
    ],
    ids=["density", "all", "negative"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        BreadcrumbsConfig(**values)
    assert "\n" not in str(error.value)
