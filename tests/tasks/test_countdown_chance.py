"""What Countdown's answers are compared with: every sequence of operations counted one by one, and the short cut."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from math import comb, prod
from random import Random
from statistics import mean
from typing import Any

import pytest

from rlx.tasks.countdown import Countdown, CountdownConfig
from rlx.tasks.countdown_chance import chance
from rlx.tasks.countdown_heuristics import Heuristic, Method, search
from rlx.tasks.countdown_traces import Trace
from rlx.types import Outcome, Split


def countdown(trace: Trace = Trace.operations, **fields: Any) -> Countdown:
    return CountdownConfig(trace=trace, **fields).build()


def sequences(numbers: int) -> int:
    return prod(4 * comb(count, 2) for count in range(2, numbers + 1))


def successors(numbers: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """What one legal operation leaves, sorted, once for each pair of places and sign."""
    for i, j in combinations(range(len(numbers)), 2):
        low, high = sorted((numbers[i], numbers[j]))
        results = [low + high, low * high, high - low]
        if low and high % low == 0:
            results.append(high // low)
        for result in results:
            yield tuple(sorted([*numbers[:i], *numbers[i + 1 : j], *numbers[j + 1 :], result]))


@cache
def count(target: int, numbers: tuple[int, ...]) -> int:
    """Sequences of legal operations that end at the target."""
    if len(numbers) == 1:
        return numbers[0] == target
    return sum(count(target, left) for left in successors(numbers))


def draws(number: int, numbers: int, largest: int) -> list[tuple[int, tuple[int, ...]]]:
    """Targets that one sequence drawn at random reaches, and inputs."""
    random = Random(numbers)
    found: list[tuple[int, tuple[int, ...]]] = []
    while len(found) < number:
        inputs = tuple(random.randint(1, largest) for _ in range(numbers))
        left = inputs
        while len(left) > 1:
            left = random.choice(list(successors(left)))
        target = sum(left)  # of the one number
        if 0 < target <= 200_000:
            found.append((target, inputs))
    return found


@pytest.mark.parametrize(
    ("numbers", "largest", "number"), [(3, 99, 60), (3, 6, 60), (4, 99, 20), (4, 6, 20), (5, 1000, 2), (6, 9, 2)]
)
def test_chance_is_the_share_of_all_sequences(numbers: int, largest: int, number: int) -> None:
    for target, inputs in draws(number, numbers, largest):
        expected = count(target, tuple(sorted(inputs))) / sequences(numbers)
        assert chance(target, inputs) == pytest.approx(expected, rel=1e-12)
        assert chance(target, inputs[::-1]) == chance(target, inputs)
        assert chance(target, inputs) > 0


def test_chance_by_hand() -> None:
    """Each of three pairs of sevens makes 14 (then 14-7), 49 (then 49/7), 0 (then 0+7, 7-0) and 1 (then 1*7, 7/1)."""
    assert chance(7, (7, 7, 7)) == 3 * 6 / (12 * 4)


def test_seven_numbers_are_near_the_count() -> None:
    cases = draws(30, 7, 3)
    exact = mean(count(target, tuple(sorted(inputs))) / sequences(7) for target, inputs in cases)
    assert mean(chance(*case) for case in cases) == pytest.approx(exact, rel=0.1)
    assert [chance(*case) for case in cases] == [chance.__wrapped__(*case) for case in cases]


@pytest.mark.parametrize(
    ("numbers", "right", "even"), [(3, 0.60, 0.05), (4, 0.26, 0.008), (5, 0.08, 0.0008), (8, 0.07, 0.0001)]
)
def test_short_cut_and_chance_are_as_stated(numbers: int, right: float, even: float) -> None:
    task = countdown(numbers=numbers)
    examples = [task.example(Split.train, index) for index in range(400)]
    share = mean(task.verify(example, task.guess(example)).correct for example in examples)
    assert abs(share - right) <= 3 * (right * (1 - right) / len(examples)) ** 0.5 + 0.005
    assert mean(task.chance(example) for example in examples[:100]) == pytest.approx(even, rel=0.5)


@pytest.mark.parametrize("trace", list(Trace), ids=lambda trace: trace.name)
def test_the_short_cut_is_the_search_with_a_beam_of_one(trace: Trace) -> None:
    """In every trace it is right on the same problems, and it is never illegal."""
    task = countdown(trace)
    outcomes = []
    for index in range(60):
        example = task.example(Split.train, index)
        target, inputs = example.truth
        lines, found = search(target, inputs, Method(Heuristic.multiply, 1))
        guess = task.guess(example)
        assert task.verify(example, guess).outcome is (Outcome.correct if found else Outcome.wrong)
        if trace is Trace.operations:
            explored = [line for line in lines if line.startswith("Exploring")]
            assert guess.split(",") == [re.findall(r"Operation: ([^,]+)", line)[0] for line in explored]
        outcomes.append(found)
    assert 5 < sum(outcomes) < 30


def test_chance_is_the_same_in_every_trace() -> None:
    examples = [countdown(trace).example(Split.test, 3) for trace in Trace]
    assert len({countdown(trace).chance(example) for trace, example in zip(Trace, examples, strict=True)}) == 1
