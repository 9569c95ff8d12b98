"""What a task of a job array does: the runs of its line, one after the other."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rlx.errors import ConfigError, Stopped
from rlx.plans.launchers.base import block, unfinished_parent
from rlx.plans.plan import PlannedRun
from rlx.plans.submissions import read_tasks
from rlx.runs.status import State, state_of


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
        codes.append(command(run.arguments))
        if codes[-1] == Stopped.exit_code:
            return Stopped.exit_code
    return max(codes)
