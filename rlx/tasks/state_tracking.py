"""State tracking: the products of the first 1, 2, ... elements of a list of a finite group's.

Source: "Finite State Automata Inside Transformers with Chain-of-Thought" (arXiv 2502.20129): groups of 60 elements
(`Z60`, `A4xZ5`, `A5`), of which the last is not solvable, so that no model of fixed depth is expected to do without
writing the states down; steps that are left out and wrong steps in training.

Where sources differ, or leave a choice, this file does (the authors' generator was not seen):

1. The state begins at the identity, and q_t = q_{t-1} * m_t: elements are carried out from left to right.
2. Elements are numbers from 0, given to them once by a hash of the group's name, so that they tell nothing of the
   structure; the identity is one of them.
3. `trace=states` writes q_1 ... q_T, `final` q_T alone.
4. `skip` leaves each state but the last out of the solutions of `train` with this probability, `noise` writes one that
   is drawn evenly in its place. Such solutions are what is trained on, and not all verify; held-out ones are whole.
5. The last state decides: a completion with wrong states before it is correct. All T must be there, unless `skip`
   says that some are left out. `states` is the share of the T states that are written in their places, `steps` the
   share of those written that follow from the one written before (from the identity at the beginning) by the element
   in the same place, `chain` 1 where all are there and right.
6. `test` may be of other lengths. Splits go by a hash of the list.

Worked example, with `group=Z3`, whose elements are written 0 → 2, 1 → 0, 2 → 1: the list 1, 1, 2, 0 is the prompt
`0 0 1 2 : `, its states 1, 2, 1, 1 the solution `0 1 0 0`, and with `trace=final` `0`.
"""

from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, shuffled, split_of, stable_hash
from rlx.tasks.lengths import LengthConfig, Lengths
from rlx.tasks.state_tracking_groups import group
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Lists drawn for one example before the setting is said to have none in the split."""
LONG_KEY = 60
"""Characters of a problem's name after which it is written as a hash."""
NOTHING = {"states": 0.0, "steps": 0.0, "chain": 0.0}
"""Measures of text that is no list of elements."""


class Trace(Enum):
    """What is written."""

    states = "states"
    final = "final"


@option("task", "state_tracking")
@dataclass(kw_only=True, slots=True)
class StateTrackingConfig(LengthConfig):
    """Products of lists of elements of a finite group."""

    most_length: ClassVar[int] = 2_000
    min_length: int = 4
    """Fewest elements of a list."""
    max_length: int = 12
    """Most elements of a list."""
    group: str = "S3"
    """The group: Z<n> (cyclic), S<n> (symmetric), A<n> (alternating), or a product of these, such as A4xZ5."""
    trace: Trace = Trace.states
    """What solutions write: states (all of them) or final (the last)."""
    skip: float = 0.0
    """Share of the states before the last that train's solutions leave out."""
    noise: float = 0.0
    """Share of the states before the last that train's solutions replace by any."""

    def __post_init__(self) -> None:
        LengthConfig.__post_init__(self)
        group(self.group)
        for name in ("skip", "noise"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"task.{name} must be at least 0 and below 1, got {value:g}; try task.{name}=0.1")
            if value and self.trace is Trace.final:
                raise ConfigError(f"task.{name}={value:g} needs states to be written; try task.trace=states")

    def build(self) -> "StateTracking":
        return StateTracking(self)


class StateTracking(Sized):
    """Lists of one group's elements, their products and their verifier."""

    bounded = True
    baseline = "answers the last element"

    def __init__(self, config: StateTrackingConfig) -> None:
        super().__init__(config)
        self.config = config
        self.lengths = Lengths(config)
        self.table = group(config.group)
        size = len(self.table)
        self._names = shuffled(Random(stable_hash("group", config.group)), [str(number) for number in range(size)])
        self._element = {name: number for number, name in enumerate(self._names)}
        self.longest = 100 + 4 * self.lengths.most * (len(str(size - 1)) + 1)
        """Characters of the longest text that is read: four times a whole solution."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no lists of this setting belong to the split.
        """
        random = Random(stable_hash("state tracking", split.value, self.seed_at(split, index), index))
        length = self.lengths.draw(random, split)
        moves = self._draw(random, split, length)
        states: list[int] = []
        state = 0
        for move in moves:
            state = self.table[state][move]
            states.append(state)
        written = " ".join([self._names[move] for move in moves])
        return Example(
            id=f"state_tracking/{self.config.group}/"
            + (written if len(written) <= LONG_KEY else f"{stable_hash(written):016x}"),
            prompt=f"{written} : ",
            solution=" ".join([self._names[state] for state in self._written(random, split, states)]),
            truth=(moves, states),
            difficulty={"length": self.lengths.band(length)},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (another last state) or malformed.

        Text longer than four times any solution is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        moves: list[int] = example.truth[0]
        states: list[int] = example.truth[1]
        given = [self._element.get(name, -1) for name in completion.rstrip(" \t\r\n").split(" ")]
        most = 1 if self.config.trace is Trace.final else len(moves)
        least = 1 if self.config.skip else most
        if -1 in given or not least <= len(given) <= most:
            return Verdict(Outcome.malformed, f"not {least} to {most} elements with a blank between them", NOTHING)
        wanted = states if self.config.trace is Trace.states else states[-1:]
        right = sum(a == b for a, b in zip(given, wanted, strict=False))
        follows = right
        if self.config.trace is Trace.states:
            before = [0, *given[:-1]]
            follows = sum(self.table[q][m] == g for q, m, g in zip(before, moves, given, strict=False))
        measures = {
            "states": right / len(wanted),
            "steps": follows / len(given),
            "chain": float(given == wanted),
        }
        if given[-1] == states[-1]:
            return Verdict(Outcome.correct, measures=measures)
        return Verdict(Outcome.wrong, "another last state", measures)

    def chance(self, example: Example) -> float:
        """One of the group's elements."""
        return 1 / len(self.table)

    def guess(self, example: Example) -> str:
        """The list itself as its states; the last element alone where only that is asked for."""
        moves: list[int] = example.truth[0]
        moves = moves if self.config.trace is Trace.states else moves[-1:]
        return " ".join([self._names[move] for move in moves])

    def words(self) -> list[str]:
        """Elements, and the marks between."""
        return [*self._names, ":", " "]

    def _draw(self, random: Random, split: Split, length: int) -> list[int]:
        size, draw = len(self.table), random.random
        for _ in range(ATTEMPTS):
            moves = [int(draw() * size) for _ in range(length)]
            if split_of(f"{self.config.group} {moves}") is split:
                return moves
        raise ConfigError(
            f"task.group={self.config.group} has (almost) no lists of {length} elements for {split.value}; "
            "try longer ones: task.min_length=8"
        )

    def _written(self, random: Random, split: Split, states: list[int]) -> list[int]:
        """The states that the solution writes."""
        if self.config.trace is Trace.final:
            return states[-1:]
        skip, noise = self.config.skip, self.config.noise
        if split is not Split.train or not (skip or noise):
            return states
        size, draw = len(self.table), random.random
        kept = [int(draw() * size) if draw() < noise else state for state in states[:-1] if draw() >= skip]
        return [*kept, states[-1]]
