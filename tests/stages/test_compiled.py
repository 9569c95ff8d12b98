"""trainer.compile=true: the same training up to rounding, and the same bits after a stop."""

import signal
from shutil import which

import pytest

from rlx.runs.metrics import MetricsLog
from rlx.signals import stop
from tests.stages.runs import PRETRAIN, digest, place, rl, rows, sft

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(which("g++") is None, reason="compiling needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore"),
]
COMPILED = "trainer.compile=true"


def stop_after(patch, after: int) -> None:
    """Ask this process to stop after so many metrics rows."""
    append, count = MetricsLog.append, 0

    def stopping(log: MetricsLog, row: dict) -> None:
        nonlocal count
        append(log, row)
        count += "tokens" in row
        if count == after:
            stop.signal = signal.SIGTERM

    patch.setattr(MetricsLog, "append", stopping)


def stopped_and_taken_up(door, monkeypatch, arguments: list[str], after: int):
    """The run of a command that is asked to stop after some rows and given again."""
    with monkeypatch.context() as patch:
        stop_after(patch, after)
        assert door(*arguments).code == 75
    done = door(*arguments)
    assert done.code == 0, done.err
    return place(done.out)


def test_compiled_training_is_the_same_and_resumes_to_the_same_bits(door, monkeypatch):
    arguments = [*PRETRAIN, COMPILED, "stage.steps=5", "stage.val_every=0"]
    plain = rows(place(door(*PRETRAIN, "stage.steps=5", "stage.val_every=0", "runs_dir=plain").out))
    whole = place(door(*arguments, "runs_dir=whole").out)
    for mine, theirs in zip(rows(whole), plain, strict=True):
        assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
        assert mine["flops/total"] == theirs["flops/total"]
    broken = stopped_and_taken_up(door, monkeypatch, arguments, 2)
    assert rows(broken) == rows(whole)
    assert digest(broken)["step-000005"] == digest(whole)["step-000005"]


@pytest.mark.parametrize("other", [COMPILED, "trainer.threads=2"])
def test_a_resume_that_rounds_otherwise_says_that_it_is_not_exact(door, monkeypatch, other):
    arguments = [*PRETRAIN, "stage.steps=5", "stage.val_every=0"]
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert door(*arguments).code == 75
    done = door(*arguments, other)
    said = {COMPILED: "resumed with trainer.compile=true", "trainer.threads=2": "resumed with 2 threads"}
    assert done.code == 0 and said[other] in done.out


def test_compiled_adapters_are_the_same_and_resume_to_the_same_bits(door, monkeypatch):
    """Of every kind of layer at once: a compilation takes longer than all else here."""
    model = ("model=moe", "model.n_experts=4", "model.layers=[attention+mlp,attention+experts]")
    start = place(door(*PRETRAIN, *model, "runs_dir=start", "stage.steps=4", "stage.val_every=0").out)
    targets = "adapter.targets=[q,v,up,down,experts]"
    arguments = sft(start, "adapter=lora", targets, "stage.steps=4", "stage.val_every=0")
    plain = rows(place(door(*arguments, "runs_dir=plain").out))
    whole = place(door(*arguments, COMPILED, "runs_dir=whole").out)
    assert [row["train/loss"] for row in rows(whole)] == pytest.approx([row["train/loss"] for row in plain], rel=1e-5)
    broken = stopped_and_taken_up(door, monkeypatch, [*arguments, COMPILED], 2)
    assert rows(broken) == rows(whole)
    assert digest(broken)["step-000004"] == digest(whole)["step-000004"]


def test_compiled_rl_samples_as_it_trains_and_resumes_to_the_same_bits(door, monkeypatch):
    start = place(door(*PRETRAIN, "runs_dir=start", "stage.steps=4", "model.n_layers=1").out)
    arguments = rl(start, COMPILED, "stage.steps=3", "stage.val_every=0", "decode.rows=32", "stage.micro_rows=32")
    done = door(*arguments, "runs_dir=whole")
    assert done.code == 0, done.err
    whole = place(done.out)
    gaps = [row.get("sampling/sampling_logp_difference/mean", 0.0) for row in rows(whole)]
    assert 0 < max(gaps) <= 1e-5
    broken = stopped_and_taken_up(door, monkeypatch, arguments, 1)
    assert rows(broken) == rows(whole)
    assert digest(broken)["step-000003"] == digest(whole)["step-000003"]
