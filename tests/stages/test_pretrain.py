"""stage=pretrain, alone."""

import json
import shlex
from pathlib import Path

import pytest

from rlx.runs.checkpoints import Keep
from rlx.runs.lease import Lease
from rlx.runs.metrics import MetricsLog
from tests.conftest import COUNTDOWN, SMALL
from tests.stages.runs import PRETRAIN, digest, place, record, rows, status


def test_pretrain_leaves_a_run_that_explains_itself(door):
    done = door(*PRETRAIN)
    assert done.code == 0, done.err
    run = place(done.out)
    assert run.parent.name.startswith("countdown-dense-pretrain-h") and run.name == "seed0"
    assert status(run)["state"] == "finished"
    found = rows(run)
    assert [row["step"] for row in found] == list(range(1, 13))
    assert [row["step"] for row in found if "val/loss" in row] == [1, 4, 8, 12]
    assert found[-1]["train/loss"] < found[0]["train/loss"] < 5.0
    assert found[-1]["flops/total"] == found[-1]["flops/train"] + found[-1]["flops/eval"] > 0
    made = record(run)
    assert made["parameters"]["total"] > 0 and made["versions"]["torch"] and made["parents"] == []
    assert made["flops"]["lineage"] == made["flops"]["total"]
    assert list(digest(run)) == ["step-000009", "step-000012"]
    folder = run / "checkpoints/step-000012"
    names = {"config.json", "model.safetensors", "tokenizer.json", "trainer", "SHA256SUMS"}
    assert {path.name for path in folder.iterdir()} == names


def test_a_run_says_which_kernels_ran(door):
    assert record(place(door(*PRETRAIN, "stage.steps=1").out))["kernels"] == {}
    found = door(*PRETRAIN, "stage.steps=1", "model=gssm", "model.layers=[gssm,delta]", "model.n_layers=2")
    assert record(place(found.out))["kernels"] == {"delta": "torch", "scan": "torch"}


def test_the_command_in_overrides_repeats_the_run(door):
    run = place(door(*PRETRAIN).out)
    words = shlex.split((run / "overrides.txt").read_text())
    assert words[0] == "rlx"
    assert "finished already" in door(*words[1:]).out
    again = place(door(*words[1:], "rerun=again").out)
    assert again != run and rows(again) == rows(run) and digest(again) == digest(run)


def test_what_changes_no_result_changes_no_place_and_what_does_changes_it(door):
    run = place(door(*PRETRAIN).out)
    for same in ("checkpoint.keep=all", "trainer.threads=1", "logger=local"):
        assert "finished already" in door(*PRETRAIN, same).out
    more = door(*PRETRAIN, "checkpoint.every=2", "eval.every=3", "decode=sample").out
    assert "made with eval.every=0, with checkpoint.every=3; rerun=<label>" in more
    (run / "config.yaml").write_text("eval: 3\ncheckpoint:\n")
    assert door(*PRETRAIN, "checkpoint.every=2").out == f"finished already: {run}\n"
    other = place(door(*PRETRAIN, "optim.lr=2e-3").out)
    seeded = place(door(*PRETRAIN, "seed=1").out)
    assert other.parent != run.parent and seeded.parent == run.parent and seeded.name == "seed1"
    assert digest(seeded) != digest(run)


def test_two_micro_batches_make_the_same_step(door):
    whole = rows(place(door(*PRETRAIN, "stage.steps=2").out))
    halves = rows(place(door(*PRETRAIN, "stage.steps=2", "stage.micro_batches=2").out))
    for one, two in zip(whole, halves, strict=True):
        assert one["tokens"] == two["tokens"] and one["flops/total"] == two["flops/total"]
        assert abs(one["train/loss"] - two["train/loss"]) < 1e-4 * one["train/loss"]


def test_the_held_out_loss_is_on_the_same_documents_whatever_a_steps_size(door):
    """Fresh weights after a step at a rate of almost 0, measured in batches of 4, 2 and 8 rows."""
    still = ("stage.steps=1", "optim.lr=1e-12", "optim.adamw_lr=1e-12", "stage.val_tokens=512")
    sizes = (("stage.batch_tokens=256",), ("stage.micro_batches=2",), ("stage.batch_tokens=1024",))
    found = [rows(place(door(*PRETRAIN, *still, *size).out))[0] for size in sizes]
    assert len({row["flops/eval"] for row in found}) == 1
    assert max(row["val/loss"] for row in found) - min(row["val/loss"] for row in found) < 1e-5


def test_the_first_and_the_last_step_are_measured_too(door):
    run = place(door(*PRETRAIN, "stage.steps=6").out)
    assert [row["step"] for row in rows(run) if "val/loss" in row] == [1, 4, 6]


def test_log_spaced_checkpoints_are_made_at_their_own_steps(door):
    run = place(
        door(*PRETRAIN, "stage.steps=60", "stage.val_every=0", "checkpoint.every=25", "checkpoint.keep=log:5").out
    )
    steps = [int(name.removeprefix("step-")) for name in digest(run)]
    assert steps == sorted(Keep.parse("log:5").planned(60)) and len(steps) == 5 and steps[-1] == 60


@pytest.mark.parametrize("step, seen", [(2, "a heartbeat"), (4, "its checkpoint")])
def test_a_run_whose_lease_another_took_writes_no_more(door, monkeypatch, step, seen):
    """What it says of itself stays what the new owner wrote."""
    append, begin, leases = MetricsLog.append, Lease.__init__, []

    def begun(lease, *given):
        begin(lease, *given)
        leases.append(lease)

    def taken_over(log, row):
        append(log, row)
        if row.get("step") == step:
            lease = log.path.parent / "lease.json"
            lease.write_text(json.dumps({**json.loads(lease.read_text()), "token": "another", "host": "far"}))
            (log.path.parent / "status").write_text('{"state": "running", "reason": "by far"}')
            taken_over.record = (log.path.parent / "run.json").read_bytes()
            if seen == "a heartbeat":
                leases[-1].is_ours()

    monkeypatch.setattr(Lease, "__init__", begun)
    monkeypatch.setattr(MetricsLog, "append", taken_over)
    done = door(*PRETRAIN)
    (run,) = Path("runs").glob("*/seed0")
    assert done.code == 1 and "taken over" in done.err
    assert status(run) == {"state": "running", "reason": "by far"}
    assert (run / "run.json").read_bytes() == taken_over.record
    assert max(path.name for path in run.glob("checkpoints/*")) == {2: "step-000001", 4: "step-000003"}[step]
    assert len(rows(run)) == step


def test_a_budget_of_operations_ends_the_run(door):
    per_step = rows(place(door(*PRETRAIN).out))[-1]["flops/train"] / 12
    run = place(door(*PRETRAIN, "stage.steps=null", f"stage.max_flops={5.5 * per_step}").out)
    assert len(rows(run)) in (5, 6, 7)


def test_a_document_longer_than_a_row_is_one_line(door):
    done = door(*COUNTDOWN, *SMALL, "stage=pretrain", "stage.row_tokens=16", "stage.steps=2")
    assert done.code == 2 and "row_tokens=16" in done.err and len(done.err.strip().splitlines()) == 1


def test_the_defaults_train_on_the_default_task(door):
    done = door("stage=pretrain", "task=countdown", "scale=smoke", "stage.steps=1", "stage.val_every=0")
    assert done.code == 0, done.err
    assert json.loads((place(done.out) / "metrics.jsonl").read_text())["step"] == 1
    assert not list(Path().glob("multirun*")) and not list(Path().glob("outputs*"))


def test_a_diverging_run_says_so_and_fails(door):
    done = door(*PRETRAIN, "optim=adamw", "optim.lr=1e30", "stage.clip_norm=1e30")
    assert done.code == 1 and "diverged" in done.err and "optim.lr" in done.err
    assert status(place(done.out))["state"] == "failed"
