"""stage=merge with methods whose result is another model than the parents: the door, and what goes on from there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import COUNTDOWN
from tests.stages.runs import PRETRAIN, place, record, rows, sft

MERGE = (*COUNTDOWN, "trainer.threads=1", "stage=merge", "stage.val_tokens=640", "stage.problems=0",
         "stage.path_points=3")  # fmt: skip
MOE = (*PRETRAIN, "model=moe", "model.n_experts=4")


@pytest.fixture
def start(door):
    return place(door(*PRETRAIN, "checkpoint.keep=all").out)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted(run.glob("checkpoints/*/model.safetensors"))[-1])


def fields(run: Path) -> dict[str, Any]:
    (path,) = run.glob("checkpoints/*/config.json")
    return json.loads(path.read_text())["fields"]


def written(run: Path) -> dict[str, Any]:
    """The model of config.yaml."""
    return yaml.safe_load((run / "config.yaml").read_text())["model"]


def test_checkpoints_of_a_run_are_averaged(door, start):
    done = door(*MERGE, "merge=average", f"merge.models=[{start}]", "merge.steps=[3,6,12]")
    assert done.code == 0, done.err
    run = place(done.out)
    points = [load_file(start / f"checkpoints/step-{step:06d}/model.safetensors") for step in (3, 6, 12)]
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, sum(point[name] for point in points) / 3, atol=1e-6, rtol=1e-6)
    (row,) = rows(run)
    losses = [row[f"merge/parent_{number}/val_loss"] for number in range(3)]
    assert row["merge/barrier"] == pytest.approx(row["val/loss"] - sum(losses) / 3)
    assert record(run)["lineage"].keys() == {str(start), str(run)}
    assert "alarm" not in done.out, "checkpoints of one run have an ancestor in common"
    others = [["merge.last=2"], ["merge.last=2", "merge.decay=sqrt"], ["merge.steps=[3,6]"]]
    places = {run, *(place(door(*MERGE, "merge=average", f"merge.models=[{start}]", *more).out) for more in others)}
    assert len(places) == 4
    before = sorted(Path("runs").glob("*/*"))
    done = door(*MERGE, "merge=average", f"merge.models=[{start}]", "merge.steps=[3,7]")
    assert done.code == 2 and "has no checkpoint at step 7; there are steps 3, 6, 9, 12" in done.err
    assert done.err.count("\n") == 1 and sorted(Path("runs").glob("*/*")) == before


def test_a_grown_model_is_trained_on(door, start):
    done = door(*MERGE, "merge=grow", "merge.how=zero", f"merge.models=[{start}]")
    assert done.code == 0, done.err
    run = place(done.out)
    (row,) = rows(run)
    assert row["val/loss"] == pytest.approx(row["merge/parent_0/val_loss"], abs=1e-6)
    assert fields(run)["n_layers"] == written(run)["n_layers"] == 2 * written(start)["n_layers"]
    assert record(run)["parameters"]["total"] > record(start)["parameters"]["total"]
    after = door(*sft(run, "stage.steps=1"))
    assert after.code == 0, after.err
    assert record(place(after.out))["parameters"]["total"] == record(run)["parameters"]["total"]


def test_models_that_outgrew_their_ancestor_are_compared_without_it(door, start):
    grown = [place(door(*MERGE, "merge=grow", f"merge.how={how}", f"merge.models=[{start}]").out)
             for how in ("stack", "interleave")]  # fmt: skip
    done = door(*MERGE, "merge=linear", f"merge.models=[{grown[0]},{grown[1]}]")
    assert done.code == 0, done.err
    report = json.loads((place(done.out) / "merge.json").read_text())
    assert report["base"] is None and report["likeness"]["of"] == "weights" and not report["unrelated"]
    assert report["likeness"]["norms"][1] > 0


def test_layers_of_two_runs_are_stacked(door, start):
    other = place(door(*PRETRAIN, "model.n_layers=3", "seed=1").out)
    slices = "merge.slices=[0:0-2,1:1-3]"
    done = door(*MERGE, "merge=passthrough", f"merge.models=[{start},{other}]", slices, "merge.scales=[1,0.5]")
    assert done.code == 0, done.err
    run = place(done.out)
    first, second, found = weights(start), weights(other), weights(run)
    for name, tensor in found.items():
        number = int(name.split(".")[1]) if name.startswith("blocks.") else -1
        theirs = second if number > 1 or name == "norm.weight" else first
        source = name.replace(f"blocks.{number}.", f"blocks.{number - 1}.") if number > 1 else name
        halved = number > 1 and name.endswith(("mixer.out.weight", "channel.down.weight"))
        assert torch.equal(tensor, theirs[source] * (0.5 if halved else 1)), name
    assert fields(run)["n_layers"] == 4
    done = door(*MERGE, "merge=passthrough", f"merge.models=[{start},{other}]", "merge.slices=[0:0-2,1:1-4]")
    assert done.code == 2 and "has 1:1-4, and model 1 has 3 layers" in done.err and done.err.count("\n") == 1


def test_dense_runs_become_experts(door, start):
    done = door(*MERGE, "merge=upcycle", f"merge.models=[{start}]", "merge.n_experts=4")
    assert done.code == 0, done.err
    run = place(done.out)
    (row,) = rows(run)
    assert row["val/loss"] == pytest.approx(row["merge/parent_0/val_loss"], abs=1e-5)
    assert "-moe-merge-" in str(run) and written(run)["n_experts"] == fields(run)["n_experts"] == 4
    assert json.loads((run / "merge.json").read_text())["seeds"].keys() == weights(run).keys()
    after = door(*sft(run, "stage.steps=1"))
    assert after.code == 0, after.err
    tuned = place(door(*sft(start)).out)
    done = door(*MERGE, "merge=upcycle", f"merge.models=[{start},{tuned}]", "merge.n_experts=4")
    assert done.code == 0, done.err
    stack = weights(place(done.out))["blocks.0.channel.down"]
    for number, theirs in enumerate((start, start, tuned, tuned)):
        assert torch.equal(stack[number], weights(theirs)["blocks.0.channel.down.weight"])


def test_experts_of_two_runs_are_averaged(door):
    start = place(door(*MOE).out)
    tuned = place(door(*sft(start)).out)
    done = door(*MERGE, "merge=experts", f"merge.models=[{start},{tuned}]", "merge.weights=[1,3]")
    assert done.code == 0, done.err
    first, second, found = weights(start), weights(tuned), weights(place(done.out))
    for name, tensor in found.items():  # a run's experts keep their numbers while it is trained on
        torch.testing.assert_close(tensor, 0.25 * first[name] + 0.75 * second[name], atol=1e-6, rtol=1e-6)
    dense = place(door(*PRETRAIN).out)
    done = door(*MERGE, "merge=experts", f"merge.models=[{dense},{dense}]")
    assert done.code == 2 and "is for layers of experts" in done.err and done.err.count("\n") == 1
