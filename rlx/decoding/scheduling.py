"""Which samples run in the rows that there are: those that came first, or those that are predicted to end first.

Source: Shahout, Malach, Liu, Jiang, Yu and Mitzenmacher, Don't Stop Me Now: Embedding Based Scheduling for LLMs (arXiv
2410.01035): the shortest predicted remaining length runs, and a running sample is set aside for a shorter one only
early in its life, while what it holds is small. The engine calls these classes, and so does the simulation of a queue
that they are tested by.

Choices where sources differ:
1. A sample may be set aside while the tokens drawn are fewer than C times its first prediction (`decode.preempt`), as
   the abstract has it (early allowed, late restricted); a digest of the paper limits how often instead.
2. Who waits keeps the prediction that it had: nothing new is known of it.
3. Of equal predictions the one that came first runs, and only a strictly shorter one displaces another. So where
   nothing is known, and all predictions are equal, samples run as they came.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from rlx.decoding.base import DecodeConfig, Scheduling

SHELF_SHARE = 0.25
"""Samples that may be set aside at once, for each row."""


@dataclass(slots=True)
class Job:
    """A sample, as a scheduler sees it."""

    number: int
    """Its place in the order of coming."""
    first: float = 0.0
    """Tokens that were predicted when it came."""
    left: float = 0.0
    """Tokens that are predicted to be left."""
    age: float = 0.0
    """Tokens drawn."""


class FirstCome:
    """In the order of coming, each to its end."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Job]] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def rank(self, job: Job) -> float:
        """The lowest runs first."""
        return job.number

    def may_yield(self, job: Job) -> bool:
        """Whether a running job may be set aside."""
        return False

    def wait(self, job: Job) -> None:
        """It comes, or is set aside."""
        heappush(self._waiting, (self.rank(job), job.number, job))

    def next(self) -> Job:
        """The one to run next, which waits no longer."""
        return heappop(self._waiting)[2]

    def displace(self, running: Iterable[Job], most: int | None = None) -> list[tuple[Job, Job]]:
        """Pairs of a running job, which waits from now on, and one that waited and runs in its place; at most `most`
        (None: any number), those with the longest to run first."""
        yielding = [(self.rank(job), job.number, job) for job in running if self.may_yield(job)]
        pairs: list[tuple[Job, Job]] = []
        for rank, _, job in sorted(yielding, key=lambda each: each[:2], reverse=True)[:most]:
            if not self._waiting or self._waiting[0][0] >= rank:
                break
            pairs.append((job, self.next()))
        for job, _ in pairs:
            self.wait(job)
        return pairs


class Trail(FirstCome):
    """The shortest predicted remaining length first, with limited preemption.

    Args:
        preempt: C, share of its first prediction up to which a job may be set aside; 0: never, once it runs.
    """

    def __init__(self, preempt: float) -> None:
        super().__init__()
        self.preempt = preempt

    def rank(self, job: Job) -> float:
        return job.left

    def may_yield(self, job: Job) -> bool:
        return job.age < self.preempt * job.first


def shelf_rows(rows: int, decode: DecodeConfig) -> int:
    """How many samples may be set aside at once beside so many rows."""
    aside = decode.scheduler is Scheduling.trail and decode.preempt > 0
    return math.ceil(SHELF_SHARE * rows) if aside else 0


def scheduler_of(decode: DecodeConfig) -> FirstCome:
    """A new one, with nobody waiting."""
    return Trail(decode.preempt) if decode.scheduler is Scheduling.trail else FirstCome()
