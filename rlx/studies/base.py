"""What a study is: runs by name, per scale, and claims about their results."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlx.errors import ConfigError
from rlx.report.models import Model, read_models
from rlx.report.read import FINISHED, Plan, Run, read_plan
from rlx.statistics import Estimate, paired_difference

Quantity = Callable[[dict[str, Any]], float]
"""What is asked of a problem's row in eval.json."""


@dataclass(kw_only=True, slots=True)
class StudyRun:
    """One run of a study, as it would be typed; `{name}` in an override stands for the run of that name."""

    label: str = ""
    """How tables call it; empty: its name."""
    overrides: list[str] = field(default_factory=list)
    """Overrides of `rlx`, at every scale."""
    at: dict[str, list[str]] = field(default_factory=dict)
    """Overrides by scale, after the others."""
    of: str | None = None
    """For an evaluation: the run that it evaluates."""


@dataclass(kw_only=True, slots=True)
class StudyConfig:
    """Fields that every study has."""

    common: list[str] = field(default_factory=list)
    """Overrides of every run."""
    common_at: dict[str, list[str]] = field(default_factory=dict)
    """Overrides of every run, by scale."""
    runs: dict[str, StudyRun] = field(default_factory=dict)
    """The runs, in an order in which parents come first."""

    def __post_init__(self) -> None:
        for name, run in self.runs.items():
            if not name.isidentifier() or name != name.lower():
                raise ConfigError(f"study.runs.{name}: a run's name is lower-case letters, digits and underscores")
            if run.of is not None and run.of not in self.runs:
                raise ConfigError(f"study.runs.{name}.of={run.of}: no such run; there are {', '.join(self.runs)}")

    def claims(self, results: "Results") -> list["Claim"]:
        """What the study says of its results."""
        raise NotImplementedError


@dataclass(kw_only=True, slots=True)
class Claim:
    """A sentence and what was measured for it; one row of claims.json."""

    claim: str
    quantity: str
    threshold: str
    verdict: str
    """holds, fails or undecided."""
    value: float | None = None
    unit: str = ""
    interval: list[float] | None = None
    note: str = ""


def at_least(estimate: Estimate, threshold: float) -> str:
    """holds when the whole interval is at or above the threshold, fails when it is below, else undecided."""
    if estimate.low >= threshold:
        return "holds"
    return "fails" if estimate.high < threshold else "undecided"


class Results:
    """What a study's runs found, read from their directories."""

    def __init__(self, folder: Path) -> None:
        self.plan: Plan = read_plan(folder)
        self.models: dict[str, Model] = {model.name: model for model in read_models(self.plan)}

    def runs(self, name: str) -> list[Run]:
        """The finished runs of a name, a seed each."""
        return [entry.run for entry in self.plan.groups.get(name, []) if entry.run.state == FINISHED]

    def difference(self, first: str, second: str) -> Estimate | None:
        """Sampled pass@1 of one model minus another's on the same problems and seeds; None while one is missing."""
        arms = self._arms(first, second)
        return None if arms is None else paired_difference(*arms)

    def differences(self, first: str, second: str) -> list[float]:
        """The same difference, seed by seed."""
        arms = self._arms(first, second)
        return [] if arms is None else (arms[0] - arms[1]).mean(-1).tolist()

    def _arms(self, first: str, second: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Sampled pass@1 by seed and problem, of both."""
        found = [self.models[name].scores if name in self.models else None for name in (first, second)]
        arms = [scores.correct / scores.n for scores in found if scores is not None]
        return (arms[0], arms[1]) if len(arms) == 2 and arms[0].shape == arms[1].shape else None

    def tables(self, *asked: tuple[str, Quantity]) -> list[NDArray[np.float64]] | None:
        """[S, N] each: a quantity of every problem's row in eval.json, of evaluations by name, for the seeds and the
        problems that all of them have. None where there are none."""
        found = [self._answers(name) for name, _ in asked]
        seeds = sorted(set.intersection(*(set(each) for each in found)))
        ids = [key for key in (found[0][seeds[0]] if seeds else ()) if all(key in e[n] for e in found for n in seeds)]
        if not ids:
            return None
        return [
            np.array([[of(answers[seed][key]) for key in ids] for seed in seeds], dtype=np.float64)
            for (_, of), answers in zip(asked, found, strict=True)
        ]

    def _answers(self, name: str) -> dict[int, dict[str, dict[str, Any]]]:
        """Rows of eval.json by seed and problem, of the finished runs of a name."""
        entries = [entry for entry in self.plan.groups.get(name, []) if entry.run.state == FINISHED]
        return {
            entry.seed: {row["id"]: row for row in entry.run.evaluation["problems"]}
            for entry in entries
            if entry.run.evaluation is not None
        }

    def series(self, name: str, metric: str) -> list[list[tuple[int, float]]]:
        """(step, value) of a metric in each finished run of a name."""
        return [
            [(row["step"], row[metric]) for row in run.rows if isinstance(row.get(metric), int | float)]
            for run in self.runs(name)
        ]


def difference_claim(results: Results, sentence: str, first: str, second: str, *, threshold: float) -> Claim:
    """A claim that one model's sampled pass@1 exceeds another's: by a threshold (a share, shown in points), or at all.

    With threshold 0 the whole interval must lie above 0.
    """
    quantity = f"pass@1 of {first} minus {second}, same problems"
    found = results.difference(first, second)
    return points_claim(sentence, quantity, found, results.differences(first, second), threshold=threshold)


def points_claim(
    sentence: str, quantity: str, found: Estimate | None, by_seed: Sequence[float], *, threshold: float
) -> Claim:
    """A claim that a share is at least a threshold, both shown in points; with threshold 0 the whole interval must lie
    above 0."""
    told = f"≥ {100 * threshold:g} points" if threshold else "> 0 points"
    if found is None:
        return undecided(sentence, quantity, told, "runs are missing")
    return Claim(
        claim=sentence,
        quantity=quantity,
        threshold=told,
        verdict=at_least(found, threshold or 1e-9),
        value=100 * float(found.value),
        unit="points",
        interval=[100 * float(found.low), 100 * float(found.high)],
        note="per seed: " + ", ".join(f"{100 * value:.1f}" for value in by_seed),
    )


def undecided(sentence: str, quantity: str, threshold: str, note: str) -> Claim:
    """A claim that nothing was measured for."""
    return Claim(claim=sentence, quantity=quantity, threshold=threshold, verdict="undecided", note=note)


def rows(claims: list[Claim], command: str) -> list[dict[str, Any]]:
    """claims.json: the claims, each with the command that makes its numbers again."""
    return [{**asdict(claim), "command": command} for claim in claims]
