"""The tables of a report: claims, stages, runs, and accuracy by difficulty."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlx.report import units
from rlx.report.labels import arm_label
from rlx.report.metrics import title
from rlx.report.models import Model, mean_over, read_models
from rlx.report.read import FINISHED, Entry, Plan, Run, as_number, read_plan
from rlx.report.table import Cell, Column, Table
from rlx.statistics import Estimate

__all__ = ["Table", "arms_table", "claims_table", "read_plan", "runs_table", "slice_table", "stage_table"]

ALWAYS = ("train/loss", "val/loss")
SHOWN = (*ALWAYS, "reward", "val/pass@1", "merge/barrier")
COSTS = (
    Column("tokens", numeric=True),
    Column("FLOPs", numeric=True),
    Column("in lineage", numeric=True),
    Column("wall", numeric=True),
    Column("seeds", numeric=True),
)


def claims_table(claims: Iterable[Mapping[str, Any]]) -> Table:
    """A row a claim: verdict, sentence, what was measured and what it had to be."""
    columns = [Column("verdict"), Column("claim"), Column("quantity"), Column("measured", True), Column("threshold")]
    return Table(columns, [_claim(claim) for claim in claims])


def stage_table(plan: Plan) -> Table:
    """A row an evaluated model: accuracy in percent with 95 % intervals over problems and seeds, and what it cost.

    Costs are means over seeds. Below them, for each task, what chance and its short cut get. A plan without
    evaluations has a row an arm instead, with its last values.
    """
    models = read_models(plan)
    if not models:
        return _training_table(plan)
    several = len({model.task for model in models}) > 1
    ks = sorted({1, max((k for model in models for k in model.ks), default=1)})
    metrics = ["greedy, %", *(f"pass@{k}, %" for k in ks)]
    columns = [Column("model"), *([Column("task")] if several else []), *(Column(name, True) for name in metrics)]
    rows = [_model_row(model, ks, several) for model in models]
    for task, model in {model.task: model for model in reversed(models)}.items():
        for label, estimate in model.references().items():
            shown = [Cell(units.percent(estimate.value)), *(Cell(units.NOTHING) for _ in ks)]
            costs = [Cell(units.NOTHING) for _ in COSTS]
            rows.append([Cell(label), *([Cell(task)] if several else []), *shown, *costs])
    return Table([*columns, *COSTS], rows)


def slice_table(models: list[Model], field: str) -> Table:
    """Accuracy in percent of each model at each value of a difficulty."""
    slices = {model.name: model.slices(field) for model in models}
    values = list(dict.fromkeys(value for found in slices.values() for value in found))
    columns = [Column("model"), *(Column(f"{field} {value}", True) for value in values)]
    rows = [
        [Cell(model.label), *(estimate_cell(slices[model.name].get(value)) for value in values)] for model in models
    ]
    return Table(columns, rows)


def runs_table(plan: Plan) -> Table:
    """A row a run of the plan, whatever became of it, with the command that repeats it."""
    numbers = ("steps", "tokens", "FLOPs", "wall")
    columns = [Column("run"), Column("seed", True), Column("state"), *(Column(name, True) for name in numbers)]
    return Table([*columns, Column("commit")], [_run_row(entry) for entry in plan.entries])


def _claim(claim: Mapping[str, Any]) -> list[Cell]:
    verdict = str(claim.get("verdict") or "undecided")
    note, command = str(claim.get("note") or ""), str(claim.get("command") or "")
    return [
        Cell(verdict, badge=verdict),
        Cell(str(claim.get("claim") or ""), note=note, code=command),
        Cell(str(claim.get("quantity") or "")),
        _measured(claim),
        Cell(str(claim.get("threshold") or "")),
    ]


def _measured(claim: Mapping[str, Any]) -> Cell:
    value, unit, ends = as_number(claim.get("value")), str(claim.get("unit") or ""), claim.get("interval")
    text = f"{units.number(value)} {unit}".strip() if value is not None else units.NOTHING
    low, high = map(as_number, ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    note = "" if value is None or low is None or high is None else units.ends(low, high, value)
    return Cell(text, note=note)


def _model_row(model: Model, ks: list[int], several: bool) -> list[Cell]:
    label = Cell(model.label, note=unfinished(model.made + model.evals))
    accuracies = [estimate_cell(model.greedy()), *(estimate_cell(model.pass_at(k)) for k in ks)]
    runs = [entry.run for entry in model.made]
    seeds = f"{len(model.finished)}" + (f" of {len(model.evals)}" if len(model.finished) < len(model.evals) else "")
    return [label, *([Cell(model.task)] if several else []), *accuracies, *_costs(runs), Cell(seeds)]


def arms_table(arms: Mapping[str, list[Entry]], metrics: Iterable[str]) -> Table:
    """A row an arm of one stage: the last values, means over seeds with their ranges, and what a run cost."""
    keys = list(metrics)
    rows = [_arm_row(arm_label(entries[0]), entries, keys) for entries in arms.values()]
    return Table([Column("arm"), *(Column(title(key), True) for key in keys), *COSTS], rows)


def _training_table(plan: Plan) -> Table:
    """Arms with the last values of what they are judged by."""
    logged = {key for entry in plan.entries for key in entry.run.history.columns}
    keys = [key for key in SHOWN if key in logged or key in ALWAYS]
    rows = [_arm_row(entries[0].label, entries, keys) for entries in plan.groups.values()]
    return Table([Column("run"), *(Column(title(key), True) for key in keys), *COSTS], rows)


def _arm_row(label: str, entries: list[Entry], metrics: list[str]) -> list[Cell]:
    runs = [entry.run for entry in entries]
    finished = sum(run.state == FINISHED for run in runs)
    seeds = f"{len(runs)}" if finished == len(runs) else f"{finished} of {len(runs)}"
    values = [_over_seeds(runs, key) for key in metrics]
    return [Cell(label, note=unfinished(entries)), *values, *_costs(runs), Cell(seeds)]


def _over_seeds(runs: list[Run], key: str) -> Cell:
    """The mean of the last values."""
    return range_cell([value for value in (run.last(key) for run in runs) if value is not None])


def range_cell(values: Sequence[float]) -> Cell:
    """The mean over seeds, and the lowest and highest where there are several."""
    if not values:
        return Cell(units.NOTHING)
    note = f"[{units.number(min(values))}, {units.number(max(values))}]" if len(values) > 1 else ""
    return Cell(units.number(sum(values) / len(values)), note=note)


def _costs(runs: list[Run]) -> list[Cell]:
    return [
        Cell(units.count(mean_over(runs, lambda run: run.tokens))),
        Cell(units.flops(mean_over(runs, lambda run: run.flops))),
        Cell(units.flops(mean_over(runs, lambda run: run.lineage))),
        Cell(units.duration(mean_over(runs, lambda run: run.wall))),
    ]


def unfinished(entries: list[Entry]) -> str:
    """What became of the runs behind a row, when some have not finished."""
    states = list(dict.fromkeys(entry.run.state for entry in entries if entry.run.state != FINISHED))
    return f"({', '.join(states)})" if states else ""


def estimate_cell(estimate: Estimate | None) -> Cell:
    """In percent, with its interval."""
    if estimate is None:
        return Cell(units.NOTHING)
    return Cell(units.percent(estimate.value), note=units.interval(estimate))


def _run_row(entry: Entry) -> list[Cell]:
    run = entry.run
    return [
        Cell(entry.label, note=run.shown, code=entry.command),
        Cell(str(entry.seed)),
        Cell(run.state, note=run.reason if run.state != FINISHED else "", badge=run.state),
        Cell(units.count(run.steps)),
        Cell(units.count(run.tokens)),
        Cell(units.flops(run.flops)),
        Cell(units.duration(run.wall)),
        Cell(run.commit or units.NOTHING),
    ]
