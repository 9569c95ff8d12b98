"""Sudoku puzzles of a data file, each checked; the rules: `rlx/tasks/sudoku.py`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlx.errors import ConfigError
from rlx.rows import fingerprint, rows
from rlx.tasks.base import split_of
from rlx.tasks.sudoku_boards import Cells, Ints, seeded
from rlx.tasks.sudoku_generator import HELD_OUT_SHARE, Puzzle, class_names, eased
from rlx.tasks.sudoku_search import candidates, digits, other_solutions
from rlx.types import Split

PUZZLE = ("puzzle", "quizzes", "quiz")
SOLUTION = ("solution", "solutions")
RATING = ("difficulty", "rating")
"""Names of the columns, any case."""
CHUNK = 4096
"""Rows checked together."""
BANDS = 4
"""Bands that numbers of a rating fall into, equally full where that can be."""
MOST_NAMES = 12
"""Different words that a rating may be."""


@dataclass(frozen=True, slots=True)
class Library:
    """The puzzles of a file: two bytes a cell and one more for the rating."""

    puzzles: Cells
    solutions: Cells
    ratings: NDArray[np.uint8] | None
    """Places in `bands`; None where the file has no ratings."""
    bands: tuple[str, ...]
    rows: dict[Split, Ints]
    """Which puzzles are in a split, in the order of the file."""

    def at(self, number: int) -> tuple[Puzzle, str | None]:
        """A puzzle of the file, and its rating's band."""
        puzzle = Puzzle(tuple(self.puzzles[number].tolist()), tuple(self.solutions[number].tolist()))
        return puzzle, None if self.ratings is None else self.bands[int(self.ratings[number])]

    def order(self, split: Split, seed: int) -> Ints:
        """The split's puzzles in the order of its stream."""
        own = self.rows[split]
        raw = seeded("file", split.value, seed).random_raw(len(own))
        return own[np.argsort(np.asarray(raw), kind="stable")]


def load(path: str, size: int, easy: int, max_rows: int | None) -> Library:
    """The file's first `max_rows` puzzles (all, where that is None), read once in a process.

    Raises:
        ConfigError: a column is missing, a row is no puzzle with one solution, or all are of one split.
    """
    return _load(path, fingerprint(path), size, easy, max_rows)


@lru_cache(maxsize=4)
def _load(path: str, _content: str, size: int, easy: int, max_rows: int | None) -> Library:
    puzzles: list[Cells] = []
    solutions: list[Cells] = []
    ratings: list[str] = []
    splits: list[NDArray[np.uint8]] = []
    order = list(Split)
    read = 0
    for chunk in _chunks(islice(rows(path), max_rows)):
        columns = _columns(path, chunk[0])
        where = [f"{path}: row {read + number}" for number in range(1, len(chunk) + 1)]
        given = _boards([row.get(columns[0]) for row in chunk], where, size)
        solved = _solved(given, where, size)
        if columns[1]:
            _check_solutions([row.get(columns[1]) for row in chunk], solved, where)
        if columns[2]:
            ratings += [str(row.get(columns[2])).strip() for row in chunk]
        given = eased(given, solved, size, easy)
        puzzles.append(given)
        solutions.append(solved)
        names = class_names(given, solved, size)
        splits.append(np.array([order.index(split_of(name, HELD_OUT_SHARE)) for name in names], dtype=np.uint8))
        read += len(chunk)
    if not puzzles:
        raise ConfigError(f"{path} has no rows; expected columns puzzle, and solution and difficulty if known")
    split = np.concatenate(splits)
    found = {each: np.flatnonzero(split == number) for number, each in enumerate(order)}
    for each, own in found.items():
        if not len(own):
            raise ConfigError(
                f"{path}: none of its {read} puzzles is in {each.value} (a hash of the puzzle decides; val and test "
                f"have one in {HELD_OUT_SHARE} each); give a file with more of them"
            )
    bands, places = _banded(path, ratings) if ratings else ((), None)
    return Library(np.concatenate(puzzles), np.concatenate(solutions), places, bands, found)


def _chunks(found: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    left = iter(found)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def _columns(path: str, row: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """Names of the columns with puzzles, solutions and ratings."""
    by_name = {name.strip().lower(): name for name in row}
    puzzle, solution, rating = (
        next((by_name[name] for name in names if name in by_name), None) for names in (PUZZLE, SOLUTION, RATING)
    )
    if puzzle is None:
        raise ConfigError(f"{path}: expected a column {' or '.join(PUZZLE)}, got {', '.join(row)}")
    return puzzle, solution, rating


def _boards(texts: Sequence[Any], where: Sequence[str], size: int) -> Cells:
    """Puzzles as digits [M, N]."""
    wanted = set("0123456789"[: size + 1])
    plain: list[str] = []
    for text, place in zip(texts, where, strict=True):
        board = str(text).strip().replace(".", "0")
        if len(board) != size * size:
            sizes = {16: 4, 36: 6, 81: 9}
            hint = f"; try task.size={sizes[len(board)]}" if len(board) in sizes else ""
            raise ConfigError(f"{place}: expected {size * size} cells (size={size}), got {len(board)}{hint}")
        if not wanted.issuperset(board):
            raise ConfigError(f"{place}: expected digits 1 to {size}, with 0 or . where empty, got {_told(board)}")
        if "0" not in board:
            raise ConfigError(f"{place}: expected a puzzle with an empty cell, got a full board")
        plain.append(board)
    return (np.frombuffer("".join(plain).encode(), dtype=np.uint8) - ord("0")).reshape(len(plain), -1)


def _solved(puzzles: Cells, where: Sequence[str], size: int) -> Cells:
    """The only solutions of puzzles."""
    boards = candidates(puzzles, size)
    found, owners = other_solutions(boards, np.zeros_like(boards), size)
    solutions = np.zeros_like(boards)
    solutions[:, owners] = found
    for number in np.flatnonzero((solutions == 0).any(axis=0)).tolist():
        raise ConfigError(f"{where[number]}: expected a puzzle with one solution, it has none")
    _, owners = other_solutions(boards, solutions, size)
    for number in owners.tolist():
        raise ConfigError(f"{where[number]}: expected a puzzle with one solution, it has several")
    return digits(solutions)


def _check_solutions(texts: Sequence[Any], solved: Cells, where: Sequence[str]) -> None:
    own = [bytes(row).decode() for row in solved + ord("0")]
    for text, solution, place in zip(texts, own, where, strict=True):
        if str(text).strip() != solution:
            raise ConfigError(f"{place}: expected the puzzle's solution {solution}, got {_told(str(text).strip())}")


def _told(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:97]}...")


def _banded(path: str, ratings: list[str]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Names of the ratings' bands, and the band of each: words are their own, numbers fall into up to four."""
    if not all(ratings):
        raise ConfigError(f"{path}: expected a rating in every row, got none in row {ratings.index('') + 1}")
    try:
        numbers = np.array([float(rating) for rating in ratings])
    except ValueError:
        names = sorted(set(ratings))
        if len(names) > MOST_NAMES:
            raise ConfigError(
                f"{path}: expected ratings that are numbers, or at most {MOST_NAMES} words; got {len(names)} different"
            ) from None
        return tuple(names), np.array([names.index(rating) for rating in ratings], dtype=np.uint8)
    if not np.isfinite(numbers).all():
        raise ConfigError(
            f"{path}: expected a rating in every row, got {ratings[int(np.isfinite(numbers).argmin())]!r}"
        )
    ranked = np.sort(numbers)
    lows = np.unique(ranked[[len(ranked) * band // BANDS for band in range(BANDS)]])
    places = (np.searchsorted(lows, numbers, side="right") - 1).astype(np.uint8)
    highs = [numbers[places == band].max() for band in range(len(lows))]
    names = [f"{low:g}-{high:g}" if high > low else f"{low:g}" for low, high in zip(lows, highs, strict=True)]
    return tuple(names), places
