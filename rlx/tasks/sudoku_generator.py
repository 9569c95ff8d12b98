"""Random Sudoku puzzles with one solution, a block at a time; the rules: `rlx/tasks/sudoku.py`."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, takewhile
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlx.errors import ConfigError
from rlx.tasks.base import split_of, stable_hash
from rlx.tasks.sudoku_boards import (
    BOXES,
    GRIDS_ENOUGH,
    Cells,
    Ints,
    canonical_puzzles,
    geometry,
    grid_classes,
    random_order,
    seeded,
    text_of,
)
from rlx.tasks.sudoku_search import COUNTS, Bits, Bools, candidates, deduced, digits, other_solutions
from rlx.tasks.sudoku_solver import solve
from rlx.types import Split

BLOCK = {4: 1024, 6: 512, 9: 256}
"""Examples drawn together, by size; reading one costs as much as reading all of its block."""
HELD_OUT_SHARE = 8
"""One in so many classes belongs to `val`, one to `test`: small boards have few, and large ones can spare them."""
FIRST_STEP = {4: 6, 6: 18, 9: 42}
"""Cells emptied before the solution is first looked at, by size: nearly always it is still the only one."""
STEP = {4: 2, 6: 2, 9: 2}
"""Cells emptied from one look to the next."""
DRAWN = {Split.train: HELD_OUT_SHARE / (HELD_OUT_SHARE - 2), Split.val: HELD_OUT_SHARE, Split.test: HELD_OUT_SHARE}
"""Grids drawn for each that is of the split."""
SPARE = 16
"""Grids drawn beyond these."""
MAX_ROUNDS = 5
"""Rounds of candidates without a single puzzle after which a setting is refused: some seconds."""


class Puzzle(NamedTuple):
    """Digits in reading order, 0 where empty."""

    cells: tuple[int, ...]
    solution: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """The settings that decide which puzzles there are."""

    size: int
    low: int
    high: int
    """The range that the number of empty cells is drawn from; digging may end between."""
    easy: int = 0
    """Cells given afterwards."""

    @property
    def fewest(self) -> int:
        """Empty cells of a puzzle, at least, before some are given: none need be reached where all cells are tried."""
        return self.low if self.low < self.size**2 else 1


@lru_cache(maxsize=32)
def draw_block(space: Space, split: Split, seed: int, block: int) -> tuple[Puzzle, ...]:
    """A block of puzzles, a pure function of the arguments; `easy` adds givens to puzzles that are there without it.

    Raises:
        ConfigError: no puzzle of the split turns up.
    """
    bits = seeded(space.size, space.low, space.high, split.value, seed, block)
    found: list[Puzzle] = []
    wanted, idle = BLOCK[space.size], 0
    while len(found) < wanted:
        grids = random_grids(bits, int((wanted - len(found)) * DRAWN[split]) + SPARE, space.size)
        if space.size >= GRIDS_ENOUGH:
            grids = grids[_of_split(grid_classes(grids, space.size), split)]
        puzzles = dig(grids, bits, space.size, space.low, space.high)
        dug = (puzzles == 0).sum(axis=1) >= space.fewest
        grids, puzzles = grids[dug], puzzles[dug]
        puzzles = eased(puzzles, grids, space.size, space.easy)
        if space.size < GRIDS_ENOUGH:
            kept = _of_split(canonical_puzzles(puzzles, space.size), split)
            grids, puzzles = grids[kept], puzzles[kept]
        found += [Puzzle(tuple(p), tuple(s)) for p, s in zip(puzzles.tolist(), grids.tolist(), strict=True)]
        idle = 0 if len(puzzles) else idle + 1
        if idle == MAX_ROUNDS:
            raise ConfigError(
                f"task=sudoku found (almost) no puzzles of {split.value} with size={space.size}, "
                f"{space.fewest} or more empty cells and easy={space.easy}; try task.empty=null"
            )
    return tuple(found[:wanted])


def eased(puzzles: Cells, solutions: Cells, size: int, count: int) -> Cells:
    """Puzzles [M, N] with `count` more cells given: the first deductions, and random cells where they do not suffice.

    One cell at least stays empty.
    """
    if not count:
        return puzzles
    puzzles = puzzles.copy()
    for puzzle, solution in zip(puzzles, solutions, strict=True):
        cells = tuple(puzzle.tolist())
        path = solve(cells, tuple(solution.tolist()), size)
        deduced = [placed.cell for placed in takewhile(lambda placed: not placed.choices, path)]
        draw = Random(stable_hash("sudoku easy", text_of(cells))).random
        others = sorted((draw(), cell) for cell in sorted({placed.cell for placed in path} - set(deduced)))
        shown = [*deduced, *(cell for _, cell in others)][: min(count, len(path) - 1)]
        puzzle[shown] = solution[shown]
    return puzzles


def class_names(puzzles: Cells, solutions: Cells, size: int) -> list[str]:
    """What decides the split of each puzzle: the class of its grid on the largest boards, else of the puzzle."""
    return grid_classes(solutions, size) if size >= GRIDS_ENOUGH else canonical_puzzles(puzzles, size)


def _of_split(names: list[str], split: Split) -> Bools:
    return np.array([split_of(name, HELD_OUT_SHARE) is split for name in names], dtype=np.bool_)


def random_grids(bits: np.random.PCG64, count: int, size: int) -> Cells:
    """Full grids [count, N].

    The boxes on the diagonal are random; then a cell with fewest candidates takes a random one, again and again, and a
    contradiction begins anew. All grids can come up, nearly equally often.
    """
    grids = np.empty((count, size * size), dtype=np.uint8)
    left = np.arange(count, dtype=np.int64)
    boards = candidates(_diagonals(bits, count, size), size)
    while len(left):
        after, alive = deduced(boards, size)
        counts = COUNTS[after]
        still = alive & (after == boards).all(axis=0)
        solved = still & (counts == 1).all(axis=0)
        grids[left[solved]] = digits(after[:, solved])
        stuck = still & ~solved
        after[:, stuck] = _guessed(bits, after[:, stuck], counts[:, stuck])
        after[:, ~alive] = candidates(_diagonals(bits, int((~alive).sum()), size), size)
        boards, left = after[:, ~solved], left[~solved]
    return grids


def _diagonals(bits: np.random.PCG64, count: int, size: int) -> Cells:
    """Boards [count, N] whose boxes on the diagonal hold random digits: they do not see each other."""
    high, wide = BOXES[size]
    boards = np.zeros((count, size, size), dtype=np.uint8)
    for box in range(min(size // high, size // wide)):
        order = random_order(_raw(bits, count, size)) + 1
        boards[:, high * box : high * (box + 1), wide * box : wide * (box + 1)] = order.reshape(count, high, wide)
    return boards.reshape(count, size * size)


def _guessed(bits: np.random.PCG64, boards: Bits, counts: NDArray[np.uint8]) -> Bits:
    """The boards with a random candidate in the first cell of those with fewest."""
    cells = np.where(counts == 1, np.uint8(255), counts).argmin(axis=0)
    columns = np.arange(boards.shape[1], dtype=np.int64)
    left = boards[cells, columns]
    passed = _raw(bits, len(columns), 1)[:, 0] % COUNTS[left]
    for number in range(int(passed.max(initial=0))):
        left = np.where(passed > number, left & (left - np.uint16(1)), left)
    boards[cells, columns] = left & (~left + np.uint16(1))
    return boards


def dig(grids: Cells, bits: np.random.PCG64, size: int, low: int, high: int) -> Cells:
    """Puzzles [M, N]: cells of the grids are emptied in random order, each unless another solution appears.

    A puzzle ends at a number of empty cells drawn from `low` to `high`, or when no cell is left to try. Cells are not
    tried one by one: a cell stays exactly when it is the last of a set of cells that can be filled differently and
    whose other cells are empty. Some such sets are known beforehand (`swaps`). They say which cells would stay if there
    were no others. If the puzzle so far has one solution, that was right; if not, the cells at which another solution
    differs are a new set.
    """
    order = random_order(_raw(bits, *grids.shape))
    wanted = (low + (_raw(bits, len(grids), 1)[:, 0] % np.uint64(high - low + 1)).astype(np.int64)).tolist()
    known = candidates(grids, size)
    full = np.uint16(2**size - 1)
    sets: list[set[int]] = [set() for _ in wanted]
    _add(sets, order, *swaps(grids, size))
    nexts = [min(goal, FIRST_STEP[size]) for goal in wanted]
    empty = np.zeros(grids.shape, dtype=np.bool_)
    rows = list(range(len(grids)))
    while rows:
        empty[rows] = False
        tried = [_emptied(sets[row], grids.shape[1], nexts[row]) for row in rows]
        for row, turns in zip(rows, tried, strict=True):
            empty[row, order[row, turns]] = True
        own = known[:, rows]
        others, owners = other_solutions(np.where(empty[rows].T, full, own), own, size)
        _add(sets, order, (others != own[:, owners]).T, np.array(rows)[owners])
        open_ = set(owners.tolist())
        left: list[int] = []
        for place, (row, turns) in enumerate(zip(rows, tried, strict=True)):
            if place not in open_:
                if len(turns) < nexts[row] or len(turns) == wanted[row]:
                    continue  # no cell is left to try, or as many are empty as are wanted
                nexts[row] = min(wanted[row], nexts[row] + STEP[size])
            left.append(row)
        rows = left
    return np.where(empty, np.uint8(0), grids)


def _add(sets: list[set[int]], order: Ints, cells: Bools, owners: Ints) -> None:
    """Put sets of cells [K, N], with the boards [K] they belong to, where they belong: a bit for each cell's turn."""
    turns = np.take_along_axis(cells, order[owners], axis=1)
    packed: Cells = np.packbits(turns, axis=1, bitorder="little")
    for number, owner in enumerate(owners.tolist()):
        sets[int(owner)].add(int.from_bytes(packed[number].tobytes(), "little"))


def _emptied(sets: set[int], cells: int, goal: int) -> list[int]:
    """The turns, in order and at most `goal` of them, at which a cell is emptied."""
    stays = 0
    for cells_of in sorted(sets):  # by the last turn of each
        if not cells_of & stays:
            stays |= 1 << cells_of.bit_length() - 1
    return [turn for turn in range(cells) if not stays >> turn & 1][:goal]


def swaps(grids: Cells, size: int) -> tuple[Bools, Ints]:
    """Sets of cells [K, N] of grids [M, N] in which two digits can change places; and which grid's each is [K].

    Digits a and b have a cell each in every row. Rows hang together when the a of one and the b of the other share a
    column or a box: in the rows that hang together a and b can change places.
    """
    count, cells, boards = len(grids), np.arange(size * size), np.arange(len(grids))[:, None]
    kinds = np.array(geometry(size).units_of).T % size  # row, column and box of each cell, from 0
    cell_of, row_in_column, row_in_box = (np.empty((count, size, size), dtype=np.int64) for _ in range(3))
    cell_of[boards, grids - 1, kinds[0]] = cells  # [M, digit, row]
    row_in_column[boards, grids - 1, kinds[1]] = kinds[0]
    row_in_box[boards, grids - 1, kinds[2]] = kinds[0]
    pairs = np.array(list(combinations(range(size), 2)))
    first, second = (cell_of[:, pairs[:, side]] for side in range(2))  # [M, pairs, rows]
    steps = [
        np.take_along_axis(row_in[:, pairs[:, 1]], kind[first], axis=2)
        for row_in, kind in ((row_in_column, kinds[1]), (row_in_box, kinds[2]))
    ]
    lead = np.broadcast_to(np.arange(size), first.shape)  # the first row of those that a row hangs together with
    while True:
        before = lead
        for step in steps:
            lead = np.minimum(lead, np.take_along_axis(lead, step, axis=2))
        if (lead == before).all():
            break
    grid, pair, row = np.nonzero(lead == np.arange(size))
    inside = lead[grid, pair] == row[:, None]  # [K, rows]
    sets = np.zeros((len(grid), size * size + 1), dtype=np.bool_)
    for side in (first, second):
        sets[np.arange(len(grid))[:, None], np.where(inside, side[grid, pair], size * size)] = True
    return sets[:, :-1], grid


def _raw(bits: np.random.PCG64, count: int, width: int) -> NDArray[np.uint64]:
    return np.asarray(bits.random_raw(count * width), dtype=np.uint64).reshape(count, width)
