"""The exact sum of adapters against dense sums in float64."""

from itertools import permutations
from typing import Any

import pytest
import torch

from rlx.errors import ConfigError
from rlx.merges.adapters import Learning, Per
from rlx.merges.base import Factors
from rlx.merges.lora_cat import Learn, LoraCatConfig
from tests.merges.factors import STACKS, dense, distance, drawn, total

stacked = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)


def combined(factors: list[Factors], weights: list[float]) -> Factors:
    return LoraCatConfig().build().combine(factors, weights)


@stacked
@pytest.mark.parametrize("weights", [[0.5, 0.5, 0.0], [1.0, -2.0, 0.25]], ids=["mean of two", "signed"])
def test_it_is_the_sum_of_the_products(stack: tuple[int, ...], weights: list[float]) -> None:
    factors = drawn([2, 5, 3], [2.0, 0.5, 1.5], stack)
    found = combined(factors, weights)
    assert found.a.shape[-2] == found.b.shape[-1] == 10 and found.scale == 1.0
    torch.testing.assert_close(dense(found), total(factors, weights), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chosen", [0, 1])
def test_one_hot_weights_give_that_adapter(chosen: int) -> None:
    factors = drawn([2, 3], [2.0, 0.5])
    found = combined(factors, [float(number == chosen) for number in range(2)])
    torch.testing.assert_close(dense(found), dense(factors[chosen]), atol=1e-6, rtol=1e-6)


def test_order_of_the_adapters_changes_nothing() -> None:
    factors, weights = drawn([2, 3, 4], [2.0, 0.5, 1.0]), [0.2, 0.5, 0.3]
    expected = dense(combined(factors, weights))
    for order in permutations(range(3)):
        found = combined([factors[n] for n in order], [weights[n] for n in order])
        torch.testing.assert_close(dense(found), expected, atol=1e-5, rtol=1e-5)


def test_a_basis_of_the_factors_changes_nothing() -> None:
    """A -> Q A, B -> B Q^-1 is the same adapter, and the same merge."""
    factors = drawn([3, 3], [1.0, 2.0])
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5))).Q
    turned = [Factors(turn @ factors[0].a, factors[0].b @ turn.T, factors[0].scale), factors[1]]
    assert distance(dense(combined(turned, [0.4, 0.6])), dense(combined(factors, [0.4, 0.6]))) < 1e-6


def test_weights_are_the_mean_by_default_and_as_they_are_told() -> None:
    assert LoraCatConfig().shares(4) == [0.25] * 4
    assert LoraCatConfig(normalize=False).shares(3) == [1.0] * 3
    assert LoraCatConfig(models=["a", "b"], weights=[1.0, 3.0]).shares(2) == [0.25, 0.75]
    assert LoraCatConfig(models=["a", "b"], weight=0.25, normalize=False).shares(2) == [0.75, 0.25]


def test_what_is_learned_is_told() -> None:
    assert LoraCatConfig().found_by() is None
    config = LoraCatConfig(learn=Learn.softmax, per=Per.layer, steps=7, lr=0.5, warmup=3, batch_tokens=64, init_std=0.0)
    assert config.found_by() == Learning(True, Per.layer, 7, 0.5, 3, 64, 0.0)
    free = LoraCatConfig(learn=Learn.free).found_by()
    assert free is not None and not free.softmax and free.per is Per.module


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"weights": [1.0, -1.0], "models": ["a", "b"]}, "sum to 0"),
        ({"weights": [0.5, 0.5], "models": ["a", "b"], "learn": Learn.softmax}, "merge.learn learns them"),
        ({"weight": 0.5, "learn": Learn.free}, "merge.learn learns them"),
        ({"steps": 0}, "merge.steps=0 must be at least 1"),
        ({"warmup": -1}, "merge.warmup=-1"),
        ({"batch_tokens": 1}, "merge.batch_tokens=1"),
        ({"init_std": -0.5}, "merge.init_std=-0.5"),
        ({"lr": 0.0}, "merge.lr=0.0 must be above 0"),
        ({"shard_bytes": 10}, "merge.shard_bytes is for merges of whole weights"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        LoraCatConfig(**values)
    assert "\n" not in str(error.value)
