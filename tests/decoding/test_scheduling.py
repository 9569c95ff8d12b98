"""Schedulers alone, and in a queue with one server against theory and the numbers of the paper's sheet."""

from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from rlx.decoding.base import DecodeConfig, Scheduling
from rlx.decoding.scheduling import FirstCome, Job, Trail, scheduler_of
from rlx.errors import ConfigError
from tests.decoding.queueing import Queue, limited, shortest_remaining, simulate, workload

SHEET = {  # load, C, sigma: mean response time
    (0.7, 1.0, 0.0): 1.87, (0.7, 0.8, 0.0): 1.87, (0.7, 0.5, 0.0): 1.93, (0.7, 0.2, 0.0): 2.10,
    (0.7, 0.8, 0.5): 2.08, (0.7, 0.8, 1.0): 2.35,
    (0.9, 1.0, 0.0): 3.48, (0.9, 0.8, 0.0): 3.48, (0.9, 0.5, 0.0): 3.56, (0.9, 0.2, 0.0): 3.82,
    (0.9, 0.8, 0.5): 4.38, (0.9, 0.8, 1.0): 5.42,
}  # fmt: skip
ASIDE = {1.0: (0.45, 1.42), 0.8: (0.42, 1.40), 0.5: (0.30, 1.26), 0.2: (0.13, 0.99)}
"""At load 0.9 by C: preemptions a job, and what those begun hold."""


@cache
def queue(load: float, preempt: float | None, sigma: float = 0.0) -> Queue:
    """A simulation; preempt None: first come, first served."""
    return simulate(FirstCome() if preempt is None else Trail(preempt), *workload(80_000, load, sigma))


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_first_come_is_the_formulas_queue(load: float) -> None:
    assert queue(load, None).response == pytest.approx(1 / (1 - load), rel=0.02 if load < 0.8 else 0.1)
    assert queue(load, None).preemptions == 0


@pytest.mark.parametrize("load, preempt, sigma", SHEET, ids=str)
def test_response_times_are_theorys_and_the_sheets(load: float, preempt: float, sigma: float) -> None:
    found, expected = queue(load, preempt, sigma).response, limited(load, preempt, sigma)
    assert found == pytest.approx(expected, rel=0.02 if load < 0.8 else 0.06)
    assert expected == pytest.approx(SHEET[load, preempt, sigma], rel=0.03)


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_theory_has_the_known_queues_at_its_ends(load: float) -> None:
    """C = 1 is shortest remaining first; C = 0 is shortest first, with the whole of S^2 ahead (Phipps, 1956)."""
    assert limited(load, 1.0, 0.0) == pytest.approx(shortest_remaining(load), rel=0.01)
    assert queue(load, 0.0).response == pytest.approx(limited(load, 0.0, 0.0), rel=0.06)
    assert queue(load, 0.0).preemptions == 0


@pytest.mark.parametrize("load, cut", [(0.7, 0.4), (0.9, 0.6)])
def test_perfect_predictions_cut_response_times(load: float, cut: float) -> None:
    assert queue(load, 0.8).response <= (1 - cut) * queue(load, None).response


@pytest.mark.parametrize("load", [0.7, 0.9])
@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_wrong_predictions_are_no_worse_than_none(load: float, sigma: float) -> None:
    assert queue(load, 0.8, sigma).response < queue(load, None).response


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_less_is_held_the_earlier_preemption_ends(load: float) -> None:
    found = [queue(load, preempt) for preempt in (1.0, 0.8, 0.5, 0.2, 0.0)]
    assert all(more.held > less.held for more, less in pairwise(found))
    assert all(more.preemptions > less.preemptions for more, less in pairwise(found))


@pytest.mark.parametrize("preempt", ASIDE)
def test_what_is_set_aside_is_the_sheets(preempt: float) -> None:
    found = queue(0.9, preempt)
    assert (found.preemptions, found.held) == pytest.approx(ASIDE[preempt], rel=0.05)


def jobs(*left: float) -> list[Job]:
    return [Job(number, first=each, left=each) for number, each in enumerate(left)]


def order(scheduler: FirstCome) -> list[int]:
    return [scheduler.next().number for _ in range(len(scheduler))]


@pytest.mark.parametrize(
    "scheduler, expected", [(FirstCome(), [0, 1, 2, 3]), (Trail(0.8), [1, 3, 0, 2])], ids=["fcfs", "trail"]
)
def test_the_order_of_those_that_wait(scheduler: FirstCome, expected: list[int]) -> None:
    for job in reversed(jobs(5, 2, 5, 3)):
        scheduler.wait(job)
    assert len(scheduler) == 4 and order(scheduler) == expected


def test_first_come_displaces_nobody() -> None:
    scheduler, (running, waits) = FirstCome(), jobs(100, 1)
    scheduler.wait(waits)
    assert scheduler.displace([running]) == [] and len(scheduler) == 1


@pytest.mark.parametrize(
    "age, left, yields",
    [(0, 100, True), (49, 51, True), (50, 51, False), (49, 20, False), (49, 20.5, True)],
    ids=["new", "before C r", "at C r", "equal", "longer"],
)
def test_who_is_displaced(age: float, left: float, yields: bool) -> None:
    """By a strictly shorter one, before its age is C times the first prediction; it then waits with what is left."""
    scheduler, waits = Trail(0.5), Job(1, first=20, left=20)
    running = Job(0, first=100, left=left, age=age)
    scheduler.wait(waits)
    assert scheduler.displace([running]) == ([(running, waits)] if yields else [])
    assert order(scheduler) == [0 if yields else 1]


def test_the_longest_yield_to_the_shortest() -> None:
    scheduler, (first, second, third, *shorter) = Trail(1.0), jobs(30, 50, 40, 35, 8, 9, 60)
    for job in shorter:
        scheduler.wait(job)
    pairs = scheduler.displace([first, second, third])
    assert [(goes.number, comes.number) for goes, comes in pairs] == [(1, 4), (2, 5)], "35 is longer than 30"
    assert order(scheduler) == [3, 2, 1, 6]


def test_no_more_are_displaced_than_there_is_room_for() -> None:
    scheduler, (first, second, *shorter) = Trail(1.0), jobs(30, 50, 8, 9)
    for job in shorter:
        scheduler.wait(job)
    assert scheduler.displace([first, second], most=0) == []
    assert [(goes.number, comes.number) for goes, comes in scheduler.displace([first, second], most=1)] == [(1, 2)]
    assert order(scheduler) == [3, 1]


def test_nothing_known_is_first_come() -> None:
    """Equal predictions run as they came, and none is set aside."""
    arrivals, sizes, _ = workload(2_000, 0.9, 0.0)
    for constant in (0.0, 1.0):
        found = simulate(Trail(0.8), arrivals, sizes, [constant] * len(sizes))
        assert found == simulate(FirstCome(), arrivals, sizes, sizes)


def test_the_config_says_which() -> None:
    assert type(scheduler_of(DecodeConfig())) is FirstCome
    made: Any = scheduler_of(DecodeConfig(scheduler=Scheduling.trail, preempt=0.3))
    assert type(made) is Trail and made.preempt == 0.3
    with pytest.raises(ConfigError, match=r"decode\.preempt=-0\.1 must be at least 0"):
        DecodeConfig(preempt=-0.1)
