"""What a start's samples say of the groups to come: against every subset, one by one."""

import random
from itertools import combinations

import pytest

from rlx.stages.modules.outlook import outlook, prospects, signal, sizes


def share_of_groups(rewards: list[list[float]], size: int) -> float:
    """The share of all groups of some size whose rewards differ, a mean over problems."""
    shares = []
    for row in rewards:
        groups = [[row[place] for place in places] for places in combinations(range(len(row)), size)]
        shares.append(sum(len(set(group)) > 1 for group in groups) / len(groups))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("worths", [(0.0, 1.0), (-1.0, 0.1, 1.0), (0.1, 0.2, 0.3, 1.0)], ids=["two", "three", "four"])
def test_the_share_of_groups_with_a_signal_is_that_of_all_subsets(worths):
    draw = random.Random(0)
    for samples in (2, 3, 6, 8):
        rewards = [[draw.choice(worths) for _ in range(samples)] for _ in range(5)]
        for size in range(1, samples + 1):
            assert signal(rewards, size) == pytest.approx(share_of_groups(rewards, size), abs=1e-12)


def test_it_is_unbiased_for_smaller_groups_of_the_same_policy():
    """Problems solved with probability p have a signal in 1 - p^G - (1 - p)^G of their groups of G."""
    draw = random.Random(1)
    for p in (0.1, 0.5, 0.9):
        rewards = [[float(draw.random() < p) for _ in range(8)] for _ in range(20_000)]
        for size in (2, 4, 8):
            assert signal(rewards, size) == pytest.approx(1 - p**size - (1 - p) ** size, abs=0.012)


def test_the_numbers_of_a_start_by_hand():
    """One problem with one of four right, one with none; a wrong answer that is worth something differs too."""
    right = [[True, False, False, False], [False] * 4]
    found = outlook([[1.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.1, 0.0]], right)
    assert found == pytest.approx({"pass@1": 1 / 8, "pass@2": 1 / 4, "pass@4": 1 / 2,
                                   "signal@2": (1 / 2 + 4 / 6) / 2, "signal@4": 1.0})  # fmt: skip
    assert sizes(6) == [1, 2, 4, 6] and sizes(8) == [1, 2, 4, 8] and sizes(1) == [1]
    for size in (0, 5):
        with pytest.raises(ValueError, match=f"groups of {size} need .* the fewest is n=4"):
            signal([[1.0] * 4, [0.0] * 5], size)


def counts(correct: list[int], samples: int) -> dict[str, float]:
    """The outlook of problems with so many right samples."""
    right = [[place < c for place in range(samples)] for c in correct]
    return outlook([[float(each) for each in row] for row in right], right)


PROSPECTS = {
    "many": ([4, 2, 0, 1], 8, "about 24 will have a signal, rewards that differ (75%; by group size 2: 31%, 4: 56%, 8: "
             "75%)", None),
    "more samples would find more": ([1] + [0] * 9, 8, "about 3.2 ", "algorithm.group_size=16 would find more (groups "
                                     "of 8 have 10%, half as large 5%)"),
    "more samples would not": ([4] + [0] * 9, 8, "about 3.2 ", "larger groups would find little more"),
    "too easy": ([8] * 9 + [4], 8, "about 3.2 ", "harder problems would teach more"),
}  # fmt: skip


@pytest.mark.parametrize("correct, samples, expected, remedy", PROSPECTS.values(), ids=PROSPECTS.keys())
def test_what_an_iteration_will_teach_and_what_to_change(correct, samples, expected, remedy):
    said = prospects(counts(correct, samples), prompts=32, samples=samples)
    assert said.startswith("of the 32 groups that an iteration draws, ") and expected in said
    assert (remedy in said) if remedy else said.endswith(")")


def test_groups_of_one_have_no_signal():
    assert "no sample to be compared with" in prospects(counts([1, 0], 1), prompts=4, samples=1)
