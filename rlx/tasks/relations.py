"""Relations: compose a relation with itself, twice or three times: who is two or three steps away?

Source: "Interleaved Head Attention" (arXiv 2602.21371, appendix D): a relation R on m things, an m by m table of bits,
each 1 with the same probability; the answer is R o R (two hops) or R o R o R (three).

Where sources differ, or leave a choice, this file does:

1. The paper's model sees the table at once and says each bit of the answer in its place, with attention both ways and a
   loss on bits. Here the table is a prompt and the answer is written after it, bit by bit: every bit can look at the
   whole table, and at the bits of the answer before it.
2. `hops=2` draws m from 6 to 10 and bits with probability 0.325 in the paper, `hops=3` 5 to 8 and 0.264: `density`
   null takes these probabilities. The default is smaller, 4 to 6, and fits a CPU.
3. m is drawn first and kept. A row ends with `/`, so that rows and columns can be told.
4. `measures.bits` is the share of the answer's bits that are right, of an answer of the right form.
5. The short cut knows m, how many bits the row has in R, and how many the column: with r and c of them a bit of R o R
   is 1 with probability 1 - C(m - r, c) / C(m, c), the columns being drawn evenly; of R o R o R with 1 - (1 -
   density)^(rc). It says the likelier, and is right on 78 % of the paper's bits of two hops and on 81 % of three.
6. Splits go by a hash of R.

Worked example, `hops=2`: R has 1 → 2, 2 → 3 and 3 → 3 on three things, the prompt is `010/001/001=`, and the solution
`001/001/001`.
"""

from dataclasses import dataclass
from math import comb
from random import Random
from typing import NamedTuple

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, TaskConfig, split_of, stable_hash
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Relations drawn for one example before the setting is said to have none in the split."""
DENSITY = {2: 0.325, 3: 0.264}
"""Probability of a bit in the paper, by hops."""
MOST_THINGS = 32
NOTHING = {"bits": 0.0}
"""Measures of text that is no table of the size."""


@option("task", "relations")
@dataclass(kw_only=True, slots=True)
class RelationsConfig(TaskConfig):
    """A relation, composed with itself."""

    hops: int = 2
    """How often the relation is taken: 2 or 3."""
    min_things: int = 4
    """Fewest things, at least 3."""
    max_things: int = 6
    """Most things."""
    density: float | None = None
    """Probability of a bit of the relation; null is the paper's for the hops: 0.325 or 0.264."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        if self.hops not in DENSITY:
            raise ConfigError(f"task.hops must be 2 or 3, got {self.hops}; try task.hops=2")
        if not 3 <= self.min_things <= self.max_things <= MOST_THINGS:
            raise ConfigError(
                f"task things need 3 <= min_things <= max_things <= {MOST_THINGS}, got {self.min_things} and "
                f"{self.max_things}; try task.min_things=4 task.max_things=6"
            )
        if self.density is not None and not 0 < self.density < 1:
            raise ConfigError(f"task.density must be above 0 and below 1, got {self.density:g}; try task.density=0.3")

    def build(self) -> "Relations":
        return Relations(self)


class Truth(NamedTuple):
    """What the verifier needs; a row of bits is a number, whose lowest bit is the first column."""

    rows: list[int]
    composed: list[int]


class Relations(Sized):
    """Relations of one setting, their compositions and their verifier."""

    bounded = True
    baseline = "counts the bits of the row and of the column"

    def __init__(self, config: RelationsConfig) -> None:
        super().__init__(config)
        self.config = config
        self.density = DENSITY[config.hops] if config.density is None else config.density
        self.longest = 100 + 4 * config.max_things * (config.max_things + 1)
        """Characters of the longest text that is read."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no relations of this setting belong to the split.
        """
        random = Random(stable_hash("relations", split.value, self.seed_at(split, index), index))
        least, most = self.config.min_things, self.config.max_things
        things = least + int(random.random() * (most - least + 1))
        rows = self._draw(random, split, things)
        composed = rows
        for _ in range(self.config.hops - 1):
            composed = _after(rows, composed)
        table = _written(rows)
        return Example(
            id=f"relations/{stable_hash(self.config.hops, table):016x}",
            prompt=f"{table}=",
            solution=_written(composed),
            truth=Truth(rows, composed),
            difficulty={"things": things},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (another table of the same size) or malformed.

        Text longer than four times the largest table is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        composed = example.truth.composed
        rows = completion.rstrip(" \t\r\n").split("/")
        things = len(composed)
        if len(rows) != things or any(len(row) != things or not set(row) <= {"0", "1"} for row in rows):
            return Verdict(Outcome.malformed, f"not {things} rows of {things} bits", NOTHING)
        missed = sum((int(row[::-1], 2) ^ wanted).bit_count() for row, wanted in zip(rows, composed, strict=True))
        measures = {"bits": 1 - missed / things**2}
        if not missed:
            return Verdict(Outcome.correct, measures=measures)
        return Verdict(Outcome.wrong, f"{missed} bits are wrong", measures)

    def chance(self, example: Example) -> float:
        """Tables of the size, drawn evenly."""
        return 0.5 ** len(example.truth.rows) ** 2

    def guess(self, example: Example) -> str:
        """Each bit as its row's and its column's numbers of bits in the relation make it likelier."""
        rows = example.truth.rows
        things = len(rows)
        columns = [sum(row >> place & 1 for row in rows) for place in range(things)]
        return _written(
            [
                sum(self._likely(things, row.bit_count(), count) << place for place, count in enumerate(columns))
                for row in rows
            ]
        )

    def words(self) -> list[str]:
        """Bits and marks."""
        return [*"01/="]

    def _likely(self, things: int, row: int, column: int) -> bool:
        """A bit of the composition is rather 1 than 0."""
        if self.config.hops == 2:
            return 2 * comb(things - row, column) < comb(things, column)
        return (1 - self.density) ** (row * column) < 0.5

    def _draw(self, random: Random, split: Split, things: int) -> list[int]:
        draw, density = random.random, self.density
        bits = [1 << place for place in range(things)]
        for _ in range(ATTEMPTS):
            rows = [sum([bit for bit in bits if draw() < density]) for _ in bits]
            if split_of(f"relation {rows}") is split:
                return rows
        raise ConfigError(
            f"task.density={self.density:g} has (almost) no relations of {things} things for {split.value}; "
            "try task.density=0.3, or more things: task.min_things=5"
        )


def _after(rows: list[int], composed: list[int]) -> list[int]:
    """Rows of `rows`, then `composed`."""
    found: list[int] = []
    for row in rows:
        reached, place = 0, 0
        while row:
            if row & 1:
                reached |= composed[place]
            row, place = row >> 1, place + 1
        found.append(reached)
    return found


def _written(rows: list[int]) -> str:
    things = len(rows)
    return "/".join([f"{row:0{things}b}"[::-1] for row in rows])
