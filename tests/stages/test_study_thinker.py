"""study=thinker at its smallest, whole; and its claims where the numbers are set by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlx.studies.base import Results
from rlx.studies.thinker import ThinkerStudyConfig, balanced_accuracy, resampled
from tests.conftest import only

THINKER = ("stage=study", "study=thinker", "scale=smoke", "trainer.threads=1")
RUNS = ("base", "thinker", "flat", "bare", "plain")


def test_the_whole_study_at_its_smallest(rlx) -> None:
    done = rlx(*THINKER)
    assert done.code == 0, done.err + done.out
    folder = only("runs/plans/thinker-smoke-*")
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    runs = {row["name"]: Path(row["run"]) for row in rows}
    assert set(runs) == {*RUNS, *(f"eval_{name}" for name in RUNS)}
    assert all(json.loads((run / "status").read_text())["state"] == "finished" for run in runs.values())
    spent = {name: json.loads((runs[name] / "run.json").read_text())["flops"] for name in RUNS}
    matched, given = (spent[name]["train"] + spent[name]["rollout"] for name in ("plain", "thinker"))
    assert given <= matched < 1.3 * given
    assert "turns/verify/reward" in (runs["thinker"] / "metrics.jsonl").read_text()
    assert "turns/verify" not in (runs["plain"] / "metrics.jsonl").read_text()
    assert len(json.loads((folder / "claims.json").read_text())) == 6


class Measured(Results):
    """Results with a quantity of three problems by seed; `fast`, `yes`, `no` and `correct` of each run."""

    def __init__(self, shares: float = 0.8, **runs: dict[str, Any]) -> None:
        self.shares, self.given, self.models = shares, runs, {}

    def tables(self, *asked: Any) -> Any:
        found = []
        for name, quantity in asked:
            run = self.given.get(name.removeprefix("eval_"))
            if run is None:
                return None
            rows = [
                [
                    {"n": 1, "correct": c, "measures": {"fast": f, "yes_to_right": y, "no_to_wrong": n}}
                    for c, f, y, n in zip(*(seed[kind] for kind in ("correct", "fast", "yes", "no")), strict=True)
                ]
                for seed in run["seeds"]
            ]
            found.append(np.array([[quantity(row) for row in seed] for seed in rows], dtype=np.float64))
        return found

    def series(self, name: str, metric: str) -> list[list[tuple[int, float]]]:
        return [[(1, self.shares)]]


def run_of(fast: float, yes: float, no: float, correct: float, seeds: int = 3) -> dict[str, Any]:
    """The same on every one of 200 problems."""
    one = {"fast": [fast] * 200, "yes": [yes] * 200, "no": [no] * 200, "correct": [correct] * 200}
    return {"seeds": [one] * seeds}


GOOD = run_of(0.8, 0.72, 0.16, 0.9)
"""Nine in ten of the right fast answers are accepted, eight in ten of the wrong ones refused."""
POOR = run_of(0.8, 0.8, 0.02, 0.82)
SAME = {"base": POOR, "thinker": GOOD, "flat": POOR, "bare": GOOD, "plain": GOOD}


def verdicts(shares: float = 0.8, **runs: dict[str, Any]) -> list[str]:
    return [claim.verdict for claim in ThinkerStudyConfig().claims(Measured(shares, **runs))][:5]


def test_claims_by_hand() -> None:
    assert verdicts(**SAME) == ["holds", "holds", "holds", "holds", "fails"]
    assert verdicts(**{**SAME, "thinker": POOR})[0] == "fails"
    assert verdicts(**{**SAME, "thinker": run_of(0.8, 0.72, 0.16, 0.82)})[1] == "fails"
    assert verdicts(**{**SAME, "plain": run_of(0.82, 0.8, 0, 0.8)})[2] == "fails"
    assert verdicts(**{**SAME, "plain": run_of(0.805, 0.8, 0, 0.8)})[2] == "holds"
    assert verdicts(**{**SAME, "flat": run_of(0.8, 0.72, 0.15, 0.9)})[3] == "fails"
    assert verdicts(**{**SAME, "bare": run_of(0.75, 0.7, 0.1, 0.9)})[4] == "holds"


@pytest.mark.parametrize("share", [0.35, 0.5, 0.65])
def test_weights_say_little_where_both_kinds_are_frequent(share: float) -> None:
    assert verdicts(share, **SAME)[3] == "undecided"


def test_nothing_is_decided_without_runs_or_one_kind_of_answers() -> None:
    assert verdicts(thinker=GOOD) == ["undecided", "holds", "undecided", "undecided", "undecided"]
    assert verdicts(**{**SAME, "flat": run_of(1.0, 1.0, 0.0, 1.0)})[3] == "undecided"
    assert verdicts(**{**SAME, "thinker": run_of(0.0, 0.0, 1.0, 1.0)})[0] == "undecided"


def test_balanced_accuracy_by_hand() -> None:
    """Half of the episodes are right: 0.4 of 0.5 accepted and 0.3 of 0.5 refused are 0.8 and 0.6."""
    fast, yes, no = np.array([1.0, 0.0]), np.array([0.8, 0.0]), np.array([0.0, 0.6])
    assert balanced_accuracy(fast, yes, no) == pytest.approx(0.7)
    assert balanced_accuracy(fast, fast, 1 - fast) == 1 and balanced_accuracy(fast, fast, 0 * fast) == 0.5


def test_the_interval_is_over_problems_and_seeds() -> None:
    draw = np.random.default_rng(1)
    fast = (draw.random((3, 400)) < 0.6).astype(float)
    yes, no = fast * (draw.random((3, 400)) < 0.9), (1 - fast) * (draw.random((3, 400)) < 0.5)
    found = resampled([np.stack([fast, yes, no])])
    assert found.low < found.value < found.high and abs(found.value - 0.7) < 0.05
    half = 1.96 * np.sqrt((0.25 / (0.4 * 1200) + 0.09 / (0.6 * 1200)) / 4)
    assert 0.8 * half < (found.high - found.low) / 2 < 2 * half, "seeds add theirs"
    same = resampled([np.stack([fast, yes, no])] * 2)
    assert (same.value, same.low, same.high) == (0, 0, 0)
