"""The nouns that every room shares; standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Split(str, Enum):
    """Which part of a task: disjoint by a hash of the canonical instance, never by seed."""

    train = "train"
    val = "val"
    test = "test"


class Outcome(str, Enum):
    """What a verifier found; what each is worth is the algorithm's config."""

    correct = "correct"
    wrong = "wrong"
    illegal = "illegal"
    malformed = "malformed"
    truncated = "truncated"


class Failure(str, Enum):
    """How a verifier failed to find anything."""

    error = "error"
    """It raised, or returned what is no verdict."""
    timeout = "timeout"
    memory = "memory"
    death = "death"
    """Its process ended."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verifier's finding for one completion."""

    outcome: Outcome
    detail: str = ""
    measures: Mapping[str, float] = field(default_factory=dict[str, float])
    """What else was seen of it, by name (share of cells right, 1 for the format it is in, ...); means are reported."""

    failure: Failure | None = None
    """Set where it is no finding, because the verifier failed: the completion then counts as malformed."""

    @property
    def correct(self) -> bool:
        return self.outcome is Outcome.correct


@dataclass(frozen=True, slots=True)
class Example:
    """One problem: a pure function of (task config, split, index)."""

    id: str
    """Name of the example: equal ids are equal problems."""
    prompt: str
    """Text given to the model."""
    solution: str
    """A completion that verifies, in the task's trace format; the end-of-text mark is not in it."""
    truth: Any = None
    """What the verifier needs (numbers and target, grid, ...)."""
    difficulty: Mapping[str, int | float | str] = field(default_factory=dict[str, int | float | str])
    """Named fields that become the slices of an evaluation."""
    places: tuple[int, ...] | None = None
    """Coupled positions (arXiv 2405.20671): an id for each character of prompt and solution and for the end mark. What
    belongs together shares one; the smallest is 1, 0 is none. None: the task couples no positions."""
