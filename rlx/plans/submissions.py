"""What of a plan was handed to Slurm: `<plan>/submissions/<n>`, one folder for each time.

A submission's files are never changed, whatever becomes of the plan: each array has its script and a list of its tasks,
`level0.jsonl`, where task i finds its runs on line i. `jobs.json` has the numbers that Slurm gave them.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from rlx.errors import ConfigError
from rlx.plans import slurm
from rlx.plans.plan import PlannedRun, fits, key_of
from rlx.plans.slurm import QueuedTask
from rlx.runs.files import JOBS, SUBMISSIONS, write_json, write_text
from rlx.runs.metrics import as_row

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
    cluster: str = ""
    """Name of the cluster that gave the numbers; empty where it has none."""

    def save(self) -> None:
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "folder"}
        write_json(self.folder / JOBS, {**told, "arrays": [asdict(array) for array in self.arrays]})

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
    script: Path
    cluster: str
    """Where that was; empty where it has no name."""

    def is_of(self, queued: QueuedTask) -> bool:
        """False for another job with the same number: Slurm counts from one again, or is another cluster's."""
        own = os.path.abspath(self.script)
        return not queued.script.startswith("/") or own == queued.script or _same(own, queued.script)


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


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
        found.append(_submission(path))
    return found


def _submission(path: Path) -> Submission:
    """
    Raises:
        ConfigError: its jobs.json is damaged.
    """
    read = as_row(path.read_bytes()) or {}
    arrays, kinds = read.get("arrays"), {each.name: each.type for each in fields(Array)}
    whole = fits(arrays, list[dict]) and fits(read.get("cancelled"), list[str]) and fits(read.get("conclusion"), str)
    if not whole or any(not fits(array.get(name), kind) for array in arrays or [] for name, kind in kinds.items()):
        raise ConfigError(f"{path} is damaged; restore it from a copy, or move its folder away")
    made = [Array(**{name: array[name] for name in kinds}) for array in arrays or []]
    return Submission(path.parent, made, read["cancelled"], read["conclusion"], str(read.get("cluster", "")))


def places(plan: Path) -> dict[str, Place]:
    """Where each run of a plan was submitted last, by `key_of`."""
    found = {}
    for submission in submissions(plan):
        cancelled, since = set(submission.cancelled), submission.since
        scripts = {array.job: submission.folder / array.script for array in submission.arrays}
        for run, task in submission.places():
            job, _, number = task.partition("_")
            log = submission.folder / log_name(job, number)
            found[run] = Place(task, run in cancelled, log, since, scripts[job], submission.cluster)
    return found


def queue_of(*plans: Path) -> dict[str, QueuedTask]:
    """The queue as it matters to plans: with the tasks of all users where another one submitted some of theirs, as in
    the folder of a group.

    Raises:
        RunError: the controller does not answer.
    """
    # not jobs.json: whoever writes in it last, to cancel, becomes its owner
    folders = (folder for plan in plans for folder in (plan / SUBMISSIONS).glob("[0-9]*"))
    return slurm.queue(everyone=any(folder.stat().st_uid != os.geteuid() for folder in folders))


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
    """The runs of each task.

    Raises:
        ConfigError: the file is not there, or damaged.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; restore it from a copy") from None
    found = []
    for number, line in enumerate(lines, start=1):
        rows = (as_row(f'{{"runs": {line}}}') or {}).get("runs")
        if not isinstance(rows, list):
            raise ConfigError(f"{path}:{number} is no list of runs; restore the file from a copy")
        found.append([PlannedRun.of_row(row, f"{path}:{number}") for row in rows])
    return found
