"""State tracking: groups by their axioms and by permutations, states by other folds."""

from functools import reduce
from itertools import permutations, product
from random import Random
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.state_tracking import StateTracking, StateTrackingConfig, Trace
from rlx.tasks.state_tracking_groups import Table, group
from rlx.types import Example, Outcome, Split

SIZES = {"Z2": 2, "Z60": 60, "S3": 6, "S5": 120, "A4": 12, "A5": 60, "A4xZ5": 60, "Z2xZ2": 4, "S6": 720}


def tracking(name: str = "S3", **fields: Any) -> StateTracking:
    return StateTrackingConfig(group=name, **fields).build()


def examples(task: StateTracking, count: int = 200, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


@pytest.mark.parametrize("name", SIZES)
def test_tables_are_groups(name: str) -> None:
    """Closure, identity, inverses, and associativity on 10,000 triples."""
    table = group(name)
    size = len(table)
    assert size == SIZES[name]
    whole = set(range(size))
    assert all(set(row) == whole for row in table) and all(set(column) == whole for column in zip(*table, strict=True))
    assert all(table[0][a] == a == table[a][0] for a in whole)
    assert all(0 in row for row in table)
    random = Random(0)
    for _ in range(10_000):
        a, b, c = (random.randrange(size) for _ in range(3))
        assert table[table[a][b]][c] == table[a][table[b][c]]


def commutators(table: Table) -> set[int]:
    """The subgroup that the commutators generate."""
    inverse = [row.index(0) for row in table]
    found = {table[table[inverse[a]][inverse[b]]][table[a][b]] for a, b in product(range(len(table)), repeat=2)}
    while True:
        more = {table[a][b] for a, b in product(found, repeat=2)} - found
        if not more:
            return found
        found |= more


def test_a5_is_not_solvable_and_the_others_of_60_elements_are() -> None:
    assert len(commutators(group("A5"))) == 60
    assert len(commutators(group("A4xZ5"))) == 4
    assert len(commutators(group("Z60"))) == 1


def test_permutations_are_carried_out_from_left_to_right() -> None:
    elements = [*permutations(range(4))]
    table = group("S4")
    for a, b in product(range(24), repeat=2):
        one_by_one = tuple(elements[b][elements[a][i]] for i in range(4))
        assert elements[table[a][b]] == one_by_one


def test_states_are_products() -> None:
    """The last one also by a balanced tree of products."""
    task = tracking("A5", max_length=9)
    table, number = task.table, {name: place for place, name in enumerate(task._names)}

    def tree(items: list[int]) -> int:
        half = len(items) // 2
        return items[0] if len(items) == 1 else table[tree(items[:half])][tree(items[half:])]

    for example in examples(task):
        moves = [number[word] for word in example.prompt.removesuffix(" : ").split(" ")]
        states = [number[word] for word in example.solution.split(" ")]
        assert states == [reduce(lambda q, m: table[q][m], moves[: t + 1], 0) for t in range(len(moves))]
        assert states[-1] == tree(moves)


def test_names_tell_nothing_and_never_change() -> None:
    task = tracking("Z60")
    assert sorted(task._names, key=int) == [str(number) for number in range(60)]
    assert task._names[:5] == tracking("Z60", seed=3)._names[:5] != ["0", "1", "2", "3", "4"]


def test_the_last_state_decides_and_measures_say_the_rest() -> None:
    task = tracking("Z3", min_length=4, max_length=4)
    name = task._names
    example = Example(id="", prompt="", solution="", truth=([1, 1, 2, 0], [1, 2, 1, 1]))
    written = lambda *states: " ".join(name[state] for state in states)  # noqa: E731
    assert task.verify(example, written(1, 2, 1, 1)).measures == {"states": 1, "steps": 1, "chain": 1}
    # a wrong second state: two steps, to it and from it, do not follow
    found = task.verify(example, written(1, 0, 1, 1))
    assert found.correct and found.measures == {"states": 0.75, "steps": 0.5, "chain": 0}
    # a wrong second state, and what follows from it
    found = task.verify(example, written(1, 0, 2, 2))
    assert found.outcome is Outcome.wrong and found.measures == {"states": 0.25, "steps": 0.75, "chain": 0}
    for text in (written(1, 2, 1), written(1, 2, 1, 1, 1), "1  2 0 1", "3 1 1 1", ""):
        assert task.verify(example, text).outcome is Outcome.malformed


def test_final_writes_the_last_state_alone() -> None:
    whole, last = tracking("S3"), tracking("S3", trace=Trace.final)
    for one, other in zip(examples(whole), examples(last), strict=True):
        assert one.prompt == other.prompt and one.solution.split(" ")[-1] == other.solution
        assert last.chance(other) == 1 / 6
        assert last.verify(other, one.solution).outcome is Outcome.malformed


@pytest.mark.parametrize("field", ["skip", "noise"])
def test_steps_are_left_out_or_wrong_in_training_alone(field: str) -> None:
    plain, changed = tracking("A5", min_length=10), tracking("A5", min_length=10, **{field: 0.25})
    for split in (Split.val, Split.test):
        assert examples(plain, 20, split) == examples(changed, 20, split)
    changes = total = 0
    for one, other in zip(examples(plain, 1_000), examples(changed, 1_000), strict=True):
        states, written = one.solution.split(" "), other.solution.split(" ")
        assert one.prompt == other.prompt and written[-1] == states[-1]
        total += len(states) - 1
        if field == "skip":
            changes += len(states) - len(written)
        else:
            changes += sum(a != b for a, b in zip(states, written, strict=True)) * 60 / 59
    assert abs(changes / total - 0.25) < 0.015


def test_with_steps_left_out_fewer_states_are_in_form() -> None:
    task = tracking("S3", skip=0.3)
    example = task.example(Split.val, 0)
    assert task.verify(example, example.solution.split(" ")[-1]).correct
    plain = tracking("S3")
    assert plain.verify(example, example.solution.split(" ")[-1]).outcome is Outcome.malformed


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"group": "D4"}, "task.group must be Z<n>, S<n>, A<n>"),
        ({"group": "S7"}, "must have 2 to 720 elements"),
        ({"group": "Z1"}, "must have 2 to 720 elements"),
        ({"group": "S5xZ60"}, "more than 720 elements"),
        ({"group": "Z" + "9" * 50}, "task.group must be"),
        ({"skip": 1.0}, "at least 0 and below 1"),
        ({"noise": 0.1, "trace": Trace.final}, "needs states to be written"),
    ],
)
def test_settings_that_cannot_be_are_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        StateTrackingConfig(**fields)
    assert "\n" not in str(caught.value)
