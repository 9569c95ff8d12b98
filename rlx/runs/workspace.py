"""A W&B workspace for a plan, a study or some runs: what `scripts/wandb_workspace.py` prints or saves.

1. The runs are those of the plan, found in W&B by their groups: one an arm, which its seeds share (`logger.group`). A
   line is the mean of an arm's seeds, its band their least and greatest values.
2. There is a section for what each stage measures, made of the stages that the plan has. W&B filters a workspace and
   not a panel, so train/loss has the lines of all stages that log it; `--stage rl` shows one stage's arms alone.
3. It is W&B's own library that writes the workspace (`pip install 'rlx[workspace]'`). Saved again it is a new view, and
   no view that someone has arranged by hand is touched.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rlx.errors import ConfigError, RlxError, RunError
from rlx.runs.files import CONFIG, EVAL, MANIFEST
from rlx.runs.identity import RunName
from rlx.runs.metrics import MetricsLog
from rlx.runs.run import read_config

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

AXES = ("Step", "tokens", "flops/total")
TRAINING = {
    "train/loss": AXES,
    "val/loss": AXES,
    **dict.fromkeys(("train/tok_per_sec", "train/mfu", "train/grad_norm", "train/lr"), AXES[:1]),
}
"""Metrics of pretrain and sft, and what each is drawn over."""
REINFORCEMENT = {
    "reward": AXES,
    "val/pass@1": AXES,
    "rewards/verifier/mean": AXES,
    **dict.fromkeys(
        (
            "reward_std",
            "frac_reward_zero_std",
            "kl",
            "entropy",
            "completions/mean_length",
            "completions/mean_length_wrong",
            "completions/clipped_ratio",
            "outcomes/wrong",
            "outcomes/illegal",
            "outcomes/malformed",
            "clip_ratio/low_mean",
            "clip_ratio/high_mean",
            "sampling/sampling_logp_difference/mean",
            "timing_s/generate",
            "timing_s/update",
        ),
        AXES[:1],
    ),
}
MERGE = (
    "val/loss", "merge/barrier", "merge/normalised_accuracy", "merge/cosine", "merge/cka", "merge/convexity_gap"
)  # fmt: skip
COST = ("flops/lineage", "flops/train", "flops/rollout", "flops/eval", "tokens", "wall")
EVALUATION = ("greedy", "pass@1")
"""Metrics of an evaluation that has not run yet; one that has names its own."""


@dataclass(frozen=True, slots=True)
class PlottedRun:
    """What the workspace must know of a run."""

    group: str
    """Of the W&B run."""
    label: str
    """What people call its arm."""
    stage: str
    seed: int
    task: str
    metrics: tuple[str, ...] = ()
    """Names in eval.json."""
    project: str | None = None
    entity: str | None = None


def read_runs(places: Iterable[str | Path]) -> list[PlottedRun]:
    """The runs of plan folders, of run directories, and of folders of seeds.

    Raises:
        ConfigError: a place is none of them.
    """
    return [run for place in places for run in _read(Path(place))]


def build(runs: Sequence[PlottedRun], *, name: str, project: str, entity: str = "") -> "Workspace":
    """The workspace of some runs, not saved.

    Raises:
        ConfigError: there are no runs, or the library is not installed.
    """
    if not runs:
        raise ConfigError("there are no runs to make a workspace of; name a plan folder or run directories")
    ws, _, expr = _library()
    groups = list(dict.fromkeys(run.group for run in runs))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=_sections(runs, limit=max(10, len(groups))),
        settings=ws.WorkspaceSettings(max_runs=max(10, len(groups))),
        runset_settings=ws.RunsetSettings(
            filters=f"Group in {groups}",
            groupby=[expr.Metric("Group")],
            order=[expr.Ordering(expr.Metric("CreatedTimestamp"), ascending=True)],
            pinned_columns=[
                "run:displayName",
                *(f"summary:{name}" for name in ("state", "val/loss", "tokens", "flops/lineage", "wall", "alarms")),
            ],
        ),
    )


def as_json(workspace: "Workspace") -> dict[str, Any]:
    """The workspace as W&B's server takes it."""
    return workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)  # no public way


def _library() -> tuple[Any, Any, Any]:
    """Its modules of workspaces, of panels, and of filters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it is written for pydantic 1 in places
            from wandb_workspaces import expr, workspaces
            from wandb_workspaces.reports.v2 import interface
    except ImportError as error:
        raise ConfigError("W&B's library for workspaces is not installed; pip install 'rlx[workspace]'") from error
    return workspaces, interface, expr


def _read(place: Path) -> list[PlottedRun]:
    if (place / MANIFEST).is_file():
        return [_planned(row, place) for row in MetricsLog.read(place / MANIFEST)]
    if (place / CONFIG).is_file():
        return [_run(place)]
    seeds = sorted(path for path in place.glob("seed*") if RunName.of(path) is not None)
    if not seeds:
        raise ConfigError(f"{place} is no plan ({MANIFEST}), no run ({CONFIG}) and no folder of seeds")
    return [_run(path) for path in seeds]


def _planned(row: dict[str, Any], plan: Path) -> PlottedRun:
    path = Path(str(row["run"]))
    if not path.is_dir():  # the plan was made in another folder, or moved
        path = plan.resolve().parent.parent / path.parent.name / path.name
    return _run(path, label=row.get("label") or row.get("name"), stage=row.get("stage"), seed=row.get("seed"))


def _run(path: Path, *, label: str | None = None, stage: str | None = None, seed: int | None = None) -> PlottedRun:
    """What its path and its files say, as far as it has started."""
    name, logger = RunName.of(path), read_config(path).get("logger") or {}
    try:
        metrics = tuple(json.loads((path / EVAL).read_text(encoding="utf-8"))["metrics"])
    except (OSError, ValueError, KeyError, TypeError):
        metrics = ()
    return PlottedRun(
        group=logger.get("group") or path.parent.name,
        label=label or path.parent.name,
        stage=stage or (name.stage if name else ""),
        seed=seed if seed is not None else name.seed if name else 0,
        task=name.task if name else "",
        metrics=metrics,
        project=logger.get("project"),
        entity=logger.get("entity"),
    )


def _sections(runs: Sequence[PlottedRun], limit: int) -> "list[Section]":
    ws, panels, _ = _library()
    grouped: dict[str, Any] = {"groupby": "Group", "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}

    def lines(metrics: dict[str, tuple[str, ...]]) -> list[Any]:
        return [
            panels.LinePlot(title=f"{y} / {x}", x=x, y=[y], title_x=x, max_runs_to_show=limit, **grouped)
            for y, axes in metrics.items()
            for x in axes
        ]

    def bars(metrics: Iterable[str]) -> list[Any]:
        return [
            panels.BarPlot(title=metric, metrics=[metric], max_runs_to_show=limit, max_bars_to_show=limit, **grouped)
            for metric in metrics
        ]

    there = {run.stage for run in runs}
    trained = [stage for stage in ("pretrain", "sft") if stage in there]
    sections = [
        ("arms", [panels.MarkdownPanel(markdown=_arms(runs))]),
        (" and ".join(trained), lines(TRAINING) if trained else []),
        ("rl", lines(REINFORCEMENT) if "rl" in there else []),
        ("merge", bars(MERGE) if "merge" in there else []),
        ("eval", bars(_measured(runs))),
        ("cost", bars(COST)),
    ]
    return [ws.Section(name=name, panels=found, is_open=name != "cost") for name, found in sections if found]


def _measured(runs: Iterable[PlottedRun]) -> list[str]:
    """Names of what the evaluations measure: accuracies before what is measured besides."""
    evaluations = [run for run in runs if run.stage == "eval"]
    names = dict.fromkeys(
        name for run in evaluations for name in run.metrics or (f"eval/{run.task}/{each}" for each in EVALUATION)
    )
    return sorted(names, key=lambda name: not name.endswith("/greedy") and "@" not in name)


def _arms(runs: Sequence[PlottedRun]) -> str:
    """A table in Markdown: which arm is which group."""
    arms: dict[tuple[str, str, str], list[int]] = {}
    for run in runs:
        arms.setdefault((run.label, run.stage, run.group), []).append(run.seed)
    rows = [
        f"| {label} | {stage} | {group} | {', '.join(map(str, sorted(set(seeds))))} |"
        for (label, stage, group), seeds in arms.items()
    ]
    return "\n".join(["| arm | stage | group | seeds |", "| --- | --- | --- | --- |", *rows])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str]) -> int:
    """Print or save the workspace; returns the exit code."""
    parser = _Parser(prog="wandb_workspace.py", description="A W&B workspace for a plan, a study or some runs.")
    parser.add_argument("places", nargs="+", help="plan folders, run directories, or folders of seeds")
    parser.add_argument("--stage", action="append", help="only the arms of this stage; may be given again")
    parser.add_argument("--entity", help="W&B user or team (default: the runs', else WANDB_ENTITY, else the account's)")
    parser.add_argument("--project", help="W&B project (default: the runs', else WANDB_PROJECT, else rlx)")
    parser.add_argument("--name", help="of the workspace (default: the first place's)")
    parser.add_argument("--print", action="store_true", help="write its JSON here, and call no server")
    try:
        given = parser.parse_args(arguments)
        runs = [run for run in read_runs(given.places) if not given.stage or run.stage in given.stage]
        entity = given.entity or _first(run.entity for run in runs) or os.environ.get("WANDB_ENTITY", "")
        project = given.project or _first(run.project for run in runs) or os.environ.get("WANDB_PROJECT") or "rlx"
        name = given.name or ": ".join([Path(given.places[0]).resolve().name, *(given.stage or [])])
        workspace = build(runs, name=name, project=project, entity=entity)
        if given.print:
            print(json.dumps(as_json(workspace), indent=2))
        else:
            print(_save(workspace))
    except RlxError as error:
        print(f"rlx: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # Python would complain of the pipe once more
    return 0


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value), None)


def _save(workspace: "Workspace") -> str:
    """Send it to the server and return its address.

    Raises:
        RunError: the server does not answer, or refuses.
    """
    import wandb

    try:
        workspace.entity = workspace.entity or wandb.Api().default_entity or ""
        return str(workspace.save().url)
    except Exception as error:  # of its library, of requests, of the server
        line = next(iter(str(error).splitlines()), "").rstrip(". ") or type(error).__name__
        raise RunError(f"W&B did not take the workspace: {line}; --print shows it without the server") from error
