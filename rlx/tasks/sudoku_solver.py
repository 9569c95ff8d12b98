"""Solving a Sudoku puzzle as a person would: deductions by named techniques, guesses where they end.

A board is one number: bit `digit * N + cell` is set while `digit` (from 0) may be in `cell`, N cells in all. So all
digits and cells are looked at at once, and only the rarer techniques go through cells one by one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

from rlx.tasks.sudoku_boards import geometry

MAX_LINES = 1_000
"""Lines of the longest search that is written: more than ten times those of a puzzle without guesses."""


class Strategy(IntEnum):
    """How hard a cell was, in the numbers of arXiv 2409.10502; 1, which that leaves free, is ours."""

    given = 0
    guess = 1
    lone_single = 2
    hidden_single = 3
    naked_pair = 4
    naked_triplet = 5
    locked_candidate = 6
    xy_wing = 7
    unique_rectangle = 8


class Act(IntEnum):
    """What an event of a search is."""

    place = 0
    guess = 1
    nocand = 2
    invalid = 3
    revert = 4


class Event(NamedTuple):
    """One line of a search: a digit (from 1) goes into a cell, a guess among candidates, a dead end, a step back."""

    act: Act
    cell: int = 0
    digit: int = 0
    choices: tuple[int, ...] = ()


class Placed(NamedTuple):
    """A cell that was filled, and how; the candidates that it had where it was a guess."""

    cell: int
    digit: int
    strategy: Strategy
    choices: tuple[int, ...] = ()


class Board(NamedTuple):
    """Candidates, and the cells that are filled, a bit each."""

    candidates: int
    filled: int


@dataclass(frozen=True, slots=True)
class Masks:
    """A geometry as bits."""

    size: int
    cells: int
    whole: int
    """All cells."""
    each_digit: int
    """Cell 0 with every digit."""
    shifts: tuple[int, ...]
    """Where each digit's bits begin."""
    keep: tuple[int, ...]
    """What a digit in a cell leaves of a board, by `digit * N + cell`."""
    peers: tuple[int, ...]
    units: tuple[int, ...]
    kinds: tuple[tuple[int, tuple[int, ...], int], ...]
    """Rows, columns, boxes: the first cells of the units, for every digit; steps from there; all steps as bits."""
    crossings: tuple[tuple[int, int, int], ...]
    """Cells of a box and a line that meet, of the box alone, of the line alone."""


@lru_cache
def masks(size: int) -> Masks:
    own = geometry(size)
    cells = own.cells
    whole = (1 << cells) - 1
    shifts = tuple(digit * cells for digit in range(size))
    all_digits = _bits(shifts)
    peers = tuple(_bits(cells_of) for cells_of in own.peers)
    units = tuple(_bits(unit) for unit in own.units)
    keep = [
        ~(all_digits << cell | peers[cell] << digit * cells) | 1 << digit * cells + cell
        for digit in range(size)
        for cell in range(cells)
    ]
    kinds: list[tuple[int, tuple[int, ...], int]] = []
    for start in range(0, 3 * size, size):
        first = _bits([unit[0] for unit in own.units[start : start + size]])
        steps = tuple(cell - own.units[start][0] for cell in own.units[start])
        kinds.append((first * all_digits, steps, _bits(steps)))
    crossings = [
        (box & line, box & ~line, line & ~box)
        for box in units[2 * size :]
        for line in units[: 2 * size]
        if (box & line).bit_count() > 1
    ]
    return Masks(size, cells, whole, all_digits, shifts, tuple(keep), peers, units, tuple(kinds), tuple(crossings))


def _bits(places: tuple[int, ...] | list[int]) -> int:
    return sum(1 << place for place in places)


def _places(bits: int) -> Iterator[int]:
    """Places of the bits set, ascending."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


# Techniques


def counted(board: int, own: Masks) -> tuple[int, int, int, int]:
    """Cells with at least one, two, three and four candidates."""
    one = two = three = four = 0
    for digit in range(own.size):
        cells = board >> digit * own.cells & own.whole
        four |= three & cells
        three |= two & cells
        two |= one & cells
        one |= cells
    return one, two, three, four


def hidden_singles(board: int, own: Masks) -> int | None:
    """Bits of digits that have one cell left in some unit; None where a unit has no cell left for a digit."""
    found = 0
    for first, steps, spread in own.kinds:
        once = twice = 0
        for step in steps:
            here = board >> step & first
            twice |= once & here
            once |= here
        if once != first:
            return None
        found |= (once & ~twice) * spread
    return found & board


def cell_digits(board: int, cell: int, own: Masks) -> tuple[int, ...]:
    """Candidates of a cell, from 0, ascending."""
    board >>= cell
    return tuple(digit for digit in range(own.size) if board >> digit * own.cells & 1)


def naked_pairs(board: int, own: Masks) -> int:
    """Two cells of a unit have the same two candidates: bits that their common peers lose."""
    _, two, three, _ = counted(board, own)
    by_digits: dict[tuple[int, ...], list[int]] = {}
    for cell in _places(two & ~three):
        by_digits.setdefault(cell_digits(board, cell, own), []).append(cell)
    lost = 0
    for digits, cells in by_digits.items():
        for a, b in combinations(cells, 2):
            if own.peers[a] >> b & 1:
                lost |= _in_cells(digits, own.peers[a] & own.peers[b], own)
    return lost


def naked_triplets(board: int, own: Masks) -> int:
    """Three cells of a unit have three candidates among them: bits that the unit's other cells lose."""
    _, two, _, four = counted(board, own)
    digits_of = {cell: _bits(cell_digits(board, cell, own)) for cell in _places(two & ~four)}
    lost = 0
    for unit in own.units:
        inside = [cell for cell in digits_of if unit >> cell & 1]
        for a, b, c in combinations(inside, 3):
            union = digits_of[a] | digits_of[b] | digits_of[c]
            if union.bit_count() == 3:
                lost |= _in_cells(tuple(_places(union)), unit & ~_bits((a, b, c)), own)
    return lost


def locked_candidates(board: int, own: Masks) -> int:
    """A digit's cells in a box lie in one line, or those in a line in one box: bits that the other's rest loses."""
    lost = 0
    for digit in range(own.size):
        cells = board >> digit * own.cells & own.whole
        for both, box, line in own.crossings:
            if cells & both:
                in_box, in_line = cells & box, cells & line
                if in_box and not in_line:
                    lost |= in_box << digit * own.cells
                elif in_line and not in_box:
                    lost |= in_line << digit * own.cells
    return lost


def xy_wings(board: int, own: Masks) -> int:
    """A cell with x or y sees one with x or z and one with y or z: bits of z that cells lose which see both."""
    _, two, three, _ = counted(board, own)
    digits_of = {cell: _bits(cell_digits(board, cell, own)) for cell in _places(two & ~three)}
    lost = 0
    for pivot, pair in digits_of.items():
        wings = [
            cell
            for cell, digits in digits_of.items()
            if own.peers[pivot] >> cell & 1 and (digits & pair).bit_count() == 1
        ]
        for a, b in combinations(wings, 2):
            shared = digits_of[a] & digits_of[b]
            if shared.bit_count() == 1 and not shared & pair and (digits_of[a] | digits_of[b]) & pair == pair:
                lost |= _in_cells(tuple(_places(shared)), own.peers[a] & own.peers[b], own)
    return lost


def unique_rectangles(board: int, own: Masks) -> int:
    """Three corners of a rectangle in two boxes have the same two candidates: bits that the fourth loses.

    Were these digits there too, the four cells could exchange them, and the puzzle would have two solutions.
    """
    _, two, three, _ = counted(board, own)
    by_digits: dict[tuple[int, ...], list[int]] = {}
    for cell in _places(two & ~three):
        by_digits.setdefault(cell_digits(board, cell, own), []).append(cell)
    units_of = geometry(own.size).units_of
    lost = 0
    for digits, cells in by_digits.items():
        for corners in combinations(cells, 3):
            rows, columns, boxes = ({units_of[cell][kind] for cell in corners} for kind in range(3))
            if (len(rows), len(columns), len(boxes)) != (2, 2, 2):
                continue
            every = {row * own.size + column - own.size for row in rows for column in columns}
            (fourth,) = every - set(corners)
            if units_of[fourth][2] in boxes and set(digits) < set(cell_digits(board, fourth, own)):
                lost |= _in_cells(digits, 1 << fourth, own)
    return lost


def _in_cells(digits: tuple[int, ...], cells: int, own: Masks) -> int:
    """Bits of the digits in the cells."""
    return sum(cells << digit * own.cells for digit in digits)


ELIMINATIONS: tuple[tuple[Strategy, Callable[[int, Masks], int]], ...] = (
    (Strategy.naked_pair, naked_pairs),
    (Strategy.naked_triplet, naked_triplets),
    (Strategy.locked_candidate, locked_candidates),
    (Strategy.xy_wing, xy_wings),
    (Strategy.unique_rectangle, unique_rectangles),
)


# Deduction and search


class Deduced(NamedTuple):
    """A board at its fix-point, what was placed on the way, and the contradiction that it ended in, if it did."""

    board: Board
    placed: list[Placed]
    contradiction: Event | None


def start(puzzle: tuple[int, ...], size: int) -> Board:
    """The board of a puzzle: digits in reading order, 0 where empty."""
    own = masks(size)
    board, filled = (1 << size * own.cells) - 1, 0
    for cell, digit in enumerate(puzzle):
        if digit:
            board &= own.keep[(digit - 1) * own.cells + cell]
            filled |= 1 << cell
    return Board(board, filled)


def deduce(board: Board, size: int, *, singles_only: bool = False) -> Deduced:
    """Techniques in their order until none finds anything, from the first again after each that did.

    A technique does all that it finds on the same candidates, cells in reading order. A cell's strategy is the hardest
    technique since cells were last placed.

    Args:
        singles_only: lone singles are the only technique.
    """
    own = masks(size)
    candidates, filled = board
    placed: list[Placed] = []
    needed = Strategy.given
    while True:
        one = two = 0
        for shift in own.shifts:
            cells = candidates >> shift & own.whole
            two |= one & cells
            one |= cells
        if one != own.whole:
            return Deduced(Board(candidates, filled), placed, Event(Act.nocand, next(_places(own.whole & ~one))))
        technique = Strategy.lone_single
        found = [(cell, cell_digits(candidates, cell, own)[0]) for cell in _places(own.whole & ~(two | filled))]
        if not found:
            hidden = hidden_singles(candidates, own)
            if hidden is None:
                return Deduced(Board(candidates, filled), placed, Event(Act.invalid))
            if singles_only or filled == own.whole:
                return Deduced(Board(candidates, filled), placed, None)
            technique = Strategy.hidden_single
            hidden &= ~(filled * own.each_digit)
            found = sorted((place % own.cells, place // own.cells) for place in _places(hidden))
        for cell, digit in found:
            if candidates >> digit * own.cells + cell & 1:  # one of those before may have taken it away
                candidates &= own.keep[digit * own.cells + cell]
                filled |= 1 << cell
                placed.append(Placed(cell, digit + 1, max(technique, needed)))
        if found:
            needed = Strategy.given
            continue
        for technique, find in ELIMINATIONS:
            lost = find(candidates, own) & candidates
            if lost:
                candidates ^= lost
                needed = max(needed, technique)
                break
        else:
            return Deduced(Board(candidates, filled), placed, None)


def solve(puzzle: tuple[int, ...], solution: tuple[int, ...], size: int) -> list[Placed]:
    """The cells that are empty in the order in which they are found, every guess the right one.

    Args:
        solution: the puzzle's only one; both are digits in reading order.
    """
    board, path = start(puzzle, size), list[Placed]()
    while True:
        deduced = deduce(board, size)
        path += deduced.placed
        board = deduced.board
        if board.filled == masks(size).whole:
            return path
        cell, choices = _cell_to_guess(board, size)
        path.append(Placed(cell, solution[cell], Strategy.guess, choices))
        board = _filled(board, cell, solution[cell], size)


def hardest(path: list[Placed]) -> Strategy:
    """The hardest technique on a path; guesses are counted apart."""
    return max((placed.strategy for placed in path), default=Strategy.given)


def guess_band(path: list[Placed]) -> str:
    """How many guesses the search for this path makes, wrong ones too: 0, 1 or 2+."""
    guessed = [placed for placed in path if placed.choices]
    if not guessed:
        return "0"
    return "1" if len(guessed) == 1 and guessed[0].digit == guessed[0].choices[0] else "2+"


def events_of(path: list[Placed]) -> list[Event]:
    """The path as a search that never guesses wrong."""
    events: list[Event] = []
    for cell, digit, _, choices in path:
        if choices:
            events.append(Event(Act.guess, cell, digit, choices))
        events.append(Event(Act.place, cell, digit))
    return events


def search(puzzle: tuple[int, ...], size: int) -> list[Event] | None:
    """The search for a puzzle's solution, dead ends included; None where it has more than `MAX_LINES` lines.

    Deductions, then a guess in a cell with fewest candidates (the first of them), lowest digit first. Where deductions
    end in a contradiction, lone singles alone are written in their place, to their own end.

    Raises:
        ValueError: the puzzle has no solution.
    """
    events: list[Event] = []
    try:
        solved = _search(start(puzzle, size), size, events)
    except _TooLong:
        return None
    if not solved:
        raise ValueError(f"{puzzle} has no solution")
    return events


class _TooLong(Exception):
    """A search has more than `MAX_LINES` lines."""


def _search(board: Board, size: int, events: list[Event]) -> bool:
    """True when the solution was reached from here; what was done is appended either way."""
    deduced = deduce(board, size)
    if deduced.contradiction:
        deduced = deduce(board, size, singles_only=True)
    events += [Event(Act.place, placed.cell, placed.digit) for placed in deduced.placed]
    if deduced.contradiction:
        events.append(deduced.contradiction)
        return False
    board = deduced.board
    if board.filled == masks(size).whole:
        return True
    cell, choices = _cell_to_guess(board, size)
    for digit in choices:
        if len(events) > MAX_LINES:
            raise _TooLong
        events += [Event(Act.guess, cell, digit, choices), Event(Act.place, cell, digit)]
        if _search(_filled(board, cell, digit, size), size, events):
            return True
        events.append(Event(Act.revert, cell, choices=choices))
    return False


def _cell_to_guess(board: Board, size: int) -> tuple[int, tuple[int, ...]]:
    """The first cell of those with fewest candidates, and these."""
    own = masks(size)
    left = [(cell, cell_digits(board.candidates, cell, own)) for cell in _places(own.whole & ~board.filled)]
    cell, digits = min(left, key=lambda each: len(each[1]))
    return cell, tuple(digit + 1 for digit in digits)


def _filled(board: Board, cell: int, digit: int, size: int) -> Board:
    own = masks(size)
    return Board(board.candidates & own.keep[(digit - 1) * own.cells + cell], board.filled | 1 << cell)
