"""Estimators against enumeration and hand-worked numbers; intervals against the truth they should cover."""

import math
from itertools import combinations

import numpy as np
import pytest

from rlx.statistics import bootstrap, bootstrap_pass_at_k, maj_at_k, mean_at_k, paired_difference, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_equals_enumeration_of_subsets(n):
    for c in range(n + 1):
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(c, n, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_by_hand():
    assert pass_at_k(1, 4, 4) == 1.0
    assert pass_at_k(1, 4, 1) == 0.25
    assert pass_at_k(1, 4, 2) == 0.5
    assert pass_at_k(2, 4, 2) == pytest.approx(5 / 6)
    assert pass_at_k([0, 4], 4, 3).tolist() == [0.0, 1.0]


def test_pass_at_k_is_vectorised_over_problems_and_sample_numbers():
    counts = np.array([[0, 1, 3], [2, 1, 0]])
    n = np.array([4, 8, 3])
    one_by_one = [[float(pass_at_k(c, m, 2)) for c, m in zip(row, n, strict=True)] for row in counts]
    np.testing.assert_array_equal(pass_at_k(counts, n, 2), one_by_one)
    np.testing.assert_allclose(pass_at_k(counts, n, 1), mean_at_k(counts, n))


def test_pass_at_k_stays_exact_for_many_samples():
    assert pass_at_k(1, 10_000, 1_000) == pytest.approx(0.1, rel=1e-9)
    assert 0.0 < pass_at_k(5, 100_000, 1) < 1.0


@pytest.mark.parametrize(
    ("correct", "n", "k"),
    [(1, 4, 5), (1, 4, 0), (5, 4, 1), (-1, 4, 1), (1.5, 4, 1), (0, 0, 1), ([], 4, 1)],
    ids=["k>n", "k=0", "c>n", "negative", "fraction", "n=0", "empty"],
)
def test_pass_at_k_refuses_impossible_counts(correct, n, k):
    with pytest.raises(ValueError):
        pass_at_k(correct, n, k)


def test_maj_at_k():
    assert maj_at_k(["7", "3", "7"], [False, True, False], 3) == 0.0
    assert maj_at_k(["7", "3", "3"], [False, True, True], 3) == 1.0
    assert maj_at_k(["7", "3", "3"], [False, True, True], 2) == 0.5  # a tie is drawn
    assert maj_at_k([None, None, "3"], [False, False, True], 3) == 1.0  # no answer, no vote
    assert maj_at_k([None, None], [False, False], 2) == 0.0
    with pytest.raises(ValueError):
        maj_at_k(["3"], [True], 2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_interval_over_equal_scores_has_no_width(value):
    assert bootstrap(np.full((3, 20), value)) == (value, value, value)
    assert bootstrap(np.full(1, value)) == (value, value, value)


def test_an_interval_is_deterministic_and_follows_its_seed():
    scores = np.random.default_rng(1).random((2, 30))
    assert bootstrap(scores) == bootstrap(scores.copy())
    assert bootstrap(scores) != bootstrap(scores, seed=1)


def test_one_seed_resamples_only_problems():
    scores = np.random.default_rng(2).random(400)
    low, high = bootstrap(scores)[1:]
    half = 1.96 * scores.std() / np.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)
    assert bootstrap(scores) == bootstrap(scores[None])


def test_seeds_that_disagree_widen_the_interval():
    row = (np.arange(100) % 2).astype(float)
    same, apart = np.stack([row, row, row]), np.clip(np.stack([row - 0.4, row, row + 0.4]), 0, 1)
    assert np.ptp(bootstrap(apart)[1:]) > 1.3 * np.ptp(bootstrap(same)[1:])
    assert bootstrap(same)[1:] == pytest.approx(bootstrap(row)[1:], abs=0.02)  # same problems: more seeds add nothing


def test_problems_are_resampled_together_for_all_seeds():
    hard_and_easy = np.tile([0.0, 1.0], (8, 25))  # every seed agrees on every problem
    assert np.ptp(bootstrap(hard_and_easy)[1:]) == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(50), rel=0.12)


def test_large_tables_are_drawn_in_chunks(monkeypatch):
    scores = np.random.default_rng(3).random((2, 50))
    whole = bootstrap(scores, resamples=500)
    monkeypatch.setattr("rlx.statistics.CHUNK", 1000)
    assert bootstrap(scores, resamples=500) == pytest.approx(whole, abs=0.02)


def coverage(make, truth: float, trials: int) -> float:
    """The share of trials whose interval holds the truth."""
    hits = 0
    for trial in range(trials):
        _, low, high = make(np.random.default_rng(trial))
        hits += low <= truth <= high
    return hits / trials


@pytest.mark.parametrize("k", [1, 4])
def test_interval_over_problems_covers_the_truth(k):
    def make(rng):
        counts = rng.binomial(8, rng.beta(1, 2, size=120))
        return bootstrap_pass_at_k(counts, 8, k, resamples=400)

    truth = 1 - math.prod((2 + i) / (3 + i) for i in range(k))  # E[1 - (1 - p)^k] for p from Beta(1, 2)
    assert 0.90 <= coverage(make, truth, 300) <= 0.985


def test_interval_over_seeds_and_problems_covers_the_truth():
    def make(rng):
        chance = np.clip(rng.uniform(0.2, 0.8, size=80) + rng.normal(0, 0.1, size=(8, 1)), 0, 1)
        return bootstrap(rng.binomial(1, chance), resamples=400)

    assert 0.87 <= coverage(make, 0.5, 200) <= 0.99


def test_paired_difference_cancels_what_problems_share():
    rng = np.random.default_rng(4)
    difficulty = rng.random((1, 200))
    first, second = np.tile(difficulty + 0.05, (3, 1)), np.tile(difficulty, (3, 1))
    value, low, high = paired_difference(first, second)
    assert (value, low, high) == pytest.approx((0.05, 0.05, 0.05))
    assert np.ptp(bootstrap(first)[1:]) > 0.05


def test_paired_seeds_cancel_what_seeds_share():
    shift = np.array([[-0.2], [0.0], [0.2]])
    base = np.random.default_rng(5).random((1, 60))
    first, second = base + shift + 0.1, base + shift
    assert paired_difference(first, second)[1:] == pytest.approx((0.1, 0.1))
    low, high = paired_difference(first, second, paired_seeds=False)[1:]
    assert low < 0.0 < high


def test_paired_difference_of_unequal_numbers_of_seeds():
    first, second = np.ones((2, 10)), np.zeros((5, 10))
    assert paired_difference(first, second, paired_seeds=False) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="paired_seeds=False"):
        paired_difference(first, second)
    with pytest.raises(ValueError, match="same problems"):
        paired_difference(np.ones(3), np.ones(4))


@pytest.mark.parametrize("scores", [[], [np.nan, 1.0], np.ones((2, 2, 2))], ids=["empty", "nan", "3d"])
def test_bootstrap_refuses_what_it_cannot_average(scores):
    with pytest.raises(ValueError):
        bootstrap(scores)


def test_bootstrap_refuses_a_level_outside_the_unit_interval():
    with pytest.raises(ValueError, match="level"):
        bootstrap([0.0, 1.0], level=95)
