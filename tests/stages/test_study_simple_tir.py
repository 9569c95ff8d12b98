"""stage=study: study=simple_tir at its smallest, whole; and its claims where the numbers are set by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx.statistics import Estimate
from rlx.studies.base import Results
from rlx.studies.simple_tir import SimpleTirConfig, accuracy, either, equal, norms, turns
from tests.conftest import only

ARMS = ("base", "tool", "unfiltered", "noise", "noise_unfiltered", "single")


def set_score(run: Path, share: float) -> None:
    """Write the share of samples that were correct into each problem of eval.json."""
    found = json.loads((run / "eval.json").read_text())
    for number, row in enumerate(found["problems"]):
        row["correct"] = row["n"] * (number < share * len(found["problems"]))
    (run / "eval.json").write_text(json.dumps(found))


def test_arms_are_trained_and_compared(rlx):
    done = rlx("stage=study", "study=simple_tir", "scale=smoke", "trainer.threads=1")
    assert done.code == 0, done.err + done.out
    folder = only("runs/plans/simple_tir-smoke-*")
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    runs = {row["name"]: Path(row["run"]) for row in rows}
    assert set(runs) == {*ARMS, *(f"eval_{name}" for name in ARMS)}
    assert all(json.loads((run / "status").read_text())["state"] == "finished" for run in runs.values())
    claims = json.loads((folder / "claims.json").read_text())
    assert len(claims) == 8 and not [c for c in claims if c["verdict"] == "undecided" and "missing" in c["note"]]
    configs = {name: (run / "config.yaml").read_text() for name, run in runs.items()}
    assert {name for name in ARMS if "noise: 0.2" in configs[name]} == {"noise", "noise_unfiltered"}
    assert {name for name in ARMS if "filter_void: false" in configs[name]} == {"unfiltered", "noise_unfiltered"}
    assert not any("noise: 0.2" in configs[f"eval_{name}"] for name in ARMS)
    spent = {name: json.loads((runs[name] / "run.json").read_text())["flops"] for name in ("tool", "single")}
    tool, single = (spent[name]["train"] + spent[name]["rollout"] for name in ("tool", "single"))
    assert 0.99 <= single / tool < 2  # an iteration of the smoke scale is a large part of it

    def verdicts(**shares: float) -> list[str]:
        for name, share in shares.items():
            set_score(runs[f"eval_{name}"], share)
        found = [claim.verdict for claim in SimpleTirConfig().claims(Results(folder))]
        return [found[0], found[3], found[6], found[7]]

    assert verdicts(**dict.fromkeys(ARMS, 0.5))[::3] == ["fails", "fails"]
    assert verdicts(tool=1.0, noise=1.0, base=1.0) == ["holds"] * 4
    assert verdicts(single=1.0, tool=0.0, noise=0.0, noise_unfiltered=1.0) == ["fails"] * 4


class Measured(Results):
    """Results that are told: norms or turns by the name of the arm, a list for each run, and a difference."""

    def __init__(self, difference: tuple[float, float, float] | None = None, **values: list[list[float]]) -> None:
        self.values, self.found = values, difference

    def series(self, name: str, metric: str) -> list[list[tuple[int, float]]]:
        assert metric in ("train/grad_norm", "turns/mean")
        return [list(enumerate(each)) for each in self.values.get(name, [])]

    def difference(self, first: str, second: str) -> Estimate | None:
        return None if self.found is None else Estimate(*self.found)

    def differences(self, first: str, second: str) -> list[float]:
        return [] if self.found is None else [self.found[0]]


RISING = [float(n) for n in range(101)]


@pytest.mark.parametrize(
    ("a", "b", "verdict", "value"),
    [
        ([RISING], [[2 * n for n in RISING]], "holds", 0.5),
        ([[*RISING[:-1], 1000.0]], [[2 * n for n in RISING]], "holds", 0.5),
        ([RISING], [[1.9 * n for n in RISING]], "fails", 95 / (1.9 * 95)),
        ([RISING, RISING], [[4 * n for n in RISING], RISING], "fails", 1.0),
        ([RISING], [[0.0, 0.0]], "fails", math.inf),
        ([RISING], [RISING, RISING], "undecided", None),
        ([[1.0]], [[1.0]], "undecided", None),
        ([], [], "undecided", None),
    ],
    ids=["half", "one peak", "more", "one seed of two", "nothing", "a run is missing", "one value", "no runs"],
)
def test_the_worst_seed_decides_on_the_norm(a: Any, b: Any, verdict: str, value: float | None) -> None:
    found = norms(Measured(a=a, b=b), "", "a", "b")
    assert found.verdict == verdict and found.value == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("a", "verdict", "value"),
    [
        ([[1.0] * 10 + [1.5] * 90], "holds", 0.5),
        ([[1.0, 2.0] * 5 + [1.5] * 90], "holds", 0.0),
        ([[1.5] * 10 + [2.0] * 80 + [1.0] * 10], "fails", -0.5),
        ([[1.0] * 10 + [2.0] * 90, [2.0] * 50 + [1.9] * 50], "fails", -0.1),
        ([[1.0, 2.0, 3.0]], "holds", 1.0),
        ([[1.5] * 109 + [0.0] * 10], "fails", -0.75),
        ([[1.0]], "undecided", None),
        ([], "undecided", None),
    ],
    ids=["rise", "mean", "late fall", "one seed", "few", "rest", "one value", "no runs"],
)
def test_the_lowest_tenth_is_compared_with_the_first(a: Any, verdict: str, value: float | None) -> None:
    found = turns(Measured(a=a), "", "a")
    assert found.verdict == verdict and found.value == (value if value is None else pytest.approx(value))


CALM, WILD = [[1.0, 2.0, 1.0, 2.0]], [[1.0, 3.0, 1.0, 3.0]]


@pytest.mark.parametrize(
    ("difference", "a", "verdict"),
    [
        ((0.05, 0.03, 0.07), WILD, "holds"),
        ((0.04, 0.02, 0.07), WILD, "undecided"),
        ((0.01, 0.0, 0.02), WILD, "fails"),
        ((0.01, 0.0, 0.02), CALM, "holds"),
        ((0.0, -0.03, 0.03), CALM, "holds"),
        ((0.0, -0.04, 0.02), CALM, "undecided"),
        ((-0.05, -0.06, -0.04), CALM, "fails"),
        ((0.01, 0.0, 0.02), [*CALM, *WILD], "fails"),
        (None, CALM, "undecided"),
    ],
)
def test_accuracy_or_calm_decides(difference: Any, a: Any, verdict: str) -> None:
    found = accuracy(Measured(difference, a=a, b=WILD * len(a)), "", "a", "b")
    assert found.verdict == verdict
    if difference is not None and len(a) == 1:
        assert f"{np.var(a[0]) / np.var(WILD[0]):.2f}" in found.note


def test_one_of_two_is_enough() -> None:
    assert either("fails", "holds") == either("holds", "undecided") == "holds"
    assert either("fails", "fails") == "fails" and either("fails", "undecided") == "undecided"
    assert equal(Estimate(0.05, 0.04, 0.06)) == equal(Estimate(-0.05, -0.06, -0.04)) == "fails"
