"""What is searched over, and the search on functions whose minimum is known."""

import math
from itertools import product
from typing import Any

import pytest
import torch

from rlx.errors import ConfigError
from rlx.merges.adapters import Search
from rlx.merges.evolution import search
from rlx.merges.lora_hub import Combine, LoraHubConfig
from tests.merges.factors import STACKS, dense, distance, drawn, total

stacked = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)


@stacked
def test_factors_are_summed_as_in_the_paper(stack: tuple[int, ...]) -> None:
    factors, weights = drawn([3, 3], [2.0, 2.0], stack), [0.7, -0.4]
    found = LoraHubConfig().build().combine(factors, weights)
    a = sum(weight * each.a.double() for weight, each in zip(weights, factors, strict=True))
    b = sum(weight * each.b.double() for weight, each in zip(weights, factors, strict=True))
    expected = 2.0 * torch.einsum("...or,...ri->...oi", b, a)
    torch.testing.assert_close(dense(found), expected, atol=1e-5, rtol=1e-5)
    assert distance(dense(found), total(factors, weights)) > 0.1


@stacked
def test_or_products_are(stack: tuple[int, ...]) -> None:
    factors, weights = drawn([2, 3], [2.0, 0.5], stack), [0.7, -0.4]
    config = LoraHubConfig(combine=Combine.cat)
    config.check(factors)
    found = config.build().combine(factors, weights)
    torch.testing.assert_close(dense(found), total(factors, weights), atol=1e-5, rtol=1e-5)


def test_ranks_must_be_equal_for_factors() -> None:
    with pytest.raises(ConfigError, match=r"ranks 2, 3 .* merge.combine=cat takes any"):
        LoraHubConfig().check(drawn([2, 3], [1.0, 1.0]))


def test_the_papers_numbers() -> None:
    assert LoraHubConfig().found_by() == Search(evaluations=40, batch_tokens=640, penalty=0.05, bound=1.5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"evaluations": 0}, "merge.evaluations=0"),
        ({"batch_tokens": 1}, "merge.batch_tokens=1"),
        ({"penalty": -1.0}, "merge.penalty=-1.0"),
        ({"bound": 0.0}, "merge.bound=0.0 must be above 0"),
        ({"weight": 0.5}, "merge=lora_hub searches them"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        LoraHubConfig(**values)
    assert "\n" not in str(error.value)


def tried(value: Any, size: int, *, evaluations: int = 40, seed: int = 0) -> list[tuple[list[float], float]]:
    generator = torch.Generator().manual_seed(seed)
    return search(value, size, evaluations=evaluations, bound=1.5, generator=generator)


def bowl(center: list[float]) -> Any:
    return lambda x: sum((a - b) ** 2 for a, b in zip(x, center, strict=True))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("center", [[0.6, 0.9], [-1.2, 0.3], [1.0, 1.0]], ids=str)
def test_a_minimum_is_come_near_to_in_forty_tries(center: list[float], seed: int) -> None:
    points = tried(bowl(center), 2, seed=seed)
    assert len(points) == 40 and points[0][0] == [0.0, 0.0]
    least = min(value for _, value in points)
    grid = [0.3 * place for place in range(-5, 6)]
    assert least <= min(bowl(center)(list(point)) for point in product(grid, grid)) + 0.05
    assert least < 0.1 * points[0][1]


def test_outside_of_the_bound_nothing_is_tried() -> None:
    points = tried(bowl([4.0, -4.0]), 2, evaluations=200)
    assert all(abs(x) <= 1.5 for point, _ in points for x in point)
    assert min(points, key=lambda point: point[1])[0] == [1.5, -1.5]


def test_the_seed_says_what_is_tried() -> None:
    assert tried(bowl([1.0, 1.0]), 2) == tried(bowl([1.0, 1.0]), 2) != tried(bowl([1.0, 1.0]), 2, seed=1)


def test_a_loss_that_is_no_number_is_left_again() -> None:
    def value(x: list[float]) -> float:
        return math.nan if x[0] < 0.2 else (x[0] - 1.0) ** 2

    points = tried(value, 1, evaluations=80)
    assert math.isnan(points[0][1]) and min(v for _, v in points if v == v) < 1e-6


def test_the_noise_adapts() -> None:
    """Many more tries come much nearer."""
    assert min(v for _, v in tried(bowl([0.6, 0.9, -0.3]), 3, evaluations=400)) < 1e-6
