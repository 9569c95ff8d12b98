"""stage=merge: the mean of two runs, its loss beside theirs."""

from pathlib import Path

from safetensors.torch import load_file

from rlx.nn.decoder import Decoder
from tests.conftest import COUNTDOWN
from tests.stages.runs import PRETRAIN, arithmetic_of, place, record, rows, sft

MERGE = (*COUNTDOWN, "trainer.threads=1", "stage=merge", "merge=linear", "stage.val_tokens=640", "stage.problems=4",
         "stage.samples=2", "decode.max_tokens=6", "stage.path_points=3")  # fmt: skip


def weights(run):
    return load_file(sorted(run.glob("checkpoints/*/model.safetensors"))[-1])


def test_merge_of_two_runs(door):
    start = place(door(*PRETRAIN).out)
    tuned = place(door(*sft(start)).out)
    done = door(*MERGE, f"merge.models=[{start},{tuned}]", "merge.weights=[1,3]")
    assert done.code == 0, done.err
    run = place(done.out)
    first, second, result = weights(start), weights(tuned), weights(run)
    for name, tensor in result.items():
        assert (tensor - (0.25 * first[name] + 0.75 * second[name])).abs().max() < 1e-6
    (row,) = rows(run)
    parents = [row["merge/parent_0/val_loss"], row["merge/parent_1/val_loss"]]
    assert abs(row["merge/barrier"] - (row["val/loss"] - sum(parents) / 2)) < 1e-12
    lineage = record(run)["lineage"]
    assert set(lineage) == {str(start), str(tuned), str(run)}
    assert door(*sft(run)).code == 0


def test_models_that_do_not_fit_are_one_line(door):
    start = place(door(*PRETRAIN).out)
    wide = place(door(*PRETRAIN, "model.d_model=48").out)
    done = door(*MERGE, f"merge.models=[{start},{wide}]")
    assert done.code == 2 and "d_model" in done.err and len(done.err.strip().splitlines()) == 1
    other = place(door(*PRETRAIN, "model=iha").out)
    done = door(*MERGE, f"merge.models=[{start},{other}]")
    assert done.code == 2 and done.err.count("\n") == 1
    assert f"differ in their model: dense in {start}/checkpoints" in done.err and f", iha in {other}/" in done.err
    nope = place(door(*PRETRAIN, "model.layers=[attention.nope,attention]").out)
    done = door(*MERGE, f"merge.models=[{start},{nope}]")
    assert done.code == 2 and done.err.count("\n") == 1 and "differ in model.layers: None in" in done.err
    assert "['attention.nope+mlp', 'attention+mlp'] in" in done.err
    assert not list(Path().glob("*/*-merge-*")), "nothing is written"


def test_precision_is_that_of_the_trainer(door, monkeypatch):
    start = place(door(*PRETRAIN).out)
    seen = arithmetic_of(monkeypatch, Decoder, "run")
    done = door(*MERGE, f"merge.models=[{start},{start}]", "trainer.precision=bf16")
    assert done.code == 0 and seen and all(seen)
