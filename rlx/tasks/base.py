"""What a task is: a pure source of examples and an exact verifier.

Splits are disjoint by construction: a candidate instance belongs to the split that `split_of` gives for its canonical
key, and a generator of another split passes it by, whatever the seed.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from rlx.types import Example, Split, Verdict

HELD_OUT_SHARE = 64
"""One in so many instances belongs to `val`, where the task does not hold out something stronger for `test`."""


class Task(Protocol):
    """A family of problems at one setting."""

    def size(self, split: Split) -> int | None:
        """Number of examples, None when the stream is unbounded."""
        ...

    def example(self, split: Split, index: int) -> Example:
        """The example at `index` (>= 0): same arguments, same example."""
        ...

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` (text, without the end mark) is. Never raises, never evaluates it, bounded in time."""
        ...


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """Fields that every task has."""

    seed: int = 0
    """Seed of the generator of examples; the run's own seed does not touch them."""

    def build(self) -> Task:
        raise NotImplementedError


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of the parts' text that is equal on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def is_held_out(key: str, share: int = HELD_OUT_SHARE) -> bool:
    """True when the canonical instance `key` belongs to the held-out part (one in `share`)."""
    return stable_hash("split", key) % share == 0
