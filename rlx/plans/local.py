"""Carrying a plan out here, one run after the other in this process."""

import time
from collections.abc import Callable, Sequence

from rlx.errors import RlxError, Stopped
from rlx.plans.plan import PlannedRun
from rlx.runs.progress import duration
from rlx.runs.status import State, state_of


def carry_out(runs: Sequence[PlannedRun], execute: Callable[[PlannedRun, str], None]) -> list[str]:
    """Run what is not finished, in order; a run whose parent is not finished is passed over.

    Args:
        execute: carries one run out; its second argument is a label such as `[2/5] sft`.

    Returns:
        one line for each run that failed or was passed over.

    Raises:
        Stopped: the process was asked to stop.
    """
    began, problems = time.monotonic(), []
    for number, planned in enumerate(runs, start=1):
        label = f"[{number}/{len(runs)}] {planned.name}"
        missing = [parent for parent in planned.parents if state_of(parent) is not State.finished]
        if missing:
            problems.append(f"{planned.name} (seed {planned.seed}): blocked, {missing[0]} is not finished")
            print(f"{label}: {problems[-1]}", flush=True)
            continue
        try:
            execute(planned, label)
        except Stopped:
            raise
        except RlxError as error:
            problems.append(f"{planned.name} (seed {planned.seed}): {error}")
            print(f"{label}: failed: {error}", flush=True)
    print(f"{len(runs) - len(problems)} of {len(runs)} runs finished, {duration(time.monotonic() - began)}", flush=True)
    return problems
