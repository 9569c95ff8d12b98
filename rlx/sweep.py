"""Sweeps: one command with several runs, made into a plan and carried out.

1. The whole plan is made first: every command typed and checked, equal runs joined, studies unfolded, the tree printed.
   Then the launcher carries it out: one of ours, or any other of Hydra's, which is handed the commands level by level.
2. A group that the stage of some runs does not read is left out of those, where others of the sweep do read it. A
   command that is wrong fails alone: the others go on, as in any sweep.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, flag_override

from rlx.errors import ConfigError, Stopped
from rlx.grid import swept
from rlx.options import discover
from rlx.plans.launchers.base import Hands, LauncherConfig, Outcome
from rlx.plans.plan import Plan, PlannedRun, with_levels
from rlx.plans.tree import tree
from rlx.runs.identity import digest
from rlx.runs.references import format_reference
from rlx.runs.status import State, read_status, state_of

UNDRY = "plan.dry=false"
"""The one key of plans that runs need: a preset may say otherwise, and a dry run is refused."""

Made = tuple[Plan, dict[str, Any], Callable[[], None]]
"""A plan, its jobs by run directory, and what ends it."""


@dataclass(kw_only=True, slots=True)
class Sweep:
    """One command with several runs."""

    enter: Callable[[Sequence[str]], tuple[Any, Any]]
    """Types and checks a command: its Config and its Context."""
    report: Callable[[BaseException], int]
    """Says in a line what went wrong, and returns the exit code."""
    hands: Callable[[Mapping[str, Any]], Hands]
    """What launchers are given, for jobs by run directory."""
    command: str
    """The whole command, for a shell."""
    dry: bool = False
    name: str | None = None
    """Folder of the plan; None: named after its runs."""
    failed: dict[str, int] = field(default_factory=dict)
    """What could not be run or did not finish, with exit codes."""
    written: bool = False
    """Something was carried out."""
    beginning: DictConfig | None = None
    """What Hydra has composed before there are runs."""
    results: Path | None = None
    """What a search writes when it ends."""

    @property
    def code(self) -> int:
        """Exit code: 2 where every run was a wrong input and nothing was written."""
        if not self.failed:
            return 0
        return 2 if set(self.failed.values()) == {2} and not self.written else 1

    def entered(self, commands: Sequence[Sequence[str]]) -> list[tuple[Any, Any]]:
        """The commands that can be run, typed; the others are told of, and fail."""
        used, differing = self._groups_used(commands), swept(commands)
        found, dropped = [], {}
        for command in commands:
            with self._forgiving(labelled(command, differing) or " ".join(command)):
                kept, left_out = fitting(command, used)
                found.append(self.enter(kept))
                dropped.update(dict.fromkeys(left_out))
        for group, stage in dropped:
            print(f"{group} is left out of the runs of stage={stage}, which does not read it", flush=True)
        return found

    def _groups_used(self, commands: Sequence[Sequence[str]]) -> dict[str, frozenset[str]]:
        """Groups that a stage reads, by the stages of the sweep, as far as the commands name them."""
        from rlx.stages.config import TRAINING_KEYS

        known: dict[str, Any] = {name: found.config for name, found in discover("stage").items()}
        stages = {value_of(command, "stage") for command in commands} & known.keys()
        return {
            name: known[name].uses | known[name].measures | (TRAINING_KEYS if known[name].trains else frozenset())
            for name in stages
        }

    def carry_out(self, commands: Sequence[Sequence[str]], launcher: "LauncherConfig | Launcher") -> None:
        """Make the plans of the commands, and carry them out.

        Raises:
            ConfigError: the commands have several folders of runs, or different runs of one name and seed.
        """
        from rlx.stages.base import RunStageConfig

        runs: list[tuple[Any, Any]] = []
        plans: dict[Path, list[Any]] = {}
        others: list[tuple[Any, Any]] = []
        differing, entered = swept(commands), self.entered(commands)
        check_one_folder(config for config, _ in entered)
        for config, context in entered:
            with self._forgiving(labelled(context.overrides, differing) or context.command):
                unfolded = config.stage.unfold(config, context)
                if unfolded is not None:
                    plans.setdefault(unfolded.folder, []).append(unfolded)
                elif isinstance(config.stage, RunStageConfig):
                    runs.append((config, context))
                else:
                    others.append((config, context))
        made = [self._plan_of_runs(runs)] if runs else []
        made += [self._plan_of_unfolded(folder, group) for folder, group in plans.items()]
        for plan, _, _ in made:
            plan.rows()  # raises where two different runs would be taken for one
        for plan, jobs, conclude in made:
            if plan.runs and self._launch(plan, jobs, launcher):
                with self._forgiving(f"the report of {plan.folder}"):
                    conclude()
        for config, context in others:
            if self.dry:
                print(f"and: {context.command}")
                continue
            with self._forgiving(labelled(context.overrides, differing) or context.command):
                config.stage.carry_out(config, context)
                self.written = True

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        """An error inside is told, and what was done is counted as failed."""
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            self.failed[what] = self.report(error)

    def jobs(self, entered: Sequence[tuple[Any, Any]]) -> list[Any]:
        """A job of each command; what cannot be run is told of."""
        differing = swept([context.overrides for _, context in entered]) - {"seed"}
        found = []
        for config, context in entered:
            with self._forgiving(labelled(context.overrides, {*differing, "seed"}) or context.command):
                found.append(self.job(config, context, differing))
        return found

    def job(self, config: Any, context: Any, differing: Collection[str]) -> Any:
        """One run, called after the overrides by which it differs from the others."""
        from rlx.stages.planning import job_of

        return job_of(config, context, label=labelled(context.overrides, differing))

    def _plan_of_runs(self, entered: Sequence[tuple[Any, Any]]) -> Made:
        made = self.jobs(entered)
        jobs: dict[str, Any] = {}
        for job in made:
            jobs.setdefault(job.planned.run, job)
        if again := len(made) - len(jobs):
            print(f"{again} of {len(made)} combinations are the same run as another; each is made once", flush=True)
        runs = with_levels(job.planned for job in jobs.values())
        name = self.name or f"sweep-{digest(sorted(jobs))}"
        folder = Path(entered[0][0].runs_dir) / "plans" / name
        return Plan(folder=folder, runs=runs, command=self.command), jobs, lambda: None

    def _plan_of_unfolded(self, folder: Path, group: Sequence[Any]) -> Made:
        """The runs of several studies that share a plan, and what ends it, once."""
        jobs = {job.planned.run: job for unfolded in group for job in unfolded.jobs}
        runs = with_levels(job.planned for job in jobs.values())
        plan = Plan(folder=folder, runs=runs, command=self.command, conclusions=[group[-1].arguments])
        return plan, jobs, group[-1].conclude

    def _launch(self, plan: Plan, jobs: Mapping[str, Any], launcher: "LauncherConfig | Launcher") -> bool:
        """Show a plan and carry it out; True when its runs have ended here."""
        if not self.begin(plan, jobs, launcher):
            return False
        if isinstance(launcher, LauncherConfig):
            outcome = launcher.carry_out(plan, self.hands(jobs))
        else:
            outcome = self._hand_over(plan, jobs, launcher)
        for run in plan.runs:
            if run.run in outcome.problems:
                self.failed[run.title] = 1
                print(f"rlx: {run.title}: {outcome.problems[run.run]}", file=sys.stderr, flush=True)
        return outcome.ended

    def begin(
        self, plan: Plan, jobs: Mapping[str, Any], launcher: "LauncherConfig | Launcher", *, show: bool = True
    ) -> bool:
        """Check a plan, `show` it, and write its folder; False, and nothing written, where it is a dry one.

        Raises:
            RlxError: it cannot be carried out; nothing is written then.
        """
        from rlx.stages.planning import expect

        basis = expect(list(jobs.values()))
        if show:
            print(tree(plan, basis=basis), flush=True)
        if self.dry:
            return False
        ours = isinstance(launcher, LauncherConfig)
        if ours:
            launcher.check(plan.runs)
        plan.save(launcher.settings() if ours else {"option": type(launcher).__name__})
        self.written = True
        return True

    def _hand_over(self, plan: Plan, jobs: Mapping[str, Any], launcher: Launcher) -> Outcome:
        if self.beginning is not None:
            place_for(self.beginning, plan.folder)
        return handed_over(plan, jobs, launcher)

    def tell_found(self) -> None:
        """Say what a search has found."""
        if self.results is None or not self.results.is_file():
            return
        found: Any = OmegaConf.to_container(OmegaConf.load(self.results))
        best = "".join(f" {key}={value}" for key, value in found.get("best_params", {}).items())
        value = f" {found['best_value']:.6g}" if "best_value" in found else ""
        print(f"the search's best{value}:{best} ({format_reference(self.results)})", flush=True)


def check_one_folder(configs: Iterable[Any]) -> None:
    """Raise ConfigError where the runs of one sweep would lie in several folders of runs."""
    folders = sorted({config.runs_dir for config in configs})
    if len(folders) > 1:
        raise ConfigError(f"runs_dir={','.join(folders)}: a sweep has one folder of runs; give a command for each")


def fitting(command: Sequence[str], used: Mapping[str, frozenset[str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """A command without the groups that its stage does not read and another stage of the sweep does, and which those
    are, each with the stage.
    """
    from rlx.stages.base import OF_PLANS

    stage = value_of(command, "stage")
    others = frozenset().union(*used.values()) - used.get(stage, frozenset()) if stage in used else frozenset()
    kept, dropped = [], []
    for text in command:
        group = group_of(text)
        if group in others:
            dropped.append((group, stage))
        elif group not in OF_PLANS or (text.startswith("plan.name=") and stage == "study") or text == UNDRY:
            kept.append(text)
    return kept, dropped


def labelled(command: Sequence[str], differing: Collection[str]) -> str:
    """The overrides of these keys, by which a command differs from others."""
    return " ".join(text for text in command if text.partition("=")[0] in differing)


def group_of(text: str) -> str:
    """`model` of model=moe, +model.d=3, model@x=moe."""
    return text.lstrip("+~").partition("=")[0].replace("@", ".").replace("/", ".").split(".")[0]


def value_of(command: Sequence[str], key: str) -> str:
    """What a command sets a key to, last; empty where it does not."""
    return next((text.partition("=")[2] for text in reversed(command) if text.partition("=")[0] == key), "")


def handed_over(plan: Plan, jobs: Mapping[str, Any], launcher: Launcher) -> Outcome:
    """A plan carried out by a launcher that knows no plans: level by level, what is not finished."""
    from rlx.plans.launchers.base import block, unfinished_parent

    outcome, number = Outcome(), 0
    for level in range(1 + max(run.level for run in plan.runs)):
        batch: list[PlannedRun] = []
        for run in plan.runs:
            if run.level != level or state_of(run.run) is State.finished:
                continue
            if parent := unfinished_parent(run):
                outcome.problems[run.run] = block(run, parent)
            else:
                batch.append(run)
        if batch:
            launcher.launch([jobs[run.run].context.overrides for run in batch], initial_job_idx=number)
        number += len(batch)
        for run in batch:
            status = read_status(run.run)
            if status.state is not State.finished:
                outcome.problems[run.run] = status.reason or f"{status.state.value}; see what was printed above"
    return outcome


def place_for(config: DictConfig, folder: Path) -> None:
    """Have Hydra's own plugins write into a plan's folder, unless the user has said where."""
    typed, own = config.hydra.overrides.hydra, "++hydra.sweep.dir="
    if not any(text.startswith("hydra.sweep.dir=") for text in typed):
        with flag_override(config, ["struct", "readonly"], False):
            config.hydra.sweep.dir = str(folder)
            # for the jobs, which Hydra composes anew
            config.hydra.overrides.hydra = [*(each for each in typed if not each.startswith(own)), f"{own}{folder}"]
