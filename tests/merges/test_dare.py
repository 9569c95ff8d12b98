"""Dropped at random and scaled up: with the same masks, the formula, mergekit and PEFT."""

from itertools import permutations
from typing import Any

import pytest
import torch
from peft.utils import merge_utils

from rlx.errors import ConfigError
from rlx.merges.consensus import Consensus, Divide, Elect, Rescale
from rlx.merges.dare import DareConfig
from rlx.merges.task_arithmetic import TaskArithmeticConfig
from rlx.merges.ties import TiesConfig
from tests.merges.tensors import close, drawn, masks, merged, mergekit, some

KINDS = pytest.mark.parametrize("consensus", list(Consensus), ids=lambda value: value.name)
WEIGHTS = pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, 2.0, 0.7]], ids=["equal", "weighted"])


@WEIGHTS
@pytest.mark.parametrize("density", [0.1, 0.5])
def test_formula(density: float, weights: list[float]) -> None:
    *inputs, base = some(4)
    kept = masks(7, *[torch.full((5, 6), density)] * 3)
    change = sum(w * m * (x - base).double() / density for w, m, x in zip(weights, kept, inputs, strict=True))
    close(merged(DareConfig(weights=weights, density=density, scale=0.5), inputs, base, seed=7), base + 0.5 * change)


@KINDS
@WEIGHTS
@pytest.mark.parametrize("rescale", [Rescale.l1, Rescale.none], ids=lambda value: value.name)
def test_it_is_mergekits(rescale: Rescale, weights: list[float], consensus: Consensus) -> None:
    *inputs, base = some(4, 9, 11)
    config = DareConfig(weights=weights, density=0.4, rescale=rescale, consensus=consensus, divide=Divide.none)
    with drawn(5):
        settings = {"weight": weights, "density": 0.4, "rescale": rescale is Rescale.l1}
        expected = mergekit(f"dare_{consensus.name}", inputs, base, **settings)
    close(merged(config, inputs, base, seed=5), expected, 3e-6)


@WEIGHTS
def test_it_is_pefts(weights: list[float]) -> None:
    *inputs, base = some(4, 9, 11)
    deltas, weight = [x - base for x in inputs], torch.tensor(weights)
    with drawn(5):
        linear = merge_utils.dare_linear(deltas, weight, 0.4)
    close(merged(DareConfig(weights=weights, density=0.4), inputs, base, seed=5), base + linear, 3e-6)
    with drawn(5):
        ties = merge_utils.dare_ties(deltas, weight, 0.4)
    config = DareConfig(
        weights=weights, density=0.4, consensus=Consensus.ties, elect=Elect.unweighted, divide=Divide.count
    )
    close(merged(config, inputs, base, seed=5), base + ties, 3e-6)


@KINDS
@WEIGHTS
def test_density_1_is_the_dense_rule(weights: list[float], consensus: Consensus) -> None:
    *inputs, base = some(4)
    found = merged(DareConfig(weights=weights, density=1.0, consensus=consensus), inputs, base)
    dense = TaskArithmeticConfig if consensus is Consensus.linear else TiesConfig
    settings = {"density": 1.0} if dense is TiesConfig else {}
    assert torch.equal(found, merged(dense(weights=weights, **settings), inputs, base))


def test_divided_sums() -> None:
    *inputs, base = some(4)
    weights = [1.0, 2.0, 5.0]
    summed = merged(DareConfig(weights=weights), inputs, base) - base
    for divide, by in ((Divide.weights, 8), (Divide.count, 3), (Divide.none, 1)):
        close(merged(DareConfig(weights=weights, divide=divide), inputs, base), base + summed / by, 3e-6)


def test_the_mean_over_seeds_is_the_sum_without_masks() -> None:
    *inputs, base = some(3)
    results = torch.stack([merged(DareConfig(density=0.5), inputs, base, seed=seed) for seed in range(800)])
    dense = merged(TaskArithmeticConfig(), inputs, base)
    error = results.std(dim=0) / 800**0.5
    assert ((results.mean(dim=0) - dense).abs() < 5 * error).all()


def test_masks_are_of_the_place_and_the_seed() -> None:
    *inputs, base = some(3)
    config = DareConfig(density=0.5)
    first, second = merged(config, inputs[:1], base, seed=1), merged(config, inputs[1:], base, seed=1)
    assert torch.equal(first == base, second == base), "the same place, the same mask"
    assert not torch.equal(first == base, merged(config, inputs[:1], base, seed=2) == base)
    both = merged(DareConfig(density=0.5, weights=[1.0, 0.0]), inputs, base, seed=1)
    assert torch.equal(both, first), "and other parents do not change it"
    two = merged(DareConfig(density=0.5, weights=[0.0, 1.0]), inputs, base, seed=1)
    assert not torch.equal(two == base, second == base), "parents have masks of their own"


@KINDS
def test_order_of_the_models_changes_nothing_but_the_masks(consensus: Consensus) -> None:
    """With the same masks, that is where what they drop is 0 already."""
    *inputs, base = some(4, 4, 5)
    kept = masks(0, *[torch.full((4, 5), 0.5)] * 3)
    common = kept[0] & kept[1] & kept[2]
    assert common.any()
    inputs, weights = [base + (x - base) * common for x in inputs], [0.2, 0.5, 0.3]
    expected = merged(DareConfig(weights=weights, density=0.5, consensus=consensus), inputs, base)
    for order in permutations(range(3)):
        config = DareConfig(weights=[weights[n] for n in order], density=0.5, consensus=consensus)
        close(merged(config, [inputs[n] for n in order], base), expected)


@KINDS
@pytest.mark.parametrize("rescale", list(Rescale), ids=lambda value: value.name)
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (3, 1, 2)], ids=str)
def test_any_shape(shape: tuple[int, ...], rescale: Rescale, consensus: Consensus) -> None:
    inputs = [torch.full(shape, float(number)) for number in (1, 2, 5)]
    found = merged(DareConfig(rescale=rescale, consensus=consensus), inputs[1:], inputs[0])
    assert found.isfinite().all()


def test_scale_0_is_the_base_and_the_defaults_are_the_papers() -> None:
    *inputs, base = some(4)
    assert torch.equal(merged(DareConfig(scale=0.0), inputs, base), base)
    config = DareConfig()
    assert (config.density, config.rescale, config.consensus) == (0.1, Rescale.inverse, Consensus.linear)
    assert config.draws and config.needs_base


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"density": 0.0}, "density=0.0 must be above 0"),
        ({"weights": [1.0, -1.0], "divide": Divide.weights}, "sum to 0; change them, or set merge.divide=none"),
    ],
    ids=["none", "cancel"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        DareConfig(**values)
    assert "\n" not in str(error.value)
    assert DareConfig(weights=[1.0, -1.0]).shares(2) == [1.0, -1.0]
    assert DareConfig(weights=[1.0, -1.0], divide=Divide.weights, consensus=Consensus.ties).shares(2) == [1.0, -1.0]
