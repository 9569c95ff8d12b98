"""Solutions of many Sudoku puzzles at once, for the generator: is a puzzle's solution its only one?

A board is candidates as bits (digit d is bit d - 1), [N, M] of M boards: arrays run along the boards.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlx.tasks.sudoku_boards import Cells, Ints, geometry

Bits = NDArray[np.uint16]
Bools = NDArray[np.bool_]

WIDTH = 1024
"""Boards that are propagated together at most; wider arrays leave the CPU's cache."""
COUNTS = np.array([bits.bit_count() for bits in range(512)], dtype=np.uint8)


class Places(NamedTuple):
    """A geometry as index arrays."""

    units: Ints  # [3n, n]
    units_of: Ints  # [3, N]
    full: np.uint16


@lru_cache
def places(size: int) -> Places:
    own = geometry(size)
    return Places(np.array(own.units), np.array(own.units_of).T.copy(), np.uint16(2**size - 1))


def candidates(puzzles: Cells, size: int) -> Bits:
    """Digits [M, N], 0 where empty, as candidates [N, M]."""
    bits = np.array([2**size - 1, *(1 << digit for digit in range(size))], dtype=np.uint16)
    return np.ascontiguousarray(bits[puzzles.T])


def digits(boards: Bits) -> Cells:
    """Solved boards [N, M] as digits [M, N]."""
    return np.ascontiguousarray(1 + COUNTS[(boards - np.uint16(1)) & np.uint16(511)].T).astype(np.uint8)


def deduced(boards: Bits, size: int) -> tuple[Bits, Bools]:
    """One round of lone and hidden singles on boards [N, M], and which of them [M] have no contradiction in sight.

    Solved cells clear their units, then digits with one place in a unit go there.
    """
    units, units_of, full = places(size)
    single = (boards & (boards - np.uint16(1))) == 0
    solved = np.where(single, boards, np.uint16(0))[units]  # [3n, n, M]
    seen: Bits = np.bitwise_or.reduce(solved, axis=1)
    fine = (solved.sum(axis=1, dtype=np.uint16) == seen).all(axis=0)  # distinct bits add up to their union
    around: Bits = seen[units_of[0]] | seen[units_of[1]] | seen[units_of[2]]
    boards = np.where(single, boards, boards & ~around)
    grouped = boards[units]
    once, twice = grouped[:, 0].copy(), np.zeros_like(seen)
    for place in range(1, size):
        here = grouped[:, place]
        twice |= once & here
        once |= here
    fine &= (once == full).all(axis=0)
    once &= ~twice
    hidden = boards & (once[units_of[0]] | once[units_of[1]] | once[units_of[2]])
    fine &= ((hidden & (hidden - np.uint16(1))) == 0).all(axis=0)
    boards = np.where(hidden != 0, hidden, boards)
    fine &= (boards != 0).all(axis=0)
    return boards, fine


def other_solutions(boards: Bits, known: Bits, size: int) -> tuple[Bits, Ints]:
    """Solutions of boards [N, M] that are not the known one [N, M]: their cells [N, K], and which board they solve [K].

    Every board that has one has at least one; with zeros as the known ones, these are any solutions.
    """
    found: list[Bits] = []
    found_by: list[Ints] = []
    searched = np.ones(boards.shape[1], dtype=np.bool_)
    states, owners = boards, np.arange(boards.shape[1], dtype=np.int64)
    waiting: list[tuple[Bits, Ints]] = []
    while len(owners) or waiting:
        if not len(owners):
            states, owners = waiting.pop()
        if len(owners) > WIDTH:
            waiting.append((states[:, WIDTH:], owners[WIDTH:]))
            states, owners = states[:, :WIDTH], owners[:WIDTH]
        after, alive = deduced(states, size)
        counts = COUNTS[after]
        still = (after == states).all(axis=0)
        solved = alive & still & (counts == 1).all(axis=0)
        other = solved & (after != known[:, owners]).any(axis=0)
        found.append(after[:, other])
        found_by.append(owners[other])
        searched[owners[other]] = False
        alive &= ~solved & searched[owners]
        moving, stuck = alive & ~still, alive & still
        branched, of_branched = _branched(after[:, stuck], counts[:, stuck], owners[stuck], known)
        states = np.concatenate([after[:, moving], branched], axis=1)
        owners = np.concatenate([owners[moving], of_branched])
    return np.concatenate(found, axis=1), np.concatenate(found_by)


def _branched(states: Bits, counts: NDArray[Any], owners: Ints, known: Bits) -> tuple[Bits, Ints]:
    """Two boards for each: a cell with fewest candidates is its known (or lowest) digit, or it is not."""
    cells = np.where(counts == 1, np.uint8(255), counts).argmin(axis=0)
    columns: Ints = np.arange(len(owners))
    own = states[cells, columns]
    first = own & known[cells, owners]
    first = np.where(first == 0, own & (~own + np.uint16(1)), first)
    both = np.concatenate([states, states], axis=1)
    both[cells, columns] = first
    both[cells, len(owners) + columns] = own & ~first
    return both, np.concatenate([owners, owners])
