"""Where each run of a plan stands: what its directory says, and what Slurm says of its task.

The directory knows finished, failed, blocked, stopped and interrupted. Slurm knows what is still to come:

1. queued: its task waits, and it has not begun, or failed before. requeued: its task waits, and it goes on from where
   it was stopped or lost. starting: its task is on a node, and the run has not begun (with `runs_per_task`, others of
   the task may come first).
2. cancelled: its task was cancelled (by `python -m rlx.plans cancel`, or by scancel as long as Slurm remembers it)
   before the run was finished, and no other process has taken the run up since.
3. A run that failed or was blocked since it was submitted is that, whatever its task still does for others.
4. unknown: it was handed to Slurm, which is not here or does not answer.
5. queued and requeued are also runs that a process which carries the plan out on a machine has yet to come to
   (`rlx.plans.drivers`).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlx.errors import RunError
from rlx.plans import slurm
from rlx.plans.drivers import to_come
from rlx.plans.launchers.base import last_line_of, log_of, shown
from rlx.plans.plan import Plan, PlannedRun, read_settings
from rlx.plans.submissions import Place, key_of, live_tasks, log_name, places, queue_of
from rlx.runs.files import STATUS
from rlx.runs.identity import RunName
from rlx.runs.listing import ListedRun, is_number
from rlx.runs.status import State

ENDED = ("finished", "failed", "blocked", "cancelled", "stopped", "interrupted", "absent")
"""States in which nothing more happens by itself."""
AGAIN = ("failed", "blocked", "interrupted", "stopped", "absent")
"""States that `retry` takes when it is not told which."""
ORDER = ("running", "starting", "requeued", "queued", "unknown", "failed", "blocked", "interrupted", "stopped",
         "cancelled", "absent", "finished")  # fmt: skip
"""The order in which a table shows them."""
SLURM = "slurm_array"
"""The launcher whose plans Slurm is asked about."""
SETTLED_S = 60.0
"""Seconds between the last words of a task's log and of its run that are no sign of another process."""


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
    heard: bool = True
    """Slurm was asked, and answered."""
    lent: str = ""
    """Name of the other plan whose task will make it."""

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
            if ending and self.cancelled:
                return "cancelled"
            if self.waits or (begun and ending):
                return "requeued" if begun else "queued"
            return "starting"
        if self.comes:
            return "requeued" if found in (State.stopped, State.interrupted) else "queued"
        if self.place is not None and not self.heard and not self.place.cancelled:
            return "unknown"
        return "cancelled" if self.cancelled else found.value

    @property
    def cancelled(self) -> bool:
        """Its task was cancelled, and the run was left alone since."""
        scancelled = self.task is not None and self.task.state == "CANCELLED"
        if self.place is None or not (self.place.cancelled or scancelled):
            return False
        last = max(self.place.since, _written(self.place.log))
        return _written(self.listed.path / STATUS) <= last + SETTLED_S

    @property
    def waits(self) -> bool:
        """Its task is in the queue and not on a node."""
        return self.task is not None and self.task.waiting

    @property
    def ended_here(self) -> bool:
        """It failed, or was blocked, since it was submitted last."""
        if self.place is None or self.listed.state not in (State.failed, State.blocked):
            return False
        return _written(self.listed.path / STATUS) >= self.place.since

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
        return shown(self.listed.status.reason) if self.state in ("failed", "blocked", "stopped") else ""

    @cached_property
    def last_line(self) -> str:
        """The end of what its process printed."""
        logs = [log for log in (self.log, self.place.log if self.place is not None else None) if log and log.is_file()]
        if not logs:
            return ""
        return last_line_of(max(logs, key=_written))

    @cached_property
    def left(self) -> float | None:
        """Seconds that a running run still needs: by its pace, else by what the plan expected; None where neither is
        known.
        """
        if self.state != "running":
            return None
        run = self.listed
        if run.pace is not None and run.step is not None and run.planned:
            return max(0.0, run.pace * (run.planned - run.step) - (run.age or 0.0))
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


def standings(plan: Plan, before: Mapping[str, Standing] | None = None) -> list[Standing]:
    """Every run of a plan; of Slurm only what it can be asked now.

    Args:
        before: what was found at an earlier look, by run directory: runs that were finished then are not read again.
    """
    before, coming = before or {}, to_come(plan.folder)
    where = places(plan.folder)
    handed = bool(where) or read_settings(plan.folder).get("launcher", {}).get("option") == SLURM
    known = _asked(plan.folder, {place.task for place in where.values()}) if handed else {}
    others = live_tasks(plan.folder.parent.parent, known) if known else {}
    found = []
    for run in plan.runs:
        if run.run in before and before[run.run].state == "finished":
            found.append(before[run.run])
            continue
        place, key = where.get(key_of(run.run)), key_of(run.run)
        task = _task_of(place, known) if place is not None and known is not None else None
        lent = ""
        if key in others and known is not None and not (task is not None and task.live):
            task = known[others[key]]
            place = lent_place(others[key], task)
            owner = place.script.parents[2]
            lent = owner.name if owner.resolve() != plan.folder.resolve() else ""
        log = log_of(run, plan.folder)
        found.append(Standing(run, place, task, log, key in coming, known is not None, lent))
    return found


def _task_of(place: Place, known: Mapping[str, slurm.QueuedTask]) -> slurm.QueuedTask | None:
    """What Slurm knows of a run's task: by its own number, or, cancelled before it began, by the array's."""
    task, array = known.get(place.task), known.get(place.task.partition("_")[0])
    if task is None and array is not None and not array.live:
        task = array
    return task if task is not None and place.is_of(task) else None


def lent_place(task: str, queued: slurm.QueuedTask) -> Place:
    """Where a task of another plan, or one that nothing was written of, is at work."""
    script = Path(queued.script)
    job, _, number = task.partition("_")
    return Place(task, False, script.parent / log_name(job, number), 0.0, script, "")


def _asked(plan: Path, tasks: Iterable[str]) -> Mapping[str, slurm.QueuedTask] | None:
    """The queue, and what accounting knows of these tasks; None where Slurm is not here, or does not answer."""
    if not slurm.available():
        return None
    try:
        queue = queue_of(plan)
    except RunError:
        return None
    forgotten = {task.partition("_")[0] for task in tasks if task not in queue}
    return {**slurm.ended(sorted(forgotten)), **queue}


def elsewhere(found: Iterable[Standing]) -> str:
    """Says that tasks of these runs are another cluster's, which Slurm knows nothing of here; empty where none are."""
    there = {each.place.cluster for each in found if each.place is not None and each.state != "finished"} - {""}
    if not there or not slurm.available():
        return ""
    with suppress(RunError):
        here = slurm.cluster()
        if here and there - {here}:
            return f"submitted on the cluster {', '.join(sorted(there - {here}))}, of which {here} knows nothing"
    return ""


def _written(path: Path) -> float:
    """When a file was, in seconds since the epoch by the disk's clock; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def over(found: Sequence[Standing]) -> bool:
    """True when nothing more happens by itself, or could be seen here."""
    unseen = () if slurm.available() else ("unknown",)
    return all(standing.state in (*ENDED, *unseen) for standing in found)
