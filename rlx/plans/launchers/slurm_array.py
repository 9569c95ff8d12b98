"""`hydra/launcher=slurm_array`: a job array for each level of a plan.

1. Submitting writes everything into `<plan>/submissions/<n>`, hands the arrays to Slurm, prints how to watch them, and
   returns. Levels follow each other by `afterany`: with `afterok`, one failed task keeps the whole next level waiting
   for ever. So each task looks for its own parents, and ends as `blocked` where one is not finished.
2. A run that is in the queue already, by this plan or by another one in the same folder of runs, is not submitted
   again; what begins from it waits for that task.
3. `max_parallel` holds for a level. Where the cluster's arrays are too short for it, several share that number.
4. The folder of plans is held while one of them is submitted, since others may share its runs.
5. SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS and SBATCH_RESERVATION hold where no field and no option says otherwise.
   All others are passed over: they would beat what the script says.
6. The job that ends a plan waits for all that the plan has in the queue; a retry puts a new one in the place of one
   that is still there.
7. When a grace time of preemption begins, Slurm signals the steps of `srun` alone, and the run hears of it at its end,
   unless the cluster has `SlurmctldParameters=preempt_send_user_signal`.
"""

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from rlx.errors import ConfigError, RlxError, RunError, Stopped
from rlx.options import option
from rlx.plans import slurm
from rlx.plans.launchers.base import Hands, LauncherConfig, Outcome
from rlx.plans.plan import Plan, PlannedRun, alone, read_manifest
from rlx.plans.script import batch_script
from rlx.plans.submissions import (
    CONCLUSION,
    Array,
    Submission,
    key_of,
    live_conclusions,
    live_tasks,
    log_name,
    new_submission,
    queue_of,
    tasks_file,
    write_tasks,
)
from rlx.progress import counted
from rlx.runs.files import write_text
from rlx.runs.references import format_reference
from rlx.runs.status import State, state_of

POLL_S = 5.0
"""Seconds between two looks at the queue while a sweeper waits."""
SILENCE_S = 1800.0
"""Seconds without an answer of the controller after which waiting is given up; it may be restarted meanwhile."""
MANY = 50
"""Tasks of one array that are named one by one."""
VARIABLES = {"account": "-A", "partition": "-p", "qos": "-q", "reservation": ""}
"""Options of sbatch for which a site may tell its users to export SBATCH_<NAME>, and their short forms."""
_PLAIN = re.compile(r"[\w./:@%+,~=-]*")
_QUOTES = re.compile("[\"']")
_ESCAPED = re.compile(r'[\\"]')
_TIME = re.compile(r"\d+-\d+(:\d+){0,2}|\d+(:\d\d){1,2}")


@option("hydra/launcher", "slurm_array")
@dataclass(kw_only=True, slots=True)
class SlurmArrayConfig(LauncherConfig):
    """Job arrays on a Slurm cluster."""

    elsewhere: ClassVar[bool] = True

    partition: str | None = None
    """Partitions, joined by commas; null: the cluster's default."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    time: str | None = None
    """Time limit of a task, HH:MM:SS or D-HH:MM:SS; a run that needs longer goes on in the next slot."""
    gres: str | None = None
    """Generic resources of a task, such as gpu:1."""
    constraint: str | None = None
    """Features that a node must have."""
    cpus_per_task: int | None = None
    """Cores of a task."""
    mem: str | None = None
    """Memory of a task, such as 16G."""
    max_parallel: int | None = None
    """Tasks of a level that run at once; null: as many as the cluster gives."""
    runs_per_task: int = 1
    """Runs that share a task, one after the other: for runs shorter than the time that the queue takes."""
    signal_s: int = 120
    """Seconds before the time limit at which a run is asked to save its state (Slurm may be a minute early)."""
    extra: list[str] = field(default_factory=list)
    """More options of sbatch, such as ["--mail-type=END","--exclude=node7"], the whole in quotes for the shell."""
    setup: list[str] = field(default_factory=list)
    """Shell commands before the run, such as ["module load cuda"]; one that fails ends the task."""
    venv: str | None = None
    """A virtual environment that is activated, ~ for the home; null: the Python that submits."""
    container: str | None = None
    """What runs a command in a container, such as "apptainer exec --nv rlx.sif"; its own Python is used."""
    wait: bool = False
    """Return when all runs have ended, not when they are submitted."""

    def __post_init__(self) -> None:
        self._take_off_line_breaks()
        self.check_least(
            1, cpus_per_task=self.cpus_per_task, max_parallel=self.max_parallel, runs_per_task=self.runs_per_task,
            signal_s=self.signal_s,
        )  # fmt: skip
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise ConfigError(
                f"hydra.launcher.time={self.time}: expected HH:MM:SS or D-HH:MM:SS (in a file: in quotes)"
            )
        if self.time is not None and seconds_of(self.time) < 2 * self.signal_s:
            raise ConfigError(
                f"hydra.launcher.time={self.time} is less than twice hydra.launcher.signal_s={self.signal_s}: a task "
                "would be asked to stop before it has begun; give it more time"
            )
        for line in [*self.extra, *self.setup]:
            if "\n" in line:
                raise ConfigError(f"hydra.launcher: {line!r} has a line break; give each line alone")
        for line in self.extra:
            if not line.startswith("-"):
                raise ConfigError(f"hydra.launcher.extra: {line!r} is no option of sbatch; they begin with --")

    def _take_off_line_breaks(self) -> None:
        """From the end of a text, where YAML's `>` puts one."""
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, str):
                value = value.rstrip("\r\n")
                setattr(self, name, value)
                if len(value.splitlines()) > 1:
                    raise ConfigError(f"hydra.launcher.{name}: {value!r} has a line break; write it in one line")

    @property
    def activate(self) -> str | None:
        """The script that activates the virtual environment."""
        return f"{os.path.expanduser(self.venv)}/bin/activate" if self.venv else None

    def check(self, runs: Sequence[PlannedRun]) -> None:
        if self.activate and not Path(self.activate).is_file():
            raise ConfigError(f"hydra.launcher.venv={self.venv} is no virtual environment: there is no {self.activate}")
        slurm.queue()

    def carry_out(self, plan: Plan, hands: Hands, *, wait: bool = False) -> Outcome:
        wait, going = wait or self.wait, False

        def hand_over() -> None:
            nonlocal going
            going = self.hand_over(plan, conclude=bool(plan.conclusions) and not wait)

        alone(plan.folder.parent, hand_over)  # what two plans, or one given twice, have in common is submitted once
        if not wait:
            return Outcome(ended=not going)
        self.until_ended(plan, hands)
        return Outcome(problems=dict(problems(plan)))

    def hand_over(self, plan: Plan, *, conclude: bool) -> bool:
        """Submit what is neither finished nor in the queue, and say so; returns whether anything goes on."""
        queue = queue_of(*plan.folder.parent.iterdir())
        live = live_tasks(plan.folder.parent.parent, queue)
        awaited = {key_of(run.run): live[key_of(run.run)] for run in plan.runs if key_of(run.run) in live}
        todo = [run for run in plan.runs if key_of(run.run) not in live and state_of(run.run) is not State.finished]
        concluding = live_conclusions(plan.folder, queue)
        submission = None
        if todo or (conclude and awaited and not concluding):
            submission = new_submission(plan.folder)
            try:
                self.submit(plan, submission, todo, live)
                if conclude:
                    self.submit_conclusion(plan, submission, live)
                    slurm.cancel(concluding)  # what it would say is said later, and of more runs
            except RlxError as error:
                told_jobs(submission)
                if isinstance(error, slurm.Refused) and not submission.arrays:
                    shutil.rmtree(submission.folder)  # nothing of it is in the queue
                raise
        told(plan, awaited, submission)
        return bool(submission or awaited)

    def submit(self, plan: Plan, submission: Submission, runs: Sequence[PlannedRun], live: Mapping[str, str]) -> None:
        """Hand runs to Slurm, level by level, and write the numbers of their jobs into the submission."""
        size, submission.cluster = slurm.max_array_size(), slurm.cluster()
        before: list[str] = []
        for level in sorted({run.level for run in runs}):
            own = [run for run in runs if run.level == level]
            tasks = [own[begin : begin + self.runs_per_task] for begin in range(0, len(own), self.runs_per_task)]
            chunks = [tasks[begin : begin + size] for begin in range(0, len(tasks), size)]
            parents = {key_of(parent) for run in own for parent in run.parents}
            after, jobs = [*before, *shortened(live[parent] for parent in parents & live.keys())], []
            for number, chunk in enumerate(chunks):
                name = f"level{level}" + (f"-{number}" if len(chunks) > 1 else "")
                script = submission.folder / f"{name}.sbatch"
                write_tasks(tasks_file(script), chunk)
                self.write_script(plan, script, len(chunk), share(self.max_parallel, len(chunks)))
                # where not even one task at once can be given to each, the arrays follow one another
                chained = jobs[-1:] if self.max_parallel is not None and self.max_parallel < len(chunks) else []
                jobs.append(slurm.submit(script, after=[*after, *chained], variables=self.variables()))
                submission.arrays.append(Array(jobs[-1], level, script.name, len(chunk)))
                submission.save()
            before = jobs

    def submit_conclusion(self, plan: Plan, submission: Submission, live: Mapping[str, str]) -> None:
        """Hand over what ends the plan, whatever becomes of its runs; those of a `retry` are not all that it has."""
        script = submission.folder / CONCLUSION
        self.write_script(plan, script)
        whole = {key_of(row["run"]) for row in read_manifest(plan.folder)}
        after = [*submission.jobs(), *shortened(live[run] for run in whole & live.keys())]
        submission.conclusion = slurm.submit(script, after=after, variables=self.variables())
        submission.save()

    def write_script(self, plan: Plan, script: Path, tasks: int = 0, at_once: int | None = None) -> None:
        """The batch script of an array; with no tasks that of the job which ends the plan, an array of one too."""
        title = f"{plan.name}, {script.stem}" + (f": {counted(tasks, 'task')}" if tasks else "")
        throttle = f"%{at_once}" if at_once is not None and at_once < tasks else ""
        options = [
            f"--job-name={plan.name}",
            f"--array=0-{max(tasks, 1) - 1}{throttle}",
            f"--chdir={os.getcwd()}",
            f"--output={str(script.parent.resolve()).replace('%', '%%')}/{log_name('%A', '%a')}",
            "--open-mode=append",
            "--requeue",
            f"--signal=B:USR1@{self.signal_s}",
            *self.resources(),
        ]
        setup = [*self.setup, *([f"source {shlex.quote(self.activate)}"] if self.activate else [])]
        python = "python" if self.venv or self.container else shlex.quote(sys.executable)
        program = f"{self.container} {python}" if self.container else python
        rest = (
            f'task {shlex.quote(str(tasks_file(script)))} "$SLURM_ARRAY_TASK_ID"'
            if tasks
            else f"conclude {shlex.quote(str(plan.folder))}"
        )
        extra = [option if _QUOTES.search(option) else quoted(option) for option in self.extra]
        options = [*map(quoted, options), *extra]
        write_text(script, batch_script(title, options, setup, f"{program} -m rlx.plans {rest}", script))

    def resources(self) -> Iterator[str]:
        """What of the fields sbatch takes as it is."""
        for name in ("partition", "account", "qos", "time", "gres", "constraint", "cpus_per_task", "mem"):
            value = getattr(self, name)
            if value is not None:
                yield f"--{name.replace('_', '-')}={value}"

    def variables(self) -> list[str]:
        """SBATCH_* that hold, since neither a field nor `extra` says otherwise."""
        said = [line.split("=")[0].split()[0] for line in self.extra]
        return [
            f"SBATCH_{name.upper()}" for name, short in VARIABLES.items()
            if getattr(self, name, None) is None and f"--{name}" not in said
            and not (short and any(line.startswith(short) for line in said))
        ]  # fmt: skip

    def until_ended(self, plan: Plan, hands: Hands) -> None:
        """Wait for all tasks of a plan.

        Raises:
            Stopped: this process was asked to stop; the tasks go on.
            RunError: the controller did not answer for a long time.
        """
        own, heard = {key_of(run.run) for run in plan.runs}, time.monotonic()
        while True:
            try:
                queue, heard = queue_of(*plan.folder.parent.iterdir()), time.monotonic()
            except RunError:
                if time.monotonic() - heard > SILENCE_S:
                    raise
            else:
                if own.isdisjoint(live_tasks(plan.folder.parent.parent, queue)):
                    return
            for _ in range(round(POLL_S / 0.1)):
                if hands.stop():
                    raise Stopped
                time.sleep(0.1)


def quoted(option: str) -> str:
    """An option as `#SBATCH` takes it: sbatch reads blanks, quotes and # as a shell does."""
    name, mark, value = option.partition("=")
    escaped = _ESCAPED.sub(r"\\\g<0>", value)
    return option if _PLAIN.fullmatch(value) else f'{name}{mark}"{escaped}"'


def shortened(tasks: Iterable[str]) -> list[str]:
    """Tasks to wait for; in place of many of one array the array, since a command line has an end."""
    by_job: dict[str, list[str]] = {}
    for task in sorted(set(tasks)):
        by_job.setdefault(task.partition("_")[0], []).append(task)
    return [each for job, own in by_job.items() for each in (own if len(own) <= MANY else [job])]


def seconds_of(limit: str) -> int:
    """A time limit as sbatch reads it: D-HH[:MM[:SS]], HH:MM:SS or MM:SS."""
    days, mark, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if mark or len(parts) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(unit * part for unit, part in zip(units, parts, strict=False))


def share(at_once: int | None, arrays: int) -> int | None:
    """Tasks at once of each array of a level, which together keep the level's number."""
    if at_once is None or arrays == 1:
        return at_once
    return at_once // arrays or at_once


def problems(plan: Plan) -> Iterator[tuple[str, str]]:
    """Runs that have not finished, with the reason."""
    from rlx.plans.standing import standings

    for standing in standings(plan):
        if standing.state != "finished":
            yield standing.planned.run, standing.reason or standing.state


def told(plan: Plan, awaited: Mapping[str, str], submission: Submission | None) -> None:
    """Say what was submitted, and how to go on; `awaited` are the tasks that were in the queue before."""
    if awaited:
        jobs = sorted({task.partition("_")[0] for task in awaited.values()}, key=int)
        print(f"in the queue already: {counted(len(awaited), 'run')}, job {', '.join(jobs)}")
    if submission is None:
        print("nothing to submit")
    else:
        told_jobs(submission)
    if submission or awaited:
        folder = format_reference(plan.folder)
        print(f"watch it:  python -m rlx.plans watch {folder}  (also status, retry, cancel, collect)", flush=True)


def told_jobs(submission: Submission) -> None:
    """Say which jobs there are."""
    for array in submission.arrays:
        script = format_reference(submission.folder / array.script)
        print(f"job {array.job}: level {array.level}, {counted(array.tasks, 'task')}; {script}", flush=True)
    if submission.conclusion:
        print(f"job {submission.conclusion}: the plan's claims and report", flush=True)
