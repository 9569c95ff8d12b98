"""Cpm3: for each number of a list, how many pairs of its numbers complete it to a multiple of a modulus.

Source: "Interleaved Head Attention" (arXiv 2602.21371), the task CPM-3 of its theory: for numbers x_1 ... x_N, a
modulus M and a factor G > 2M, the target at i is the number of pairs (j1, j2), each from 1 to N, with x_i + G x_j1 +
x_j2 = 0 (mod M).

Where sources differ, or leave a choice, this file does:

1. Numbers are drawn evenly from 0 to M - 1: more of a number than its remainder counts for nothing.
2. The order of j1 and j2 matters only where G mod M is neither 0 nor 1, so other factors are refused (the paper asks
   for G > 2M alone, which is the same G mod M).
3. All N targets are written, one after the other. `measures.counts` is the share of them that are right.
4. Splits go by a hash of the list.

Worked example with `modulus=7 factor=17`, 17 mod 7 = 3: of 1, 2, 4 the prompt is `1 2 4 : `. To 1 belong the pairs with
3 x_j1 + x_j2 = 6: (4, 1) alone, as 12 + 1 = 13; to 2 those with 5: (1, 2), and so on; the solution is `1 1 1`.
"""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, compared, split_of, stable_hash
from rlx.tasks.lengths import LengthConfig, Lengths
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Lists drawn for one example before the setting is said to have none in the split."""
NOTHING = {"counts": 0.0}
"""Measures of text that is no list of counts."""


@option("task", "cpm3")
@dataclass(kw_only=True, slots=True)
class Cpm3Config(LengthConfig):
    """Pairs that complete a number to a multiple."""

    least_length: ClassVar[int] = 2
    most_length: ClassVar[int] = 256
    min_length: int = 6
    """Fewest numbers of a list."""
    max_length: int = 10
    """Most numbers of a list."""
    modulus: int = 7
    """M, 3 to 1000."""
    factor: int = 17
    """G; its remainder by the modulus is neither 0 nor 1."""

    def __post_init__(self) -> None:
        LengthConfig.__post_init__(self)
        if not 3 <= self.modulus <= 1000:
            raise ConfigError(f"task.modulus must be 3 to 1000, got {self.modulus}; try task.modulus=7")
        if self.factor < 0 or self.factor % self.modulus < 2:
            raise ConfigError(
                f"task.factor={self.factor} must be at least 0 and not 0 or 1 by task.modulus={self.modulus}, or the "
                f"order of a pair does not matter; try task.factor={2 * self.modulus + 3}"
            )

    def build(self) -> "Cpm3":
        return Cpm3(self)


class Cpm3(Sized):
    """Lists of one setting, their counts and their verifier."""

    bounded = True
    baseline = "answers the mean count everywhere"

    def __init__(self, config: Cpm3Config) -> None:
        super().__init__(config)
        self.config = config
        self.lengths = Lengths(config)
        most = self.lengths.most
        self.longest = 100 + 4 * most * (len(str(most**2)) + 1)
        """Characters of the longest text that is read."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no lists of this setting belong to the split.
        """
        random = Random(stable_hash("cpm3", split.value, self.seed_at(split, index), index))
        length = self.lengths.draw(random, split)
        numbers = self._draw(random, split, length)
        written = " ".join(map(str, numbers))
        counts = self._counts(numbers)
        return Example(
            id=f"cpm3/{stable_hash(self.config.modulus, self.config.factor, written):016x}",
            prompt=f"{written} : ",
            solution=" ".join(map(str, counts)),
            truth=(numbers, counts),
            difficulty={"length": self.lengths.band(length)},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (other counts) or malformed.

        Text longer than four times any solution is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        wanted = [str(count) for count in example.truth[1]]
        given = completion.rstrip(" \t\r\n").split(" ")
        if len(given) != len(wanted) or not all(word.isascii() and word.isdigit() for word in given):
            return Verdict(Outcome.malformed, f"not {len(wanted)} counts with a blank between them", NOTHING)
        return compared(given, wanted, "counts")

    def chance(self, example: Example) -> float:
        """Counts drawn evenly from 0 to the number of pairs."""
        length = len(example.truth[0])
        return float(length**2 + 1) ** -length

    def guess(self, example: Example) -> str:
        """N^2 / M, rounded, for every number."""
        length = len(example.truth[0])
        return " ".join([str(round(length**2 / self.config.modulus))] * length)

    def words(self) -> list[str]:
        """Digits and marks."""
        return [*"0123456789: "]

    def _counts(self, numbers: list[int]) -> list[int]:
        modulus = self.config.modulus
        pairs = [0] * modulus  # how many pairs have which remainder
        scaled = [self.config.factor * number for number in numbers]
        for first in scaled:
            for second in numbers:
                pairs[(first + second) % modulus] += 1
        return [pairs[-number % modulus] for number in numbers]

    def _draw(self, random: Random, split: Split, length: int) -> list[int]:
        modulus, draw = self.config.modulus, random.random
        for _ in range(ATTEMPTS):
            numbers = [int(draw() * modulus) for _ in range(length)]
            if split_of(f"cpm3 {modulus} {numbers}") is split:
                return numbers
        raise ConfigError(
            f"task.modulus={modulus} has (almost) no lists of {length} numbers for {split.value}; "
            "try longer ones: task.min_length=6"
        )
