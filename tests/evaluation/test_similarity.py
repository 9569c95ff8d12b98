"""CKA against its kernel form, and paths against values worked by hand in the literature's notes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rlx.evaluation.similarity import barrier_height, cka, convexity_gap, unbiased_hsic

BUMPY = [1, 0.8, 0.5, 0.45, 0.7, 0.95, 0.7, 0.3, 0.1, 0]


def normal(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("losses", "height", "gap"),
    [
        (BUMPY, 0.5056, 0.6643),
        ([1 - n / 10 for n in range(10)], 0, 0),
        ([0.2, 0.3, 0.5, 0.8, 1, 1, 0.8, 0.5, 0.3, 0.2], 0.8, 0.8),
        ([2.0, 1.0], 0, 0),
        ([2.0], 0, 0),
        ([1.0, 3.0, 1.0], 2, 2),
    ],
    ids=["bumpy", "straight", "hill", "two", "one", "three"],
)
def test_rises_of_a_path(losses, height, gap):
    """The first three are those of the sheet of arXiv 2205.12411."""
    assert barrier_height(losses) == pytest.approx(height, abs=5e-5)
    assert convexity_gap(losses) == pytest.approx(gap, abs=5e-5)
    assert convexity_gap(losses[::-1]) == pytest.approx(convexity_gap(losses), abs=1e-12)


def test_the_gap_is_at_least_the_height():
    draw = np.random.default_rng(0)
    for _ in range(50):
        losses = draw.random(draw.integers(1, 12)).tolist()
        assert convexity_gap(losses) >= barrier_height(losses) >= 0


def test_rotation_scale_and_shift_change_nothing():
    x = normal(512, 64, 0)
    turn, _ = torch.linalg.qr(normal(64, 64, 1))
    assert cka([x], [3 * x @ turn + 5]) == pytest.approx(1, abs=1e-6)
    assert cka([x], [x @ normal(64, 64, 2)]) < 0.99, "a general map is not seen through"


def test_independent_activations_are_not_alike():
    """n = 32 rows of 256 features: the plain estimator says about 0.9."""
    found = [cka([normal(32, 256, 2 * n)], [normal(32, 256, 2 * n + 1)]) for n in range(20)]
    assert abs(sum(found) / len(found)) < 0.05
    x, y = normal(32, 256, 0), normal(32, 256, 1)
    x, y = x - x.mean(0), y - y.mean(0)
    plain = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert plain > 0.8


def test_batches_say_what_the_whole_says():
    shared = normal(512, 10, 0)
    x = torch.cat([shared, normal(512, 20, 1) * 0.4], 1)
    y = torch.cat([shared @ torch.linalg.qr(normal(10, 10, 2))[0], normal(512, 20, 3) * 0.4], 1)
    whole = cka([x], [y])
    assert 0.5 < whole < 0.999
    for size in (8, 16, 64, 128):
        assert abs(cka(list(x.split(size)), list(y.split(size))) - whole) < 0.02


def test_hsic_is_its_formula():
    """The trace form, with explicit sums."""
    x, y = normal(7, 3, 0), normal(7, 2, 1)
    k, m = x @ x.T, y @ y.T
    n, total = 7, 0.0
    k, m = k - torch.diag(k.diagonal()), m - torch.diag(m.diagonal())
    one = torch.ones(n, dtype=torch.float64)
    total = torch.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    total = (total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))
    assert unbiased_hsic(x, y).item() == pytest.approx(total.item(), abs=1e-12)


def test_activations_that_never_change_have_no_cka():
    assert math.isnan(cka([torch.zeros(8, 3)], [normal(8, 3, 0)]))


def test_losses_that_are_not_finite_have_no_height():
    for losses in ([1.0, math.nan, 1.0], [math.inf, 1.0], [1.0, 1.0, math.inf]):
        assert math.isnan(barrier_height(losses)) and math.isnan(convexity_gap(losses))
