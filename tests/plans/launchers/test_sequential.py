"""One run after the other: whatever becomes of one, the others are made, and none is made twice."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlx.errors import BusyError, Stopped
from rlx.plans.drivers import drivers, to_come
from rlx.plans.launchers.base import Hands
from rlx.plans.launchers.sequential import SequentialConfig
from rlx.runs.lease import Lease
from rlx.runs.status import State, write_status
from tests.conftest import COUNTDOWN, SMALL
from tests.plans.launchers.standins import (
    at_once,
    in_another_process,
    one_by_one,
    place_of,
    plan_of,
    reasons,
    run_of,
    seen,
    states,
    wait_for,
)
from tests.stages.runs import digest, rows


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_parents_come_first_and_one_run_at_a_time(runs_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = plan_of([run_of(runs_dir, 0, "sleep=0.05", parents=[1]), run_of(runs_dir, 1, "sleep=0.05")])
    assert one_by_one(plan).problems == {} and states(plan) == [State.finished] * 2
    assert at_once(seen(plan)) == 1 and [each.pid for each in seen(plan)] == [os.getpid()] * 2
    out = capfd.readouterr().out
    assert "[1/2] run1 seed0: rlx 1" in out and "2 of 2 runs finished" in out


def test_a_failed_run_blocks_what_begins_from_it_alone(runs_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = [
        run_of(runs_dir, 0, "fail=no luck"), run_of(runs_dir, 1, parents=[0]), run_of(runs_dir, 2, parents=[1]),
        run_of(runs_dir, 3, "load=no_such_module"), run_of(runs_dir, 4),
    ]  # fmt: skip
    plan = plan_of(runs)
    outcome = one_by_one(plan)
    assert outcome.ended and len(outcome.problems) == 4 and outcome.problems[runs[0].run] == "no luck"
    found = dict(zip([run.name for run in plan.runs], zip(states(plan), reasons(plan), strict=True), strict=True))
    assert found["run0"] == (State.failed, "no luck") and found["run3"][0] is State.failed
    assert found["run1"] == (State.blocked, f"{place_of(runs_dir, 0)} is failed, and this run begins from it")
    assert found["run2"] == (State.blocked, f"{place_of(runs_dir, 1)} is blocked, and this run begins from it")
    assert found["run4"] == (State.finished, "")
    captured = capfd.readouterr()
    assert "run0 seed0: failed: no luck" in captured.out and "1 of 5 runs finished" in captured.out
    assert "run1 seed0: blocked: " in captured.out and "no_such_module" in captured.err  # a traceback, for our mistakes


def test_a_parent_outside_the_plan_that_is_not_there(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, 1, parents=[0])])
    reason = f"{place_of(runs_dir, 0)} is not started"
    assert one_by_one(plan).problems == {plan.runs[0].run: f"blocked: {reason}"}
    assert states(plan) == [State.blocked]


def test_what_is_yet_to_come_can_be_seen(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, number) for number in range(3)])
    found = []

    def execute(run: object, label: str) -> None:
        found.append((len(drivers(plan.folder)), sorted(place[-10:] for place in to_come(plan.folder))))

    SequentialConfig().carry_out(plan, Hands(execute=execute, command=lambda arguments: 0, stop=lambda: False))
    assert found == [(1, ["0001/seed0", "0002/seed0"]), (1, ["0002/seed0"]), (1, [])]
    assert drivers(plan.folder) == [] and to_come(plan.folder) == set()


def test_the_folder_of_a_killed_process_is_removed_by_the_next(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, 0, "sleep=60")])
    process = in_another_process(plan, 1)
    wait_for(lambda: states(plan) == [State.running])
    process.kill()
    process.communicate(timeout=60)
    assert len(list((plan.folder / "drivers").iterdir())) == 1
    wait_for(lambda: states(plan) == [State.stopped])
    one_by_one(plan_of([run_of(runs_dir, 0)]))
    assert list((plan.folder / "drivers").iterdir()) == []


def test_a_stop_ends_the_plan_and_the_same_command_goes_on(rlx: Callable) -> None:
    command = ("-m", *COUNTDOWN, *SMALL, "stage=pretrain", "stage.steps=16", "stage.val_every=0", "checkpoint.every=4",
               "seed=0,1")  # fmt: skip
    threading.Thread(target=_stop_at_rows, args=(Path("runs").absolute(), 3)).start()
    stopped = rlx(*command)
    assert stopped.code == 75 and "goes on from here" in stopped.err, stopped
    (run,) = (path.parent for path in Path("runs").glob("*/*/status"))
    assert 3 <= len(rows(run)) < 16
    assert rlx(*command).code == 0
    assert rlx(*command, "runs_dir=whole").code == 0
    for path in Path("whole").glob("*/*/status"):
        run = path.parent.relative_to("whole")
        assert digest("runs" / run) == digest("whole" / run) and rows("runs" / run) == rows("whole" / run)


def _stop_at_rows(runs: Path, count: int) -> None:
    wait_for(lambda: any(path.read_text().count("\n") >= count for path in runs.glob("*/*/metrics.jsonl")))
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_another_process_makes_comes_last(runs_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is told of once, waited for, and not made again; what begins from it waits too."""
    go = runs_dir.parent / "go"
    process = in_another_process(plan_of([run_of(runs_dir, 0, f"until={go}")], "first"), 1)
    plan = plan_of([run_of(runs_dir, 0), run_of(runs_dir, 1, parents=[0]), run_of(runs_dir, 2)], "second")
    wait_for(lambda: states(plan)[0] is State.running)
    threading.Thread(target=lambda: (wait_for(Path(plan.runs[2].run, "seen.json").exists), go.touch())).start()
    assert one_by_one(plan).problems == {} and states(plan) == [State.finished] * 3
    process.communicate(timeout=60)
    made = seen(plan)
    assert made[0].pid != os.getpid() and made[2].ended <= made[0].ended <= made[1].began
    assert capfd.readouterr().out.count("is making it; it is waited for") == 1


def test_a_run_that_was_taken_a_moment_ago(runs_dir: Path) -> None:
    """Nobody held it when it was looked at, and it is no failure either."""
    plan = plan_of([run_of(runs_dir, 0)])
    made = []

    def execute(run: object, label: str) -> None:
        made.append(label)
        if len(made) == 1:
            lease = Lease.acquire(plan.runs[0].run)
            threading.Timer(0.3, lease.release).start()
            raise BusyError("in use by pid 1")
        write_status(plan.runs[0].run, State.finished)

    hands = Hands(execute=execute, command=lambda arguments: 0, stop=lambda: False)
    assert SequentialConfig().carry_out(plan, hands).problems == {} and len(made) == 2


def test_a_stop_ends_the_waiting(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, 0)])
    began = time.monotonic()
    with Lease.acquire(plan.runs[0].run), pytest.raises(Stopped):
        one_by_one(plan, stops=lambda: time.monotonic() - began > 0.2)
