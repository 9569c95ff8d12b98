"""`stage=size`, and what its table is made of; models by one dial."""

from pathlib import Path

import pytest

from tests.stages.runs import PRETRAIN, place, record, sft


def cells(out: str, name: str) -> list[str]:
    """What stands right of a row's name."""
    (line,) = [line for line in out.splitlines() if line.startswith(name)]
    return line.removeprefix(name).split()


def test_a_table_is_printed_and_nothing_written(rlx):
    done = rlx("stage=size", "model=dense", "model.d_model=64", "model.n_layers=2", "stage.lengths=[4,100]")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "model=dense  d_model 64  2 layers  vocabulary 112"
    layer = 4 * 64 * 64 + 3 * 64 * 192 + 2 * 64
    whole = 2 * layer + 64 + 112 * 64
    assert cells(done.out, "attention+mlp x 2") == [f"{layer:,}"]
    counts = lines[[line.startswith("parameters  ") for line in lines].index(True) + 1].split()
    assert counts == [f"{whole:,}", f"{whole:,}", f"{112 * 64:,}", f"{2 * layer + 64:,}"]
    matrices = 2 * (layer - 128) + 112 * 64
    decode = [2 * matrices + 2 * 4 * 64 * length for length in (4, 100)]
    prefill = [2 * matrices + 2 * 4 * 64 * (length + 1) / 2 for length in (4, 100)]
    assert cells(done.out, "decode, FLOPs a token") == [
        f"{n / 1000:#.4g}" if c == 0 else "k" for n in decode for c in (0, 1)
    ]
    assert cells(done.out, "prefill, FLOPs a token")[::2] == [f"{n / 1000:#.4g}" for n in prefill]
    assert cells(done.out, "train, FLOPs a token")[::2] == [
        f"{3 * n / 1000 ** (1 + (3 * n >= 1e6)):#.4g}" for n in prefill
    ]
    assert cells(done.out, "state, bytes in bfloat16")[::2] == ["2.048", "51.20"]
    assert not list(Path.cwd().iterdir())


def test_kinds_of_layers_are_listed(door):
    pattern = "model.layers=[attention.local*3,attention]"
    done = door("stage=size", "model=hybrid", pattern, "model.window=8", "model.n_layers=8")
    assert cells(done.out, "attention.local+mlp x 6") and cells(done.out, "attention+mlp x 2")


def test_the_size_of_a_run_is_its_own(door):
    run = place(door(*PRETRAIN, "stage.steps=1", "model.n_layers=3").out)
    done = door("stage=size", f"init_from={run}")
    made = record(run)["parameters"]
    assert made["active"] == made["total"] > made["embedding"] == 112 * 32
    assert "  3 layers  " in done.out and f"{made['total']:,}" in done.out
    for typed, name in (
        ("model.n_layers=4", "model.n_layers"),
        ("model=moe", "model"),
        ("model.depth=4", "model.n_layers"),
    ):
        done = door("stage=size", f"init_from={run}", typed)
        assert done.code == 2 and f"{name}= cannot be set with init_from" in done.err and not done.out


@pytest.mark.parametrize(
    "more, line",
    [
        (["stage.lengths=[0]"], "stage.lengths=[0] must be numbers of tokens"),
        (["optim=muon"], "stage=size does not use optim"),
        (["init_from=runs/nowhere"], "runs/nowhere"),
        (["model.depth=4", "model.n_layers=3"], "model.depth=4 says model.n_layers too; leave model.n_layers=3 out"),
        (["model.depth=4", "++model.d_model=3"], "model.depth=4 says model.d_model too"),
        (["model.depth=0"], "model.depth=0"),
    ],
)
def test_what_it_cannot_do_is_a_line(door, more, line):
    done = door("stage=size", *more)
    assert done.code == 2 and line in done.err and done.err.count("\n") == 1


def test_one_dial_is_the_numbers_that_it_stands_for(door, asked):
    """Above what a scale sets, and by the same name."""
    numbers = ("model.n_layers=2", "model.d_model=128", "model.n_heads=2")
    base = [text for text in PRETRAIN if not text.startswith("model.")]
    dial, config = asked(*base, "scale=cpu", "model.depth=2")
    assert dial == asked(*base, "scale=cpu", *numbers)[0] != asked(*base, "scale=cpu")[0]
    assert (config.model.n_layers, config.model.d_model, config.model.n_heads) == (2, 128, 2)
    done = door("stage=size", "model.depth=2", "model=hybrid")
    assert "d_model 128  2 layers" in done.out


def test_one_dial_on_a_checkpoint_is_what_it_stands_for(door):
    run = place(door(*PRETRAIN, "stage.steps=1").out)
    done = door(*sft(run, "model.depth=5"))
    assert done.code == 2 and "model.n_layers=5 but" in done.err and not Path("runs/countdown-dense-sft").exists()
