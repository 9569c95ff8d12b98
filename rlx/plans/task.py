"""What a task of a job array does: the runs of its line, one after the other."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rlx.errors import BusyError, ConfigError, Stopped
from rlx.plans.launchers.base import block, unfinished_parent
from rlx.plans.plan import PlannedRun
from rlx.plans.submissions import read_tasks
from rlx.runs.lease import HEARTBEAT_S, STALE_S, is_held
from rlx.runs.status import State, state_of

LOOK_S = 1.0
"""Seconds between two looks at the lease of another process."""


def runs_of_task(path: Path, number: int) -> list[PlannedRun]:
    """The runs of a task by its number.

    Raises:
        ConfigError: the list has no such line.
    """
    tasks = read_tasks(path)
    if not 0 <= number < len(tasks):
        raise ConfigError(f"{path} has tasks 0 to {len(tasks) - 1}, not {number}")
    return tasks[number]


def carry_out_task(
    runs: Sequence[PlannedRun], command: Callable[[Sequence[str]], int], stop: Callable[[], bool]
) -> int:
    """Make what is not finished, and return the exit code: that of a stop at once, else the worst.

    A run whose parent is not finished is left as `blocked`, and the others go on.
    """
    codes = [0]
    for number, run in enumerate(runs, start=1):
        if state_of(run.run) is State.finished:
            print(f"{run.title}: finished already: {run.run}", flush=True)
            continue
        if stop():  # the signal came between two runs
            return Stopped.exit_code
        if parent := unfinished_parent(run):
            print(f"rlx: {run.title}: {block(run, parent)}", flush=True)
            codes.append(1)
            continue
        if len(runs) > 1:
            print(f"[{number}/{len(runs)}] {run.title}", flush=True)
        codes.append(_made(run, command, stop))
        if codes[-1] == Stopped.exit_code:
            return Stopped.exit_code
    return max(codes)


def _made(run: PlannedRun, command: Callable[[Sequence[str]], int], stop: Callable[[], bool]) -> int:
    """Make a run, and return the exit code. One that another process holds is waited for until its lease is stale, so
    that a task which takes the place of one on a lost node does not fail. Nor does one whose run was let go just before
    it is looked for.
    """
    code, until, again = command(run.arguments), time.monotonic() + STALE_S + HEARTBEAT_S, True
    while code == BusyError.exit_code:
        if is_held(run.run):
            if stop():
                return Stopped.exit_code
            if time.monotonic() > until:
                return code
            time.sleep(LOOK_S)
            again = True
        elif state_of(run.run) is State.finished:
            return 0
        elif again:
            code, again = command(run.arguments), False
        else:
            return code
    return code
