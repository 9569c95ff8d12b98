"""Countdown against the papers' numbers, verdicts worked by hand and the faults known elsewhere."""

import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from random import Random
from statistics import mean
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.countdown import Countdown, CountdownConfig
from rlx.tasks.countdown_search import (
    BLOCK,
    Choice,
    draw_block,
    moves_of,
    paths,
    split_targets,
    steps_of,
)
from rlx.tasks.countdown_traces import Trace
from rlx.types import Example, Outcome, Split

BOTH = [Trace.direct, Trace.operations]
DIRECT_59 = """\
Current State: 59:[55, 8, 13, 19], Operations: []
Exploring Operation: 13+19=32, Resulting Numbers: [55, 8, 32]
Generated Node #2: [55, 8, 32] from Operation: 13+19=32
Current State: 59:[55, 8, 32], Operations: ['13+19=32']
Exploring Operation: 32/8=4, Resulting Numbers: [55, 4]
Generated Node #3: [55, 4] from Operation: 32/8=4
Current State: 59:[55, 4], Operations: ['13+19=32', '32/8=4']
Exploring Operation: 55+4=59, Resulting Numbers: [59]
59,59 equal: Goal Reached"""


def countdown(trace: Trace = Trace.operations, **fields: Any) -> Countdown:
    return CountdownConfig(trace=trace, **fields).build()


def problem(target: int, *inputs: int) -> Example:
    return Example(id="", prompt="", solution="", truth=(target, inputs))


def outcome(text: str, target: int, *inputs: int, trace: Trace = Trace.operations) -> Outcome:
    return countdown(trace).verify(problem(target, *inputs), text).outcome


def ids(task: Countdown, split: Split, count: int) -> list[str]:
    return [task.example(split, index).id for index in range(count)]


# The papers' numbers and texts


def test_mean_direct_trace_is_as_long_as_in_the_paper() -> None:
    """212 tokens there, counting words, single digits and single marks, and no white space."""
    task = countdown(Trace.direct)
    examples = [task.example(Split.train, index) for index in range(400)]
    lengths = [len(re.findall(r"[A-Za-z]+|\d|[^\sA-Za-z\d]", e.prompt + e.solution)) for e in examples]
    assert 205 <= mean(lengths) <= 220


def test_worked_example_verifies() -> None:
    solution = DIRECT_59.split("\n", 1)[1]
    assert outcome(solution, 59, 55, 8, 13, 19, trace=Trace.direct) is Outcome.correct
    assert outcome("13+19=32,32/8=4,55+4=59", 59, 55, 8, 13, 19) is Outcome.correct


def test_direct_trace_is_written_as_in_the_source() -> None:
    inputs = (55, 8, 13, 19)
    wanted = ["13+19=32", "32/8=4", "55+4=59"]
    rank = next(rank for rank in range(paths(4)) if moves_of(rank, 4) == [(2, 3, "+"), (1, 2, "/"), (0, 1, "+")])
    steps = steps_of(inputs, rank)
    assert [str(step.operation) for step in steps] == wanted
    writer = countdown(Trace.direct).trace
    assert writer.prompt(59, inputs) + writer.solution(59, inputs, steps) == DIRECT_59


def test_default_holds_out_nine_targets() -> None:
    space = countdown().space
    held_out, others = split_targets(space, Split.test), split_targets(space, Split.train)
    assert (len(held_out), len(others)) == (9, 82)
    assert sorted(held_out + others) == list(range(10, 101))
    assert held_out == split_targets(countdown(seed=5).space, Split.test)


# Verdicts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("19+13=32,32/8=4,4+55=59", Outcome.correct),
        ("13+19=32,32/8=4,55+4=59 \n", Outcome.correct),
        ("13+19=32,32/8=4", Outcome.wrong),
        ("13+19=32,32/8=4,55-4=51", Outcome.wrong),
        ("13+19=32,32/8=4,55+4=58", Outcome.illegal),
        ("13+19=33,32/8=4,55+4=59", Outcome.illegal),
        ("55+4=59", Outcome.illegal),
        ("13+13=26,26+8=34,55+4=59", Outcome.illegal),
        ("13+19=32,13+19=32,32/8=4,55+4=59", Outcome.illegal),
        ("13+19=32,32/8=4,55+4=59,59+0=59", Outcome.illegal),
        ("8-13=5,55+5=60", Outcome.illegal),
        ("19/8=2,55+4=59", Outcome.illegal),
        ("13+19=32,32/8=4,55+4=59,", Outcome.malformed),
        ("13+19=32, 32/8=4, 55+4=59", Outcome.malformed),
        (" 13+19=32,32/8=4,55+4=59", Outcome.malformed),
        ("013+19=32,32/8=4,55+4=59", Outcome.malformed),
        ("13+19=32,32/8=4,55+4=59\n59", Outcome.malformed),
        ("13+19=32\n,32/8=4,55+4=59", Outcome.malformed),
        ("\uff11\uff13+19=32,32/8=4,55+4=59", Outcome.malformed),
        ("1\uff13+19=32,32/8=4,55+4=59", Outcome.malformed),
        ("13+19=32,32//8=4,55+4=59", Outcome.malformed),
        ("8**2=64", Outcome.malformed),
        ("8-13=-5", Outcome.malformed),
        ("59", Outcome.malformed),
        ("13+19=32,32/8=4,55+4=59" + " " * 10_000, Outcome.malformed),
    ],
)
def test_outcomes_of_operations(text: str, expected: Outcome) -> None:
    assert outcome(text, 59, 55, 8, 13, 19) is expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("59,59 equal", "58,58 equal", Outcome.wrong),
        ("55+4=59, Resulting", "55-4=51, Resulting", Outcome.wrong),
        ("55+4=59, Resulting", "55+4=58, Resulting", Outcome.illegal),
        ("55+4=59, Resulting Numbers: [59]\n59,", "55+4=58, Resulting Numbers: [58]\n58,", Outcome.illegal),
        ("['13+19=32', '32/8=4']", "['32/8=4']", Outcome.illegal),
        ("['13+19=32', '32/8=4']", "['13+19=32', '32/8=4', '32/8=4']", Outcome.illegal),
        ("['13+19=32', '32/8=4']", "['13+19=32', '32/8=5']", Outcome.illegal),
        ("59,59 equal: Goal Reached", "", Outcome.malformed),
        ("59,59 equal: Goal Reached", "59,59 unequal: No Solution", Outcome.malformed),
        ("59,59 equal: Goal Reached", "59,59 equal: Goal Reached\n59,59 equal: Goal Reached", Outcome.malformed),
        ("Exploring Operation: 13", "Exploring  Operation: 13", Outcome.malformed),
        ("Node #3", "Node #\u0663", Outcome.malformed),
    ],
)
def test_outcomes_of_direct(old: str, new: str, expected: Outcome) -> None:
    solution = DIRECT_59.split("\n", 1)[1]
    assert old in solution
    assert outcome(solution.replace(old, new), 59, 55, 8, 13, 19, trace=Trace.direct) is expected


def slow_outcome(text: str, target: int, inputs: tuple[int, ...]) -> Outcome:
    """The verdict on a list of operations, read a character at a time and worked out in fractions."""
    operations: list[tuple[Fraction, str, Fraction, Fraction]] = []
    for part in text.rstrip().split(","):
        signs = [character for character in part if character not in "0123456789"]
        numbers = "".join(character if character in "0123456789" else " " for character in part).split(" ")
        if len(signs) != 2 or signs[0] not in "+-*/" or signs[1] != "=" or "" in numbers:
            return Outcome.malformed
        if any(number != "0" and number[0] == "0" for number in numbers):
            return Outcome.malformed
        left, right, result = map(Fraction, numbers)
        operations.append((left, signs[0], right, result))
    pool = Counter(map(Fraction, inputs))
    for left, sign, right, result in operations:
        pool[left] -= 1
        pool[right] -= 1
        if min(pool.values()) < 0 or (sign == "/" and not right):
            return Outcome.illegal
        if result != {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or 1)}[sign]:
            return Outcome.illegal
        pool[result] += 1
    return Outcome.correct if +pool == Counter([Fraction(target)]) else Outcome.wrong


def test_verdicts_are_those_of_a_slow_reading() -> None:
    random = Random(3)
    task = countdown()
    examples = [task.example(Split.train, index) for index in range(100)]
    outcomes = Counter[Outcome]()
    for _ in range(6000):
        example, text = random.choice(examples), random.choice(examples).solution
        if random.random() < 0.9:
            text = example.solution
        if random.random() < 0.3:
            parts = text.split(",")
            text = ",".join(random.sample(parts, random.randint(1, len(parts))))
        for _ in range(random.choice((0, 1, 1, 2))):
            place = random.randrange(len(text))
            text = (
                text[:place] + random.choice(["", *"0123456789" * 2, *"+-*/=, "]) + text[place + random.randint(0, 1) :]
            )
        expected = slow_outcome(text, *example.truth)
        assert task.verify(example, text).outcome is expected, (text, example.truth)
        outcomes[expected] += 1
    assert min(outcomes.values()) > 100 and len(outcomes) == 4


def test_direct_that_uses_one_operation_only_is_wrong() -> None:
    text = "Exploring Operation: 55+8=63, Resulting Numbers: [63]\n63,63 equal: Goal Reached"
    assert outcome(text, 63, 55, 8, 13, trace=Trace.direct) is Outcome.wrong


def test_duplicates_are_counted() -> None:
    assert outcome("7*7=49,49-3=46", 46, 7, 7, 3) is Outcome.correct
    assert outcome("7*7=49,49-3=46", 46, 7, 8, 3) is Outcome.illegal
    assert outcome("7*7=49,49-7=42", 42, 7, 7, 3) is Outcome.illegal
    assert outcome("5-5=0,7/0=0", 7, 5, 5, 7) is Outcome.illegal
    assert outcome("5-5=0,7+0=7", 7, 5, 5, 7) is Outcome.correct
    assert outcome("5-5=0,0/7=0,0+9=9", 9, 5, 5, 7, 9) is Outcome.correct


def test_operands_are_removed_by_place() -> None:
    """Removal by value would drop both sevens of 7, 3, 7."""
    rank = next(rank for rank in range(paths(3)) if moves_of(rank, 3) == [(0, 1, "+"), (0, 1, "*")])
    assert [step.numbers for step in steps_of((7, 3, 7), rank)] == [[7, 10], [70]]


@pytest.mark.parametrize("trace", BOTH, ids=lambda trace: trace.name)
@pytest.mark.parametrize("numbers", [3, 5, 8])
def test_longer_text_is_not_parsed(trace: Trace, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task = countdown(trace, numbers=numbers)
    example = task.example(Split.train, 0)
    read: list[int] = []
    monkeypatch.setattr(task.trace, "judge", lambda target, inputs, text: read.append(len(text)))
    for size in (100, 10_000, 100_000, 1_000_000):
        assert task.verify(example, "9" * size).outcome is Outcome.malformed
    assert max(read) <= 20_000
    assert len(example.solution) * 2 < 20_000


def test_truth_may_come_from_json() -> None:
    example = Example(id="", prompt="", solution="", truth=[59, [55, 8, 13, 19]])
    assert countdown().verify(example, "13+19=32,32/8=4,55+4=59").correct


# Which examples there are


@pytest.mark.parametrize("trace", BOTH, ids=lambda trace: trace.name)
@pytest.mark.parametrize("numbers", [3, 4, 6, 8])
def test_examples_are_in_range_and_verify(trace: Trace, numbers: int) -> None:
    task = countdown(trace, numbers=numbers)
    for index in range(BLOCK // 2):
        example = task.example(Split.train, index)
        target, inputs = example.truth
        assert 10 <= target <= 100
        assert len(inputs) == numbers
        assert all(1 <= number <= 99 for number in inputs)
        assert example.id == f"countdown/{target}:{','.join(map(str, sorted(inputs)))}"
        assert task.verify(example, example.solution).correct


@pytest.mark.parametrize("split", list(Split), ids=lambda split: split.value)
def test_traces_have_the_same_problems(split: Split) -> None:
    expected = ids(countdown(Trace.direct), split, 20)
    assert all(ids(countdown(trace), split, 20) == expected for trace in Trace)


def test_examples_are_the_same_in_every_process() -> None:
    code = (
        "from rlx.tasks.countdown import CountdownConfig; from rlx.types import Split; t = CountdownConfig().build();"
        "print([t.example(Split.train, i).id for i in (0, 1, 200)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    task = countdown()
    assert run.stdout.strip() == str([task.example(Split.train, index).id for index in (0, 1, 200)])


def test_first_examples_are_pinned() -> None:
    """A change here changes every result: raise the option's version with it."""
    assert ids(countdown(), Split.train, 2) == ["countdown/28:9,26,58,76", "countdown/61:11,16,25,66"]
    assert ids(countdown(), Split.test, 2) == ["countdown/91:34,59,68,75", "countdown/69:6,29,32,67"]


def test_reading_order_does_not_matter() -> None:
    places = [300, 5, 129, 0, 5]
    apart = [countdown().example(Split.train, place) for place in places]
    draw_block.cache_clear()
    task = pickle.loads(pickle.dumps(countdown()))
    assert [task.example(Split.train, place) for place in places] == apart


def test_neighbouring_seeds_share_no_examples() -> None:
    """Elsewhere example i of seed s is example i + 1 of seed s - 1."""
    streams = [set(ids(countdown(seed=seed), Split.train, 2 * BLOCK)) for seed in (0, 1, 2)]
    shared = [len(a & b) for a, b in ((streams[0], streams[1]), (streams[1], streams[2]), (streams[0], streams[2]))]
    assert max(shared) <= 1


@pytest.mark.parametrize(("numbers", "largest"), [(3, 9), (3, 99), (4, 6)])
def test_splits_are_disjoint_across_seeds(numbers: int, largest: int) -> None:
    """Small spaces, where a leak could not hide: most of their instances are drawn."""
    seen: dict[Split, set[str]] = {split: set() for split in Split}
    for seed in (0, 1, 7):
        task = countdown(numbers=numbers, max_number=largest, seed=seed)
        for split in Split:
            seen[split] |= set(ids(task, split, 3 * BLOCK))
    train, val, test = seen[Split.train], seen[Split.val], seen[Split.test]
    assert train and val and test
    assert not (train & val or train & test or val & test)
    held_out = {str(target) for target in split_targets(task.space, Split.test)}
    assert not {name.split("/")[1].split(":")[0] for name in train | val} & held_out
    assert {name.split("/")[1].split(":")[0] for name in test} <= held_out


def test_held_out_examples_do_not_move_with_the_seed() -> None:
    for split in (Split.val, Split.test):
        assert ids(countdown(seed=0), split, 20) == ids(countdown(seed=9), split, 20)


def test_targets_are_uniform() -> None:
    """Each of 82 targets is expected 25 times in 2048 draws (16 blocks), give or take 5."""
    task = countdown(numbers=3)
    counts: dict[int, int] = {}
    for index in range(16 * BLOCK):
        target = task.example(Split.train, index).truth[0]
        counts[target] = counts.get(target, 0) + 1
    assert len(counts) == 82
    assert 6 <= min(counts.values()) <= max(counts.values()) <= 52


def test_difficulty() -> None:
    task = countdown()
    examples = [task.example(Split.train, index) for index in range(2 * BLOCK)]
    assert {example.difficulty["numbers"] for example in examples} == {4}
    assert {example.difficulty["target"] for example in examples} == {"10-32", "33-55", "56-78", "79-100"}
    for example in examples:
        low, high = map(int, str(example.difficulty["target"]).split("-"))
        assert low <= example.truth[0] <= high
        assert example.difficulty["multiplicative"] == len(re.findall(r"[*/]", example.solution))


@pytest.mark.parametrize("trace", list(Trace), ids=lambda trace: trace.name)
def test_words_spell_every_text(trace: Trace) -> None:
    task = countdown(trace)
    words = set(task.words())
    for index in range(50):
        example = task.example(Split.train, index)
        assert set(re.findall(r"[A-Za-z]+|[^A-Za-z]", example.prompt + example.solution)) <= words


# Settings


@pytest.mark.parametrize(
    "fields",
    [
        {"numbers": 2},
        {"numbers": 9},
        {"max_number": 0},
        {"max_number": 1001},
        {"min_target": 0},
        {"min_target": 100},
        {"max_target": 200_000},
        {"held_out_targets": 0.0},
        {"held_out_targets": 1.0},
        {"test_examples": 0},
        {"train_examples": -1},
        {"trace": Trace.dfs, "numbers": 5},
        {"trace": Trace.mix, "numbers": 8},
        {"beam": 0},
    ],
    ids=str,
)
def test_bad_settings_are_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^task.*; try task\.") as caught:
        CountdownConfig(**fields)
    assert "\n" not in str(caught.value)


def test_setting_without_problems_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlx.tasks.countdown_search.MAX_TRIES", 40_000)
    for numbers, largest in ((3, 2), (5, 1)):
        task = countdown(min_target=50, max_target=60, numbers=numbers, max_number=largest)
        with pytest.raises(ConfigError, match=r"raise task\.max_number"):
            task.example(Split.train, 0)


def test_sizes() -> None:
    task = countdown(train_examples=5, val_examples=6, test_examples=7)
    assert [task.size(split) for split in (Split.train, Split.val, Split.test)] == [5, 6, 7]
    assert countdown().size(Split.train) is None
    for split, outside in ((Split.train, 5), (Split.test, 7), (Split.val, -1)):
        with pytest.raises(IndexError):
            task.example(split, outside)


def test_small_ranges_keep_a_target_for_each_side() -> None:
    for share in (0.01, 0.99):
        config = CountdownConfig(min_target=10, max_target=11, held_out_targets=share)
        sizes: Sequence[int] = [len(split_targets(config.build().space, split)) for split in Split]
        assert sizes == [1, 1, 1]


def test_random_solutions_are_of_the_same_problems_and_of_all_kinds() -> None:
    first = CountdownConfig(numbers=3, trace=Trace.operations).build()
    random = CountdownConfig(numbers=3, trace=Trace.operations, solution=Choice.random).build()
    pairs = [(first.example(Split.train, n), random.example(Split.train, n)) for n in range(400)]
    assert all(a.prompt == b.prompt for a, b in pairs)
    assert all(random.verify(b, b.solution).correct for _, b in pairs)
    differing = sum(a.solution != b.solution for a, b in pairs)
    assert 100 < differing < 400


@pytest.mark.parametrize("trace", [Trace.operations, Trace.direct, Trace.tinyzero], ids=lambda trace: trace.value)
def test_a_mistake_uses_every_number_once_and_misses(trace: Trace) -> None:
    """Its operations are true, one after the other, of what is there, until one number is left; all signs come."""
    task, signs = CountdownConfig(numbers=4, trace=trace).build(), set()
    for index in range(30):
        example = task.example(Split.train, index)
        text = task.mistake(example, Random(index))
        assert text is not None
        if trace is Trace.direct:  # where an operation is said three times
            text = "\n".join(line for line in text.splitlines() if line.startswith("Exploring"))
        target, pool = example.truth[0], list(example.truth[1])
        for left, sign, right, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", text):
            a, b = int(left), int(right)
            pool.remove(a)
            pool.remove(b)
            pool.append(int(result))
            assert {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a, b or 1)}[sign] == int(result)
            signs.add(sign)
        assert len(pool) == 1 and pool != [target]
    assert signs == set("+-*/")


def test_searches_have_no_mistakes_of_their_own() -> None:
    task = CountdownConfig(numbers=3, trace=Trace.dfs).build()
    assert task.mistake(task.example(Split.train, 0), Random(0)) is None
