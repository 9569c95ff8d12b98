"""Time left: of a run by its pace, of a plan by what runs and waits."""

import json
import os
from pathlib import Path

import pytest

from rlx.plans.drivers import driving
from rlx.plans.standing import standings
from rlx.plans.table import left_of
from rlx.runs.lease import Lease
from tests.plans.made import planned, saved, write

pytestmark = pytest.mark.usefixtures("here")


def rows_of(run: Path, *pairs: tuple[int, float]) -> None:
    rows = [json.dumps({"step": step, "wall": wall}) + "\n" for step, wall in pairs]
    (run / "metrics.jsonl").write_text("".join(rows))


def test_time_left_is_by_the_latest_pace() -> None:
    """Not by what came before the first step, and less what has passed since the last row."""
    run = planned(0)
    write(run, "running", step=50)
    rows_of(Path(run.run), (10, 100.0), (60, 150.0))
    plan = saved([run])
    with Lease.acquire(run.run):
        (left,) = [standing.left for standing in standings(plan)]
        assert left is not None and 39 < left <= 40
        old = (Path(run.run) / "status").stat().st_mtime - 15
        for path in Path(run.run).iterdir():
            os.utime(path, (old, old))
        (left,) = [standing.left for standing in standings(plan)]
        assert left is not None and 24 < left <= 25


def test_time_left_of_a_run_without_rows_is_what_was_planned() -> None:
    """Evaluations write theirs at the end."""
    runs = [planned(0, stage="eval", seconds=60.0), planned(1, stage="eval")]
    for run in runs:
        write(run, "running")
    plan = saved(runs)
    with Lease.acquire(runs[0].run), Lease.acquire(runs[1].run):
        found = standings(plan)
        assert found[0].left is not None and 59 < found[0].left <= 60 and found[1].left is None
        assert left_of(found) == pytest.approx(60, abs=1)  # the other is taken to be as long


def test_time_left_of_a_plan_counts_what_waits_by_its_stage() -> None:
    runs = [planned(0), planned(1), *(planned(number, stage="eval", seconds=10.0) for number in (2, 3)), planned(4)]
    write(runs[0], "finished", wall_s=80)
    write(runs[1], "running", step=50)
    plan = saved(runs)
    with driving(plan) as driver, Lease.acquire(runs[1].run):
        driver.comes_to(runs[0])
        driver.comes_to(runs[1])
        left = left_of(standings(plan))
    assert left == pytest.approx(25 + 2 * 10 + (80 + 50) / 2, abs=1)  # one at a time


def test_time_left_follows_how_expectations_turned_out() -> None:
    """The first of three took five times as long as was expected of it."""
    runs = [planned(0, seconds=10.0), planned(1, seconds=10.0), planned(2, seconds=20.0)]
    write(runs[0], "finished", wall_s=50.0)
    plan = saved(runs)
    with driving(plan) as driver:
        driver.comes_to(runs[0])
        found = standings(plan)
    assert left_of(found) is None  # none goes on
    assert left_of(found, at_once=1) == pytest.approx(5 * 30) and left_of(found, at_once=2) == pytest.approx(100)


def test_nobody_knows_the_time_left_of_what_does_not_go_on() -> None:
    assert left_of(standings(saved([planned(0, seconds=5.0)]))) is None
