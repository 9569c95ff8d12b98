"""stage=study: study=lora_soups at its smallest, whole; and its claims where the numbers are set by hand."""

import json
import math
from pathlib import Path

import pytest

from rlx.studies.base import Results
from rlx.studies.lora_soups import LoraSoupsConfig, apart, learnt
from tests.conftest import only

SOUPS = ("stage=study", "study=lora_soups", "scale=smoke", "trainer.threads=1")
MERGES = ("uniform", "sum", "linear", "soups_linear", "svd", "ties", "dare", "hub", "cat", "cat_free", "cat_layer",
          "cat_whole")  # fmt: skip


def set_score(run: Path, share: float) -> None:
    """Write the share of samples that were correct into each problem of eval.json."""
    found = json.loads((run / "eval.json").read_text())
    for number, row in enumerate(found["problems"]):
        row["correct"] = row["n"] * (number < share * len(found["problems"]))
    (run / "eval.json").write_text(json.dumps(found))


def test_adapters_are_merged_in_every_way_and_compared(rlx):
    done = rlx(*SOUPS)
    assert done.code == 0, done.err + done.out
    folder = only("runs/plans/lora_soups-smoke-*")
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    runs = {row["name"]: Path(row["run"]) for row in rows}
    assert set(runs) == {"world", "base", "lookup", "addition", "data_mix", *MERGES,
                         "eval_base", "eval_lookup", "eval_addition", "eval_data_mix"}  # fmt: skip
    assert all(json.loads((run / "status").read_text())["state"] == "finished" for run in runs.values())
    claims = json.loads((folder / "claims.json").read_text())
    assert len(claims) == 8 and not [c for c in claims if c["verdict"] == "undecided" and "missing" in c["note"]]
    tokens = {name: json.loads((runs[name] / "run.json").read_text())["tokens"] for name in runs}
    assert abs(tokens["data_mix"] / (tokens["lookup"] + tokens["addition"]) - 1) < 0.1
    for name in MERGES:
        found = json.loads((runs[name] / "eval.json").read_text())
        assert found["task"] == "skill_pair" and set(found["tasks"]) == {"lookup", "addition"}
        assert all(row["difficulty"]["skill"] == "composed" for row in found["problems"])
    adapted = [name for name in MERGES if (only(f"{runs[name]}/checkpoints/*") / "adapter_config.json").exists()]
    assert set(MERGES) - set(adapted) == {"ties", "dare"}
    weights = {n: json.loads((runs[n] / "merge.json").read_text())["adapter"]["weights"] for n in adapted}
    assert all(each == [1.0, 1.0] for each in weights["sum"].values())
    assert all(each == [0.5, 0.5] for each in weights["uniform"].values())
    assert len({tuple(each) for each in weights["cat_whole"].values()}) == 1

    def verdicts(**shares: float) -> list[str]:
        for name, share in shares.items():
            set_score(runs[f"eval_{name}" if name in ("data_mix",) else name], share)
        return [claim.verdict for claim in LoraSoupsConfig().claims(Results(folder))]

    level = {name: 0.5 for name in ("uniform", "ties", "dare", "cat", "cat_free", "cat_whole", "data_mix")}
    learnt, near, gain, most, data, free, module, apart = verdicts(**level)
    assert (learnt, near, gain, most, data, free, module) == (
        "fails", "holds", "fails", "fails", "holds", "fails", "fails",
    )  # fmt: skip
    assert apart in ("holds", "fails")
    assert verdicts(**{**level, "cat": 1.0, "data_mix": 0.0})[1:7] == ["holds"] * 6
    assert verdicts(**{**level, "cat": 1.0, "dare": 1.0})[3] == "fails", "the best of those that are told"
    assert verdicts(**{**level, "cat": 0.0, "uniform": 1.0, "data_mix": 1.0})[1:5] == ["fails"] * 4
    (runs["ties"] / "eval.json").unlink()
    assert verdicts(cat=1.0)[3] == "undecided", "the best of them may be the one that is missing"


class Measured(Results):
    """Results of which only metrics are asked, a list of rows' values for each run."""

    def __init__(self, **values: list[list[float]]) -> None:
        self.values = values

    def series(self, name: str, metric: str) -> list[list[tuple[int, float]]]:
        return [list(enumerate(each)) for each in self.values[metric.split("/")[-2]]]


@pytest.mark.parametrize(
    ("lookup", "addition", "verdict"),
    [
        ([[0.95], [0.9]], [[0.99], [0.91]], "holds"),
        ([[0.95], [0.9]], [[0.89], [0.99]], "fails"),
        ([[0.89], [0.9]], [[0.99], [0.99]], "fails"),
        ([[0.1, 0.95], [0.9]], [[0.99], [0.91]], "holds"),
        ([[0.95], [math.nan]], [[0.99], [0.99]], "undecided"),
        ([[0.95], []], [[0.99], [0.99]], "undecided"),
        ([], [], "undecided"),
    ],
    ids=repr,
)
def test_the_worst_seed_of_both_skills_decides_whether_they_are_learnt(lookup, addition, verdict):
    assert learnt(Measured(lookup=lookup, addition=addition)).verdict == verdict


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [([[0.3], [0.11]], "holds"), ([[0.3], [0.1]], "fails"), ([[0.5], [math.nan]], "undecided"), ([], "undecided")],
    ids=repr,
)
def test_the_nearest_seed_decides_whether_sums_of_factors_are_apart(errors, verdict):
    assert apart(Measured(merge=errors)).verdict == verdict
