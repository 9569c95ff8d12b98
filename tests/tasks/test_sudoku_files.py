"""Puzzles of data files: what is read, what is refused, and what splits and bands they fall into."""

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx.errors import ConfigError
from rlx.tasks.sudoku import Sudoku, SudokuConfig
from rlx.tasks.sudoku_boards import text_of
from rlx.tasks.sudoku_generator import Puzzle, Space, draw_block
from rlx.types import Split


def puzzles(size: int = 4, count: int = 100) -> list[Puzzle]:
    low = {4: 9, 9: 45}[size]
    blocks = (draw_block(Space(size, low, low), split, 0, 0) for split in Split)
    return [puzzle for trio in zip(*blocks, strict=True) for puzzle in trio][:count]


def write(path: Path, header: str, lines: Sequence[str]) -> str:
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def texts(found: Sequence[Puzzle]) -> list[tuple[str, str]]:
    return [(text_of(puzzle.cells), text_of(puzzle.solution)) for puzzle in found]


def task(path: str, **fields: Any) -> Sudoku:
    return SudokuConfig(path=path, **fields).build()


def all_of(found: Sudoku) -> dict[Split, list[Any]]:
    sizes = {split: found.size(split) for split in Split}
    return {split: [found.example(split, index) for index in range(size or 0)] for split, size in sizes.items()}


@pytest.mark.parametrize("header", ["puzzle,solution", "quizzes,solutions", "Puzzle,Solution"])
def test_csv_of_puzzles_and_solutions(tmp_path: Path, header: str) -> None:
    pairs = texts(puzzles())
    found = all_of(task(write(tmp_path / "p.csv", header, [f"{puzzle},{solution}" for puzzle, solution in pairs])))
    assert sorted(example.truth for split in Split for example in found[split]) == sorted(pairs)
    assert all(found.values())


def test_rated_csv_with_dots(tmp_path: Path) -> None:
    pairs = texts(puzzles(9, 60))
    lines = [
        f"{number},{puzzle.replace('0', '.')},{solution},36,{number % 7 / 2}"
        for number, (puzzle, solution) in enumerate(pairs)
    ]
    found = all_of(task(write(tmp_path / "p.csv", "id,puzzle,solution,clues,difficulty", lines), size=9))
    examples = [example for split in Split for example in found[split]]
    assert sorted(example.truth for example in examples) == sorted(pairs)
    ratings = {example.difficulty["rating"] for example in examples}
    assert ratings == {"0", "0.5-1", "1.5-2", "2.5-3"}
    number = pairs.index(examples[0].truth)
    ends = str(examples[0].difficulty["rating"]).split("-")
    assert float(ends[0]) <= number % 7 / 2 <= float(ends[-1])
    assert {example.difficulty["empty"] for example in examples} == {"40-49"}


def test_jsonl_of_puzzles_alone(tmp_path: Path) -> None:
    """Solutions are found; words of a rating are their own bands."""
    pairs = texts(puzzles())
    rows = [{"puzzle": puzzle, "rating": "easy" if number % 2 else "hard"} for number, (puzzle, _) in enumerate(pairs)]
    with gzip.open(tmp_path / "p.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    found = all_of(task(str(tmp_path / "p.jsonl.gz")))
    examples = [example for split in Split for example in found[split]]
    assert sorted(example.truth for example in examples) == sorted(pairs)
    assert {example.difficulty["rating"] for example in examples} == {"easy", "hard"}


def test_splits_are_those_of_drawn_puzzles(tmp_path: Path) -> None:
    by_split = {split: {text_of(p.cells) for p in draw_block(Space(9, 45, 45), split, 0, 0)} for split in Split}
    path = write(tmp_path / "p.csv", "puzzle", [text for text, _ in texts(puzzles(9, 90))])
    for split, examples in all_of(task(path, size=9)).items():
        assert examples
        assert {example.truth[0] for example in examples} <= by_split[split]


def test_order_is_the_seed_s_and_held_out_puzzles_do_not_move(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "puzzle", [text for text, _ in texts(puzzles(4, 300))])
    first, again, other = (all_of(task(path, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first[Split.train] != other[Split.train]
    assert {example.id for example in first[Split.train]} == {example.id for example in other[Split.train]}
    assert (first[Split.val], first[Split.test]) == (other[Split.val], other[Split.test])


def test_rows_and_sizes_are_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "puzzle", [text for text, _ in texts(puzzles(4, 300))] + ["broken"])
    found = task(path, max_rows=300, train_examples=50, val_examples=3)
    assert (found.size(Split.train), found.size(Split.val), found.size(Split.test)) == (50, 3, 100)
    with pytest.raises(IndexError):
        found.example(Split.val, 3)
    with pytest.raises(ConfigError, match=re.escape("p.csv: row 301: expected 16 cells (size=4), got 6")):
        task(path)


def test_boards_take_two_bytes_a_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "puzzle", [text for text, _ in texts(puzzles(4, 300))])
    library = task(path).library
    assert library is not None
    assert library.puzzles.dtype == library.solutions.dtype == np.uint8
    assert library.puzzles.shape == library.solutions.shape == (300, 16)


def test_easy_boards(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "puzzle", [text for text, _ in texts(puzzles(4, 300))])
    found = all_of(task(path, easy=4))
    assert all(example.truth[0].count("0") == 5 for split in Split for example in found[split])


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("puzzle", "12x4" + "0" * 12, "row 301: expected digits 1 to 4, with 0 or . where empty, got '12x4"),
        ("puzzle", "1250" + "0" * 12, "row 301: expected digits 1 to 4"),
        ("puzzle", "0" * 81, "row 301: expected 16 cells (size=4), got 81; try task.size=9"),
        ("puzzle", "1234341221434321", "row 301: expected a puzzle with an empty cell"),
        ("puzzle", "1200" + "0" * 12, "row 301: expected a puzzle with one solution, it has several"),
        ("puzzle", "1100" + "0" * 12, "row 301: expected a puzzle with one solution, it has none"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path: Path, header: str, row: str, message: str) -> None:
    path = write(tmp_path / "p.csv", header, [*(text for text, _ in texts(puzzles(4, 300))), row])
    with pytest.raises(ConfigError, match=re.escape(f"p.csv: {message}")):
        task(path)


def test_a_wrong_solution_is_named(tmp_path: Path) -> None:
    (puzzle, solution), (_, other) = texts(puzzles(4, 2))
    path = write(tmp_path / "p.csv", "puzzle,solution", [f"{puzzle},{other}"])
    with pytest.raises(ConfigError, match=f"row 1: expected the puzzle's solution {solution}, got '{other}'"):
        task(path)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("board", ["1"], "expected a column puzzle or quizzes or quiz, got board"),
        ("puzzle", [], "has no rows"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    path = write(tmp_path / "p.csv", header, rows)
    with pytest.raises(ConfigError, match=message):
        task(path)


def test_a_file_for_one_split_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "puzzle", [text for text, _ in texts(puzzles(4, 1))])
    with pytest.raises(ConfigError, match="none of its 1 puzzles is in val"):
        task(path)


def test_ratings_of_many_words_are_refused(tmp_path: Path) -> None:
    lines = [f"{text},word{number}" for number, (text, _) in enumerate(texts(puzzles()))]
    path = write(tmp_path / "p.csv", "puzzle,difficulty", lines)
    with pytest.raises(ConfigError, match="expected ratings that are numbers, or at most 12 words; got 100 different"):
        task(path)
    path = write(tmp_path / "q.csv", "puzzle,difficulty", [f"{text},nan" for text, _ in texts(puzzles())])
    with pytest.raises(ConfigError, match="expected a rating in every row, got 'nan'"):
        task(path)
    path = write(tmp_path / "r.csv", "puzzle,difficulty", [f"{text}," for text, _ in texts(puzzles())])
    with pytest.raises(ConfigError, match="expected a rating in every row, got none in row 1"):
        task(path)
