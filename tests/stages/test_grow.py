"""init.grow: runs that begin with more layers than their parent has."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlx.stages.base import RunStageConfig
from tests.stages.runs import PRETRAIN, digest, place, record, rows, sft

STILL = ("optim.lr=1e-12", "optim.adamw_lr=1e-12", "optim.weight_decay=0")
"""Weights stay where they are."""
GROWN = (*PRETRAIN, "init.grow=stack", "model.n_layers=4", "stage.steps=2", *STILL)


@pytest.fixture
def start(door):
    return place(door(*PRETRAIN, "stage.steps=4").out)


def weights(run: Path, step: int) -> dict:
    return load_file(run / f"checkpoints/step-{step:06d}/model.safetensors")


def test_layers_are_stacked_and_the_parents_operations_count(door, start):
    done = door(*GROWN, f"init_from={start}")
    assert done.code == 0, done.err
    run = place(done.out)
    small, large = weights(start, 4), weights(run, 2)
    assert len(large) == len(small) + sum(name.startswith("blocks.") for name in small)
    for name, tensor in large.items():
        number = name.split(".")[1]
        theirs = name.replace(f"blocks.{number}.", f"blocks.{int(number) % 2}.") if "blocks" in name else name
        assert (tensor - small[theirs]).abs().max() < 1e-9, name
    assert "grown to 4 layers (init.grow=stack)" in done.out and "says nothing at this size" in done.out
    made, before = record(run), record(start)
    assert made["flops"]["lineage"] == made["flops"]["total"] + before["flops"]["total"]
    assert made["parameters"]["total"] > before["parameters"]["total"]
    described = json.loads((run / "checkpoints/step-000002/config.json").read_text())
    assert described["fields"]["n_layers"] == 4 and rows(run)[0]["step"] == 1
    again = door(*sft(run, "stage.steps=1"))
    assert again.code == 0, again.err
    assert record(place(again.out))["parameters"] == made["parameters"]


@pytest.mark.parametrize("how", ["zero", "random"])
def test_a_grown_run_that_was_stopped_ends_with_the_same_bits(door, start, how, monkeypatch):
    """Fresh layers are drawn again as they were; other ways of growing are other runs."""
    from rlx.runs.metrics import MetricsLog
    from rlx.signals import stop

    arguments = (*PRETRAIN, f"init.grow={how}", "model.n_layers=3", f"init_from={start}", "stage.steps=6")
    whole = place(door(*arguments, "runs_dir=whole").out)
    append = MetricsLog.append

    def stopping(log, row):
        append(log, row)
        if row.get("step") == 3:
            stop.signal = 15

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", stopping)
        assert door(*arguments).code == 75
    run = place(door(*arguments).out)
    assert digest(run) == digest(whole) and rows(run) == rows(whole)
    assert run.parent.name == whole.parent.name != place(door(*GROWN, f"init_from={start}").out).parent.name


def test_a_grown_run_is_estimated_by_its_own_size(asked):
    from rlx.stages.estimate import Estimator

    estimator = Estimator("runs")
    where, config = asked(*PRETRAIN)
    small = estimator.estimate(where, config).cost
    more, config = asked(*PRETRAIN, f"init_from={where}", "init.grow=stack", "model.n_layers=6")
    large = estimator.estimate(more, config).cost
    assert small and large and 2 * small.train < large.train < 3 * small.train


LINES = {
    "no number": (["init.grow=stack"], "init.grow=stack needs model.n_layers above the parent's 2, got 2"),
    "no multiple": (["init.grow=stack", "model.n_layers=5"], "must be a multiple; try 4"),
    "fewer": (["init.grow=zero", "model.n_layers=1"], "above the parent's 2, got 1"),
    "other width": (["init.grow=stack", "model.n_layers=4", "model.d_model=64"], "model.d_model=64 but"),
    "all": (["init.grow=stack", "model.n_layers=4", "init.state=all"], "init.grow=stack takes the weights alone"),
    "no growth": (["model.n_layers=4"], "add layers by init.grow=stack"),
    "other layers": (["model.layers=[attention.nope]"], "model.layers=[attention.nope+mlp] but"),
    "its layers": (["model.layers=[attention.nope]"], "has [attention+mlp], which stays"),
    "other model": (["model=hybrid"], "model=hybrid but"),
}


@pytest.mark.parametrize("more, line", LINES.values(), ids=LINES)
def test_what_does_not_fit_is_a_line(door, start, more, line):
    before = sorted(Path("runs").iterdir())
    done = door(*PRETRAIN, f"init_from={start}", *more)
    assert done.code == 2 and line in done.err and sorted(Path("runs").iterdir()) == before


def test_growth_needs_a_parent_and_a_stage_that_mends(door, start, monkeypatch):
    monkeypatch.setattr(RunStageConfig, "run", lambda *_: pytest.fail("it is refused"))
    assert "adds layers to a parent; give init_from=<run>" in door(*PRETRAIN, "init.grow=stack").err
    done = door("stage=rl", "task=countdown", "algorithm=grpo", f"init_from={start}", "init.grow=zero")
    assert done.code == 2 and "init.grow=zero is for pretrain and sft" in done.err
