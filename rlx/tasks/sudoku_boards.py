"""Boards of Sudoku: their cells and units, their symmetries, and names that symmetric puzzles share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlx.tasks.base import stable_hash

Cells = NDArray[np.uint8]
"""Boards as digits, 0 where empty: [M, N] of M boards with N cells each, in reading order."""
Ints = NDArray[np.int64]

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box, by the board's size."""
GRIDS_ENOUGH = 9
"""From this size on, there are so many grids that whole classes of grids are held out."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Rows, columns and boxes of a board with `size` rows."""

    size: int
    units: tuple[tuple[int, ...], ...]
    """Cells of the rows, then the columns, then the boxes."""
    units_of: tuple[tuple[int, int, int], ...]
    """Row, column and box of each cell, as places in `units`."""
    peers: tuple[tuple[int, ...], ...]
    """The other cells in the units of each cell, ascending."""

    @property
    def cells(self) -> int:
        return self.size * self.size


@lru_cache
def geometry(size: int) -> Geometry:
    """The geometry of boards with `size` rows, one of `BOXES`."""
    high, wide = BOXES[size]
    cells = list(product(range(size), range(size)))
    box_of = {(row, column): row // high * high + column // wide for row, column in cells}
    kinds = ([row for row, _ in cells], [column for _, column in cells], [box_of[cell] for cell in cells])
    units = [tuple(cell for cell, own in enumerate(kind) if own == unit) for kind in kinds for unit in range(size)]
    units_of = [(row, size + column, 2 * size + box_of[row, column]) for row, column in cells]
    peers = [tuple(sorted({c for u in own for c in units[u]} - {cell})) for cell, own in enumerate(units_of)]
    return Geometry(size, tuple(units), tuple(units_of), tuple(peers))


def text_of(cells: Sequence[int]) -> str:
    """A board as its digits in reading order, 0 where empty."""
    return "".join(map(str, cells))


# Symmetries


@lru_cache
def symmetries(size: int) -> Ints:
    """Every way to move the cells of a board that keeps its units, [S, N]: cell i of the result is cell [s, i].

    Rows move within their band, bands, columns within their stack, stacks; with square boxes rows and columns change
    places too. Not for the largest boards, which have more than a million.
    """
    high, wide = BOXES[size]
    lines = [_line_orders(size, thick) for thick in (high, wide)]
    moves = [[row * size + column for row in rows for column in columns] for rows, columns in product(*lines)]
    found = np.array(moves)
    if high == wide:
        turned = found.reshape(-1, size, size).transpose(0, 2, 1).reshape(found.shape)
        found = np.concatenate([found, turned])
    return found


def _line_orders(size: int, thick: int) -> list[list[int]]:
    """The orders of rows (or columns) that keep bands of `thick` together."""
    bands = [range(start, start + thick) for start in range(0, size, thick)]
    return [
        [line for band in order for line in band]
        for outer in permutations(bands)
        for order in product(*(list(permutations(band)) for band in outer))
    ]


def canonical_puzzles(puzzles: Cells, size: int) -> list[str]:
    """The least of each puzzle's symmetric variants, digits renamed in order of appearance: equal for symmetric ones.

    Among the symmetries those are taken that put the givens last; then the text decides.
    """
    moves = symmetries(size)
    patterns = (puzzles > 0) @ _pattern_weights(size)  # [M, S], exact below 2^53
    best = patterns.max(axis=1)
    names: list[str] = []
    for puzzle, pattern, highest in zip(puzzles, patterns, best, strict=True):
        variants: list[list[int]] = puzzle[moves[pattern == highest]].tolist()
        names.append(text_of(min(_renamed(variant) for variant in variants)))
    return names


@lru_cache
def _pattern_weights(size: int) -> NDArray[np.float64]:
    """What each cell's given adds to the number of the pattern that a symmetry makes of it, [N, S]: 2^i in cell i."""
    moves = symmetries(size)
    weights = np.zeros((moves.shape[1], len(moves)))
    weights[moves, np.arange(len(moves))[:, None]] = 2.0 ** np.arange(moves.shape[1])
    return weights


def _renamed(cells: Sequence[int]) -> list[int]:
    """The digits renamed 1, 2, ... in order of appearance; 0 stays."""
    names = {0: 0}
    return [names.setdefault(digit, len(names)) for digit in cells]


# Classes of grids: cheap, equal for symmetric grids, and nearly always different for others


def grid_classes(grids: Cells, size: int) -> list[str]:
    """A name for the symmetry class of each full grid: equal for all grids that symmetries make of one.

    Two rows give a permutation of the digits; its cycles do not change when digits are renamed or columns moved. The
    name is made of the cycles of all pairs of rows, by bands, and the same of columns, in either order where boxes are
    square.
    """
    high, wide = BOXES[size]
    square = grids.reshape(-1, size, size)
    rows, columns = _line_names(square, high), _line_names(square.transpose(0, 2, 1), wide)
    if high == wide:
        rows, columns = np.minimum(rows, columns), np.maximum(rows, columns)
    return [f"{row:x}-{column:x}" for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]


def _line_names(lines: Cells, thick: int) -> NDArray[np.uint64]:
    """What the cycles between the rows of lines [M, rows, columns] say, a hash: [M]."""
    size = lines.shape[1]
    places = np.argsort(lines, axis=2)  # column of each digit in each row
    pairs = [(a, b) for a in range(size) for b in range(a + 1, size)]
    first, second = (np.array([pair[side] for pair in pairs]) for side in range(2))
    step = np.take_along_axis(lines[:, second] - 1, places[:, first], axis=2)  # [M, pairs, digits]
    power, own = step, np.arange(size, dtype=step.dtype)
    cycles = np.zeros(step.shape[:2], dtype=np.int64)
    for _ in range(size // 2 - 1):  # digits that come back after 2, 3, ... steps: they tell all cycles apart
        power = np.take_along_axis(step, power.astype(np.int64), axis=2)
        cycles = cycles * (size + 1) + (power == own).sum(axis=2)
    hashed = _mixed(cycles.astype(np.uint64))
    name = np.zeros(len(lines), dtype=np.uint64)
    for bands in range(0, size, thick):
        for others in range(bands, size, thick):
            inside = (first // thick == bands // thick) & (second // thick == others // thick)
            name += _mixed(hashed[:, inside].sum(axis=1) + np.uint64(bands == others))
    return name


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64-bit numbers that look random (the finalizer of splitmix64)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def random_order(raw: NDArray[Any]) -> Ints:
    """The order that sorts raw bits [..., K]: uniform among all orders."""
    return np.argsort(raw, axis=-1, kind="stable")


def seeded(*parts: object) -> np.random.PCG64:
    """Raw bits for the parts: the same in every numpy version, which methods of Generator need not be."""
    return np.random.PCG64(stable_hash("sudoku", *parts))
