"""stage=study: study=multi_attempt at its smallest, whole; and its claims where the numbers are set by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlx.report.read import Entry, Plan, Run
from rlx.studies.base import Results
from rlx.studies.multi_attempt import MultiAttemptStudyConfig, share_repeated
from tests.conftest import only

STUDY = ("stage=study", "study=multi_attempt", "scale=smoke", "trainer.threads=1")


def test_a_start_is_trained_with_attempts_and_without_and_both_are_asked(rlx):
    done = rlx(*STUDY)
    assert done.code == 0, done.err + done.out
    folder = only("runs/plans/multi_attempt-smoke-*")
    runs = {
        row["name"]: Path(row["run"]) for row in map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    }
    assert set(runs) == {"base", "multi", "single", "eval_base", "eval_multi", "eval_single", "eval_single_alone",
                         "eval_base_alone"}  # fmt: skip
    assert all(json.loads((run / "status").read_text())["state"] == "finished" for run in runs.values())
    spent = {}
    for name in ("multi", "single"):
        flops = json.loads((runs[name] / "run.json").read_text())["flops"]
        spent[name] = flops["train"] + flops["rollout"]
    rows = [json.loads(line) for line in (runs["single"] / "metrics.jsonl").read_text().splitlines()]
    before = rows[-2]["flops/train"] + rows[-2]["flops/rollout"] if len(rows) > 1 else 0
    assert before < spent["multi"] <= spent["single"], "the control ends with the first iteration past the other's"
    for name in ("eval_base", "eval_multi", "eval_single"):
        problems = json.loads((runs[name] / "eval.json").read_text())["problems"]
        assert all({"correct@1", "correct@2", "correct@3"} <= set(row["measures"]) for row in problems)
    alone = json.loads((runs["eval_single_alone"] / "eval.json").read_text())["problems"]
    assert [row["id"] for row in alone] == [row["id"] for row in problems]
    assert not any("correct@1" in row["measures"] for row in alone)
    claims = json.loads((folder / "claims.json").read_text())
    assert len(claims) == 6 and not [claim for claim in claims if "missing" in claim["note"]]
    assert all(claim["interval"] for claim in claims if claim["unit"] == "points")


class Found(Results):
    """Results of evaluations that are written here: name to a list of seeds, each a list of (acc@1, acc@2, repeated@2,
    right of 8)."""

    def __init__(self, **evaluations: list[list[tuple[float, float, float | None, int]]]) -> None:
        entries = [
            Entry(name, name, seed, "eval", "", Run(Path(), "", state="finished", evaluation={"problems": [
                {"id": str(n), "n": 8, "correct": right, "measures": measures(one, two, again)}
                for n, (one, two, again, right) in enumerate(problems)
            ]}))
            for name, seeds in evaluations.items()
            for seed, problems in enumerate(seeds)
        ]  # fmt: skip
        self.plan, self.models = Plan("x", Path(), entries), {}


def measures(one: float, two: float, again: float | None) -> dict[str, Any]:
    return {"correct@1": one, "correct@2": two, **({} if again is None else {"repeated@2": again})}


def verdicts(**evaluations: Any) -> list[str]:
    level: Any = {name: [[(0.5, 0.6, 0.4, 4)] * 8] * 2 for name in ("eval_base", "eval_multi", "eval_single")}
    level["eval_single_alone"] = [[(0.0, 0.0, None, 4)] * 8] * 2
    return [claim.verdict for claim in MultiAttemptStudyConfig().claims(Found(**{**level, **evaluations}))]


def test_each_claim_is_borne_out_by_its_own_numbers():
    """Gains of 10 points all over; two draws of one that is right half the time solve 1 - 4/8 * 3/7 = 78.6 %."""
    assert verdicts() == ["fails", "fails", "holds", "holds", "fails", "fails"]
    grown = verdicts(eval_multi=[[(0.5, 0.631, 0.29, 4)] * 8] * 2)
    assert grown == ["holds", "fails", "holds", "holds", "holds", "fails"]
    short = verdicts(eval_multi=[[(0.5, 0.629, 0.31, 4)] * 8] * 2)
    assert short == ["fails", "fails", "holds", "holds", "fails", "fails"]
    assert verdicts(eval_multi=[[(0.5, 0.701, 0.4, 4)] * 8] * 2)[1] == "holds"
    assert verdicts(eval_multi=[[(0.489, 0.79, 0.4, 4)] * 8] * 2)[2:] == ["fails", "fails", "fails", "holds"]
    assert verdicts(eval_single=[[(0.5, 0.54, 0.4, 4)] * 8] * 2)[1] == "holds"
    assert verdicts(eval_single=[[(0.52, 0.62, 0.4, 4)] * 8] * 2)[2:4] == ["fails", "holds"]
    assert verdicts(eval_single_alone=[[(0.0, 0.0, None, 5)] * 8] * 2)[2:4] == ["holds", "fails"]
    assert verdicts(eval_single_alone=[[(0.0, 0.0, None, 2)] * 8] * 2)[5] == "holds"


def test_problems_and_seeds_that_differ_leave_it_open():
    mixed = [[(0.5, 0.5, 0.4, 4)] * 4 + [(0.5, 0.9, 0.4, 4)] * 4] * 2
    assert verdicts(eval_multi=mixed)[:2] == ["undecided", "undecided"]
    assert verdicts(eval_multi=[]) == ["undecided"] * 6
    assert verdicts(eval_single=[])[1:3] == ["undecided"] * 2


def test_repeats_are_counted_over_second_attempts_and_the_worst_seed_decides():
    """Of 8 samples a problem 4, 8 and none have a second attempt: (0.5 * 4 + 0.25 * 8) / 12."""
    problems = [(0.5, 0.6, 0.5, 4), (0.0, 0.6, 0.25, 4), (1.0, 1.0, None, 8)]
    assert share_repeated(Found(eval_multi=[problems]), "eval_multi") == [pytest.approx(4 / 12)]
    assert share_repeated(Found(eval_multi=[[(1.0, 1.0, None, 8)]]), "eval_multi") == [0.0]
    good, bad = [(0.5, 0.6, 0.1, 4)], [(0.5, 0.6, 0.3, 4)]
    assert verdicts(eval_multi=[good, bad])[4] == "fails" and verdicts(eval_multi=[good, good])[4] == "holds"


def test_only_problems_and_seeds_that_all_have_are_compared():
    found = Found(one=[[(0.1, 0, 0, 4), (0.2, 0, 0, 4)], [(0.3, 0, 0, 4)]], other=[[(0.5, 0, 0, 4)]])
    first, second = (
        found.tables(("one", lambda row: row["measures"]["correct@1"]), ("other", lambda row: row["n"])) or []
    )
    assert first.tolist() == [[0.1]] and second.tolist() == [[8.0]]
    assert found.tables(("one", lambda row: 1.0), ("none", lambda row: 1.0)) is None
