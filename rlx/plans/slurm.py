"""What rlx says to Slurm and hears from it: sbatch, squeue, scancel, scontrol; sacct where there is accounting."""

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from rlx.errors import RunError

PATIENCE_S = 60.0
"""Seconds that a command of Slurm may take; a busy controller answers late."""
_FOREIGN = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SACCT_")
AT_ONCE = 500
"""Tasks named in one command: command lines have an end."""
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


def available() -> bool:
    """True where the commands of Slurm are."""
    return which("sbatch") is not None and which("squeue") is not None


def submit(script: Path, *, after: Sequence[str] = ()) -> str:
    """Submit a batch script and return the job's number.

    Args:
        after: jobs, or tasks of arrays, that must have ended, however they did.

    Raises:
        RunError: Slurm refuses it.
    """
    wait = [f"--dependency=afterany:{':'.join(after)}"] if after else []
    return _call("sbatch", "--parsable", *wait, str(script)).strip().partition(";")[0]


def queue() -> dict[str, QueuedTask]:
    """This user's tasks in the queue, those that ended a short while ago included: `<job>_<task>`, or `<job>`.

    Raises:
        RunError: the controller does not answer.
    """
    text = _call("squeue", "--array", "--noheader", "--states=all", "--me", "--format=%F|%K|%T|%r|%o")
    found = {}
    for line in text.splitlines():
        job, task, *known = (part.strip() for part in line.split("|", 4))
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
        RunError: Slurm refuses it.
    """
    for begin in range(0, len(tasks), AT_ONCE):
        _call("scancel", *tasks[begin : begin + AT_ONCE])


def max_array_size() -> int:
    """How many tasks an array may have.

    Raises:
        RunError: the cluster takes no arrays.
    """
    config = _call("scontrol", "show", "config")
    limits = re.findall(r"^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", config, flags=re.MULTILINE)
    size = min((int(one or other) for one, other in limits), default=1001)
    if size < 1:
        raise RunError("this cluster takes no job arrays (MaxArraySize=0); take hydra/launcher=parallel inside a job")
    return size


def _environment() -> dict[str, str]:
    """Ours, without what a surrounding job says of itself: its task number would be handed on, and SBATCH_* variables
    beat what a script says.
    """
    return {key: value for key, value in os.environ.items() if key == "SLURM_CONF" or not key.startswith(_FOREIGN)}


def _call(*command: str) -> str:
    try:
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    except FileNotFoundError:
        raise RunError(f"there is no {command[0]} here; type the command on a machine of the cluster") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{command[0]} did not answer in {PATIENCE_S:.0f} s; see whether Slurm is up: sinfo") from None
    if done.returncode != 0:
        told = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise RunError(f"{command[0]} refused: {told}")
    return done.stdout
