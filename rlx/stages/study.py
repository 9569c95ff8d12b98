"""`stage=study`: every run of a study, then its claims, a table and the report."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rlx.errors import ConfigError, RunError
from rlx.options import option, option_of
from rlx.plans.local import carry_out
from rlx.plans.plan import PlannedRun, alone, fill, save_manifest
from rlx.runs.files import CLAIMS, TABLE, write_json, write_text
from rlx.runs.identity import digest
from rlx.runs.status import State, state_of
from rlx.stages.base import Context, place_of
from rlx.stages.config import StageConfig

if TYPE_CHECKING:
    from rlx.config import Config

PASSED_ON = ("runs_dir", "rerun", "trainer", "logger", "checkpoint")
"""Groups and fields typed for the study that its runs get too."""


@option("stage", "study")
@dataclass(kw_only=True, slots=True)
class StudyStageConfig(StageConfig):
    """A plan of runs with claims; what is finished is not run again."""

    uses: ClassVar[frozenset[str]] = frozenset({"study", "trainer", "logger"})
    requires: ClassVar[frozenset[str]] = frozenset({"study"})

    dry: bool = False
    """Show the plan and stop."""

    def carry_out(self, config: "Config", context: Context) -> None:
        runs, jobs = expand(config, context)
        folder = plan_folder(config, context, runs)
        print(f"study {folder.name}, seed {config.seed}: {len(runs)} runs", flush=True)
        for planned in runs:
            print(f"  {'  ' * planned.level}{planned.name:<12} {state_of(planned.run).value:<10} {planned.run}")
        if self.dry:
            return
        save_manifest(folder, runs)
        problems = carry_out(runs, lambda planned, label: jobs[planned.name](label))
        conclude(config, context, folder)
        if problems:
            raise RunError(f"{len(problems)} of {len(runs)} runs did not finish: {problems[0]}")


def expand(config: "Config", context: Context) -> tuple[list[PlannedRun], dict[str, Callable[[str], None]]]:
    """The study's runs at its scale and seed, and what carries each out (given a label)."""
    study, scale = config.study, context.choices.get("scale", "cpu")
    assert study is not None
    known = sorted({name for run in study.runs.values() for name in run.at})
    if known and scale not in known:
        raise ConfigError(f"study={option_of(study).name} has no scale={scale}; it has {', '.join(known)}")
    passed = [text for text in context.overrides if re.split(r"[.=]", text.lstrip("+"))[0] in PASSED_ON]
    common = [*study.common, *study.common_at.get(scale, []), f"scale={scale}", f"seed={config.seed}", *passed]
    places: dict[str, str] = {}
    levels: dict[str, int] = {}
    runs, jobs = [], {}
    for name, run in study.runs.items():
        filled = [fill(text, places) for text in [*run.overrides, *run.at.get(scale, [])]]
        overrides = [text for text, _ in filled]
        parents = sorted({parent for _, names in filled for parent in names})
        child, child_context = context.compose([*common, *overrides])
        places[name] = str(place_of(child, child_context))
        levels[name] = 1 + max((levels[parent] for parent in parents), default=-1)
        runs.append(
            PlannedRun(
                name=name,
                label=run.label or name,
                seed=config.seed,
                run=places[name],
                stage=option_of(child.stage).name,
                command=child_context.command,
                parents=[places[parent] for parent in parents],
                level=levels[name],
                of=run.of,
            )
        )
        jobs[name] = _job(child, child_context)
    return runs, jobs


def _job(child: "Config", context: Context) -> Callable[[str], None]:
    def execute(label: str) -> None:
        context.label = label
        assert child.stage is not None
        child.stage.carry_out(child, context)

    return execute


def plan_folder(config: "Config", context: Context, runs: list[PlannedRun]) -> Path:
    """`<runs_dir>/plans/<study>-<scale>-<hash>`: equal for all seeds of one study."""
    if not runs:
        raise ConfigError("the study has no runs; study.runs is empty")
    places = sorted(Path(run.run).parent.name for run in runs)
    scale = context.choices.get("scale", "cpu")
    return Path(config.runs_dir) / "plans" / f"{option_of(config.study).name}-{scale}-{digest(places)}"


def command_of(config: "Config", context: Context, seeds: Sequence[int]) -> str:
    """The command given, over these seeds.

    Seeds that share a plan's folder differ in nothing that changes results, so one sweep makes them all again.
    """
    if list(seeds) == [config.seed]:
        return context.command
    others = [text for text in context.overrides if text.lstrip("+").partition("=")[0] != "seed"]
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
