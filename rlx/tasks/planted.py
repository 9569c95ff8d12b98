"""Planted: the parity of a few bits that are planted among other symbols.

Source: "The Role of Sparsity for Length Generalization in Transformers" (arXiv 2502.16792): the answer depends on k
tokens of an input of any length, and a model is expected to do longer inputs than it was trained on as long as k is
small and does not grow; coupled positions of parity from arXiv 2405.20671.

Where sources differ, or leave a choice, this file does (the paper's generator was not seen):

1. Inputs are `length` symbols, even draws of `background` letters, with bits, even draws of 0 and 1, at places drawn
   evenly; bits and letters have no symbol in common. `planted` is k; with `one_in=8` there is one bit for every 8
   symbols (rounded down, at least one) in its place, the control whose answer depends on more, the longer the input.
2. `trace=answer` writes the parity of the bits, `scratchpad` the parity after each bit, the last of which is the
   answer. The scratchpad has as many bits as the input: with a fixed k every step looks at two of them.
3. The last bit decides; `measures.steps` is the share of the scratchpad that is right.
4. `test` may be of other lengths. Splits go by a hash of the input.
5. Coupled positions: with `answer` 1 for the bits, the `?` and the answer; with `scratchpad` 1 for `?`, 2 for the first
   bit and the first of the scratchpad, and so on; 0 for the letters and the end mark.

Worked example with `planted=3`: the prompt `hb1ac0d1?` has the bits 1, 0, 1; the solution is `0`, with
`trace=scratchpad` `110`.
"""

from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from random import Random
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, split_of, stable_hash
from rlx.tasks.lengths import LengthConfig, Lengths
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Inputs drawn for one example before the setting is said to have none in the split."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONG_KEY = 60
"""Characters of a problem's name after which it is written as a hash."""


class Trace(Enum):
    """What is written."""

    answer = "answer"
    scratchpad = "scratchpad"


@option("task", "planted")
@dataclass(kw_only=True, slots=True)
class PlantedConfig(LengthConfig):
    """The parity of bits among letters."""

    planted: int = 2
    """Bits of an input: 1 to 64."""
    one_in: int | None = None
    """Symbols for each bit, in place of `planted`; null: the bits do not grow with the length."""
    background: int = 8
    """Letters that are not bits: 1 to 26."""
    trace: Trace = Trace.answer
    """What solutions write: answer (the parity), scratchpad (the parity after each bit)."""
    least_length: ClassVar[int] = 2

    def __post_init__(self) -> None:
        LengthConfig.__post_init__(self)
        shortest = min(self.lengths(split)[0] for split in Split)
        if not 1 <= self.planted <= min(shortest, 64):
            raise ConfigError(
                f"task.planted must be 1 to {min(shortest, 64)} (the shortest length, at most 64), got {self.planted}; "
                "try task.planted=2"
            )
        if self.one_in is not None and not 1 <= self.one_in <= shortest:
            raise ConfigError(
                f"task.one_in must be 1 to {shortest} (the shortest length), got {self.one_in}; try task.one_in=null"
            )
        if self.one_in is not None and self.planted != 2:
            raise ConfigError(f"task.one_in={self.one_in} sets the bits, and so does task.planted; give one of them")
        if not 1 <= self.background <= len(LETTERS):
            raise ConfigError(f"task.background must be 1 to 26, got {self.background}; try task.background=8")

    def build(self) -> "Planted":
        return Planted(self)


class Planted(Sized):
    """Inputs of one setting, their parities and their verifier."""

    bounded = True

    def __init__(self, config: PlantedConfig) -> None:
        super().__init__(config)
        self.config = config
        self.lengths = Lengths(config)
        self.scratchpad = config.trace is Trace.scratchpad
        self.baseline = "writes the bits again" if self.scratchpad else "answers the first bit"
        self._letters = LETTERS[: config.background]
        self._nothing = {"steps": 0.0}
        self.longest = 100 + 4 * self.lengths.most
        """Characters of the longest text that is read."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no inputs of this setting belong to the split.
        """
        random = Random(stable_hash("planted", split.value, self.seed_at(split, index), index))
        length = self.lengths.draw(random, split)
        text, bits = self._draw(random, split, length)
        parities = [count % 2 for count in accumulate(bits)]
        written = parities if self.scratchpad else parities[-1:]
        return Example(
            id=f"planted/{text if len(text) <= LONG_KEY else f'{stable_hash(text):016x}'}",
            prompt=f"{text}?",
            solution="".join(map(str, written)),
            truth=(bits, written),
            difficulty={"length": self.lengths.band(length)},
            places=self._places(text, len(bits)),
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (another last bit) or malformed.

        Text longer than four times any solution is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", self._nothing)
        given, wanted = completion.rstrip(" \t\r\n"), "".join(map(str, example.truth[1]))
        if len(given) != len(wanted) or not set(given) <= {"0", "1"}:
            return Verdict(Outcome.malformed, f"not {len(wanted)} bits", self._nothing)
        measures = {"steps": sum(map(str.__eq__, given, wanted)) / len(wanted)}
        right = given[-1] == wanted[-1]
        return Verdict(Outcome.correct if right else Outcome.wrong, measures=measures)

    def chance(self, example: Example) -> float:
        """The last bit is 0 or 1."""
        return 0.5

    def guess(self, example: Example) -> str:
        """The bits as they are; the first alone where one is asked for."""
        bits = example.truth[0]
        return "".join(map(str, bits if self.scratchpad else bits[:1]))

    def words(self) -> list[str]:
        """Letters, bits and the mark."""
        return [*self._letters, *"01?"]

    def _draw(self, random: Random, split: Split, length: int) -> tuple[str, list[int]]:
        one_in = self.config.one_in
        count = self.config.planted if one_in is None else max(length // one_in, 1)
        for _ in range(ATTEMPTS):
            symbols = random.choices(self._letters, k=length)
            chosen: set[int] = set()
            while len(chosen) < count:
                chosen.add(int(random.random() * length))
            bits: list[int] = []
            for place in sorted(chosen):
                bits.append(int(random.random() * 2))
                symbols[place] = "01"[bits[-1]]
            text = "".join(symbols)
            if split_of(text) is split:
                return text, bits
        raise ConfigError(
            f"task.background={self.config.background} has (almost) no inputs of {length} symbols for {split.value}; "
            "try task.background=8, or longer ones: task.min_length=5"
        )

    def _places(self, text: str, bits: int) -> tuple[int, ...]:
        if not self.scratchpad:
            return (*(int(symbol in "01") for symbol in text), 1, 1, 0)
        places: list[int] = []
        seen = 0
        for symbol in text:
            seen += symbol in "01"
            places.append(1 + seen if symbol in "01" else 0)
        return (*places, 1, *range(2, bits + 2), 0)
