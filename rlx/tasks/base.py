"""What a task is: a pure source of examples and an exact verifier.

Splits are disjoint by construction: a candidate instance belongs to the split that `split_of` gives for its canonical
key, and a generator of another split passes it by, whatever the seed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

from rlx.errors import ConfigError, RlxError
from rlx.options import recorded
from rlx.types import Example, Failure, Outcome, Split, Verdict

T = TypeVar("T")

HELD_OUT_SHARE = 64
"""One in so many instances belongs to `val`, where the task does not hold out something stronger for `test`."""


class Task(Protocol):
    """A family of problems at one setting.

    A task may have methods besides, which demonstrations of environments are made with:

    1. `mistake(example, random) -> str | None`: a completion of the form of its solutions that verifies as wrong, from
       draws of `random.random()` alone, such as second attempts come after; None in a setting that has none, whose
       demonstrations have no mistakes. Of a task without the method another problem's solution is one
       (`rlx.environments.base.mistake`).
    2. `brief(solution) -> str`: the answer of a solution without the work before it, in a form that `verify` takes;
       else the solution is taken for it (`rlx.environments.base.brief`).
    3. `calls(example) -> list[str]`: expressions that the problem is solved with, in their order, which
       environment=tool has calculated; else its problems are answered without calls.
    """

    baseline: str
    """The short cut that `guess` takes, in a few words: "adds all numbers"."""

    def size(self, split: Split) -> int | None:
        """Number of examples, None when the stream is unbounded."""
        ...

    def example(self, split: Split, index: int) -> Example:
        """The example at `index` (>= 0): same arguments, same example."""
        ...

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` (text, without the end mark) is. Never raises, never evaluates it, bounded in time.

        Where it does not keep to that, the run goes on all the same: see `is_bounded` and `rlx.evaluation.judge`.
        """
        ...

    def chance(self, example: Example) -> float:
        """Probability that an answer drawn evenly from those of the right form is correct; 0 where there is no end of
        them."""
        ...

    def guess(self, example: Example) -> str:
        """What a solver writes that takes the short cut of `baseline`: a completion, verified like any other."""
        ...

    def words(self) -> list[str]:
        """Words, digits and marks that prompts and solutions are made of."""
        ...


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """Fields that every task has."""

    seed: int = 0
    """Seed of the generator of examples; the run's own seed does not touch them."""
    train_examples: int | None = None
    """Size of `train`, in examples; null is an unbounded stream, or all that there are."""
    val_examples: int = 1000
    """Size of `val`, in examples."""
    test_examples: int = 1000
    """Size of `test`, in examples."""
    verify_apart: bool | None = recorded(None)
    """The verifier runs in a process of its own, which is killed when it hangs; null: where the task does not say that
    it is bounded."""
    verify_seconds: float = recorded(5.0)
    """Seconds by the clock for one verdict there; a completion that takes longer counts as malformed."""
    verify_gib: float = recorded(1.0)
    """GiB of address space that the verifier may take there, over what the process has when the task is built."""

    def __post_init__(self) -> None:
        for name in ("verify_seconds", "verify_gib"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"task.{name}={getattr(self, name):g} must be above 0")
        for name in ("train_examples", "val_examples", "test_examples"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ConfigError(f"task.{name} must be at least 1, got {size}; try task.{name}=1000")

    def build(self) -> Task:
        raise NotImplementedError


def is_bounded(task: Task) -> bool:
    """True where the class that has `verify`, or one derived from it, says `bounded = True`: its time and memory are
    bounded by how it is written, whatever the text, so that it may run in the process that trains."""
    for cls in type(task).__mro__:
        if "bounded" in vars(cls):
            return bool(vars(cls)["bounded"])
        if "verify" in vars(cls):
            return False
    return False


def assessed(task: Task, example: Example, text: str) -> Verdict:
    """`task.verify` of a demonstration: what it raises, or returns that is no verdict, is a malformed text, as
    `rlx.evaluation.judge` has it of what a model wrote. One that hangs is waited for.

    Raises:
        RlxError: the verifier asks for something of the user.
    """
    try:
        verdict: Any = task.verify(example, text)
        if isinstance(verdict, Verdict):
            return verdict
    except RlxError:
        raise
    except (Exception, SystemExit) as error:
        return Verdict(Outcome.malformed, f"verifier raised {type(error).__name__}", failure=Failure.error)
    return Verdict(Outcome.malformed, "verifier returned no verdict", failure=Failure.error)


def is_costly(task: Task) -> bool:
    """True where the task says `costly = True`: its examples take longer to make than to read from a disk, so that
    `corpus=task` makes them ahead and keeps them. Such a task has its config as `config`."""
    return bool(getattr(task, "costly", False))


class Sized:
    """The splits' sizes as the config has them, and the seeds of their streams: a base for tasks that generate."""

    def __init__(self, config: TaskConfig) -> None:
        self._sizes: dict[Split, int | None] = {
            Split.train: config.train_examples,
            Split.val: config.val_examples,
            Split.test: config.test_examples,
        }
        self._seed = config.seed

    def size(self, split: Split) -> int | None:
        """Number of examples, None when the stream is unbounded."""
        return self._sizes[split]

    def seed_at(self, split: Split, index: int) -> int:
        """The seed of a split's stream: held-out examples do not move with the task's, so that runs are compared on
        the same ones.

        Raises:
            IndexError: `index` is negative or not below the split's size.
        """
        size = self.size(split)
        if index < 0 or (size is not None and index >= size):
            raise IndexError(f"{split.value} has examples 0 to {'...' if size is None else size - 1}, got {index}")
        return self._seed if split is Split.train else 0


def compared(given: Sequence[str], wanted: Sequence[str], name: str) -> Verdict:
    """Correct where both are equal, else wrong; the measure `name` is the share of places that have the same entry."""
    right = sum(map(str.__eq__, given, wanted))
    most = max(len(given), len(wanted))
    if right == most:
        return Verdict(Outcome.correct, measures={name: 1.0})
    return Verdict(Outcome.wrong, f"{right} of {len(wanted)} {name} are right", {name: right / most})


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of the parts' text that is equal on every machine and in every process."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def split_of(key: str, share: int = HELD_OUT_SHARE) -> Split:
    """The split of the canonical instance `key`: one in `share` is in `val`, one in `share` in `test`."""
    place = stable_hash("split", key) % share
    return Split.val if place == 0 else Split.test if place == 1 else Split.train


def shuffled(random: Random, items: Sequence[T]) -> list[T]:
    """The items in an order drawn evenly. It hangs on `random.random()` alone, which gives the same numbers in every
    version of Python."""
    draws = [random.random() for _ in items]
    return [items[place] for place in sorted(range(len(items)), key=draws.__getitem__)]
