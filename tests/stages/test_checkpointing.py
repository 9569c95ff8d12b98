"""Which checkpoints a run leaves, and which of them is the best: the same wherever it was stopped or killed."""

import json
import signal
from pathlib import Path

import pytest

from rlx.runs.checkpoints import CheckpointPlan, list_checkpoints, load_trainer_state
from rlx.runs.metrics import MetricsLog
from rlx.signals import stop
from rlx.stages.modules import checkpointing, loop
from rlx.stages.modules.policy import PolicyModule
from rlx.stages.modules.supervised import SupervisedModule
from tests.stages.runs import PRETRAIN, digest, place, record, rl, rows, sft, status

LOSSES = {1: 5.0, 4: 3.0, 8: 2.0, 12: 2.5}
"""Held-out losses by step; the best comes at a step that the interval of 3 has not."""


class Killed(BaseException):
    """The process is gone."""


def best(run: Path) -> dict:
    return json.loads((run / "best.json").read_text())


def steps(run: Path) -> list[int]:
    return [step for step, _ in list_checkpoints(run)]


@pytest.fixture
def losses(monkeypatch):
    """Makes validation measure what is given for each step."""

    def measure(values: dict[int, float], module: type = SupervisedModule, metric: str = "val/loss") -> None:
        monkeypatch.setattr(module, "validate", lambda module: {metric: values[module.position]})

    return measure


def test_the_lowest_loss_is_the_best_and_a_child_can_take_it(door, losses):
    losses(LOSSES)
    run = place(door(*PRETRAIN).out)
    assert best(run) == {"step": 8, "metric": "val/loss", "value": 2.0}
    assert steps(run) == [8, 9, 12]
    done = door(*sft(f"{run}@best"))
    assert done.code == 0, done.err
    assert record(place(done.out))["parents"][0]["step"] == 8
    assert place(door(*sft(f"{run}@8")).out) != place(done.out)


def test_rl_takes_the_highest_accuracy_the_first_of_equal_ones(door, losses):
    start = place(door(*PRETRAIN, "runs_dir=start").out)
    losses({1: 0.1, 2: 0.5, 4: 0.5, 6: float("nan")}, PolicyModule, "val/pass@1")
    run = place(door(*rl(start, "checkpoint.every=4")).out)
    assert best(run) == {"step": 2, "metric": "val/pass@1", "value": 0.5}
    assert steps(run) == [2, 4, 6]


def test_the_last_step_is_one_of_those_that_stay(door):
    run = place(door(*PRETRAIN, "stage.val_every=0", "stage.steps=11").out)
    assert steps(run) == [9, 11]


def test_a_state_has_nothing_that_is_counted_in_an_attempt(door):
    run = place(door(*PRETRAIN, "stage.val_every=0", "stage.steps=1").out)
    kept = load_trainer_state(run / "checkpoints/step-000001")["trainer"].keys()
    assert "optimizer_states" in kept and kept.isdisjoint(("epoch", "global_step", "loops"))


def test_without_measurements_there_is_no_best(door):
    run = place(door(*PRETRAIN, "stage.val_every=0").out)
    assert not (run / "best.json").exists() and steps(run) == [9, 12]
    done = door(*sft(f"{run}@best"))
    assert done.code == 2 and "best.json" in done.err and "@12" in done.err


BEST = "checkpoint.best=eval/countdown/pass@2"
EVAL = ("eval.every=6", "eval.problems=4", "eval.samples=2", "decode.max_tokens=8")


def test_another_measure_of_the_best_makes_another_place(door):
    """For a child that takes @best it changes what the run is; its own measure is the one without a name."""
    plain = place(door(*PRETRAIN).out)
    assert "finished already" in door(*PRETRAIN, "checkpoint.best=val/loss").out
    run = place(door(*PRETRAIN, BEST, *EVAL).out)
    assert run != plain and best(run)["metric"] == "eval/countdown/pass@2" and best(run)["step"] in (6, 12)
    assert place(door(*PRETRAIN, BEST, "eval.every=12", *EVAL[1:]).out) not in (run, plain)
    assert digest(run)["step-000012"] == digest(plain)["step-000012"]


@pytest.mark.parametrize(
    "more", [("checkpoint.best=val/los",), (BEST,), ("checkpoint.best=val/loss", "stage.val_every=0")], ids=str
)
def test_a_best_that_is_not_measured_is_one_line(door, more):
    done = door(*PRETRAIN, *more)
    assert done.code == 2 and "checkpoint.best=" in done.err and len(done.err.strip().splitlines()) == 1
    assert not Path("runs").exists()


PLACES = {
    "row": (MetricsLog, "append", False),
    "state": (checkpointing, "save_trainer_state", False),
    "checkpoint made": (loop, "write_best", False),
    "best named": (loop, "write_best", True),
    "pruned": (loop, "prune", True),
}
"""Functions at whose calls a run is killed, and whether after them."""


def kill_at(monkeypatch, owner: object, name: str, after: bool, count: int) -> None:
    """Have the count-th call of a function end the process."""
    whole, left = getattr(owner, name), count

    def killing(*given, **named):
        nonlocal left
        left -= 1
        found = whole(*given, **named) if after or left else None
        if left == 0:
            raise Killed
        return found

    monkeypatch.setattr(owner, name, killing)


@pytest.mark.parametrize("keep", ["last:2", "last:1+log:3"])
def test_kills_change_nothing_of_what_is_left(door, losses, monkeypatch, keep):
    losses(LOSSES)
    arguments = (*PRETRAIN, f"checkpoint.keep={keep}")
    whole = place(door(*arguments, "runs_dir=whole").out)
    for where in PLACES.values():
        with monkeypatch.context() as patch:
            kill_at(patch, *where, 2)
            door(*arguments)
        (run,) = Path("runs").glob("*/seed0")
        assert status(run)["state"] == "failed", f"{where} was never reached"
    assert door(*arguments).code == 0
    assert run.parts[1:] == whole.parts[1:] and status(run)["state"] == "finished"
    assert digest(run) == digest(whole) and best(run) == best(whole) and rows(run) == rows(whole)


def test_a_kill_at_the_very_end_changes_nothing_of_what_is_left(door, losses, monkeypatch):
    """Nothing is left to train: the best is named and the rest pruned all the same."""
    losses({**LOSSES, 12: 1.0})
    whole = place(door(*PRETRAIN, "runs_dir=whole").out)
    assert steps(whole) == [9, 12] and best(whole)["step"] == 12
    with monkeypatch.context() as patch:
        kill_at(patch, loop, "write_best", False, 5)  # at the start, and at steps 1, 4, 8 and 12
        door(*PRETRAIN)
    (run,) = Path("runs").glob("*/seed0")
    assert steps(run) == [6, 8, 9, 12] and best(run)["step"] == 8 and status(run)["state"] == "failed"
    assert door(*PRETRAIN).code == 0
    assert digest(run) == digest(whole) and best(run) == best(whole) and rows(run) == rows(whole)


@pytest.mark.parametrize("keep", ["last:1", "all"])
def test_stops_change_nothing_of_what_is_left(door, losses, monkeypatch, keep):
    """A stop makes a checkpoint of its own, which goes when a newer one is there."""
    losses(LOSSES)
    arguments = (*PRETRAIN, f"checkpoint.keep={keep}")
    whole = place(door(*arguments, "runs_dir=whole").out)
    append = MetricsLog.append

    def stopping(log, row):
        append(log, row)
        if row.get("step") in (5, 7, 8, 9):
            stop.signal = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", stopping)
        for made in (5, 7, 8, 9):
            done = door(*arguments)
            run = place(done.out)
            assert done.code == 75 and steps(run)[-1] == made
            extra = set(steps(run)) - set(steps(whole)) - {made}
            assert all(CheckpointPlan.of(3, keep, 12).makes(step) or best(run)["step"] == step for step in extra)
    assert door(*arguments).code == 0
    assert digest(run) == digest(whole) and best(run) == best(whole) and rows(run) == rows(whole)
    walls = [json.loads(line)["wall"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert walls == sorted(walls)  # every attempt counts on from the time of its checkpoint


def test_a_stop_while_a_checkpoint_is_written_loses_no_step(door, monkeypatch):
    """It is heeded at that step, and one that comes where no checkpoint is due waits for the next step."""
    whole = place(door(*PRETRAIN, "runs_dir=whole").out)
    prune = loop.prune

    def stopping(*given, **named):
        stop.signal = signal.SIGTERM
        return prune(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "prune", stopping)
        done = door(*PRETRAIN)
    run = place(done.out)
    assert done.code == 75 and steps(run)[-1] == len(rows(run)) == 1
    with monkeypatch.context() as patch:
        makes = CheckpointPlan.makes
        patch.setattr(CheckpointPlan, "makes", lambda *given: makes(*given) or setattr(stop, "signal", signal.SIGTERM))
        assert door(*PRETRAIN).code == 75 and steps(run)[-1] == len(rows(run)) == 3
    assert door(*PRETRAIN).code == 0 and digest(run) == digest(whole) and rows(run) == rows(whole)
