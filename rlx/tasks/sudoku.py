"""Sudoku: fill a board so that every row, column and box has each digit once; puzzles have one solution.

Sources: the search and direct traces of "To Backtrack or Not to Backtrack" (arXiv 2504.07052); cell by cell in three
orders, and a strategy for each cell, of "Causal Language Modeling Can Elicit Search and Reasoning Capabilities on
Logic Puzzles" (arXiv 2409.10502, and github.com/kulinshah98/llm-reasoning-logic-puzzles).

Where sources differ, or leave a choice, this file does:

1. Boards are 4x4 (boxes 2x2), 6x6 (boxes of 2 rows and 3 columns) or 9x9. Both papers read 9x9 puzzles from files
   (`path`). Without one, full grids are drawn and their cells emptied in random order, each unless another solution
   appears, until as many are empty as a draw from `empty` says, or none is left to try (`empty=most`, always). Nothing
   is asked of how a puzzle can be solved: that is measured.
2. Splits go by symmetry class, one class in 8 to `val` and one to `test`. With 9x9 it is the class of the full grid:
   puzzles with the same grid, or with grids that renamed digits, moved rows and columns (within bands, or bands) or
   transposition make of one another, are never in two splits. (The class is told by cycles between rows and between
   columns; classes that share these are not told apart, which does no harm.) With 4x4 and 6x6 there are but 2 and 49
   classes of grids, so it is the exact class of the puzzle, and grids are shared.
3. Techniques, in this order: lone single, hidden single, naked pair, naked triplet, locked candidate, XY-wing, unique
   rectangle (one corner with more candidates). The first that finds something does all that it finds on the board as
   it is, cells in reading order; then again from the first. dokusan, which the first paper used, does one step at a
   time; its locked candidate wants two cells, ours two or three, its triplet two cells alike, ours three candidates.
4. "If that fails" is read thus: where deductions after a guess end in a contradiction they are not written; lone
   singles alone are, to their own end, which may take further guesses. The guess goes to the first cell with fewest
   candidates, lowest digit first. `nocand` is a cell without candidates, `invalid` a unit without a cell for a digit.
   When the last digit of a guess has failed, the guess before is reverted.
5. A search with more than 1,000 lines (about twice the first paper's context of 4,096 tokens) is not written; in its
   place stands one that guesses right each time. Among random 9x9 puzzles with 55 empty cells that is one or two in
   1,000. Problems do not depend on `trace`, so arms that differ in it meet the same ones.
6. `direct` is the search without dead ends and guess lines. With `empty=most easy=10` it has 329 tokens in the mean
   (words, digits and marks after the prompt); the first paper has 322 to 332.
7. Cell by cell, a cell is three digits, row and column from 0, and nothing between; the paper's sequence of 243
   numbers. Givens are in reading order too, or random where the order is.
8. Blanks at ends of lines, which the first paper's text has, are left out; the end is `SOL_E END`.
9. Judged is the last value written into each cell (the first paper's rule): correct when all cells are right, whatever
   came before. What is not is illegal if some value was written that a given forbids (it is there, or in the same row,
   column or box), or a search's step is none: a guess not among its own candidates or not carried out in the next
   line, a revert of another guess than the last. Else it is wrong. Candidates, `nocand` and `invalid` are not checked.
10. A cell's strategy is the hardest technique since cells were last placed, so 4 to 8 are the eliminations that made a
    single possible. 1 is a cell that was guessed; the second paper leaves that number free.

Worked example, 4x4, with `trace=direct`; the prompt ends with `SOL_S`. With `trace=solver` the prompt is
`001123224332\\n`, the solution `022034321013131233202314104112211303`.

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
    SOL_E END

A search has these lines besides:

    guess: (4, 4) [2, 7] = 2
    nocand: (4, 5)
    invalid
    revert: (4, 4) [2, 7] = none
"""

from dataclasses import dataclass

from rlx.errors import ConfigError
from rlx.options import content, option
from rlx.tasks.base import Sized, TaskConfig
from rlx.tasks.sudoku_boards import BOXES, Ints, geometry, text_of
from rlx.tasks.sudoku_files import load
from rlx.tasks.sudoku_generator import BLOCK, Puzzle, Space, draw_block
from rlx.tasks.sudoku_solver import guess_band, hardest, solve
from rlx.tasks.sudoku_traces import Trace, format_of
from rlx.types import Example, Outcome, Split, Verdict

EMPTY = {4: (4, 10), 6: (12, 20), 9: (30, 50)}
"""Empty cells where the config does not say, by size."""
DEEPEST = {4: 12, 6: 26, 9: 58}
"""Empty cells that random digging reaches in one of ten grids or more."""
MOST = "most"
"""Says that cells are emptied until none can go."""
TENS = 10


@option("task", "sudoku")
@dataclass(kw_only=True, slots=True)
class SudokuConfig(TaskConfig):
    """Sudoku puzzles with one solution."""

    size: int = 4
    """Rows of a board: 4, 6 or 9."""
    empty: str | None = None
    """Empty cells of a puzzle: a number, a range as 30-50, or most; null is 4-10, 12-20 or 30-50, by size."""
    easy: int = 0
    """Cells given besides: the first deductions, then random ones; easy boards of the paper have 10."""
    trace: Trace = Trace.solver
    """Format of solutions: search, direct (sentences), or cell by cell in fixed, random or the solver's order."""
    path: str | None = content()
    """A file with columns puzzle, and solution and difficulty if known, instead of random puzzles."""
    max_rows: int | None = None
    """Rows of the file that are read, from its first; null is all."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        if self.size not in BOXES:
            raise ConfigError(f"task.size must be 4, 6 or 9, got {self.size}; try task.size=9")
        if self.path is not None and self.empty is not None:
            raise ConfigError(
                f"task.empty must be null with task.path, whose puzzles are as they are, got {self.empty}; "
                "try task.empty=null"
            )
        if self.path is None and self.max_rows is not None:
            raise ConfigError(
                f"task.max_rows must be null without task.path, got {self.max_rows}; try task.path=<file>"
            )
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"task.max_rows must be at least 1, got {self.max_rows}; try task.max_rows=100000")
        fewest = self.space.fewest if self.path is None and self.empty != MOST else self.size**2
        if not 0 <= self.easy < fewest:
            raise ConfigError(
                f"task.easy must be at least 0 and below the {fewest} empty cells, got {self.easy}; try task.easy=0"
            )

    @property
    def space(self) -> Space:
        """Which puzzles there are."""
        if self.empty is None:
            return Space(self.size, *EMPTY[self.size], self.easy)
        if self.empty == MOST:
            return Space(self.size, self.size**2, self.size**2, self.easy)
        ends = self.empty.split("-")
        plain = len(ends) <= 2 and all(end.isascii() and end.isdigit() and len(end) <= 2 for end in ends)
        low, high = (int(ends[0]), int(ends[-1])) if plain else (0, 0)
        if not 1 <= low <= DEEPEST[self.size] or not low <= high < self.size**2:
            raise ConfigError(
                f"task.empty must be a number from 1 to {DEEPEST[self.size]}, a range that begins there, or {MOST}, "
                f"with size={self.size}, got {self.empty}; try task.empty={'-'.join(map(str, EMPTY[self.size]))}"
            )
        return Space(self.size, low, high, self.easy)

    def build(self) -> "Sudoku":
        return Sudoku(self)


class Sudoku(Sized):
    """Puzzles of one setting, their solutions and their verifier."""

    bounded = True
    costly = True
    baseline = "fills each cell with its smallest candidate"

    def __init__(self, config: SudokuConfig) -> None:
        super().__init__(config)
        self.config = config
        self.space = config.space
        self._block = BLOCK[config.size]
        self.trace = format_of(config.trace, config.size)
        self.library = load(config.path, config.size, config.easy, config.max_rows) if config.path else None
        self._orders: dict[Split, Ints] = {}
        if self.library:
            for split, own in self.library.rows.items():
                self._sizes[split] = min(len(own), self._sizes[split] or len(own))
                self._orders[split] = self.library.order(split, self.seed_at(split, 0))

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no puzzles of this setting are in the split.
        """
        seed = self.seed_at(split, index)
        if self.library is None:
            puzzle = draw_block(self.space, split, seed, index // self._block)[index % self._block]
            return self._write(puzzle, {"empty": self._empty_band(puzzle)})
        puzzle, rating = self.library.at(int(self._orders[split][index]))
        fields = {"empty": self._empty_band(puzzle)}
        return self._write(puzzle, fields if rating is None else {**fields, "rating": rating})

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong, illegal (choice 9 above) or malformed; `cells` is the share of empty
        cells that are right.

        Text longer than any solution can be is malformed unread.
        """
        if len(completion) > self.trace.longest:
            return Verdict(Outcome.malformed, f"longer than {self.trace.longest} characters", {"cells": 0.0})
        parsed = self.trace.parse(completion.rstrip(" \t\r\n"))
        if parsed is None:
            detail = f"not in the format of trace={self.config.trace.value}"
            return Verdict(Outcome.malformed, detail, {"cells": 0.0})
        puzzle, solution = (tuple(map(int, text)) for text in example.truth)
        board = list(puzzle)
        for cell, digit in parsed.writes:
            board[cell] = digit
        empty = [cell for cell, digit in enumerate(puzzle) if not digit]
        measures = {"cells": sum(board[cell] == solution[cell] for cell in empty) / len(empty)}
        if board == list(solution):
            return Verdict(Outcome.correct, measures=measures)
        broken = parsed.broken or self._forbidden(puzzle, parsed.writes)
        if broken:
            return Verdict(Outcome.illegal, broken, measures)
        missing = board.count(0)
        return Verdict(Outcome.wrong, f"{missing} cells are empty" if missing else "not the solution", measures)

    def words(self) -> list[str]:
        """Words, digits and marks that prompts and solutions are made of."""
        return [*self.trace.words, *"0123456789", *self.trace.marks]

    def chance(self, example: Example) -> float:
        """size^-empty: each empty cell takes a digit evenly."""
        return float(self.config.size) ** -example.truth[0].count("0")

    def guess(self, example: Example) -> str:
        """Every empty cell, in reading order, with the smallest digit that no given forbids."""
        puzzle, peers = tuple(map(int, example.truth[0])), geometry(self.config.size).peers
        smallest = [min({*range(1, 10)} - {puzzle[peer] for peer in around}) for around in peers]
        return self.trace.written([(cell, smallest[cell]) for cell, digit in enumerate(puzzle) if not digit])

    def _forbidden(self, puzzle: tuple[int, ...], writes: list[tuple[int, int]]) -> str:
        """What is wrong with the first write that a given forbids; "" where there is none."""
        peers = geometry(self.config.size).peers
        for cell, digit in writes:
            if puzzle[cell] not in (0, digit) or any(puzzle[peer] == digit for peer in peers[cell]):
                row, column = divmod(cell, self.config.size)
                return f"({row}, {column}) = {digit}: a given forbids it"
        return ""

    def _write(self, puzzle: Puzzle, fields: dict[str, str]) -> Example:
        path = solve(puzzle.cells, puzzle.solution, self.config.size)
        name = text_of(puzzle.cells)
        return Example(
            id=f"sudoku/{name}",
            prompt=self.trace.prompt(puzzle.cells),
            solution=self.trace.solution(puzzle.cells, path),
            truth=(name, text_of(puzzle.solution)),
            difficulty={
                "size": self.config.size,
                "technique": hardest(path).name,
                "guesses": guess_band(path),
                **fields,
            },
        )

    def _empty_band(self, puzzle: Puzzle) -> str:
        """The quarter of the range that the number of empty cells lies in, as `low-high`; tens where it has none."""
        count = puzzle.cells.count(0)
        low, width = self.space.low - self.space.easy, self.space.high - self.space.low + 1
        if self.library or width == 1:
            return f"{count // TENS * TENS}-{count // TENS * TENS + TENS - 1}"
        quarter = 4 * (count - low) // width
        first, after = (low - (-part * width // 4) for part in (quarter, quarter + 1))
        return f"{first}-{after - 1}" if after - 1 > first else str(first)
