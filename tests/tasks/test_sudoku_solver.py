"""Sudoku's techniques on hand-worked positions, and its search against the rules, read anew here."""

import re
from collections import Counter
from itertools import islice

import pytest

from rlx.tasks import sudoku_solver
from rlx.tasks.sudoku_generator import Space, draw_block
from rlx.tasks.sudoku_solver import (
    Act,
    Board,
    Strategy,
    cell_digits,
    deduce,
    events_of,
    guess_band,
    hardest,
    hidden_singles,
    locked_candidates,
    masks,
    naked_pairs,
    naked_triplets,
    search,
    solve,
    start,
    unique_rectangles,
    xy_wings,
)
from rlx.types import Split
from tests.tasks.sudoku_brute import allowed, near, solutions

EASY = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
HARD = "800000000003600000070090200050007000000045700000100030001000068008500010090000400"
"""From Wikipedia's article (singles solve it), and Arto Inkala's of 2012 (needs guesses)."""


def cells(text: str) -> tuple[int, ...]:
    return tuple(map(int, text))


def board(size: int, **limited: str) -> int:
    """Candidates: all digits everywhere, save that cell rXcY (from 0) has those of the text."""
    own = masks(size)
    found = (1 << size * own.cells) - 1
    for name, digits in limited.items():
        cell = int(name[1]) * size + int(name[3])
        for digit in range(size):
            if str(digit + 1) not in digits:
                found &= ~(1 << digit * own.cells + cell)
    return found


def lost(bits: int, candidates: int, size: int) -> set[tuple[int, int, int]]:
    """(row, column, digit) of the bits that the board has."""
    own = masks(size)
    return {
        (cell // size, cell % size, digit + 1)
        for digit in range(size)
        for cell in range(own.cells)
        if (bits & candidates) >> digit * own.cells + cell & 1
    }


def places(*found: tuple[list[int], list[int], list[int]]) -> set[tuple[int, int, int]]:
    return {
        (row, column, digit)
        for rows, columns, digits in found
        for row in rows
        for column in columns
        for digit in digits
    }


# Techniques


def test_hidden_single() -> None:
    """1 is left in one cell of column 2."""
    own = masks(4)
    position = board(4, r0c2="234", r1c2="234", r3c2="234")
    found = hidden_singles(position, own)
    assert found is not None
    assert lost(found, position, 4) == {(2, 2, 1)}
    assert hidden_singles(position & ~(1 << 2 * 4 + 2), own) is None


def test_naked_pair() -> None:
    """1 and 2 go into row 0, columns 0 and 1, which are one box too."""
    position = board(9, r0c0="12", r0c1="12", r5c5="12")
    expected = places(([0], list(range(2, 9)), [1, 2]), ([1, 2], [0, 1, 2], [1, 2]))
    assert lost(naked_pairs(position, masks(9)), position, 9) == expected
    apart = board(9, r0c0="12", r4c4="12", r0c1="13")
    assert lost(naked_pairs(apart, masks(9)), apart, 9) == set()


def test_naked_triplet() -> None:
    """1, 2 and 3 go into three cells of column 4 though none has all of them."""
    position = board(9, r0c4="12", r4c4="23", r8c4="13")
    expected = places(([1, 2, 3, 5, 6, 7], [4], [1, 2, 3]))
    assert lost(naked_triplets(position, masks(9)), position, 9) == expected
    four = board(9, r0c4="12", r4c4="23", r8c4="14")
    assert lost(naked_triplets(four, masks(9)), four, 9) == set()


def test_locked_candidate_from_box_to_line_and_back() -> None:
    no_five = "12346789"
    pointing = board(9, **{f"r{row}c{column}": no_five for row in (1, 2) for column in range(3)})
    assert lost(locked_candidates(pointing, masks(9)), pointing, 9) == places(([0], list(range(3, 9)), [5]))
    claiming = board(9, **{f"r0c{column}": no_five for column in range(3, 9)})
    assert lost(locked_candidates(claiming, masks(9)), claiming, 9) == places(([1, 2], [0, 1, 2], [5]))


def test_xy_wing() -> None:
    """Whatever row 0, column 0 is, one of the others is 3: row 4, column 4 sees both."""
    position = board(9, r0c0="12", r0c4="13", r4c0="23")
    assert lost(xy_wings(position, masks(9)), position, 9) == {(4, 4, 3)}
    boxed = board(9, r0c0="12", r1c1="13", r0c5="23")
    expected = places(([1], [3, 4, 5], [3]), ([0], [1, 2], [3]))
    assert lost(xy_wings(boxed, masks(9)), boxed, 9) == expected
    for other in (board(9, r0c0="12", r0c4="13", r4c1="23"), board(9, r0c0="12", r0c4="13", r4c0="24")):
        assert lost(xy_wings(other, masks(9)), other, 9) == set()
    same_digit = board(9, r0c0="12", r0c4="13", r4c0="13")
    assert lost(xy_wings(same_digit, masks(9)), same_digit, 9) == set()


def test_unique_rectangle() -> None:
    position = board(9, r0c0="12", r0c3="12", r1c0="12", r1c3="125")
    assert lost(unique_rectangles(position, masks(9)), position, 9) == {(1, 3, 1), (1, 3, 2)}
    four_boxes = board(9, r0c0="12", r0c3="12", r3c0="12", r3c3="125")
    one_box = board(9, r0c0="12", r0c1="12", r1c0="12", r1c1="125")
    no_pair = board(9, r0c0="12", r0c3="12", r1c0="12", r1c3="156")
    for other in (four_boxes, one_box, no_pair):
        assert lost(unique_rectangles(other, masks(9)), other, 9) == set()


# Deduction


def singles(puzzle: tuple[int, ...], size: int, *, lone_only: bool = False) -> list[tuple[int, int, int]]:
    """(cell, digit, strategy) by lone and hidden singles in rounds; with lists and sets, nothing shared with rlx."""
    grid, found = list(puzzle), []
    while True:
        options = {place: allowed(grid, place, size) for place, digit in enumerate(grid) if not digit}
        ready = [(place, min(digits), 2) for place, digits in options.items() if len(digits) == 1]
        if not ready and not lone_only:
            units = [[size * a + b for b in range(size)] for a in range(size)]
            units += [[size * b + a for b in range(size)] for a in range(size)]
            units += [sorted({place, *(other for other in near(place, size) if same_box(place, other, size))})
                      for place in range(size * size)]  # fmt: skip
            hidden = set()
            for unit in units:
                for digit in range(1, size + 1):
                    fitting = [place for place in unit if digit in options.get(place, ())]
                    if len(fitting) == 1 and digit not in [grid[place] for place in unit]:
                        hidden.add((fitting[0], digit, 3))
            ready = sorted(hidden)
        if not ready:
            return found
        for place, digit, strategy in ready:
            grid[place] = digit
            found.append((place, digit, strategy))


def same_box(place: int, other: int, size: int) -> bool:
    high, wide = {4: (2, 2), 6: (2, 3), 9: (3, 3)}[size]
    (r, c), (s, d) = divmod(place, size), divmod(other, size)
    return (r // high, c // wide) == (s // high, d // wide)


@pytest.mark.parametrize("space", [Space(4, 12, 12), Space(6, 20, 20), Space(9, 48, 48)], ids=lambda s: str(s.size))
def test_singles_are_placed_in_rounds_of_reading_order(space: Space) -> None:
    compared = 0
    for puzzle in islice(draw_block(space, Split.train, 0, 0), 40):
        path = [(p.cell, p.digit, int(p.strategy)) for p in solve(puzzle.cells, puzzle.solution, space.size)]
        expected = singles(puzzle.cells, space.size)
        if len(expected) == len(path):
            assert path == expected
            compared += 1
        lone = deduce(start(puzzle.cells, space.size), space.size, singles_only=True)
        assert [(p.cell, p.digit, int(p.strategy)) for p in lone.placed] == singles(
            puzzle.cells, space.size, lone_only=True
        )
    assert compared > 20


def test_known_puzzles_are_as_hard_as_known() -> None:
    (solution,) = solutions(cells(EASY), 9)
    path = solve(cells(EASY), tuple(solution), 9)
    assert hardest(path) <= Strategy.hidden_single
    assert guess_band(path) == "0"
    (solution,) = solutions(cells(HARD), 9)
    assert guess_band(solve(cells(HARD), tuple(solution), 9)) == "2+"


def test_a_contradiction_is_named() -> None:
    two = cells("1123" + "0" * 12)
    assert deduce(start(two, 4), 4).contradiction is not None
    own = masks(4)
    whole = (1 << 4 * own.cells) - 1
    no_candidate = Board(board(4, r2c1=""), 0)
    found = deduce(no_candidate, 4).contradiction
    assert found is not None and (found.act, found.cell) == (Act.nocand, 9)
    no_place = whole & ~(15 | 15 << 4)  # digit 1 has no cell in rows 0 and 1
    found = deduce(Board(no_place, 0), 4).contradiction
    assert found is not None and found.act is Act.invalid


def sample() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(puzzle.cells, puzzle.solution) for puzzle in draw_block(Space(9, 55, 55), Split.train, 0, 0)]


def test_every_technique_is_needed_by_some_puzzle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the puzzle that it is said to need ends in a guess, or needs a harder one."""
    paths = [(puzzle, solution, solve(puzzle, solution, 9)) for puzzle, solution in sample()]
    counts = Counter(hardest(path) for _, _, path in paths)
    assert {guess_band(path) for _, _, path in paths} == {"0", "1", "2+"}
    whole = sudoku_solver.ELIMINATIONS
    for strategy in Strategy:
        if strategy < Strategy.naked_pair:
            continue
        assert counts[strategy] > 0, strategy
        puzzle, solution, path = next(each for each in paths if hardest(each[2]) is strategy)
        monkeypatch.setattr(sudoku_solver, "ELIMINATIONS", [each for each in whole if each[0] is not strategy])
        assert solve(puzzle, solution, 9) != path
        monkeypatch.setattr(sudoku_solver, "ELIMINATIONS", whole)
    assert counts[Strategy.lone_single] + counts[Strategy.hidden_single] > 100


def test_paths_are_the_solution_and_tell_each_cell_apart() -> None:
    for puzzle, solution in sample():
        path = solve(puzzle, solution, 9)
        assert sorted(placed.cell for placed in path) == [cell for cell, digit in enumerate(puzzle) if not digit]
        assert all(solution[placed.cell] == placed.digit for placed in path)
        known = [int(placed.strategy) for placed in path]
        assert min(known) > 0 and known.count(1) == sum(bool(placed.choices) for placed in path)
        assert max(known) == hardest(path)


# Search


@pytest.mark.parametrize("number", range(3))
def test_search_does_as_the_rules_say(number: int) -> None:
    """Guesses are among all candidates, lowest first, in a cell with fewest; what is reverted has no solution."""
    guessing = [puzzle for puzzle, solution in sample() if guess_band(solve(puzzle, solution, 9)) == "2+"]
    puzzle = guessing[number]
    events = search(puzzle, 9)
    assert events is not None
    grid, opened = list(puzzle), []
    for place, event in enumerate(events):
        if event.act is Act.guess:
            known = [digit for cell, digits, tried, _ in opened if cell == event.cell for digit in tried]
            if known:
                opened[-1][2].append(event.digit)
            else:
                opened.append((event.cell, event.choices, [event.digit], grid.copy()))
            tried = opened[-1][2]
            assert tuple(tried) == event.choices[: len(tried)]
            assert set(event.choices) <= allowed(opened[-1][3], event.cell, 9)
            assert (events[place + 1].act, *events[place + 1][1:3]) == (Act.place, event.cell, event.digit)
        elif event.act is Act.place:
            assert not grid[event.cell]
            grid[event.cell] = event.digit
        elif event.act is Act.revert:
            cell, choices, tried, before = opened[-1]
            assert (cell, choices) == (event.cell, event.choices)
            grid = before.copy()
            wrong = grid.copy()
            wrong[cell] = tried[-1]
            assert solutions(wrong, 9, 1) == []
            if tuple(tried) == choices:
                opened.pop()
        else:
            assert events[place + 1].act is Act.revert
            if event.act is Act.nocand:
                assert not grid[event.cell]
    assert [grid] == solutions(puzzle, 9)


def test_direct_is_the_search_without_its_dead_ends() -> None:
    compared = 0
    for puzzle, solution in sample():
        path = solve(puzzle, solution, 9)
        events = search(puzzle, 9)
        if events is None:
            continue
        kept: list[tuple[int, int]] = []
        marks: list[int] = []
        for event in events:
            if event.act is Act.guess:
                marks.append(len(kept))
            elif event.act is Act.place:
                kept.append((event.cell, event.digit))
            elif event.act is Act.revert:
                del kept[marks.pop() :]
        assert kept == [(placed.cell, placed.digit) for placed in path]
        guesses = sum(event.act is Act.guess for event in events)
        assert guess_band(path) == ("2+" if guesses > 1 else str(guesses))
        compared += guesses > 1
    assert compared > 10


def test_fewest_candidates_are_guessed_first() -> None:
    own = masks(4)
    position = Board(board(4, r1c1="34", r2c2="12", r0c0="123"), 0)
    assert sudoku_solver._cell_to_guess(position, 4) == (5, (3, 4))
    assert cell_digits(position.candidates, 10, own) == (0, 1)


def test_a_search_that_is_too_long_guesses_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sudoku_solver, "MAX_LINES", 100)
    assert search(cells(HARD), 9) is None
    (solution,) = solutions(cells(HARD), 9)
    path = solve(cells(HARD), tuple(solution), 9)
    events = events_of(path)
    assert not {Act.revert, Act.nocand, Act.invalid} & {event.act for event in events}
    assert sum(event.act is Act.guess for event in events) == sum(bool(placed.choices) for placed in path) > 0


def test_a_puzzle_without_solution_is_an_error() -> None:
    with pytest.raises(ValueError, match=re.escape("has no solution")):
        search(cells("12" + "0" * 5 + "3" + "0" * 8)[:2] + cells("33" + "0" * 12), 4)


def test_dead_ends_are_written_with_lone_singles_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all techniques meet a contradiction, the same board is gone through again, and that is what is written."""
    calls: list[tuple[Board, bool, sudoku_solver.Deduced]] = []
    whole = deduce

    def watched(board: Board, size: int, *, singles_only: bool = False) -> sudoku_solver.Deduced:
        found = whole(board, size, singles_only=singles_only)
        calls.append((board, singles_only, found))
        return found

    monkeypatch.setattr(sudoku_solver, "deduce", watched)
    puzzle = next(puzzle for puzzle, solution in sample() if guess_band(solve(puzzle, solution, 9)) == "2+")
    calls.clear()
    events = search(puzzle, 9)
    assert events is not None
    written = 1 + sum(event.act is Act.guess for event in events)
    again = 0
    for (board, alone, found), after in zip(calls, [*calls[1:], (None, False, None)], strict=True):
        assert (after[:2] == (board, True)) == (not alone and found.contradiction is not None)
        again += alone
    assert again > 0
    assert len(calls) == written + again
