"""stage=eval: one row a problem, the same problems for every model."""

import json

from rlx.decoding.engine import Engine
from tests.conftest import COUNTDOWN
from tests.stages.runs import PRETRAIN, arithmetic_of, place, record, rows

EVAL = (*COUNTDOWN, "trainer.threads=1", "stage=eval", "stage.problems=12", "stage.samples=4", "decode.max_tokens=12")


def evaluation(run):
    return json.loads((run / "eval.json").read_text())


def test_eval_of_a_run(rlx):
    start = place(rlx(*PRETRAIN).out)
    done = rlx(*EVAL, f"init_from={start}")
    assert done.code == 0, done.err
    run = place(done.out)
    found = evaluation(run)
    assert found["split"] == "test" and found["n_problems"] == len(found["problems"]) == 12
    assert {f"eval/countdown/pass@{k}" for k in (1, 2, 4)} <= set(found["metrics"])
    assert abs(sum(found["outcomes"].values()) - 1) < 1e-9
    mean = sum(problem["correct"] / problem["n"] for problem in found["problems"]) / 12
    assert abs(found["metrics"]["eval/countdown/pass@1"] - mean) < 1e-9
    assert record(run)["flops"]["eval"] > 0 and len(rows(run)) == 1


def test_models_meet_the_same_problems(rlx):
    start = place(rlx(*PRETRAIN).out)
    first = evaluation(place(rlx(*EVAL, f"init_from={start}").out))
    second = evaluation(place(rlx(*EVAL, "init_from=random", "seed=3").out))
    assert [p["id"] for p in first["problems"]] == [p["id"] for p in second["problems"]]


def test_repeating_gives_the_same_and_batch_size_does_not_matter(rlx):
    start = place(rlx(*PRETRAIN).out)
    first = evaluation(place(rlx(*EVAL, f"init_from={start}").out))
    again = evaluation(place(rlx(*EVAL, f"init_from={start}", "rerun=again", "decode.rows=8").out))
    assert first["problems"] == again["problems"]


def test_precision_is_that_of_the_trainer(rlx, monkeypatch):
    seen = arithmetic_of(monkeypatch, Engine, "complete")
    assert rlx(*EVAL, "init_from=random").code == 0 and seen and not any(seen)
    seen.clear()
    assert rlx(*EVAL, "init_from=random", "trainer.precision=bf16").code == 0 and seen and all(seen)
