"""Sudoku as a task: what is written, how it is judged, and the papers' numbers."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from statistics import mean
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks import sudoku as module
from rlx.tasks import sudoku_solver
from rlx.tasks.sudoku import Sudoku, SudokuConfig
from rlx.tasks.sudoku_generator import draw_block
from rlx.tasks.sudoku_traces import Trace
from rlx.types import Example, Outcome, Split
from tests.tasks.sudoku_brute import allowed, solutions

PUZZLE, SOLUTION = "1000003000400002", "1324423121433412"
DIRECT = """\
START original:
(0, 0) = 1
(1, 2) = 3
(2, 2) = 4
(3, 3) = 2
solving
SOL_S
(0, 2) = 2
(0, 3) = 4
(3, 2) = 1
(0, 1) = 3
(1, 3) = 1
(2, 3) = 3
(2, 0) = 2
(3, 1) = 4
(1, 0) = 4
(1, 1) = 2
(2, 1) = 1
(3, 0) = 3
SOL_E END"""
TOKEN = re.compile(r"[A-Za-z_]+|\d|[^\sA-Za-z_\d]")
"""Words, single digits and single marks, as countdown's tokens are counted."""


def sudoku(trace: Trace = Trace.direct, **fields: Any) -> Sudoku:
    return SudokuConfig(trace=trace, **fields).build()


def problem(puzzle: str = PUZZLE, solution: str = SOLUTION) -> Example:
    return Example(id="", prompt="", solution="", truth=(puzzle, solution))


def examples(task: Sudoku, count: int, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks have the same length here whatever the size, so that few puzzles are drawn."""
    for room in ("sudoku", "sudoku_generator"):
        monkeypatch.setattr(f"rlx.tasks.{room}.BLOCK", {4: 96, 6: 64, 9: 64})
    draw_block.cache_clear()
    yield
    draw_block.cache_clear()


# What is written


def test_worked_example() -> None:
    assert [list(map(int, SOLUTION))] == solutions(list(map(int, PUZZLE)), 4)
    task = sudoku()
    found = task._write(module.Puzzle(tuple(map(int, PUZZLE)), tuple(map(int, SOLUTION))), {})
    assert found.prompt + found.solution == DIRECT
    assert found.prompt.endswith("SOL_S\n")
    assert all(f"\n    {line}\n" in (module.__doc__ or "") for line in DIRECT.splitlines())
    cells = sudoku(Trace.solver)._write(module.Puzzle(tuple(map(int, PUZZLE)), tuple(map(int, SOLUTION))), {})
    assert (cells.prompt, cells.solution) == ("001123224332\n", "022034321013131233202314104112211303")
    assert f"`{cells.prompt[:-1]}\\n`, the solution `{cells.solution}`" in (module.__doc__ or "")
    assert found.difficulty == {"size": 4, "technique": "lone_single", "guesses": "0"}


def test_search_is_written_in_the_paper_s_lines() -> None:
    """arXiv 2504.07052: every kind of line; what is left of the search after its dead ends is the direct trace."""
    search = sudoku(Trace.search, size=9, empty="56-80", seed=3)
    direct = sudoku(size=9, empty="56-80", seed=3)
    at, digits = r"\((\d), (\d)\)", r"\[\d(?:, \d)+\]"
    kinds = {
        "place": rf"{at} = \d", "guess": rf"guess: {at} {digits} = \d", "nocand": rf"nocand: {at}",
        "invalid": "invalid", "revert": rf"revert: {at} {digits} = none", "end": "SOL_E END",
    }  # fmt: skip
    seen = set()
    for index in range(64):
        own = search.example(Split.train, index)
        kept: list[str] = []
        marks: list[int] = []
        for line in own.solution.split("\n"):
            (kind,) = (name for name, pattern in kinds.items() if re.fullmatch(pattern, line))
            seen.add(kind)
            if kind == "guess":
                marks.append(len(kept))
            elif kind == "revert":
                del kept[marks.pop() :]
            elif kind in ("place", "end"):
                kept.append(line)
        expected = direct.example(Split.train, index)
        assert "\n".join(kept) == expected.solution
        assert (own.id, own.prompt, own.difficulty) == (expected.id, expected.prompt, expected.difficulty)
    assert seen == set(kinds)


def test_long_searches_guess_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sudoku_solver, "MAX_LINES", 70)
    task = sudoku(Trace.search, size=9, empty="56-80")
    found = examples(task, 64)
    assert max(example.solution.count("\n") for example in found) <= 81 + 70
    lucky = [
        e for e in found if "guess" in e.solution and "revert" not in e.solution and e.difficulty["guesses"] == "2+"
    ]
    assert lucky
    assert all(task.verify(example, example.solution).correct for example in found)


def test_mean_direct_trace_is_as_long_as_in_the_paper() -> None:
    """322 to 332 tokens there, with 10 more cells given: minimal puzzles of the mean 24.4 givens leave 46.6 cells of 7
    tokens."""
    found = examples(sudoku(size=9, empty="most", easy=10), 64)
    assert 322 <= mean(len(TOKEN.findall(example.solution)) for example in found) <= 332


def test_a_random_order_cannot_be_read_off_the_prompt() -> None:
    """Givens and solution are shuffled apart: the first cells of both stand in different orders."""
    for example in examples(sudoku(Trace.random, size=9), 40):
        given, found = (re.findall("...", text) for text in (example.prompt[:-1], example.solution))
        count = min(len(given), len(found))
        orders = [
            sorted(range(count), key=list(map(cells.index, sorted(cells)[:count])).__getitem__)
            for cells in (given, found)
        ]
        assert orders[0] != orders[1]


def test_cell_by_cell_is_243_digits_with_givens_first() -> None:
    """arXiv 2409.10502: 81 times row, column, value; three orders of the same cells."""
    orders: dict[Trace, list[str]] = {}
    for trace in (Trace.fixed, Trace.random, Trace.solver):
        (example,) = examples(sudoku(trace, size=9), 1)
        text = example.prompt[:-1] + example.solution
        assert len(text) == 243 and text.isdigit()
        triples = re.findall("...", text)
        puzzle, solution = example.truth
        assert sorted(triples) == [f"{cell // 9}{cell % 9}{digit}" for cell, digit in enumerate(solution)]
        givens = 81 - puzzle.count("0")
        assert {triple for triple in triples[:givens]} == {
            f"{cell // 9}{cell % 9}{digit}" for cell, digit in enumerate(puzzle) if digit != "0"
        }
        orders[trace] = triples
        if trace is Trace.fixed:
            assert triples == sorted(triples[:givens]) + sorted(triples[givens:])
    assert len({tuple(order) for order in orders.values()}) == 3
    (direct,) = examples(sudoku(size=9), 1)
    placed = [f"{row}{column}{digit}" for row, column, digit in re.findall(r"\((\d), (\d)\) = (\d)", direct.solution)]
    assert placed == orders[Trace.solver][-len(placed) :]


def test_easy_boards_show_the_first_deductions() -> None:
    for before, after in zip(examples(sudoku(size=9), 20), examples(sudoku(size=9, easy=10), 20), strict=True):
        assert before.truth[1] == after.truth[1]
        assert after.prompt.count("=") == before.prompt.count("=") + 10
        if before.difficulty["guesses"] == "0":
            first = before.solution.split("\n")[:10]
            assert set(after.prompt.split("\n")) == set(before.prompt.split("\n")) | set(first)


def test_difficulty_is_in_few_values() -> None:
    found = examples(sudoku(size=9, empty="40-60"), 64)
    for field, most in (("size", 1), ("technique", 7), ("guesses", 3), ("empty", 4)):
        assert len({example.difficulty[field] for example in found}) <= most
    for example in found:
        low, high = map(int, str(example.difficulty["empty"]).split("-"))
        assert low <= example.truth[0].count("0") <= high
    assert {example.difficulty["empty"] for example in found} <= {"40-45", "46-50", "51-55", "56-60"}
    assert len({example.difficulty["technique"] for example in found}) >= 3


@pytest.mark.parametrize("size", [4, 6, 9])
def test_traces_have_the_same_problems(size: int) -> None:
    for split in Split:
        expected = [example.id for example in examples(sudoku(size=size), 10, split)]
        assert len(set(expected)) == 10
        for trace in Trace:
            assert [example.id for example in examples(sudoku(trace, size=size), 10, split)] == expected


def test_examples_are_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from rlx.tasks.sudoku import SudokuConfig; from rlx.types import Split; t = SudokuConfig().build();"
        "print([t.example(Split.train, i).id for i in (0, 1, 1500)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    monkeypatch.undo()
    draw_block.cache_clear()
    task = pickle.loads(pickle.dumps(sudoku(Trace.solver)))
    backwards = {index: task.example(Split.train, index).id for index in (1500, 1, 0)}
    assert run.stdout.strip() == str([backwards[index] for index in (0, 1, 1500)])


def test_first_examples_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change here changes every result: raise the option's version with it."""
    monkeypatch.undo()
    draw_block.cache_clear()
    for size, expected in (
        (4, "0304203030024200"),
        (9, "840090030093546708070830459300625071006910080017083006058000190002159067160078240"),
    ):
        assert sudoku(size=size).example(Split.test, 0).id == f"sudoku/{expected}"


def test_seeds_move_train_alone() -> None:
    first, other = sudoku(), sudoku(seed=1)
    for split in Split:
        same = [example.id for example in examples(first, 20, split)] == [
            example.id for example in examples(other, 20, split)
        ]
        assert same == (split is not Split.train)


# Verdicts


def solved(text: str = DIRECT) -> str:
    return text.split("SOL_S\n")[1]


@pytest.mark.parametrize(
    ("old", "new", "expected", "cells"),
    [
        ("", "", Outcome.correct, 1),
        ("SOL_E END", "SOL_E END \n", Outcome.correct, 1),
        ("(3, 0) = 3", "(3, 0) = 4\n(3, 0) = 3", Outcome.correct, 1),
        ("(3, 0) = 3", "(0, 0) = 2\n(0, 0) = 1\n(3, 0) = 3", Outcome.correct, 1),
        ("(3, 0) = 3", "(3, 0) = 4", Outcome.wrong, 11 / 12),
        ("(3, 0) = 3", "(3, 0) = 3\n(3, 0) = 4", Outcome.wrong, 11 / 12),
        ("(3, 0) = 3\n", "", Outcome.wrong, 11 / 12),
        ("(3, 0) = 3", "(3, 0) = 1", Outcome.illegal, 11 / 12),
        ("(3, 0) = 3", "(3, 0) = 3\n(0, 0) = 3", Outcome.illegal, 1),
        ("(3, 0) = 3", "(3, 0) = 5", Outcome.malformed, 0),
        ("(3, 0) = 3", "(3, 4) = 3", Outcome.malformed, 0),
        ("(3, 0) = 3", "(3,0) = 3", Outcome.malformed, 0),
        ("(3, 0) = 3", "(3, 0) = 3 ", Outcome.malformed, 0),
        ("(3, 0) = 3", "(3, 0) = \u0663", Outcome.malformed, 0),
        ("(3, 0) = 3", "\n(3, 0) = 3", Outcome.malformed, 0),
        ("(3, 0) = 3", "invalid\n(3, 0) = 3", Outcome.malformed, 0),
        ("SOL_E END", "SOL_E", Outcome.malformed, 0),
        ("SOL_E END", "SOL_E END\nSOL_E END", Outcome.malformed, 0),
        ("\nSOL_E END", "SOL_E END", Outcome.malformed, 0),
    ],
)
def test_outcomes_of_direct(old: str, new: str, expected: Outcome, cells: float) -> None:
    verdict = sudoku().verify(problem(), solved().replace(old, new) if old else solved())
    assert verdict.outcome is expected
    assert verdict.measures == {"cells": pytest.approx(cells)}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("guess: (3, 0) [3, 4] = 3\n(3, 0) = 3", Outcome.wrong),
        ("guess: (3, 0) [3, 4] = 4\n(3, 0) = 4\nnocand: (2, 1)\nrevert: (3, 0) [3, 4] = none", Outcome.wrong),
        ("guess: (3, 0) [3, 4] = 4\n(3, 0) = 4\ninvalid\nrevert: (3, 0) [3, 4] = none", Outcome.wrong),
        ("guess: (3, 0) [4] = 3\n(3, 0) = 3", Outcome.illegal),
        ("guess: (3, 0) [3, 4] = 3\n(3, 0) = 4", Outcome.illegal),
        ("guess: (3, 0) [3, 4] = 3\nguess: (3, 0) [3, 4] = 4\n(3, 0) = 4", Outcome.illegal),
        ("revert: (3, 0) [3, 4] = none", Outcome.illegal),
        ("guess: (3, 0) [3, 4] = 3\n(3, 0) = 3\nrevert: (3, 0) [3] = none", Outcome.illegal),
        ("guess: (3, 0) [3, 4] = 3\n(3, 0) = 3\nrevert: (3, 1) [3, 4] = none", Outcome.illegal),
        ("guess: (3, 0) [3, 4] = 3", Outcome.illegal),
        ("guess: (3, 0) [] = 3\n(3, 0) = 3", Outcome.malformed),
        ("guess: (3, 0) [3,4] = 3\n(3, 0) = 3", Outcome.malformed),
        ("nocand (2, 1)", Outcome.malformed),
        ("revert: (3, 0) [3, 4] = 3", Outcome.malformed),
    ],
)
def test_outcomes_of_search(steps: str, expected: Outcome) -> None:
    """Without the other cells; with them, what is broken is forgiven, and what is malformed is not."""
    task = sudoku(Trace.search)
    assert task.verify(problem(), f"{steps}\nSOL_E END").outcome is expected
    whole = task.verify(problem(), f"{steps}\n{solved()}").outcome
    assert whole is (Outcome.malformed if expected is Outcome.malformed else Outcome.correct)


@pytest.mark.parametrize("trace", [Trace.fixed, Trace.random, Trace.solver], ids=lambda trace: trace.name)
def test_outcomes_of_cells(trace: Trace) -> None:
    task = sudoku(trace)
    text = "022034321013131233202314104112211303"
    cases = {
        text: Outcome.correct, text + " \n": Outcome.correct, text[3:] + text[:3]: Outcome.correct,
        text + "303": Outcome.correct, text[:-3]: Outcome.wrong, text[:-1] + "4": Outcome.wrong,
        text + "002": Outcome.illegal, text[:-1] + "1": Outcome.illegal, text[:-1]: Outcome.malformed,
        text[:-1] + "5": Outcome.malformed, text[:-1] + "0": Outcome.malformed, text + "\n303": Outcome.malformed,
        " " + text: Outcome.malformed, text[:-1] + "\uff13": Outcome.malformed, "403" + text: Outcome.malformed,
    }  # fmt: skip
    for completion, expected in cases.items():
        assert task.verify(problem(), completion).outcome is expected, completion


@pytest.mark.parametrize("trace", list(Trace), ids=lambda trace: trace.name)
def test_no_other_digit_verifies(trace: Trace) -> None:
    """Each digit of a direct or cell trace made each other digit; of a search, each value on the path."""
    task = sudoku(trace)
    for example in examples(task, 3):
        text = example.solution
        for place, character in enumerate(text):
            if character.isdigit():
                for digit in set("0123456789") - {character}:
                    assert not task.verify(example, text[:place] + digit + text[place + 1 :]).correct


def test_truth_may_come_from_json() -> None:
    example = Example(id="", prompt="", solution="", truth=[PUZZLE, SOLUTION])
    assert sudoku().verify(example, solved()).correct


@pytest.mark.parametrize("trace", list(Trace), ids=lambda trace: trace.name)
def test_longer_text_is_not_parsed(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    task = sudoku(trace, size=9)
    (example,) = examples(task, 1)
    read: list[int] = []
    monkeypatch.setattr(task.trace, "parse", lambda text: read.append(len(text)))
    for size in (len(example.solution) + 1, 3_000, 100_000, 1_000_000):
        assert task.verify(example, "9" * size).outcome is Outcome.malformed
    assert max(read) <= 100_000
    assert len(example.solution) < min(read)


# Chance and the baseline


def test_chance_is_that_of_filling_evenly() -> None:
    """Of all 4^4 fillings of four cells one is right."""
    task = sudoku()
    empty = (0, 5, 10, 15)
    puzzle = "".join("0" if place in empty else digit for place, digit in enumerate(SOLUTION))
    right = total = 0
    for code in range(4 ** len(empty)):
        lines = [f"({cell // 4}, {cell % 4}) = {code // 4**turn % 4 + 1}" for turn, cell in enumerate(empty)]
        right += task.verify(problem(puzzle), "\n".join([*lines, "SOL_E END"])).correct
        total += 1
    assert task.chance(problem(puzzle)) == right / total == 1 / 256


@pytest.mark.parametrize("trace", list(Trace), ids=lambda trace: trace.name)
def test_baseline_fills_in_the_smallest_candidates(trace: Trace) -> None:
    task = sudoku(trace, size=6)
    lines = sudoku(size=6)
    for example in examples(task, 5):
        puzzle = list(map(int, example.truth[0]))
        expected = [(cell, min(allowed(puzzle, cell, 6))) for cell, digit in enumerate(puzzle) if not digit]
        assert task.guess(example) == task.trace.written(expected)
        assert task.verify(example, task.guess(example)).outcome in (Outcome.correct, Outcome.wrong)
        found = re.findall(r"\((\d), (\d)\) = (\d)", lines.guess(example))
        assert [(6 * int(row) + int(column), int(digit)) for row, column, digit in found] == expected


# Settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 5}, "task.size must be 4, 6 or 9, got 5"),
        ({"empty": "13"}, "task.empty must be a number from 1 to 12, a range that begins there, or most, with size=4"),
        ({"size": 9, "empty": "59"}, "task.empty must be a number from 1 to 58"),
        ({"empty": "8-4"}, "task.empty must be a number"),
        ({"empty": "4-16"}, "task.empty must be a number"),
        ({"empty": "0"}, "task.empty must be a number"),
        ({"empty": "-4"}, "task.empty must be a number"),
        ({"empty": "4-5-6"}, "task.empty must be a number"),
        ({"empty": "\u0664"}, "task.empty must be a number"),
        ({"empty": "many"}, "got many; try task.empty=4-10"),
        ({"easy": 4}, "task.easy must be at least 0 and below the 4 empty cells, got 4"),
        ({"easy": -1}, "task.easy must be at least 0"),
        ({"path": "x.csv", "empty": "5"}, "task.empty must be null with task.path"),
        ({"max_rows": 5}, "task.max_rows must be null without task.path"),
        ({"path": "x.csv", "max_rows": 0}, "task.max_rows must be at least 1"),
    ],
)
def test_wrong_settings_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        SudokuConfig(**fields)
    assert "\n" not in str(caught.value)


def test_command_line_takes_a_number(rlx: Any) -> None:
    done = rlx("stage=pretrain", "task=sudoku", "task.empty=8", "model=dense", "--cfg", "job")
    assert done.code == 0, done
    assert "empty: 8" in done.out.replace("'", "")


# Beside another library


def test_our_puzzles_score_there() -> None:
    reasoning_gym = pytest.importorskip("reasoning_gym")
    data = reasoning_gym.create_dataset("sudoku", size=3, seed=1, min_empty=40, max_empty=40)
    task = sudoku(size=9)
    for number in range(3):
        entry = data[number]
        puzzle, solution = (
            "".join(str(digit) for row in entry["metadata"][name] for digit in row) for name in ("puzzle", "solution")
        )
        path = sudoku_solver.solve(tuple(map(int, puzzle)), tuple(map(int, solution)), 9)
        text = task.trace.solution(tuple(map(int, puzzle)), path)
        assert task.verify(problem(puzzle, solution), text).correct
