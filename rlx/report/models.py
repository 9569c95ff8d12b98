"""Models that were evaluated: what their eval.json files say, as numbers with intervals.

A model is what an evaluation is of, over all its seeds. Scores are kept for the problems that every seed answered,
lined up by id, so that `rlx.statistics` can resample them. Where eval.json lists no problems its own means are used;
its interval too, when there is one seed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlx.report.labels import EVALUATES
from rlx.report.read import Entry, Plan, Run, as_dict, as_number, parent_paths
from rlx.statistics import Estimate, bootstrap, pass_at_k

MAX_SLICES = 8  # more values of a difficulty than this are put into four bins


@dataclass(frozen=True)
class Scores:
    """The answers of S seeds to the same N problems."""

    correct: NDArray[np.float64]  # [S, N] samples that were correct
    n: NDArray[np.float64]  # [S, N] samples made
    greedy: NDArray[np.float64] | None  # [S, N] 0 or 1
    difficulty: list[dict[str, Any]]  # N


@dataclass(frozen=True)
class Model:
    """One evaluated model: the entries that made it and the entries that evaluated it."""

    name: str
    label: str
    made: list[Entry]
    evals: list[Entry]

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The evaluations that there are, one a seed."""
        return [entry.run.evaluation for entry in self.evals if entry.run.evaluation is not None]

    @property
    def task(self) -> str:
        """Task and split, as `countdown test`."""
        for evaluation in self.finished:
            return f"{evaluation.get('task') or ''} {evaluation.get('split') or ''}".strip()
        return str(self.evals[0].run.info.get("task") or "")

    @cached_property
    def scores(self) -> Scores | None:
        """Problems that every finished seed answered; None when there are none."""
        return _scores(self.finished)

    @property
    def samples(self) -> int:
        """The fewest samples made of a problem; 0 when it is not known."""
        return int(self.scores.n.min()) if self.scores is not None else 0

    @cached_property
    def ks(self) -> list[int]:
        """Every k for which there is a pass@k."""
        named = {k for evaluation in self.finished for k in _ks(evaluation)}
        return sorted(k for k in named if self.scores is None or k <= self.samples)

    def pass_at(self, k: int) -> Estimate | None:
        """pass@k over problems and seeds; what eval.json reports where the samples are too few to work it out."""
        if self.scores is None or k > self.samples:
            return self._reported(f"pass@{k}")
        return bootstrap(pass_at_k(self.scores.correct, self.scores.n, k))

    def greedy(self) -> Estimate | None:
        """Accuracy of greedy decoding over problems and seeds."""
        if self.scores is None or self.scores.greedy is None:
            return self._reported("greedy")
        return bootstrap(self.scores.greedy)

    def accuracy(self) -> Estimate | None:
        """pass@1, or greedy where nothing was sampled."""
        return self.pass_at(1) or self.greedy()

    def mean(self, total: Callable[[Run], float | None]) -> float | None:
        """The mean over this model's runs of one of their totals."""
        return mean_over([entry.run for entry in self.made], total)

    def outcomes(self) -> dict[str, float]:
        """The share of each outcome, a mean over seeds."""
        shares = [as_dict(evaluation.get("outcomes")) for evaluation in self.finished]
        shares = [share for share in shares if share]
        totals = Counter[str]()
        for share in shares:
            totals.update({str(key): as_number(value) or 0.0 for key, value in share.items()})  # type: ignore[arg-type]
        return {key: value / len(shares) for key, value in totals.items()}

    def references(self) -> dict[str, Estimate]:
        """What an even draw among answers, and the task's short cut, get on the same problems."""
        rules = [str(evaluation["baseline"]) for evaluation in self.finished if "baseline" in evaluation]
        names = {"chance": "chance", "baseline": f"baseline: {rules[0] if rules else 'a short cut'}"}
        found = {label: self._reported(name) for name, label in names.items()}
        return {label: estimate for label, estimate in found.items() if estimate is not None}

    def slices(self, name: str) -> dict[str, Estimate]:
        """Accuracy for each value of a difficulty, in order; few values of many are binned."""
        if self.scores is None:
            return {}
        single = pass_at_k(self.scores.correct, self.scores.n, 1)
        values = [row.get(name) for row in self.scores.difficulty]
        return {label: bootstrap(single[:, mask]) for label, mask in _bins(values).items()}

    @cached_property
    def difficulties(self) -> list[str]:
        """Difficulty fields by which the problems differ."""
        rows = self.scores.difficulty if self.scores is not None else []
        names = dict.fromkeys(name for row in rows for name in row)
        return [name for name in names if len(_bins([row.get(name) for row in rows])) > 1]

    def _reported(self, metric: str) -> Estimate | None:
        return _reported(self.finished, metric)


def read_models(plan: Plan) -> list[Model]:
    """The evaluated models of a plan, in the order of their evaluations."""
    models = [_model(plan, entries) for entries in plan.groups.values() if _evaluates(entries)]
    separately = Counter(model.name for model in models if model.evals is not model.made)
    models = [replace(model, label=_own_label(model)) if separately[model.name] > 1 else model for model in models]
    return [model for model in models if model.evals is not model.made or model.name not in separately]


def single_sample(evaluations: list[dict[str, Any]]) -> Estimate | None:
    """pass@1 of what the seeds of a model did on one task, over problems and seeds."""
    scores = _scores(evaluations)
    if scores is None:
        return _reported(evaluations, "pass@1")
    return bootstrap(pass_at_k(scores.correct, scores.n, 1))


def mean_over(runs: list[Run], total: Callable[[Run], float | None]) -> float | None:
    """The mean of one of the totals over the runs that have it."""
    values = [value for value in map(total, runs) if value is not None]
    return sum(values) / len(values) if values else None


def _evaluates(entries: list[Entry]) -> bool:
    return any(entry.stage == "eval" or entry.run.evaluation is not None for entry in entries)


def _model(plan: Plan, evals: list[Entry]) -> Model:
    if evals[0].stage != "eval":
        return Model(evals[0].name, evals[0].label, evals, evals)
    name = evals[0].of or _parent_name(plan, evals[0])
    made = plan.groups.get(name, [])
    seeds = {entry.seed for entry in evals}
    same = [entry for entry in made if entry.seed in seeds] or made
    label = same[0].label if same else name or evals[0].label
    model = Model(name or evals[0].name, label, same, evals)
    return model if same or not evals[0].label.startswith(EVALUATES) else replace(model, label=_own_label(model))


def _own_label(model: Model) -> str:
    """What the evaluation itself is called: where its model is elsewhere, or was evaluated in several ways."""
    return model.evals[0].label.removeprefix(EVALUATES)


def _parent_name(plan: Plan, entry: Entry) -> str:
    """The entry whose run an evaluation started from, when the plan does not say."""
    parents = {Path(path) for path in (*entry.parents, *parent_paths(entry.run))}
    return next((other.name for other in plan.entries if Path(other.run.shown) in parents), "")


def _problems(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rows = evaluation.get("problems")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {str(row.get("id", index)): row for index, row in enumerate(rows) if _answered(row)}


def _answered(row: dict[str, Any]) -> bool:
    correct, n = as_number(row.get("correct")), as_number(row.get("n"))
    return correct is not None and n is not None and n >= 1 and 0 <= correct <= n


def _scores(evaluations: list[dict[str, Any]]) -> Scores | None:
    tables = [problems for problems in map(_problems, evaluations) if problems]
    if not tables:
        return None
    ids = [key for key in tables[0] if all(key in table for table in tables)]
    if not ids:
        return None
    rows = [[table[key] for key in ids] for table in tables]
    has_greedy = all(isinstance(row.get("greedy"), bool | int) for seed in rows for row in seed)
    greedy = _column(rows, "greedy") if has_greedy else None
    difficulty = [as_dict(row.get("difficulty")) for row in rows[0]]
    return Scores(_column(rows, "correct"), _column(rows, "n"), greedy, difficulty)


def _column(rows: list[list[dict[str, Any]]], name: str) -> NDArray[np.float64]:
    return np.array([[row[name] for row in seed] for seed in rows], dtype=np.float64)


def _ks(evaluation: dict[str, Any]) -> set[int]:
    listed = evaluation.get("k")
    ks = {k for k in listed if isinstance(k, int) and k >= 1} if isinstance(listed, list) else set()
    names = (str(key).rpartition("/")[2] for key in as_dict(evaluation.get("metrics")))
    return ks | {int(name[5:]) for name in names if name.startswith("pass@") and name[5:].isdecimal()}


def _reported(evaluations: list[dict[str, Any]], metric: str) -> Estimate | None:
    """The mean over seeds of what eval.json says; with its interval where there is one seed."""
    found = [_metric(evaluation, metric) for evaluation in evaluations]
    found = [estimate for estimate in found if estimate is not None]
    if len(found) <= 1:
        return found[0] if found else None
    return Estimate(float(np.mean([estimate.value for estimate in found])), np.nan, np.nan)


def _metric(evaluation: dict[str, Any], metric: str) -> Estimate | None:
    for key, raw in as_dict(evaluation.get("metrics")).items():
        value = as_number(raw)
        if str(key).rpartition("/")[2] == metric and value is not None:
            ends = as_dict(evaluation.get("intervals")).get(key)
            low, high = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
            low, high = as_number(low), as_number(high)
            return Estimate(value, np.nan if low is None else low, np.nan if high is None else high)
    return None


def _bins(values: list[Any]) -> dict[str, NDArray[np.bool_]]:
    """Which problems have each value; numbers of many values fall into four bins of about equal size."""
    numbers = [as_number(value) for value in values]
    if all(value is not None for value in numbers) and len(set(numbers)) > MAX_SLICES:
        return _quarters(np.array(numbers, dtype=np.float64))
    kinds = sorted({value for value in values if isinstance(value, str | int | float)}, key=_order)
    if len(kinds) > MAX_SLICES:
        return {}
    return {str(kind): np.array([value == kind for value in values]) for kind in kinds}


def _order(value: Any) -> tuple[bool, float, str]:
    number = as_number(value)
    return (number is None, number or 0.0, str(value))


def _quarters(numbers: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1], method="nearest"))
    inside = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
    masks = [inside == index for index in range(len(edges) - 1)]
    return {f"{numbers[mask].min():g} to {numbers[mask].max():g}": mask for mask in masks}
