"""stage=eval: one row a problem, the same problems for every model."""

import json

import pytest

from rlx.decoding.engine import Engine
from rlx.stages.eval import summary
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.types import Split
from tests.conftest import COUNTDOWN
from tests.stages.runs import PRETRAIN, arithmetic_of, place, record, rows

EVAL = (*COUNTDOWN, "trainer.threads=1", "stage=eval", "stage.problems=12", "stage.samples=4", "decode.max_tokens=12")


def evaluation(run):
    return json.loads((run / "eval.json").read_text())


def test_eval_of_a_run(door):
    start = place(door(*PRETRAIN).out)
    done = door(*EVAL, f"init_from={start}")
    assert done.code == 0, done.err
    run = place(done.out)
    found = evaluation(run)
    assert found["split"] == "test" and found["n_problems"] == len(found["problems"]) == 12
    assert {f"eval/countdown/pass@{k}" for k in (1, 2, 4)} <= set(found["metrics"])
    assert abs(sum(found["outcomes"].values()) - 1) < 1e-9
    mean = sum(problem["correct"] / problem["n"] for problem in found["problems"]) / 12
    assert abs(found["metrics"]["eval/countdown/pass@1"] - mean) < 1e-9
    assert record(run)["flops"]["eval"] > 0 and len(rows(run)) == 1


def test_chance_and_the_short_cut_stand_beside_accuracy(door):
    """On the very problems that were evaluated, in eval.json and in the line at the end."""
    done = door(*EVAL, "init_from=random", "task.trace=operations")
    found = evaluation(place(done.out))
    task = CountdownConfig(numbers=3, trace=Trace.operations).build()
    problems = [task.example(Split.test, n) for n in range(12)]
    assert [problem["chance"] for problem in found["problems"]] == [task.chance(example) for example in problems]
    guessed = [task.verify(example, task.guess(example)).correct for example in problems]
    assert [problem["baseline"] for problem in found["problems"]] == guessed
    metrics = found["metrics"]
    assert metrics["eval/countdown/chance"] == pytest.approx(sum(map(task.chance, problems)) / 12)
    assert metrics["eval/countdown/baseline"] == pytest.approx(sum(guessed) / 12)
    assert f"| chance {metrics['eval/countdown/chance']:.1%}  baseline" in done.out and task.baseline in done.out


def test_what_the_verifier_measures_is_reported(door):
    """Of the samples and of the greedy completion, as means over problems."""
    done = door("model=dense", "scale=smoke", "task=math", "stage=eval", "init_from=random", "stage.problems=3",
               "stage.samples=2", "decode.max_tokens=8", "trainer.threads=1")  # fmt: skip
    assert done.code == 0, done.err
    found = evaluation(place(done.out))
    for kind in ("measures", "greedy_measures"):
        held = [problem[kind] for problem in found["problems"]]
        names = {name for problem in held for name in problem}
        for name in names:
            values = [problem[name] for problem in held if name in problem]
            assert found["metrics"][f"eval/math/{kind}/{name}"] == pytest.approx(sum(values) / len(values))


def test_models_meet_the_same_problems(door):
    start = place(door(*PRETRAIN).out)
    first = evaluation(place(door(*EVAL, f"init_from={start}").out))
    second = evaluation(place(door(*EVAL, "init_from=random", "seed=3").out))
    assert [p["id"] for p in first["problems"]] == [p["id"] for p in second["problems"]]


def test_repeating_gives_the_same_and_batch_size_does_not_matter(door):
    start = place(door(*PRETRAIN).out)
    first = evaluation(place(door(*EVAL, f"init_from={start}").out))
    again = evaluation(place(door(*EVAL, f"init_from={start}", "rerun=again", "decode.rows=8").out))
    assert first["problems"] == again["problems"]


def test_precision_is_that_of_the_trainer(door, monkeypatch):
    seen = arithmetic_of(monkeypatch, Engine, "complete")
    assert door(*EVAL, "init_from=random").code == 0 and seen and not any(seen)
    seen.clear()
    assert door(*EVAL, "init_from=random", "trainer.precision=bf16").code == 0 and seen and all(seen)


def test_the_line_at_the_end_tells_no_chance_from_a_small_one():
    metrics = {"eval/graph/greedy": 0.5, "eval/graph/pass@1": 0.25, "eval/graph/mean_length": 9.0,
               "eval/graph/baseline": 0.5, "eval/graph/measures/edges": 0.75}  # fmt: skip
    for chance, told in ((0.0, "none"), (1e-5, "<0.1%"), (0.125, "12.5%")):
        line = summary({**metrics, "eval/graph/chance": chance}, "graph", "goes on")
        assert line == f"greedy 50.0%  pass@1 25.0%  | chance {told}  baseline 50.0% (goes on)  | edges 0.75"
