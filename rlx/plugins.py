"""The plugins by which Hydra's `-m` comes to `rlx.sweep`.

1. `hydra/sweeper=plan`, the default, hands the commands over as one sweep.
2. Any other sweeper (`hydra/sweeper=optuna`) hands its commands to one of our launchers in batches. Each batch is
   planned and carried out in the same way, waited for also under `slurm_array`, and answered with `optimized_metric`.
3. Hydra takes plugins of the package `hydra_plugins` alone, so the classes are made known as `hydra_plugins.rlx`.
"""

import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from rlx.errors import ConfigError, RlxError, RunError
from rlx.grid import expand
from rlx.options import option_of
from rlx.plans.base import PlanSweeperConfig
from rlx.plans.launchers.base import LauncherConfig, Outcome
from rlx.plans.plan import Plan, with_levels
from rlx.runs.identity import digest
from rlx.runs.listing import metric_of
from rlx.sweep import UNDRY, Sweep, check_one_folder, fitting, group_of, place_for

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""The one foreign sweeper that asks its runs for nothing."""
RESULTS = "optimization_results.yaml"
"""Where Hydra's searching sweepers write, below `hydra.sweep.dir`, what they have found."""


class PlanSweeper(Sweeper):
    """`hydra/sweeper=plan`."""

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.loader, self.beginning = hydra_context.config_loader, config
        self.chosen = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        sweep = current(self.beginning)
        preset = [f"{key}={value}" for key, value in self.params.items()]
        typed = [text for text in arguments if group_of(text) != "plan" or text.startswith(("plan.name=", UNDRY))]
        commands = expand([*preset, *typed], list(self.beginning.plan.either), self.loader)
        launcher = self.chosen.typed if isinstance(self.chosen, PlanLauncher) else self.chosen
        sweep.carry_out(commands, launcher)


class PlanLauncher(Launcher):
    """`hydra/launcher=sequential|parallel|slurm_array`; which one is in its config."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.config = config
        self.typed: LauncherConfig = OmegaConf.to_object(config.hydra.launcher)  # type: ignore[assignment]
        sweeper = config.hydra.sweeper._target_
        if sweeper != PlanSweeperConfig._target_:
            self._join(searching=sweeper != BASIC)

    def _join(self, searching: bool) -> None:
        """Begin to work for a sweeper that is not ours, which makes its runs batch by batch.

        Raises:
            ConfigError: it was asked for what only ours can do, or lacks what it needs.
        """
        config, sweep = self.config, current(self.config)
        logging.getLogger("hydra_plugins").addHandler(logging.NullHandler())  # or Python prints its warnings
        if sweep.dry or config.plan.either:
            key, option = "plan.dry=true" if sweep.dry else "plan.either", config.hydra.runtime.choices["hydra/sweeper"]
            raise ConfigError(f"{key} needs the whole plan at once, and hydra/sweeper={option} makes it bit by bit")
        if searching and config.optimized_metric is None:
            raise ConfigError("the sweeper needs a number of each run: optimized_metric=<metric>, such as val/loss")
        parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        self.searched = {each.get_key_element() for each in parsed if each.is_sweep_override()}
        self.searched = (self.searched | set(config.hydra.sweeper.get("params") or {})) - {"seed"}
        if "runs_dir" in self.searched:
            raise ConfigError("runs_dir: a sweep has one folder of runs; give a command for each")
        kind = "search" if searching else "sweep"
        name = sweep.name or f"{kind}-{digest(sorted(map(str, config.hydra.overrides.task)))}"
        self.folder = Path(config.runs_dir) / "plans" / name
        place_for(config, self.folder)
        if searching:
            sweep.results = Path(config.hydra.sweep.dir) / RESULTS

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Carry out one batch of a sweeper that is not ours, wait for it, and return what it measured."""
        sweep, batch = current(self.config), [Trial(list(overrides)) for overrides in job_overrides]
        for trial in batch:
            trial.enter(sweep, self.searched)
        jobs = {trial.job.planned.run: trial.job for trial in batch if trial.job is not None}
        outcome = self._carry_out(sweep, jobs) if jobs else Outcome()
        for trial in batch:
            trial.measure(self.config.optimized_metric, outcome)
        return [trial.answer(sweep) for trial in batch]

    def _carry_out(self, sweep: Sweep, jobs: Mapping[str, Any]) -> Outcome:
        check_one_folder([self.config, *(job.config for job in jobs.values())])
        runs = with_levels(job.planned for job in jobs.values())
        plan = Plan(folder=self.folder, runs=runs, command=sweep.command)
        sweep.begin(plan, jobs, self.typed, show=len(runs) > 1)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # the sweeper's results
        return self.typed.carry_out(plan, sweep.hands(jobs), wait=True)


@dataclass(slots=True)
class Trial:
    """One command of a sweeper that is not ours."""

    overrides: list[str]
    job: Any = None
    value: float | None = None
    problem: Exception | None = None

    def enter(self, sweep: Sweep, searched: Collection[str]) -> None:
        """Type and check it."""
        from rlx.stages.base import RunStageConfig

        try:
            config, context = sweep.enter(fitting(self.overrides, {})[0])
            if not isinstance(config.stage, RunStageConfig):
                name = option_of(config.stage).name
                raise ConfigError(f"stage={name} makes no run of its own; leave it to hydra/sweeper=plan")
            self.job = sweep.job(config, context, searched)
        except Exception as error:
            self.problem = error

    def measure(self, metric: str | None, outcome: Outcome) -> None:
        """Read what its run measured."""
        if self.job is None:
            return
        run = self.job.planned.run
        try:
            if run in outcome.problems:
                raise RunError(outcome.problems[run])
            self.value = None if metric is None else metric_of(run, metric)
        except RlxError as error:
            self.problem = error

    def answer(self, sweep: Sweep) -> JobReturn:
        """The same for the sweeper; what went wrong is told here, whatever the sweeper makes of it."""
        answer = Answer(overrides=self.overrides, task_name="rlx", status=JobStatus.COMPLETED)
        answer.return_value = self.value
        if self.problem is not None:
            code = sweep.report(self.problem)
            answer.return_value, answer.status = Told(1 if sweep.written else code), JobStatus.FAILED
        return answer


class Answer(JobReturn):
    """What Hydra hands to sweepers, but that says nothing when a failure is read."""

    @property
    def return_value(self) -> Any:
        if self.status is JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


class Told(Exception):
    """A failure that was told of; a sweeper raises it when it gives up."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("see above")
        self.exit_code = exit_code


_make: list[Callable[[DictConfig], Sweep]] = []
_made: list[Sweep] = []


def current(config: DictConfig) -> Sweep:
    """The sweep of this process, made when the first plugin needs it."""
    if not _made:
        _made.append(_make[-1](config))
        _made[0].beginning = config
    return _made[0]


def register(make: Callable[[DictConfig], Sweep]) -> None:
    """Make the plugins known to Hydra; `make` makes the sweep from the config that it begins with."""
    _make[:], _made[:] = [make], []
    try:
        package = import_module("hydra_plugins")
    except ModuleNotFoundError:  # no plugin is installed
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    module = sys.modules.setdefault("hydra_plugins.rlx", ModuleType("hydra_plugins.rlx"))
    package.rlx = module  # type: ignore[attr-defined]
    for plugin in (PlanSweeper, PlanLauncher):
        setattr(module, plugin.__name__, plugin)
        plugin.__module__ = module.__name__
        Plugins.instance().register(plugin)


def finished_sweep() -> Sweep | None:
    """The sweep that this process carried out, or None."""
    return _made[0] if _made else None
