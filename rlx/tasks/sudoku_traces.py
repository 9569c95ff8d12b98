"""How solutions of Sudoku are written and read back; the rules: `rlx/tasks/sudoku.py`."""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from random import Random
from typing import NamedTuple, Protocol

from rlx.tasks.base import stable_hash
from rlx.tasks.sudoku_boards import text_of
from rlx.tasks.sudoku_solver import MAX_LINES, Act, Event, Placed, events_of, search


class Trace(Enum):
    """How a solution is written."""

    search = "search"
    direct = "direct"
    fixed = "fixed"
    random = "random"
    solver = "solver"


class Parsed(NamedTuple):
    """What a completion says: cells and digits (from 1) as written, and a step in it that no search makes."""

    writes: list[tuple[int, int]]
    broken: str = ""


class TraceFormat(Protocol):
    """A way to write problems and solutions."""

    words: tuple[str, ...]
    marks: str
    longest: int
    """Characters of the longest text that `parse` is given."""

    def prompt(self, puzzle: Sequence[int]) -> str: ...

    def solution(self, puzzle: tuple[int, ...], path: list[Placed]) -> str: ...

    def written(self, writes: Sequence[tuple[int, int]]) -> str:
        """Cells and digits as a whole completion."""
        ...

    def parse(self, text: str) -> Parsed | None: ...


class LinesTrace:
    """`(0, 1) = 4`, a line each; a direct trace has the cells of the path, a search all that it did."""

    words: tuple[str, ...] = ("START", "original", "solving", "SOL_S", "SOL_E", "END")
    marks = "():,= \n"
    end = "SOL_E END"

    def __init__(self, size: int, *, searching: bool) -> None:
        self.size = size
        self.searching = searching
        cells = size * size
        self._cell = [f"({cell // size}, {cell % size})" for cell in range(cells)]
        self._line = {
            (cell, digit): f"{name} = {digit}" for cell, name in enumerate(self._cell) for digit in range(1, size + 1)
        }
        self._place = {line: place for place, line in self._line.items()}
        widest = len(self._step(Event(Act.revert, 0, choices=tuple(range(size))))) + 1
        self.longest = 2 * MAX_LINES * widest if searching else 4 * cells * (len("(0, 0) = 1") + 1)
        if searching:
            self.words = (*self.words, "guess", "nocand", "invalid", "revert", "none")
            self.marks += "[]"
        at, digit = rf"\(([0-{size - 1}]), ([0-{size - 1}])\)", f"[1-{size}]"
        choices = rf"\[({digit}(?:, {digit})*)\]"
        self._guess = re.compile(rf"guess: {at} {choices} = ({digit})")
        self._revert = re.compile(rf"revert: {at} {choices} = none")
        self._nocand = re.compile(rf"nocand: {at}")

    def prompt(self, puzzle: Sequence[int]) -> str:
        givens = [self._line[cell, digit] for cell, digit in enumerate(puzzle) if digit]
        return "\n".join(["START original:", *givens, "solving", "SOL_S", ""])

    def solution(self, puzzle: tuple[int, ...], path: list[Placed]) -> str:
        if not self.searching:
            return self.written([(placed.cell, placed.digit) for placed in path])
        events = search(puzzle, self.size) if any(placed.choices for placed in path) else None
        return "\n".join([*map(self._step, events or events_of(path)), self.end])

    def written(self, writes: Sequence[tuple[int, int]]) -> str:
        return "\n".join([*(self._line[write] for write in writes), self.end])

    def _step(self, event: Event) -> str:
        if event.act is Act.place:
            return self._line[event.cell, event.digit]
        if event.act is Act.invalid:
            return "invalid"
        if event.act is Act.nocand:
            return f"nocand: {self._cell[event.cell]}"
        outcome = str(event.digit) if event.act is Act.guess else "none"
        return f"{event.act.name}: {self._cell[event.cell]} {list(event.choices)} = {outcome}"

    def parse(self, text: str) -> Parsed | None:
        lines = text.split("\n")
        if lines.pop() != self.end:
            return None
        if not self.searching:
            writes = [self._place.get(line) for line in lines]
            return None if None in writes else Parsed([write for write in writes if write])
        return self._replayed(lines)

    def _replayed(self, lines: list[str]) -> Parsed | None:
        """A search's writes; it is broken where a guess is not made as it says, or a step back is not from the last."""
        writes: list[tuple[int, int]] = []
        opened: list[tuple[str, ...]] = []
        broken = ""
        announced: tuple[int, int] | None = None
        for number, line in enumerate(lines, 1):
            write = self._place.get(line)
            if announced and write != announced:
                broken = broken or f"line {number}: expected {self._line[announced]}"
            announced = None
            if write:
                writes.append(write)
            elif guess := self._guess.fullmatch(line):
                row, column, choices, digit = guess.groups()
                opened.append((row, column, choices))
                announced = int(row) * self.size + int(column), int(digit)
                if digit not in choices:
                    broken = broken or f"line {number}: guesses {digit}, which is not in [{choices[:40]}]"
            elif revert := self._revert.fullmatch(line):
                if not opened or opened.pop() != revert.groups():
                    broken = broken or f"line {number}: steps back from another guess than the last"
            elif line != "invalid" and not self._nocand.fullmatch(line):
                return None
        if announced:
            broken = broken or f"ends before {self._line[announced]}"
        return Parsed(writes, broken)


class CellsTrace:
    """`014`: row 0, column 1, digit 4; three characters a cell and nothing between."""

    words: tuple[str, ...] = ()
    marks = "\n"

    def __init__(self, size: int, order: Trace) -> None:
        self.size = size
        self.order = order
        self.longest = 4 * 3 * size * size
        self._cell = [f"{cell // size}{cell % size}" for cell in range(size * size)]
        self._whole = re.compile(rf"(?:[0-{size - 1}]{{2}}[1-{size}])*")

    def prompt(self, puzzle: Sequence[int]) -> str:
        givens = [(cell, digit) for cell, digit in enumerate(puzzle) if digit]
        return self.written(self._ordered("givens", givens, puzzle)) + "\n"

    def solution(self, puzzle: tuple[int, ...], path: list[Placed]) -> str:
        found = [(placed.cell, placed.digit) for placed in path]
        return self.written(found if self.order is Trace.solver else self._ordered("solution", sorted(found), puzzle))

    def _ordered(self, part: str, writes: list[tuple[int, int]], puzzle: Sequence[int]) -> list[tuple[int, int]]:
        """In reading order, as they come; or in an order that looks random and is fixed by the puzzle and the part."""
        if self.order is not Trace.random:
            return writes
        draw: Callable[[], float] = Random(stable_hash("sudoku order", part, text_of(puzzle))).random
        return [write for _, write in sorted((draw(), write) for write in writes)]

    def written(self, writes: Sequence[tuple[int, int]]) -> str:
        return "".join(f"{self._cell[cell]}{digit}" for cell, digit in writes)

    def parse(self, text: str) -> Parsed | None:
        if not text or not self._whole.fullmatch(text):
            return None
        triples = [text[place : place + 3] for place in range(0, len(text), 3)]
        return Parsed([(int(row) * self.size + int(column), int(digit)) for row, column, digit in triples])


def format_of(trace: Trace, size: int) -> TraceFormat:
    """The way in which a setting's solutions are written."""
    if trace in (Trace.search, Trace.direct):
        return LinesTrace(size, searching=trace is Trace.search)
    return CellsTrace(size, trace)
