"""`stage=study`: every run of a study, then its claims, a table and the report."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rlx.errors import ConfigError, RunError
from rlx.options import option, option_of
from rlx.plans.launchers.sequential import SequentialConfig
from rlx.plans.plan import Plan, PlannedRun, alone, fill, with_levels
from rlx.plans.tree import tree
from rlx.runs.files import CLAIMS, TABLE, write_json, write_text
from rlx.runs.identity import digest
from rlx.runs.status import State, state_of
from rlx.stages.base import Context
from rlx.stages.config import StageConfig
from rlx.stages.planning import Job, Unfolded, expect, hands_for, job_of

if TYPE_CHECKING:
    from rlx.config import Config

UNSAID = ("seed", "stage.conclude")
"""Overrides that are no part of the command that makes a study's numbers."""
PASSED_ON = ("runs_dir", "rerun", "trainer", "logger", "checkpoint")
"""Groups and fields typed for the study that its runs get too."""


@option("stage", "study")
@dataclass(kw_only=True, slots=True)
class StudyStageConfig(StageConfig):
    """A plan of runs with claims; what is finished is not run again."""

    uses: ClassVar[frozenset[str]] = frozenset({"study", "trainer", "logger"})
    requires: ClassVar[frozenset[str]] = frozenset({"study"})

    conclude: bool = False
    """Run nothing: claims, table and report of what there is."""

    def unfold(self, config: "Config", context: Context) -> Unfolded:
        jobs = expand(config, context)
        folder = plan_folder(config, context, [job.planned for job in jobs])
        return Unfolded(
            folder=folder,
            jobs=jobs,
            arguments=[*context.flags, *context.overrides, "stage.conclude=true"],
            conclude=lambda: conclude(config, context, folder),
        )

    def carry_out(self, config: "Config", context: Context) -> None:
        unfolded = self.unfold(config, context)
        if self.conclude:
            unfolded.conclude()
            return
        jobs = {job.planned.run: job for job in unfolded.jobs}
        runs, launcher = with_levels(job.planned for job in unfolded.jobs), SequentialConfig()
        plan = Plan(folder=unfolded.folder, runs=runs, command=context.command, conclusions=[unfolded.arguments])
        print(tree(plan, basis=expect(unfolded.jobs)), flush=True)
        plan.save(launcher.settings())
        problems = launcher.carry_out(plan, hands_for(jobs, context.stop)).problems
        unfolded.conclude()
        if problems:
            first = next(run for run in runs if run.run in problems)
            raise RunError(f"{len(problems)} of {len(runs)} runs did not finish: {first.title}: {problems[first.run]}")


def expand(config: "Config", context: Context) -> list[Job]:
    """The study's runs at its scale and seed, parents first."""
    study, scale = config.study, context.choices.get("scale", "cpu")
    assert study is not None
    known = sorted({name for run in study.runs.values() for name in run.at})
    if known and scale not in known:
        raise ConfigError(f"study={option_of(study).name} has no scale={scale}; it has {', '.join(known)}")
    passed = [text for text in context.overrides if re.split(r"[.=]", text.lstrip("+"))[0] in PASSED_ON]
    common = [*study.common, *study.common_at.get(scale, []), f"scale={scale}", f"seed={config.seed}", *passed]
    places: dict[str, str] = {}
    jobs = []
    for name, run in study.runs.items():
        overrides = [fill(text, places)[0] for text in [*run.overrides, *run.at.get(scale, [])]]
        job = job_of(*context.compose([*common, *overrides]), name=name, label=run.label, of=run.of)
        places[name] = job.planned.run
        jobs.append(job)
    return jobs


def plan_folder(config: "Config", context: Context, runs: Sequence[PlannedRun]) -> Path:
    """`<runs_dir>/plans/<study>-<scale>-<hash>`, equal for all seeds of one study; or what plan.name says."""
    if not runs:
        raise ConfigError("the study has no runs; study.runs is empty")
    places = sorted(Path(run.run).parent.name for run in runs)
    scale = context.choices.get("scale", "cpu")
    name = config.plan.name or f"{option_of(config.study).name}-{scale}-{digest(places)}"
    return Path(config.runs_dir) / "plans" / name


def command_of(config: "Config", context: Context, seeds: Sequence[int]) -> str:
    """The command given, over these seeds.

    Seeds that share a plan's folder differ in nothing that changes results, so one sweep makes them all again.
    """
    if list(seeds) == [config.seed]:
        return replace(context, overrides=[text for text in context.overrides if text != "stage.conclude=true"]).command
    others = [text for text in context.overrides if text.lstrip("+").partition("=")[0] not in UNSAID]
    swept = f"seed={','.join(map(str, seeds))}"
    return replace(context, flags=["-m", *context.flags], overrides=[*others, swept]).command


def conclude(config: "Config", context: Context, folder: Path) -> None:
    """Claims, tables and the report, over all seeds that the plan's folder has."""
    from rlx.report.page import write_report
    from rlx.report.tables import claims_table, read_plan, stage_table
    from rlx.studies.base import Results, rows

    study = config.study
    assert study is not None
    plan = read_plan(folder)
    seeds = sorted({entry.seed for entry in plan.entries})
    claims = rows(study.claims(Results(folder)), command_of(config, context, seeds))
    table = stage_table(plan)
    print(f"\n{table.text()}\n\n{claims_table(claims).text()}\n", flush=True)
    markdown = f"{table.markdown()}\n\n{claims_table(claims).markdown()}\n"

    def write() -> None:
        write_json(folder / CLAIMS, claims)
        write_text(folder / TABLE, markdown)

    alone(folder, write)
    print(f"report: {write_report(folder)}", flush=True)
    if all(state_of(entry.run.path) is State.finished for entry in plan.entries):
        print(f"all runs of {folder} are finished; the same command does nothing more", flush=True)
