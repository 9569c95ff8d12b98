"""Where each run of a plan stands: what its directory says, and what Slurm says of its task.

The directory knows finished, failed, blocked, stopped and interrupted. Slurm knows what is still to come:

1. queued: its task waits, and it has not begun, or failed before. requeued: its task waits, and it goes on from where
   it was stopped or lost. starting: its task is on a node, and the run has not begun (with `runs_per_task`, others of
   the task may come first).
2. cancelled: its task was cancelled (by `python -m rlx.plans cancel`, or by scancel as long as Slurm remembers it)
   before the run was finished.
3. A run that failed or was blocked since it was submitted is that, whatever its task still does for others.
4. queued and requeued are also runs that a process which carries the plan out on a machine has yet to come to
   (`rlx.plans.drivers`).
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlx.errors import RunError
from rlx.plans import slurm
from rlx.plans.drivers import to_come
from rlx.plans.launchers.base import log_of
from rlx.plans.plan import Plan, PlannedRun
from rlx.plans.submissions import Place, key_of, places
from rlx.runs.files import STATUS
from rlx.runs.identity import RunName
from rlx.runs.listing import ListedRun, is_number
from rlx.runs.status import State

ENDED = ("finished", "failed", "blocked", "cancelled", "stopped", "interrupted", "absent")
"""States in which nothing more happens by itself."""
AGAIN = ("failed", "blocked", "interrupted", "stopped", "absent")
"""States that `retry` takes when it is not told which."""
ORDER = ("running", "starting", "requeued", "queued", "failed", "blocked", "interrupted", "stopped", "cancelled",
         "absent", "finished")  # fmt: skip
"""The order in which a table shows them."""
END = 1 << 13
"""Bytes of a log that are looked at, from its end."""


@dataclass(frozen=True)
class Standing:
    """One run of a plan, now."""

    planned: PlannedRun
    place: Place | None
    """Where it was submitted last."""
    task: slurm.QueuedTask | None
    """What Slurm knows of that."""
    log: Path
    """Where a local launcher puts what it prints."""
    comes: bool = False
    """A process that carries the plan out on a machine has yet to come to it."""

    @cached_property
    def listed(self) -> ListedRun:
        name = RunName.of(self.planned.run)
        assert name is not None
        return ListedRun(Path(self.planned.run), name)

    @cached_property
    def state(self) -> str:
        """One of ORDER."""
        found = self.listed.state
        if found in (State.finished, State.running) or (self.ended_here and not self.waits):
            return found.value
        if self.task is not None and self.task.live:
            begun, ending = found in (State.stopped, State.interrupted), self.task.state == "COMPLETING"
            if ending and self.place is not None and self.place.cancelled:
                return "cancelled"
            if self.waits or (begun and ending):
                return "requeued" if begun else "queued"
            return "starting"
        if self.comes:
            return "requeued" if found in (State.stopped, State.interrupted) else "queued"
        scancelled = self.task is not None and self.task.state == "CANCELLED"
        if self.place is not None and (self.place.cancelled or scancelled):
            return "cancelled"
        return found.value

    @property
    def waits(self) -> bool:
        """Its task is in the queue and not on a node."""
        return self.task is not None and self.task.waiting

    @property
    def ended_here(self) -> bool:
        """It failed, or was blocked, since it was submitted last."""
        if self.place is None or self.listed.state not in (State.failed, State.blocked):
            return False
        return (self.listed.path / STATUS).stat().st_mtime >= self.place.since

    @cached_property
    def reason(self) -> str:
        """Why it is where it is, in a line."""
        if self.state in ("queued", "requeued") and self.task is not None:
            return self.task.reason if self.task.reason != "None" else ""
        if self.state == "interrupted":
            ended = f" (Slurm: {self.task.state})" if self.task is not None else ""
            return f"its process is gone{ended}; {self.last_line}".rstrip("; ")
        if self.state == "absent":
            ended = f"Slurm: {self.task.state}; " if self.task is not None else ""
            return f"{ended}{self.last_line}".rstrip("; ")
        return self.listed.status.reason if self.state in ("failed", "blocked", "stopped") else ""

    @cached_property
    def last_line(self) -> str:
        """The end of what its process printed."""
        logs = [log for log in (self.log, self.place.log if self.place is not None else None) if log and log.is_file()]
        if not logs:
            return ""
        newest = max(logs, key=lambda log: log.stat().st_mtime)
        return next((line.strip() for line in reversed(_end_of(newest)) if line.strip()), "")

    @cached_property
    def left(self) -> float | None:
        """Seconds that a running run still needs: by its pace, else by what the plan expected; None where neither is
        known.
        """
        if self.state != "running":
            return None
        run = self.listed
        pace = pace_of(run)
        if pace is not None and run.step is not None and run.planned:
            return max(0.0, pace * (run.planned - run.step) - (run.age or 0.0))
        if self.planned.seconds is None:
            return None
        return max(0.0, self.planned.seconds - (time.time() - (run.path / STATUS).stat().st_mtime))

    @cached_property
    def whole(self) -> float | None:
        """Seconds that the run took, or will have taken, from its beginning to its end; None before it has a pace."""
        run = self.listed
        if self.state == "finished":
            wall = run.record.get("wall_s")
            return wall if is_number(wall) else None
        wall = run.last.get("wall")
        return wall + self.left if self.state == "running" and self.left is not None and is_number(wall) else None

    def as_json(self) -> dict[str, Any]:
        run = self.planned
        return {
            "run": run.run,
            "name": run.name,
            "label": run.label,
            "seed": run.seed,
            "state": self.state,
            "step": self.listed.step,
            "steps": self.listed.planned,
            "left_s": self.left,
            "age_s": self.listed.age,
            "task": self.place.task if self.place else None,
            "reason": self.reason,
        }


def pace_of(run: ListedRun) -> float | None:
    """Seconds a step, over its latest steps: what came before the first, and another machine long ago, do not count."""
    first, last = _first_row(run), run.last
    steps, wall = (last.get(key) for key in ("step", "wall"))
    if not (is_number(steps) and is_number(wall) and steps > 0):
        return None
    since = first.get("step"), first.get("wall")
    if is_number(since[0]) and is_number(since[1]) and since[0] < steps:
        return (wall - since[1]) / (steps - since[0])
    return wall / steps


def _first_row(run: ListedRun) -> dict[str, Any]:
    """The oldest row that was read."""
    try:
        row = json.loads(run.tail.partition(b"\n")[0] or b"{}")
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def standings(plan: Plan, before: Mapping[str, Standing] | None = None) -> list[Standing]:
    """Every run of a plan; of Slurm only what it can be asked now.

    Args:
        before: what was found at an earlier look, by run directory: runs that were finished then are not read again.
    """
    before, coming = before or {}, to_come(plan.folder)
    where = places(plan.folder)
    known = _asked({place.task for place in where.values()}) if where else {}
    found = []
    for run in plan.runs:
        if run.run in before and before[run.run].state == "finished":
            found.append(before[run.run])
            continue
        place = where.get(key_of(run.run))
        task = known.get(place.task) if place is not None else None
        comes = key_of(run.run) in coming
        found.append(Standing(run, place, task, log_of(run, plan.folder), comes))
    return found


def _asked(tasks: Iterable[str]) -> Mapping[str, slurm.QueuedTask]:
    if not slurm.available():
        return {}
    try:
        queue = slurm.queue()
    except RunError:
        return {}
    forgotten = {task.partition("_")[0] for task in tasks if task not in queue}
    return {**slurm.ended(sorted(forgotten)), **queue}


def _end_of(log: Path) -> list[str]:
    """The last lines of a log that may be long."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - END))
        return file.read().decode(errors="replace").split("\n")


def over(found: Sequence[Standing]) -> bool:
    """True when nothing more happens by itself."""
    return all(standing.state in ENDED for standing in found)
