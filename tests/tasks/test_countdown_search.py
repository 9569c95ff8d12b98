"""Countdown's search against an independent brute force: expression trees over subsets, in fractions."""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest

from rlx.tasks.countdown import Countdown, CountdownConfig
from rlx.tasks.countdown_search import first_solutions, solvable
from rlx.tasks.countdown_traces import Trace
from rlx.types import Example, Split

BOTH = [Trace.direct, Trace.operations]


def countdown(trace: Trace = Trace.operations, **fields: Any) -> Countdown:
    return CountdownConfig(trace=trace, **fields).build()


def problem(target: int, *inputs: int) -> Example:
    return Example(id="", prompt="", solution="", truth=(target, inputs))


@cache
def trees(numbers: tuple[int, ...]) -> dict[int, tuple[str, ...]]:
    """Every natural value of an expression over all `numbers`, with operations that make it."""
    if len(numbers) == 1:
        return {numbers[0]: ()}
    values: dict[int, tuple[str, ...]] = {}
    for mask in range(1, 2 ** len(numbers) - 1):
        left = tuple(number for place, number in enumerate(numbers) if mask >> place & 1)
        right = tuple(number for place, number in enumerate(numbers) if not mask >> place & 1)
        for a, made_a in trees(left).items():
            for b, made_b in trees(right).items():
                for sign, value in (("+", Fraction(a + b)), ("*", Fraction(a * b)), ("-", Fraction(a - b))):
                    if value >= 0:
                        values.setdefault(int(value), (*made_a, *made_b, f"{a}{sign}{b}={value}"))
                if b and Fraction(a, b).denominator == 1:
                    values.setdefault(a // b, (*made_a, *made_b, f"{a}/{b}={a // b}"))
    return values


def walk(numbers: list[int], target: int, done: list[str]) -> Iterator[list[str]]:
    """All solutions in depth-first successor order, as Stream of Search defines it."""
    if numbers == [target]:
        yield done
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            a, b = numbers[i], numbers[j]
            high, low = max(a, b), min(a, b)
            children = [(f"{a}+{b}", a + b), (f"{a}*{b}", a * b), (f"{high}-{low}", high - low)]
            if low and high % low == 0:
                children.append((f"{high}/{low}", high // low))
            rest = [number for place, number in enumerate(numbers) if place not in (i, j)]
            for text, value in children:
                yield from walk([*rest, value], target, [*done, f"{text}={value}"])


def draws(count: int, numbers: int, largest: int = 99, seed: int = 0) -> Iterator[tuple[int, tuple[int, ...]]]:
    random = Random(seed)
    for _ in range(count):
        yield random.randint(10, 100), tuple(random.randint(1, largest) for _ in range(numbers))


@pytest.mark.parametrize(("numbers", "count"), [(3, 300), (4, 40), (5, 2)])
def test_solvable_exactly_when_brute_force_says_so(numbers: int, count: int) -> None:
    cases = [*draws(count, numbers), *draws(count, numbers, largest=6, seed=1)]
    ranks = first_solutions(np.array([target for target, _ in cases]), np.array([inputs for _, inputs in cases]))
    assert [rank >= 0 for rank in ranks.tolist()] == [target in trees(inputs) for target, inputs in cases]
    assert {True, False} == set((ranks >= 0).tolist()) or numbers == 5


@pytest.mark.parametrize("lowest, largest", [(1, 9), (1, 99), (200, 255), (250, 300), (900, 1000), (0, 3), (0, 60)])
def test_a_target_is_reached_exactly_when_brute_force_says_so(lowest: int, largest: int) -> None:
    """Small numbers in single precision, large ones in double; zeros are left by reductions of 5 numbers or more."""
    random = Random(largest)
    inputs = [tuple(random.randint(lowest, largest) for _ in range(4)) for _ in range(20)]
    cases: list[tuple[int, tuple[int, ...]]] = []
    for numbers in inputs:
        values = [value for value in trees(numbers) if 0 < value < 100_000] or [1]
        near = [value + 1 for value in values]
        cases += [(target, numbers) for target in (*random.choices(values, k=10), *random.choices(near, k=10))]
    targets = np.array([target for target, _ in cases])
    state = np.array([numbers for _, numbers in cases]).T.astype(np.float64)
    expected = [target in trees(numbers) for target, numbers in cases]
    assert solvable(targets, state).tolist() == expected
    assert len(set(expected)) == 2


def test_a_division_that_all_but_ends_is_no_solution() -> None:
    """445 * 447 * 456 is 1 more than 991 * 91529, which a float32 cannot tell."""
    near = []
    for a, b, c, d in product(range(440, 470), range(440, 470), range(440, 470), (991, 997)):
        if a <= b <= c and a * b * c % d == 1 and a * b * c // d < 100_000:
            near.append((a * b * c // d, (a, b, c, d)))
    assert len(near) > 5
    ranks = first_solutions(np.array([target for target, _ in near]), np.array([inputs for _, inputs in near]))
    assert (ranks < 0).all()


@pytest.mark.parametrize("trace", BOTH, ids=lambda trace: trace.name)
@pytest.mark.parametrize(("numbers", "count"), [(3, 60), (4, 60), (5, 10)])
def test_solution_is_the_first_in_successor_order(numbers: int, count: int, trace: Trace) -> None:
    task = countdown(trace, numbers=numbers)
    for index in range(count):
        example = task.example(Split.train, index)
        target, inputs = example.truth
        expected = next(walk(list(inputs), target, []))
        assert re.findall(r"Exploring Operation: ([^,]+),", example.solution) == expected or (
            trace is Trace.operations and example.solution.split(",") == expected
        )


def test_every_brute_force_solution_verifies() -> None:
    task = countdown()
    for _, inputs in draws(6, 3):
        for value in (value for value in trees(inputs) if value > 0):
            for operations in walk(list(inputs), value, []):
                assert task.verify(problem(value, *inputs), ",".join(operations)).correct
                assert not task.verify(problem(value + 1, *inputs), ",".join(operations)).correct
    for _, inputs in draws(3, 4):
        for value, operations in trees(inputs).items():
            assert task.verify(problem(value, *inputs), ",".join(operations)).correct


def test_search_is_exact_with_the_largest_numbers() -> None:
    for numbers in (4, 8):
        task = countdown(numbers=numbers, max_number=1000)
        for index in range(16):
            example = task.example(Split.train, index)
            assert task.verify(example, example.solution).correct


def test_a_random_solution_is_uniform_over_all() -> None:
    """Picks in order take the solutions in turn."""
    targets = np.full(3000, 10)
    inputs = np.array([[2, 3, 5]] * 3000)
    solutions = {int(first_solutions(targets[:1], inputs[:1], np.array([pick]))[0]) for pick in range(60)}
    ranks = first_solutions(targets, inputs, np.arange(3000))
    counts = [int((ranks == rank).sum()) for rank in solutions]
    assert len(solutions) > 2 and max(counts) - min(counts) <= 1
