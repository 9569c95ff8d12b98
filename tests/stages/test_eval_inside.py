"""eval.every: the task's problems completed and verified while a model is trained, which changes nothing of it."""

import json
import random
import signal
from pathlib import Path

import numpy
import pytest
import torch

from rlx.decoding.engine import Engine
from rlx.evaluation.evaluate import Evaluator
from rlx.runs.checkpoints import list_checkpoints, load_trainer_state
from rlx.signals import stop
from rlx.stages.modules.measuring import EvalInside
from tests.conftest import COUNTDOWN
from tests.stages.runs import PRETRAIN, arithmetic_of, digest, place, record, rl, rows, sft, status

EVAL = ("eval.every=5", "eval.problems=6", "eval.samples=2", "decode.max_tokens=8")
NAMES = {f"eval/countdown/{name}" for name in ("greedy", "mean@2", "pass@1", "pass@2", "mean_length")}


def evaluated(found: list[dict]) -> list[int]:
    return [row["step"] for row in found if "eval/countdown/greedy" in row]


def without_eval(found: list[dict]) -> list[dict]:
    return [{k: value for k, value in row.items() if "eval" not in k and k != "flops/total"} for row in found]


def test_it_is_what_stage_eval_finds_and_changes_no_weights(door):
    plain = place(door(*PRETRAIN, "runs_dir=plain").out)
    run = place(door(*PRETRAIN, *EVAL, "eval.split=test").out)
    found = rows(run)
    assert run.parts[1:] == plain.parts[1:]  # the same run: it is not in the hash
    assert evaluated(found) == [5, 10, 12] and found[-1].keys() >= NAMES
    assert without_eval(found) == without_eval(rows(plain)) and digest(run) == digest(plain)
    assert found[4]["flops/eval"] > rows(plain)[4]["flops/eval"]
    assert record(run)["flops"]["eval"] == found[-1]["flops/eval"]
    done = door(*COUNTDOWN, "trainer.threads=1", "stage=eval", f"init_from={run}", "stage.problems=6",
                "stage.samples=2", "decode.max_tokens=8")  # fmt: skip
    alone = json.loads((place(done.out) / "eval.json").read_text())["metrics"]
    assert alone == {name: value for name, value in found[-1].items() if name.startswith("eval/")}
    assert "decode:" in (run / "config.yaml").read_text() and "decode:" not in (plain / "config.yaml").read_text()


def test_samples_are_drawn_by_the_seed_of_the_run(door, monkeypatch):
    """As stage=eval draws them under the same seed."""
    seeds, evaluate = [], Evaluator.evaluate

    def watched(evaluator, examples, **named):
        seeds.append(named["seed"])
        return evaluate(evaluator, examples, **named)

    monkeypatch.setattr(Evaluator, "evaluate", watched)
    assert door(*PRETRAIN, *EVAL, "stage.steps=1", "seed=3").code == 0
    assert seeds == [3]


def test_what_a_measurement_draws_is_put_back(door, monkeypatch):
    plain = place(door(*PRETRAIN, "runs_dir=plain").out)
    measure = EvalInside.__call__

    def drawing(inside):
        torch.rand(1), random.random(), numpy.random.rand()
        return measure(inside)

    monkeypatch.setattr(EvalInside, "__call__", drawing)
    run = place(door(*PRETRAIN, *EVAL).out)
    states = [load_trainer_state(found / "checkpoints/step-000012")["run"]["generators"] for found in (run, plain)]
    assert torch.equal(*(state["torch"] for state in states)) and states[0]["python"] == states[1]["python"]
    assert torch.equal(*(state["numpy"][1] for state in states)) and states[0]["numpy"][2] == states[1]["numpy"][2]


def test_in_rl_it_stands_beside_validation(door):
    start = place(door(*PRETRAIN, "runs_dir=start", "stage.steps=4").out)
    plain = place(door(*rl(start, "runs_dir=plain")).out)
    run = place(door(*rl(start, "eval.every=4", "eval.problems=3", "eval.samples=2")).out)
    assert evaluated(rows(run)) == [4, 6] and "val/pass@1" in rows(run)[-1]
    assert without_eval(rows(run)) == without_eval(rows(plain)) and digest(run) == digest(plain)


@pytest.mark.parametrize("precision, bf16", [("fp32", False), ("bf16", True)])
def test_precision_is_that_of_the_trainer(door, monkeypatch, precision, bf16):
    seen = arithmetic_of(monkeypatch, Engine, "complete")
    assert door(*PRETRAIN, *EVAL, "stage.steps=1", f"trainer.precision={precision}").code == 0
    assert seen == [bf16, bf16]


def stop_inside(patch: pytest.MonkeyPatch, call: int) -> list[int]:
    """Have a stop come when the engine first asks for one in the call-th sampling; filled as samplings begin."""
    complete, calls = Engine.complete, []

    def stopping(engine, *given, **named):
        calls.append(len(calls) + 1)
        if len(calls) == call:
            heeded = engine.stop
            patch.setattr(engine, "stop", lambda: setattr(stop, "signal", signal.SIGTERM) or heeded())
        return complete(engine, *given, **named)

    patch.setattr(Engine, "complete", stopping)
    return calls


STOPS = {"with a checkpoint": (2, 4, 5), "without": (3, 9, 3), "at the end": (6, 11, 5)}
"""Which sampling is stopped, the rows that are written then, and the interval of checkpoints."""


@pytest.mark.parametrize("call, made, every", STOPS.values(), ids=STOPS.keys())
def test_a_stop_inside_is_heeded_at_once_and_loses_nothing(door, monkeypatch, call, made, every):
    """The step is kept and its row is made by the next attempt; so is the checkpoint of a step that makes one."""
    arguments = (*PRETRAIN, *EVAL, f"checkpoint.every={every}", "checkpoint.keep=all")
    whole = place(door(*arguments, "runs_dir=whole").out)
    with monkeypatch.context() as patch:
        calls = stop_inside(patch, call)
        done = door(*arguments)
    run = place(done.out)
    assert done.code == 75 and status(run)["state"] == "stopped" and len(calls) == call
    assert rows(run) == rows(whole)[:made] and list_checkpoints(run)[-1][0] == made + 1
    with monkeypatch.context() as patch:  # and again, at once
        calls = stop_inside(patch, 1)
        assert door(*arguments).code == 75 and len(calls) == 1 and rows(run) == rows(whole)[:made]
    assert door(*arguments).code == 0
    assert rows(run) == rows(whole) and digest(run) == digest(whole)
    assert record(run)["flops"] == record(whole)["flops"]
    from tests.stages.kills import differences

    assert differences(run, whole) == []


WRONG = {
    "decode without it": ((*PRETRAIN, "decode.max_tokens=8"), "does not use decode"),
    "no samples": ((*PRETRAIN, *EVAL, "eval.samples=0"), "eval.samples=0"),
    "below 0": ((*PRETRAIN, *EVAL, "eval.every=-1"), "eval.every=-1"),
    "greedy": ((*PRETRAIN, *EVAL, "decode=greedy"), "decode.temperature=0"),
    "a stage that is no training": ((*COUNTDOWN, "stage=eval", "init_from=random", *EVAL), "does not use eval"),
}


@pytest.mark.parametrize("arguments, expected", WRONG.values(), ids=WRONG.keys())
def test_what_makes_no_sense_is_one_line(door, arguments, expected):
    done = door(*arguments)
    assert done.code == 2 and expected in done.err and len(done.err.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_sft_takes_it_too(door):
    start = place(door(*PRETRAIN, "stage.steps=4").out)
    assert evaluated(rows(place(door(*sft(start, *EVAL)).out))) == [5, 10, 12]
