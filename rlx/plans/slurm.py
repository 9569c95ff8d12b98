"""What rlx says to Slurm and hears from it: sbatch, squeue, scancel, scontrol; sacct where there is accounting."""

import os
import re
import subprocess
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from rlx.errors import RunError

PATIENCE_S = 60.0
"""Seconds that a command of Slurm may take; a busy controller answers late."""
_FOREIGN = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SACCT_")
AT_ONCE = 500
"""Tasks named in one command: command lines have an end."""
_ROW = re.compile(r"(\d+)\|(\d+|N/A)\|([A-Z_]+)\|([^|]*)\|(.*)")
"""A line of squeue as `queue` asks for it; the arguments of a foreign job may have line breaks, and begin others."""
_TASK = re.compile(r"[0-9]+(_[0-9]+)?")
LIVE = frozenset(
    {
        *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
        *("RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"),
    }
)
"""States of tasks that may yet do something."""
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
"""States of tasks that are not on a node."""


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """One task as Slurm knows it."""

    state: str
    """PENDING, RUNNING, COMPLETED, CANCELLED ..."""
    reason: str = ""
    """Why it waits."""
    script: str = ""
    """Its batch script, where it was when it was submitted."""

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def waiting(self) -> bool:
        return self.state in WAITING


class Refused(RunError):
    """Slurm answered, and did not do it."""


def available() -> bool:
    """True where the commands of Slurm are."""
    return which("sbatch") is not None and which("squeue") is not None


def submit(script: Path, *, after: Sequence[str] = (), variables: Collection[str] = ()) -> str:
    """Submit a batch script and return the job's number.

    Args:
        after: jobs, or tasks of arrays, that must have ended, however they did.
        variables: those of SBATCH_* that hold; they beat what the script says.

    Raises:
        RunError: Slurm refuses it.
    """
    wait = [f"--dependency=afterany:{':'.join(after)}"] if after else []
    return _call("sbatch", "--parsable", *wait, str(script), variables=variables).strip().partition(";")[0]


def queue(*, everyone: bool = False) -> dict[str, QueuedTask]:
    """This user's tasks in the queue, those that ended a short while ago included: `<job>_<task>`, or `<job>`.

    Args:
        everyone: those of all users.

    Raises:
        RunError: the controller does not answer.
    """
    whose = [] if everyone else ["--me"]
    text = _call("squeue", "--array", "--noheader", "--states=all", *whose, "--format=%F|%K|%T|%r|%o")
    found = {}
    for row in filter(None, map(_ROW.fullmatch, text.splitlines())):
        job, task, *known = (part.strip() for part in row.groups())
        found[f"{job}_{task}" if task.isdecimal() else job] = QueuedTask(*known)
    return found


def ended(jobs: Iterable[str]) -> dict[str, QueuedTask]:
    """What accounting knows of jobs that the queue has forgotten; {} where there is none."""
    jobs = list(jobs)
    if not jobs or which("sacct") is None:
        return {}
    try:
        text = _call(
            "sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State", f"--jobs={','.join(jobs)}"
        )
    except RunError:
        return {}
    rows = (line.split("|") for line in text.splitlines() if "|" in line)
    return {name: QueuedTask(state.split()[0]) for name, state in rows if state and "[" not in name}


def cancel(tasks: Sequence[str]) -> None:
    """Cancel tasks or jobs.

    Raises:
        RunError: Slurm refuses it, or one is none: scancel would take an option for an option.
    """
    for task in tasks:
        if not _TASK.fullmatch(task):
            raise RunError(f"{task!r} is no job or task of Slurm's, and nothing is cancelled; see the plan's jobs.json")
    for begin in range(0, len(tasks), AT_ONCE):
        _call("scancel", *tasks[begin : begin + AT_ONCE])


def max_array_size() -> int:
    """How many tasks an array may have.

    Raises:
        RunError: the cluster takes no arrays.
    """
    limits = re.findall(r"^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", _config(), flags=re.MULTILINE)
    size = min((int(one or other) for one, other in limits), default=1001)
    if size < 1:
        raise RunError("this cluster takes no job arrays (MaxArraySize=0); take hydra/launcher=parallel inside a job")
    return size


def cluster() -> str:
    """The cluster's name; empty where it has none.

    Raises:
        RunError: the controller does not answer.
    """
    found = re.search(r"^ClusterName\s*=\s*(\S+)", _config(), flags=re.MULTILINE)
    return found[1] if found else ""


def _config() -> str:
    return _call("scontrol", "show", "config")


def _environment(variables: Collection[str] = ()) -> dict[str, str]:
    """Ours, without what a surrounding job says of itself: its task number would be handed on, and SBATCH_* variables
    beat what a script says, but for those that are named.
    """
    kept = {"SLURM_CONF", *variables}
    return {key: value for key, value in os.environ.items() if key in kept or not key.startswith(_FOREIGN)}


def _call(*command: str, variables: Collection[str] = ()) -> str:
    try:
        done = subprocess.run(
            command, env=_environment(variables), capture_output=True, timeout=PATIENCE_S,
            encoding="utf-8", errors="surrogateescape",  # as paths are read: the jobs of others may have any bytes
        )  # fmt: skip
    except FileNotFoundError:
        raise RunError(f"there is no {command[0]} here; type the command on a machine of the cluster") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{command[0]} did not answer in {PATIENCE_S:.0f} s; see whether Slurm is up: sinfo") from None
    if done.returncode != 0:
        told = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        advice = "; what it is told: rlx hydra/launcher=slurm_array --help" if command[0] == "sbatch" else ""
        raise Refused(f"{command[0]} refused: {told}{advice}")
    return done.stdout
