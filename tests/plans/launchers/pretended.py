"""Commands that stand in for Slurm's and take down how they are called, and plans to submit to them."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlx.plans.launchers.base import Hands, Outcome
from rlx.plans.launchers.slurm_array import SlurmArrayConfig
from rlx.plans.plan import Plan, PlannedRun, with_levels
from rlx.plans.submissions import read_tasks, submissions
from rlx.runs.status import State, write_status

SBATCH = """#!/bin/sh
cd "$PRETENDED"
n=$(($(cat jobs) + 1))
if [ -e refused ] && [ "$n" -ge "$(cat refused)" ]; then
    echo "sbatch: error: Batch job submission failed:" >&2
    echo "sbatch: error: no such partition" >&2
    exit 1
fi
echo "$n" > jobs
echo "$*" >> calls
if [ -e killing ] && [ "$n" = "$(cat killing)" ]; then kill -s KILL "$PPID"; fi
echo "$n;test"
"""
OTHERS = {
    "squeue": "[ ! -e silent ] || exit 1\ncat queue\n",
    "scontrol": "cat config\n",
    "scancel": 'echo "scancel $*" >> calls\n',
    "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1\n",
}


@dataclass(frozen=True)
class Pretended:
    """What the stand-ins took down, in the current folder, and what they answer."""

    def scripts(self) -> list[str]:
        """The scripts that were submitted, in order, without the folder and `.sbatch`."""
        return [Path(call.split()[-1]).stem for call in self.calls()]

    def after(self) -> list[list[str]]:
        """What each submission waits for."""
        found = [re.search(r"--dependency=afterany:(\S+)", call) for call in self.calls()]
        return [match[1].split(":") if match else [] for match in found]

    def calls(self) -> list[str]:
        return Path("calls").read_text().splitlines()

    def queue(self, **tasks: str) -> None:
        """What squeue says: `_7_0="RUNNING"` is task 0 of job 7; a reason may stand after a blank."""
        scripts = [Path(call.split()[-1]).absolute() for call in self.calls() if "scancel" not in call]
        rows = []
        for name, state in tasks.items():
            job, number = name.removeprefix("_").split("_")
            rows.append("|".join([job, number, *f"{state} None".split()[:2], str(scripts[int(job) - 1])]))
        Path("queue").write_text("".join(f"{row}\n" for row in rows))


def planned(number: int, *parents: int, runs_dir: str = "runs") -> PlannedRun:
    """A run whose directory has its number."""
    return PlannedRun(
        name=f"run{number}", label=f"lr={number}", seed=0, run=directory(number, runs_dir), stage="pretrain",
        command=f"rlx seed={number}", arguments=[f"seed={number}"], parents=[directory(p, runs_dir) for p in parents],
    )  # fmt: skip


def directory(number: int, runs_dir: str = "runs") -> str:
    return f"{runs_dir}/countdown-dense-pretrain-h{number:010x}/seed0"


def plan_of(
    *runs: PlannedRun, name: str = "plan", runs_dir: str = "runs", conclusions: Sequence[list[str]] = ()
) -> Plan:
    plan = Plan(folder=Path(runs_dir) / "plans" / name, runs=with_levels(runs), conclusions=list(conclusions))
    plan.save({"option": "slurm_array"})
    return plan


def carried(launcher: SlurmArrayConfig, plan: Plan, *, wait: bool = False, stopped: bool = False) -> Outcome:
    def refuse(*_: object) -> int:
        raise AssertionError("a run is made here")

    return launcher.carry_out(plan, Hands(execute=refuse, command=refuse, stop=lambda: stopped), wait=wait)  # type: ignore[arg-type]


def script(name: str = "level0", plan: str = "plan", number: int = 1) -> str:
    """A batch script; a shell can read it."""
    path = Path(f"runs/plans/{plan}/submissions/{number:03d}/{name}.sbatch")
    read = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert read.returncode == 0 and not read.stderr, read.stderr
    return path.read_text()


def directives(text: str) -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", text, flags=re.MULTILINE)


def program(text: str) -> str:
    return next(line for line in text.splitlines() if "-m rlx.plans" in line)


def in_tasks(plan: Plan, number: int = -1) -> list[list[list[str]]]:
    """Of each array of a submission, of each task: the labels of its runs."""
    submission = submissions(plan.folder)[number]
    files = [submission.folder / Path(array.script).with_suffix(".jsonl") for array in submission.arrays]
    return [[[run.label for run in task] for task in read_tasks(file)] for file in files]


def ended(number: int, state: State, reason: str = "") -> None:
    """A run says how it ended."""
    Path(directory(number)).mkdir(parents=True, exist_ok=True)
    write_status(Path(directory(number)), state, reason)
