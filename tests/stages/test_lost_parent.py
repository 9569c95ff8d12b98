"""A run whose parent is gone goes on from checkpoints of its own, to the same bits."""

import shutil

import pytest

from rlx.stages.modules.loop import RunCallback
from tests.stages.runs import PRETRAIN, digest, place, record, rl, rows, sft

CHILDREN = {
    "sft": lambda parent: sft(f"{parent}@6"),
    "rl": lambda parent: rl(f"{parent}@6", "optim.lr=1e-3"),
    "continued": lambda parent: [*PRETRAIN, f"init_from={parent}@6", "init.state=all"],
}
STOPS = {"sft": 8, "rl": 3, "continued": 10}


def break_off(door, arguments: list[str], step: int) -> None:
    """Run a command that is interrupted in a step."""
    count = RunCallback._count_step

    def counted(callback: RunCallback) -> None:
        count(callback)
        if callback.step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCallback, "_count_step", counted)
        assert door(*arguments).code == 130


@pytest.mark.parametrize("child", CHILDREN)
def test_it_goes_on_to_the_same_bits(door, child):
    parent = place(door(*PRETRAIN, "checkpoint.keep=all").out)
    arguments = CHILDREN[child](parent)
    whole = place(door(*arguments, "runs_dir=whole").out)
    break_off(door, arguments, STOPS[child])
    shutil.rmtree(parent / "checkpoints" / "step-000006")
    done = door(*arguments)
    assert done.code == 0, done.err
    assert "no whole checkpoint at step 6" in done.out and "goes on without" in done.out
    run = place(done.out)
    assert rows(run) == rows(whole) and digest(run) == digest(whole)
    assert record(run)["flops"] == record(whole)["flops"] and record(run)["depth"] == record(whole)["depth"]
    assert door(*arguments).out.startswith("finished already")


def test_without_a_checkpoint_of_its_own_it_says_what_is_missing(door):
    parent = place(door(*PRETRAIN, "checkpoint.keep=all").out)
    arguments = sft(f"{parent}@6")
    break_off(door, arguments, 5)
    shutil.rmtree(parent / "checkpoints" / "step-000006")
    (own,) = parent.parent.parent.glob("*-sft-*/seed0")
    (own / "metrics.jsonl").write_bytes(b"")  # what every checkpoint counts on
    done = door(*arguments)
    assert done.code == 2 and done.err.count("\n") == 1 and "no usable checkpoint of its own" in done.err
    done = door(*arguments)
    assert done.code == 2 and done.err.count("\n") == 1 and "no whole checkpoint at step 6" in done.err
    assert len(list((own / "logs").glob("*dropped-step-*"))) == 2


def test_a_kl_reference_that_is_gone_is_named(door):
    parent = place(door(*PRETRAIN, "checkpoint.keep=all").out)
    arguments = rl(f"{parent}@6", "algorithm.kl_coefficient=0.1")
    break_off(door, arguments, 3)
    shutil.move(parent / "checkpoints" / "step-000006", "aside")
    done = door(*arguments)
    assert done.code == 2 and "algorithm.kl_coefficient needs the policy" in done.err
    shutil.move("aside", parent / "checkpoints" / "step-000006")
    assert door(*arguments).code == 0
