"""From typed configs to a plan: each run with its directory, its parents, and what it is expected to cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlx.options import option_of
from rlx.plans.launchers.base import Hands
from rlx.plans.plan import PlannedRun
from rlx.runs.references import Kind, format_reference, parse_reference
from rlx.stages.base import Context, RunStageConfig, check_extension, place_of
from rlx.stages.coupling import check_coupling

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlx.config import Config

SETTLED = (None, "last", "best")
"""References to checkpoints that only a finished run has; a step may be taken from a running one."""


@dataclass(slots=True, kw_only=True)
class Job:
    """A run of a plan, and what makes it in this process."""

    planned: PlannedRun
    config: "Config"
    context: Context

    def execute(self, label: str) -> None:
        """Make the run; `label` begins its progress lines."""
        self.context.label = label
        assert self.config.stage is not None
        self.config.stage.carry_out(self.config, self.context)


@dataclass(slots=True, kw_only=True)
class Unfolded:
    """What a stage that is a plan itself comes to."""

    folder: Path
    """Of the plan; commands with an equal one are carried out together."""
    jobs: list[Job]
    arguments: list[str]
    """Of the `rlx` command that ends the plan, whatever became of its runs."""
    conclude: "Callable[[], None]"
    """The same, in this process."""


def job_of(config: "Config", context: Context, *, name: str = "", label: str = "", of: str | None = None) -> Job:
    """One run of a plan; without a name it is called after its directory.

    Directories are spelt in one way, relative below the current folder, however runs_dir= and init_from= were typed:
    plans compare them as texts.

    Raises:
        ConfigError: the run cannot be made.
    """
    stage, trainer = config.stage, config.trainer
    assert isinstance(stage, RunStageConfig)
    stage.check(config)
    check_extension(config)
    if not stage.parents(config):
        check_coupling(config)
    place = place_of(config, context)
    references = [*stage.parents(config), *stage.also_from(config).values()]
    planned = PlannedRun(
        name=name or place.parent.name,
        label=label or name or place.parent.name,
        seed=config.seed,
        run=format_reference(place),
        stage=option_of(stage).name,
        command=context.command,
        arguments=[*context.flags, *context.overrides],
        parents=list(dict.fromkeys(run for run in map(awaited, references) if run is not None)),
        of=of,
        gpu=trainer is not None and trainer.accelerator != "cpu",
    )
    return Job(planned=planned, config=config, context=context)


def awaited(reference: str) -> str | None:
    """The run directory that must be finished before a reference can be used, spelt as plans spell their runs; None
    where there is none to wait for.
    """
    parsed = parse_reference(reference)
    if parsed.kind is not Kind.run or parsed.at not in SETTLED or _is_model_folder(parsed.run):
        return None
    return format_reference(parsed.run)


def _is_model_folder(folder: str) -> bool:
    from rlx.runs.model_directory import is_model_directory

    return is_model_directory(Path(folder))


def hands_for(
    jobs: Mapping[str, Job], stop: "Callable[[], bool]", command: "Callable[[Sequence[str]], int] | None" = None
) -> Hands:
    """What a launcher is given; `jobs` by run directory. Without `command` nothing runs in another process."""

    def refuse(arguments: "Sequence[str]") -> int:
        raise RuntimeError("this plan runs in this process alone")

    return Hands(execute=lambda run, label: jobs[run.run].execute(label), command=command or refuse, stop=stop)


def expect(jobs: Sequence[Job]) -> str:
    """Fill in what each run is expected to cost, parents first; returns what the times are taken from."""
    from rlx.stages.estimate import Estimator, basis

    if not jobs:
        return ""
    estimator = Estimator(jobs[0].config.runs_dir)
    found = []
    for job in jobs:
        estimate = estimator.estimate(job.planned.run, job.config)
        job.planned.flops = None if estimate.cost is None else estimate.cost.flops
        job.planned.seconds = estimate.seconds
        found.append(estimate)
    return basis(found)
