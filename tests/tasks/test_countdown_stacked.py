"""`stacked=true`: problems of two problems, replayed here from their texts."""

import pickle
import re
from collections import Counter
from fractions import Fraction
from statistics import mean
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.countdown import Countdown, CountdownConfig
from rlx.tasks.countdown_heuristics import Heuristic, Method, search
from rlx.tasks.countdown_search import Choice, Problem
from rlx.tasks.countdown_stacked import stack
from rlx.tasks.countdown_traces import Trace
from rlx.types import Example, Outcome, Split

DRAWS = 200
TRACES = [Trace.direct, Trace.operations, Trace.dfs, Trace.bfs, Trace.mix, Trace.think]
WORKED = """\
Current State: 28:[2, 2, 13], Operations: []
Current State: 22:[5, 6, 8], Operations: []
Current State: 6:[28, 22], Operations: []
Current State: 28:[2, 2, 13], Operations: []
Exploring Operation: 2*13=26, Resulting Numbers: [2, 26]
Generated Node #0,0: 28:[2, 26] Operation: 2*13=26
Moving to Node #0,0
Current State: 28:[2, 26], Operations: ['2*13=26']
Exploring Operation: 2+26=28, Resulting Numbers: [28]
28,28 equal: Goal Reached
Current State: 22:[5, 6, 8], Operations: []
Exploring Operation: 5*6=30, Resulting Numbers: [8, 30]
Generated Node #0,0: 22:[8, 30] Operation: 5*6=30
Moving to Node #0,0
Current State: 22:[8, 30], Operations: ['5*6=30']
Exploring Operation: 30-8=22, Resulting Numbers: [22]
22,22 equal: Goal Reached
Current State: 6:[28, 22], Operations: ['2*13=26', '2+26=28', '5*6=30', '30-8=22']
Exploring Operation: 28-22=6, Resulting Numbers: [6]
6,6 equal: Goal Reached"""
DIRECT = """\
Exploring Operation: 2*13=26, Resulting Numbers: [2, 26, 5, 6, 8]
Generated Node #2: [2, 26, 5, 6, 8] from Operation: 2*13=26
Current State: 6:[2, 26, 5, 6, 8], Operations: ['2*13=26']
Exploring Operation: 2+26=28, Resulting Numbers: [28, 5, 6, 8]
"""
TARGET, INPUTS = 6, (2, 2, 13, 5, 6, 8)


def countdown(trace: Trace = Trace.operations, numbers: int = 8, **fields: Any) -> Countdown:
    return CountdownConfig(trace=trace, numbers=numbers, stacked=True, **fields).build()


def worked(trace: Trace) -> Example:
    """The worked example, by its place in its stream."""
    task = countdown(trace, numbers=6, max_number=20)
    return next(
        example
        for example in (task.example(Split.train, index) for index in range(500))
        if example.id == "countdown/6:22:5,6,8;28:2,2,13"
    )


def reached(text: str, inputs: tuple[int, ...]) -> Fraction:
    """What a list of operations makes of its inputs, all of which must be used up."""
    pool = Counter(map(Fraction, inputs))
    for left, sign, right, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", text):
        a, b = Fraction(left), Fraction(right)
        pool[a] -= 1
        pool[b] -= 1
        assert min(pool.values()) >= 0
        assert Fraction(result) == {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign]
        pool[Fraction(result)] += 1
    assert pool.total() == 1
    return next(iter(+pool))


def tokens_in(text: str) -> int:
    return len(re.findall(r"[A-Za-z]+|\d|[^\sA-Za-z\d]", text))


def test_worked_example_in_its_formats() -> None:
    assert (worked(Trace.dfs).truth, worked(Trace.direct).truth) == ((TARGET, INPUTS),) * 2
    assert worked(Trace.dfs).prompt + worked(Trace.dfs).solution == WORKED
    assert worked(Trace.direct).prompt == "".join(WORKED.splitlines(keepends=True)[:3])
    assert worked(Trace.direct).solution.startswith(DIRECT)
    assert worked(Trace.operations).prompt == "28:2,2,13\n22:5,6,8\n6:28,22\n"
    assert worked(Trace.operations).solution == "2*13=26,2+26=28,5*6=30,30-8=22,28-22=6"


@pytest.mark.parametrize("numbers", [6, 8])
def test_halves_are_neighbours_of_the_plain_task(numbers: int) -> None:
    for split in Split:
        task, plain = countdown(numbers=numbers), CountdownConfig(numbers=numbers // 2, trace=Trace.operations).build()
        for index in (0, 1, 70, 200):
            example = task.example(split, index)
            halves = [plain.example(split, 2 * index), plain.example(split, 2 * index + 1)]
            targets, numbers_of = zip(*(half.truth for half in halves), strict=True)
            assert example.truth[1] == (*numbers_of[0], *numbers_of[1])
            assert example.prompt.startswith(halves[0].prompt + halves[1].prompt)
            assert example.prompt.endswith(f"\n{example.truth[0]}:{targets[0]},{targets[1]}\n")
            *operations, last = example.solution.split(",")
            assert ",".join(operations) == f"{halves[0].solution},{halves[1].solution}"
            assert re.fullmatch(r"(\d+)[-+*/](\d+)=\d+", last)


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
@pytest.mark.parametrize("numbers", [6, 8])
def test_every_solution_reaches_its_target(numbers: int, trace: Trace) -> None:
    task = countdown(trace, numbers=numbers)
    words = set(task.words())
    for split in Split:
        for index in range(12):
            example = task.example(split, index)
            target, inputs = example.truth
            assert task.verify(example, example.solution).correct
            assert 1 <= target <= 200 and len(inputs) == numbers
            assert set(re.findall(r"[A-Za-z]+|[^A-Za-z]", example.prompt + example.solution)) <= words
            if trace is Trace.operations:
                done = example.solution
            else:
                state = example.solution.rpartition("Operations: [")[2].partition("\n")[0]
                done = state + example.solution.rpartition("Exploring ")[2].partition("Resulting")[0]
            assert reached(done, inputs) == target


@pytest.mark.parametrize("trace", [Trace.dfs, Trace.bfs], ids=lambda trace: trace.name)
def test_a_search_is_three_searches(trace: Trace) -> None:
    task = countdown(trace, keep_failed=True)
    method = Method(Heuristic.sum, 5 if trace is Trace.bfs else None)
    outcomes = Counter[bool]()
    for index in range(40):
        example = task.example(Split.train, index)
        starts = [re.findall(r"\d+", line) for line in example.prompt.splitlines()]
        expected: list[str] = []
        found = True
        for target, *inputs in (list(map(int, start)) for start in starts[:2]):
            if found:
                lines, found = search(target, tuple(inputs), method)
                expected += lines
        assert example.solution.splitlines()[: len(expected)] == expected
        rest = example.solution.splitlines()[len(expected) :]
        assert bool(rest) == found
        assert task.verify(example, example.solution).correct == (found and rest[-1].endswith("Goal Reached"))
        outcomes[found] += 1
    assert len(outcomes) == 2


def test_the_last_operation_is_any_that_fits() -> None:
    task = countdown()
    signs = Counter(
        re.sub(r"\d", "", task.example(Split.train, index).solution.split(",")[-1]) for index in range(1000)
    )
    assert set(signs) == {"+=", "-=", "*=", "/="}
    half = Problem(100, (1, 99, 3, 3), 0)
    for _ in range(2):  # 200 is twice the limit, 0 no target, 10000 too much; 1 is left
        assert str(stack(half, half, 200).last) in ("100+100=200", "100/100=1")
    assert str(stack(Problem(97, (1,), 0), Problem(96, (1,), 0), 0).last) == "97+96=193"


def test_splits_share_no_half() -> None:
    seen: dict[str, Split] = {}
    for seed in (0, 3):
        for split in Split:
            task = countdown(numbers=6, max_number=9, seed=seed)
            for index in range(200):
                for half in task.example(split, index).id.split(":", 1)[1].split(";"):
                    assert seen.setdefault(half, split) is split
    assert set(seen.values()) == set(Split)


def test_ids_do_not_hang_on_the_order_of_halves() -> None:
    one, other = Problem(11, (9, 5, 7), 0), Problem(9, (3, 9, 3), 0)
    keys = {stack(a, b, 0).key for a, b in ((one, other), (other, one))}
    assert keys == {"20:11:5,7,9;9:3,3,9"}


def test_shares_within_budgets_are_those_stated() -> None:
    stated = {
        Trace.dfs: {512: 0.0, 1024: 0.01, 2048: 0.08, 4096: 0.20, 10**9: 0.68},
        Trace.think: {512: 0.0, 1024: 0.09, 2048: 0.24, 4096: 0.42, 10**9: 0.68},
    }
    for trace, shares in stated.items():
        task = countdown(trace, keep_failed=True)
        examples = [task.example(Split.train, index) for index in range(DRAWS)]
        sizes = [tokens_in(example.prompt + example.solution) for example in examples]
        found = [task.verify(example, example.solution).correct for example in examples]
        for budget, share in shares.items():
            within = mean(hit and size <= budget for hit, size in zip(found, sizes, strict=True))
            assert abs(within - share) <= 3 * (max(share, 0.01) / DRAWS) ** 0.5, (trace, budget)
    direct = countdown(Trace.direct)
    sizes = [tokens_in(e.prompt + e.solution) for e in (direct.example(Split.train, index) for index in range(DRAWS))]
    assert 810 <= mean(sizes) <= 830


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("28,28 equal: Goal Reached", "28,27 unequal: No Solution", Outcome.correct),
        ("28-22=6, Resulting", "28+22=50, Resulting", Outcome.wrong),
        ("28-22=6, Resulting", "28-22=7, Resulting", Outcome.illegal),
        ("'2+26=28', ", "", Outcome.illegal),
        ("\n6,6 equal: Goal Reached", "", Outcome.wrong),
        ("6,6 equal: Goal Reached", "6,6 equal: Goal Reached\n6,6 equal: Goal Reached", Outcome.malformed),
        ("6,6 equal: Goal Reached", "7,7 equal: Goal Reached", Outcome.wrong),
        ("28,28 equal: Goal", "28,28 equal:  Goal", Outcome.malformed),
    ],
)
def test_outcomes_of_searches(old: str, new: str, expected: Outcome) -> None:
    text = WORKED.split("\n", 3)[3]
    assert old in text
    task = countdown(Trace.dfs, numbers=6)
    assert task.verify(worked(Trace.dfs), text.replace(old, new)).outcome is expected


def test_the_way_need_not_lead_over_the_halves() -> None:
    task, example = countdown(numbers=6), worked(Trace.operations)
    assert task.verify(example, "13-8=5,5/5=1,2*6=12,12/2=6,6*1=6").correct
    assert task.verify(example, "2*13=26,2+26=28,28-22=6").outcome is Outcome.illegal
    assert task.verify(example, "2*13=26,2+26=28").outcome is Outcome.wrong


def test_the_longest_search_is_read_and_longer_text_is_not() -> None:
    task = countdown(Trace.dfs)
    example = task.example(Split.train, 0)
    lines, _ = search(9973, (99, 98, 96, 99), Method(Heuristic.sum, 1), width=10**9)
    text = "\n".join([*lines[:-1]] * 2)
    assert len(text) < task.trace.longest < 10_000_000
    assert task.verify(example, text).outcome is Outcome.wrong
    assert "longer" in task.verify(example, "9" * (task.trace.longest + 1)).detail


def test_short_cut_and_chance() -> None:
    """The short cut knows nothing of halves, and an even draw hits 8 inputs next to never."""
    task = countdown(Trace.dfs)
    for index in range(10):
        example = task.example(Split.test, index)
        assert task.verify(example, task.guess(example)).outcome in (Outcome.correct, Outcome.wrong)
        assert 0 <= task.chance(example) < 0.01


def test_a_random_solution_is_of_the_same_problem() -> None:
    task, random = countdown(), countdown(solution=Choice.random)
    pairs = [(task.example(Split.train, index), random.example(Split.train, index)) for index in range(30)]
    assert all(a.prompt == b.prompt for a, b in pairs)
    assert all(random.verify(b, b.solution).correct for _, b in pairs)
    assert sum(a.solution != b.solution for a, b in pairs) > 15
    assert pickle.loads(pickle.dumps(random)).example(Split.train, 7) == pairs[7][1]


@pytest.mark.parametrize("fields", [{"numbers": 4}, {"numbers": 7}, {"trace": Trace.tinyzero, "numbers": 8}], ids=str)
def test_bad_settings_are_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^task\.stacked=true .*; try task\.") as caught:
        CountdownConfig(stacked=True, **fields)
    assert "\n" not in str(caught.value)
