"""What of a plan was handed to Slurm: `<plan>/submissions/<n>`, one folder for each time.

A submission's files are never changed, whatever becomes of the plan: each array has its script and a list of its tasks,
`level0.jsonl`, where task i finds its runs on line i. `jobs.json` has the numbers that Slurm gave them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlx.plans.plan import PlannedRun
from rlx.plans.slurm import QueuedTask
from rlx.runs.files import JOBS, SUBMISSIONS, write_json, write_text

PLANS = "plans"
"""The folder of plans in a folder of runs."""
CONCLUSION = "conclusion.sbatch"
"""The script of the job that ends a plan."""


@dataclass(frozen=True, slots=True)
class Array:
    """One job array of a submission."""

    job: str
    """Its number."""
    level: int
    script: str
    """Name of its batch script, beside jobs.json; its tasks are in the file of the same name that ends in .jsonl."""
    tasks: int


@dataclass(slots=True)
class Submission:
    """One folder."""

    folder: Path
    arrays: list[Array] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    """Runs whose tasks were cancelled by rlx, as `key_of` their directories."""
    conclusion: str = ""
    """Number of the job that ends the plan; empty where there is none."""

    def save(self) -> None:
        arrays = [asdict(array) for array in self.arrays]
        write_json(self.folder / JOBS, {"arrays": arrays, "cancelled": self.cancelled, "conclusion": self.conclusion})

    def jobs(self) -> list[str]:
        """The numbers of its arrays."""
        return [array.job for array in self.arrays]

    @property
    def since(self) -> float:
        """When it began to be handed over, in seconds since the epoch by the disk's clock; 0 where nothing was."""
        return min((tasks_file(self.folder / array.script).stat().st_mtime for array in self.arrays), default=0.0)

    def places(self) -> Iterator[tuple[str, str]]:
        """Each run, as `key_of` its directory, and the task that it is in: `<job>_<task>`."""
        for array in self.arrays:
            for number, runs in enumerate(read_tasks(tasks_file(self.folder / array.script))):
                yield from ((key_of(run.run), f"{array.job}_{number}") for run in runs)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run was submitted last."""

    task: str
    """`<job>_<task>`."""
    cancelled: bool
    log: Path
    since: float
    """When its submission began, in seconds since the epoch by the disk's clock."""


def key_of(run: str) -> str:
    """What a run is called in a folder of runs, from wherever that is looked at: `<name>/seed<n>`."""
    return "/".join(Path(run).parts[-2:])


def new_submission(plan: Path) -> Submission:
    """The next folder, made."""
    number = 1 + max((int(path.name) for path in (plan / SUBMISSIONS).glob("[0-9]*")), default=0)
    folder = plan / SUBMISSIONS / f"{number:03d}"
    folder.mkdir(parents=True)
    return Submission(folder)


def submissions(plan: Path) -> list[Submission]:
    """A plan's submissions, the newest last."""
    found = []
    for path in sorted((plan / SUBMISSIONS).glob(f"[0-9]*/{JOBS}"), key=lambda path: int(path.parent.name)):
        read: dict[str, Any] = json.loads(path.read_text())
        arrays = [Array(**array) for array in read["arrays"]]
        found.append(Submission(path.parent, arrays, read["cancelled"], read["conclusion"]))
    return found


def places(plan: Path) -> dict[str, Place]:
    """Where each run of a plan was submitted last, by `key_of`."""
    found = {}
    for submission in submissions(plan):
        cancelled, since = set(submission.cancelled), submission.since
        for run, task in submission.places():
            job, _, number = task.partition("_")
            found[run] = Place(task, run in cancelled, submission.folder / log_name(job, number), since)
    return found


def live_tasks(runs_dir: Path, queue: Mapping[str, QueuedTask]) -> dict[str, str]:
    """The tasks in the queue that may still make a run, by its `key_of`; of all plans in a folder of runs.

    A task is known by its batch script. So one whose number was not written down any more, when submitting was killed,
    is found too, and one whose script was submitted by hand.
    """
    scripts: dict[str, list[list[PlannedRun]]] = {}
    found = {}
    for task, queued in queue.items():
        number = task.partition("_")[2]
        if queued.live and number:
            if queued.script not in scripts:
                scripts[queued.script] = _tasks_of(Path(queued.script), runs_dir)
            runs = scripts[queued.script][int(number) : int(number) + 1]
            found.update((key_of(run.run), task) for own in runs for run in own)
    return found


def _tasks_of(script: Path, runs_dir: Path) -> list[list[PlannedRun]]:
    """The tasks of a batch script; none where it is not a plan's in this folder of runs."""
    if len(script.parents) < 4 or script.parents[3].resolve() != (runs_dir / PLANS).resolve():
        return []
    return read_tasks(tasks_file(script)) if tasks_file(script).is_file() else []


def live_conclusions(plan: Path, queue: Mapping[str, QueuedTask]) -> list[str]:
    """The tasks in the queue that will end a plan."""
    place = (plan / SUBMISSIONS).resolve()
    return [
        task for task, queued in queue.items()
        if queued.live and Path(queued.script).name == CONCLUSION
        and Path(queued.script).parent.parent.resolve() == place
    ]  # fmt: skip


def tasks_file(script: Path) -> Path:
    """The list of tasks beside a batch script."""
    return script.with_suffix(".jsonl")


def log_name(job: str, task: str) -> str:
    """What a task's output is called in the submission's folder."""
    return f"{job}_{task}.log"


def write_tasks(path: Path, tasks: Sequence[Sequence[PlannedRun]]) -> None:
    """One line a task, with its runs."""
    write_text(path, "".join(json.dumps([asdict(run) for run in runs]) + "\n" for runs in tasks))


def read_tasks(path: Path) -> list[list[PlannedRun]]:
    """The runs of each task."""
    return [[PlannedRun.of_row(row) for row in json.loads(line)] for line in path.read_text().splitlines()]
