"""Sudoku's grids, digging and symmetry classes against slow independent ones, and numbers known elsewhere."""

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from statistics import mean

import numpy as np
import pytest

from rlx.errors import ConfigError
from rlx.tasks.base import split_of
from rlx.tasks.sudoku_boards import canonical_puzzles, grid_classes, symmetries
from rlx.tasks.sudoku_generator import (
    HELD_OUT_SHARE,
    Space,
    class_names,
    dig,
    draw_block,
    eased,
    random_grids,
    swaps,
)
from rlx.tasks.sudoku_search import candidates, deduced, digits, other_solutions
from rlx.types import Split
from tests.tasks.sudoku_brute import BOXES, allowed, is_grid, solutions

SIZES = [4, 6, 9]
EMPTY = {4: (3, 12), 6: (10, 27), 9: (30, 81)}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("rlx.tasks.sudoku_generator.BLOCK", {4: 128, 6: 64, 9: 24})
    draw_block.cache_clear()
    yield
    draw_block.cache_clear()


def bits(seed: int = 1) -> np.random.PCG64:
    return np.random.PCG64(seed)


def varied(board: Sequence[int], size: int, random: Random) -> list[int]:
    """A symmetric variant: digits renamed, rows, bands, columns and stacks moved, transposed where boxes are square."""

    def lines(thick: int) -> list[int]:
        bands = [list(range(start, start + thick)) for start in range(0, size, thick)]
        random.shuffle(bands)
        for band in bands:
            random.shuffle(band)
        return [line for band in bands for line in band]

    high, wide = BOXES[size]
    rows, columns = lines(high), lines(wide)
    names = [0, *random.sample(range(1, size + 1), size)]
    square = [[names[board[row * size + column]] for column in columns] for row in rows]
    if high == wide and random.random() < 0.5:
        square = [list(column) for column in zip(*square, strict=True)]
    return [digit for row in square for digit in row]


# Grids and solutions


@pytest.mark.parametrize("size", SIZES)
def test_grids_follow_the_rules(size: int) -> None:
    grids = random_grids(bits(), 30, size)
    assert grids.shape == (30, size * size)
    assert all(is_grid(grid, size) for grid in grids.tolist())
    if size > 4:
        assert len({tuple(grid) for grid in grids.tolist()}) == 30


def test_all_small_grids_come_up_about_equally_often() -> None:
    """There are 288; each is expected 28 times in 8,000 draws, give or take 5."""
    counts = Counter(map(tuple, random_grids(bits(), 8000, 4).tolist()))
    assert len(counts) == 288
    assert 8 <= min(counts.values()) <= max(counts.values()) <= 60


@pytest.mark.parametrize(("size", "count", "clues"), [(4, 60, 4), (6, 40, 14), (9, 12, 38)])
def test_other_solutions_are_found_exactly_where_there_are_some(size: int, count: int, clues: int) -> None:
    grids = random_grids(bits(), count, size)
    random = Random(0)
    puzzles = grids.copy()
    for puzzle in puzzles:
        puzzle[random.sample(range(size * size), size * size - clues - random.randrange(6))] = 0
    boards, known = candidates(puzzles, size), candidates(grids, size)
    others, owners = other_solutions(boards, known, size)
    for number, puzzle in enumerate(puzzles.tolist()):
        assert (number in owners) == (len(solutions(puzzle, size)) > 1)
    for other, owner in zip(digits(others).tolist(), owners.tolist(), strict=True):
        assert is_grid(other, size)
        assert other != grids[owner].tolist()
        assert all(given in (0, digit) for given, digit in zip(puzzles[owner].tolist(), other, strict=True))
    assert 0 < len(set(owners.tolist())) < count


def test_more_boards_than_fit_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = random_grids(bits(), 40, 6)
    puzzles = np.where(np.arange(36) < 18, grids, 0).astype(np.uint8)
    boards, known = candidates(puzzles, 6), candidates(grids, 6)
    whole = set(other_solutions(boards, known, 6)[1].tolist())
    monkeypatch.setattr("rlx.tasks.sudoku_search.WIDTH", 3)
    assert set(other_solutions(boards, known, 6)[1].tolist()) == whole
    assert whole


def test_boards_without_a_solution_are_seen() -> None:
    two_in_a_row = [1, 1] + [0] * 14
    no_candidate = [1, 2, 3, 0, 0, 0, 0, 4] + [0] * 8
    no_place = [1, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0]  # column 1 has no cell left for 1
    boards = candidates(np.array([two_in_a_row, no_candidate, no_place], dtype=np.uint8), 4)
    boards, _ = deduced(boards, 4)
    _, alive = deduced(boards, 4)
    assert not alive.any()
    assert other_solutions(boards, np.zeros_like(boards), 4)[1].tolist() == []


# Digging


@pytest.mark.parametrize("size", SIZES)
def test_swaps_are_other_fillings(size: int) -> None:
    """Emptied, such a set has another solution; without any of its cells, with two digits, none can change."""
    grids = random_grids(bits(), 6 if size == 9 else 20, size)
    sets, owners = swaps(grids, size)
    assert set(owners.tolist()) == set(range(len(grids)))
    for cells, owner in zip(sets, owners.tolist(), strict=True):
        grid = grids[owner].copy()
        first, second = np.unique(grid[cells])
        grid[cells] = first + second - grid[cells]
        assert is_grid(grid.tolist(), size)
        assert not (grid == grids[owner]).all()


@pytest.mark.parametrize(("size", "count"), [(4, 60), (6, 20), (9, 3)])
def test_digging_is_that_of_one_cell_after_the_other(size: int, count: int) -> None:
    """So which techniques puzzles need is not touched by how they are dug."""
    grids = random_grids(bits(), count, size)
    low, high = EMPTY[size]
    dug = dig(grids, bits(7), size, low, high)
    raw = bits(7)
    order = np.argsort(raw.random_raw(count * size * size).reshape(count, -1), axis=1)
    goals = [low + int(draw) % (high - low + 1) for draw in raw.random_raw(count)]
    for number in range(count):
        puzzle = grids[number].tolist()
        for place in order[number].tolist():
            if puzzle.count(0) < goals[number]:
                kept, puzzle[place] = puzzle[place], 0
                others = allowed(puzzle, place, size) - {kept}
                if any(solutions([*puzzle[:place], digit, *puzzle[place + 1 :]], size, 1) for digit in others):
                    puzzle[place] = kept
        assert dug[number].tolist() == puzzle


def test_there_are_36_minimal_puzzles_of_size_4() -> None:
    """Up to symmetry, 13 with 4 givens, 22 with 5 and one with 6 (Arnold, Lucas, Taalman, Groebner Basis
    Representations of Sudoku, 2010, and its sources)."""
    puzzles = dig(random_grids(bits(), 5000, 4), bits(2), 4, 16, 16)
    names = set(canonical_puzzles(puzzles, 4))
    assert Counter(16 - name.count("0") for name in names) == {4: 13, 5: 22, 6: 1}


def test_minimal_puzzles_have_as_many_givens_as_elsewhere() -> None:
    """24.38 in the mean of top-down digging, with a deviation of 1.1 (Berthier, Unbiased Statistics of a CSP, 2009)."""
    puzzles = dig(random_grids(bits(), 100, 9), bits(2), 9, 81, 81)
    assert 24.05 < mean((puzzles > 0).sum(axis=1).tolist()) < 24.7


@pytest.mark.parametrize(("size", "low", "high"), [(4, 12, 12), (4, 1, 3), (6, 25, 25), (9, 40, 50)])
@pytest.mark.usefixtures("small_blocks")
def test_puzzles_have_one_solution_and_the_cells_that_were_asked_for(size: int, low: int, high: int) -> None:
    space = Space(size, low, high)
    for split in (Split.train, Split.val):
        block = draw_block(space, split, 0, 0)
        assert len(block) >= 24
        for puzzle in block[::4]:
            assert low <= puzzle.cells.count(0) <= high
            assert solutions(puzzle.cells, size) == [list(puzzle.solution)]


def test_numbers_of_empty_cells_are_uniform() -> None:
    puzzles = draw_block(Space(6, 10, 17), Split.train, 0, 0)
    counts = Counter(puzzle.cells.count(0) for puzzle in puzzles)
    assert set(counts) == set(range(10, 18))
    assert 40 < min(counts.values()) <= max(counts.values()) < 90


@pytest.mark.usefixtures("small_blocks")
def test_settings_without_puzzles_are_refused() -> None:
    """Grids of size 4 with one cell empty are of two classes; `test` has neither."""
    with pytest.raises(ConfigError, match="no puzzles of test with size=4, 1 or more empty"):
        draw_block(Space(4, 1, 1), Split.test, 0, 0)


def test_eased_puzzles_have_more_givens() -> None:
    grids = random_grids(bits(), 20, 6)
    puzzles = dig(grids, bits(), 6, 24, 36)
    for count in (1, 10, 35):
        easy = eased(puzzles, grids, 6, count)
        for before, after, grid in zip(puzzles, easy, grids, strict=True):
            shown = (after > 0) & (before == 0)
            assert shown.sum() == min(count, (before == 0).sum() - 1)
            assert (after[after > 0] == grid[after > 0]).all()


# Symmetry and splits


def test_there_are_as_many_symmetries_as_known() -> None:
    """Rows: 2 * 2 * 2 with size 4, with size 6 3! * 2^3 and columns 2 * 3!^2; squares can be transposed."""
    assert len(np.unique(symmetries(4), axis=0)) == len(symmetries(4)) == 8 * 8 * 2
    assert len(np.unique(symmetries(6), axis=0)) == len(symmetries(6)) == 48 * 72


def test_there_are_as_many_classes_of_grids_as_known() -> None:
    """2 with size 4 and 49 with size 6; with size 9 nearly every grid is of its own."""
    assert len(set(canonical_puzzles(random_grids(bits(), 100, 4), 4))) == 2
    assert 20 <= len(set(canonical_puzzles(random_grids(bits(), 80, 6), 6))) <= 49
    assert len(set(grid_classes(random_grids(bits(), 500, 9), 9))) == 500


@pytest.mark.parametrize("size", SIZES)
def test_symmetric_puzzles_share_their_class(size: int) -> None:
    random = Random(3)
    grids = random_grids(bits(), 12, size)
    puzzles = dig(grids, bits(), size, *EMPTY[size])
    names = class_names(puzzles, grids, size)
    assert len(set(names)) == 12
    for puzzle, grid, name in zip(puzzles.tolist(), grids.tolist(), names, strict=True):
        for _ in range(8):
            state = random.getstate()
            puzzle_varied = varied(puzzle, size, random)
            random.setstate(state)
            grid_varied = varied(grid, size, random)
            puzzle_board, grid_board = (np.array([board], dtype=np.uint8) for board in (puzzle_varied, grid_varied))
            assert class_names(puzzle_board, grid_board, size) == [name]


def test_classes_of_small_puzzles_are_exact() -> None:
    """They fall together exactly where the least of all renamings and moves of the cells does."""
    puzzles = dig(random_grids(bits(), 300, 4), bits(), 4, 6, 12)

    def least(puzzle: list[int]) -> list[int]:
        variants = []
        for move in symmetries(4).tolist():
            names = {0: 0}
            variants.append([names.setdefault(puzzle[place], len(names)) for place in move])
        return min(variants)

    both = {
        (name, tuple(least(puzzle)))
        for name, puzzle in zip(canonical_puzzles(puzzles, 4), puzzles.tolist(), strict=True)
    }
    assert len(both) == len({name for name, _ in both}) == len({own for _, own in both}) > 100


@pytest.mark.parametrize(("size", "low", "high"), [(4, 8, 12), (6, 20, 24), (9, 30, 40)])
@pytest.mark.usefixtures("small_blocks")
def test_splits_share_no_class(size: int, low: int, high: int) -> None:
    found: dict[Split, set[str]] = {}
    for split in Split:
        for seed in (0, 1):
            block = draw_block(Space(size, low, high), split, seed, 0)
            puzzles, grids = (np.array([puzzle[side] for puzzle in block], dtype=np.uint8) for side in range(2))
            names = class_names(puzzles, grids, size)
            assert {split_of(name, HELD_OUT_SHARE) for name in names} == {split}
            found.setdefault(split, set()).update(names)
    assert not found[Split.train] & found[Split.val] | found[Split.train] & found[Split.test]
    assert not found[Split.val] & found[Split.test]
