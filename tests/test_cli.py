"""The door: every wrong input is one line, exit code 2, and nothing on the disk."""

from pathlib import Path

import pytest

from tests.conftest import COUNTDOWN

WRONG = {
    "no stage": ([], "no stage", "pretrain"),
    "no task": (["stage=pretrain"], "needs task=", "countdown"),
    "no algorithm": (["stage=rl", "task=countdown"], "needs algorithm=", "grpo"),
    "stage misspelt": (["stage=pretrian", "task=countdown"], "stage=pretrian", "did you mean pretrain"),
    "task misspelt": (["stage=pretrain", "task=countdwn"], "task=countdwn", "did you mean countdown"),
    "key misspelt": (["stage=pretrain", "task=countdown", "model.d_modle=3"], "model.d_modle", "did you mean d_model"),
    "root key misspelt": (["stage=pretrain", "task=countdown", "sede=3"], "sede", "did you mean seed"),
    "added key": (["stage=pretrain", "task=countdown", "+modle.width=3"], "modle", "did you mean model"),
    "added inner key": (["stage=pretrain", "task=countdown", "+model.n_head=3"], "model.n_head", "you mean n_heads"),
    "field of no group": (["stage=rl", "task=countdown", "algorithm.group=3"], "algorithm.group was", "algorithm=grpo"),
    "unused group": (["stage=pretrain", "task=countdown", "algorithm=grpo"], "does not use algorithm", "leave"),
    "unused field": (["stage=eval", "task=countdown", "optim.lr=1"], "does not use optim", "leave"),
    "not a number": (["stage=pretrain", "task=countdown", "model.d_model=abc"], "model.d_model", "abc"),
    "bool for float": (["stage=pretrain", "task=countdown", "optim.lr=true"], "optim.lr", "Float"),
    "not in enum": (["stage=pretrain", "task=countdown", "task.trace=foo"], "task.trace=foo", "direct, operations"),
    "cross-field": (["stage=pretrain", "task=countdown", "model.n_heads=5"], "does not divide", "try"),
    "negative rate": (["stage=pretrain", "task=countdown", "optim.lr=-1"], "optim.lr", "above 0"),
    "negative seed": (["stage=pretrain", "task=countdown", "seed=-1"], "seed=-1", "at least 0"),
    "no such run": (["stage=sft", "task=countdown", "init_from=runs/nope"], "runs/nope", "not there"),
    "rl from nowhere": (["stage=rl", "task=countdown", "algorithm=grpo"], "init_from", "random"),
    "eval of nothing": (["stage=eval", "task=countdown"], "init_from", "random"),
    "rl greedy": (["stage=rl", "task=countdown", "algorithm=grpo", "init_from=random", "decode=greedy"], "=0", "use"),
    "rl top-p": (
        ["stage=rl", "task=countdown", "algorithm=grpo", "init_from=random", "decode.top_p=0.9"], "top_p", "leave"
    ),
    "one parent": (["stage=merge", "task=countdown", "merge=linear"], "two parents", "merge.models"),
    "no equals sign": (["foo"], "'foo'", "key=value"),
    "equals in path": (["stage=sft", "task=countdown", "init_from=runs/x/seed=0"], "seed=0", "quotes"),
    "no config dir": (["--config-dir", "nowhere", "stage=pretrain"], "nowhere", "not found"),
    "scale unknown": (["stage=pretrain", "task=countdown", "scale=huge"], "scale=huge", "smoke"),
    "study scale": (["stage=study", "study=quickstart", "scale=gpu"], "scale=gpu", "smoke"),
    "place to quote": (["stage=pretrain", "task=countdown", "runs_dir='a b'"], "runs_dir", "quote"),
    "report of what": (["stage=report"], "stage.plan", "stage.runs"),
    "keep what": (["stage=pretrain", "task=countdown", "checkpoint.keep=some"], "checkpoint.keep=some", "last"),
    "steps or flops": (["stage=pretrain", "task=countdown", "stage.steps=null"], "stage.steps", "max_flops"),
    "start is empty": (["stage=sft", "task=countdown", "init_from="], "init_from=", "random"),
    "not finite": (["stage=pretrain", "task=countdown", "optim.weight_decay=nan"], "optim.weight_decay=nan", "finite"),
    "infinite": (["stage=pretrain", "task=countdown", "stage.max_flops=inf"], "stage.max_flops=inf", "finite"),
    "clip below 0": (["stage=pretrain", "task=countdown", "stage.clip_norm=-1"], "clip_norm=-1", "above 0"),
    "never below 0": (["stage=pretrain", "task=countdown", "stage.val_every=-1"], "val_every=-1", "at least 0"),
    "rotary base": (["stage=pretrain", "task=countdown", "model.rope_theta=0"], "rope_theta=0", "above 0"),
    "device unknown": (["stage=pretrain", "task=countdown", "trainer.accelerator=tpu"], "accelerator=tpu", "or cuda"),
    "many threads": (["stage=pretrain", "task=countdown", "trainer.threads=100000"], "threads=100000", "1024"),
    "ragged batch": (["stage=pretrain", "task=countdown", "stage.batch_tokens=100"], "batch_tokens=100", "multiple"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, first, second", WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_line(rlx, arguments, first, second):
    done = rlx(*arguments)
    assert done.code == 2, done.err
    (line,) = done.err.strip().splitlines()
    assert line.startswith("rlx: ") and first in line and second in line, line
    assert not done.out.strip()
    assert not list(Path().iterdir())


PRESETS = {
    "misspelt key": ("# @package _global_\nmodel:\n  d_modle: 64\n", ["in experiment/mine", "d_modle", "d_model?"]),
    "no package line": ("model:\n  d_model: 64\n", ["in experiment/mine", "# @package _global_"]),
    "wrong type": ("# @package _global_\nmodel:\n  d_model: wide\n", ["in experiment/mine", "model.d_model", "wide"]),
    "not YAML": ("# @package _global_\nmodel: {d_model: 64\n foo: [\n", ["mine.yaml", "cannot be read"]),
}


@pytest.mark.parametrize("text, expected", PRESETS.values(), ids=PRESETS.keys())
def test_own_preset_with_a_mistake_names_the_file(rlx, text, expected):
    folder = Path("my_conf/experiment")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text)
    done = rlx("--config-dir", "my_conf", "stage=pretrain", "task=countdown", "experiment=mine")
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert all(part in line for part in expected), line
    assert [path.name for path in Path().iterdir()] == ["my_conf"]


def test_own_preset_beats_the_scale_and_the_command_line_beats_it(rlx):
    folder = Path("my_conf/experiment")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /scale: smoke\nmodel:\n  d_model: 40\n  n_layers: 3\n"
    )
    done = rlx("--config-dir", "my_conf", *COUNTDOWN[:3], "stage=pretrain", "experiment=mine", "model.n_layers=1",
               "--cfg", "job")  # fmt: skip
    assert done.code == 0
    assert "d_model: 40" in done.out and "n_layers: 1" in done.out and "every: 5" in done.out


def test_help_names_the_groups(rlx):
    done = rlx("--help")
    assert done.code == 0
    for group in ("stage:", "task:", "model:", "algorithm:"):
        assert group in done.out


def test_a_sweep_runs_every_combination_and_goes_on_after_a_failure(rlx):
    small = (*COUNTDOWN, "stage=pretrain", "stage.steps=2", "stage.val_every=0", "trainer.threads=1")
    done = rlx("-m", *small, "seed=0,1", "stage.row_tokens=16,640")
    assert done.code == 1  # 2 would say that nothing was written
    assert "2 runs of the sweep failed" in done.err and done.err.count("does not fit") == 2
    finished = [path.parent for path in Path("runs").glob("*/seed*/status") if '"finished"' in path.read_text()]
    assert sorted(path.name for path in finished) == ["seed0", "seed1"]
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]


def test_a_sweep_of_wrong_inputs_alone_is_a_wrong_input(rlx):
    done = rlx("-m", *COUNTDOWN, "stage=pretrain", "model.n_heads=3,5")
    assert done.code == 2 and "2 runs of the sweep failed" in done.err
    assert not list(Path().glob("runs/*/seed*"))


def test_a_gpu_that_is_not_there_is_one_line(rlx, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = rlx(*COUNTDOWN, "stage=pretrain", "trainer=gpu")
    assert done.code == 2 and not list(Path().iterdir())
    (line,) = done.err.strip().splitlines()
    assert "trainer=gpu" in line and "trainer=cpu" in line


@pytest.mark.parametrize("place", ["a_file", "a_file/below", "n" * 300], ids=["a file", "below a file", "too long"])
def test_a_place_that_cannot_be_is_one_line(rlx, place):
    Path("a_file").write_text("")
    done = rlx(*COUNTDOWN, "stage=pretrain", f"runs_dir={place}")
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert "runs_dir=" in line and "Traceback" not in done.err


NESTED = {"eval.evry=2": "every", "init.stat=all": "state", "checkpoint.evry=2": "every",
          "algorithm.rewards.corect=1": "correct"}  # fmt: skip


@pytest.mark.parametrize("wrong, right", NESTED.items(), ids=NESTED.keys())
def test_misspelt_fields_inside_a_group_get_the_nearest_name(rlx, wrong, right):
    done = rlx("stage=rl", "task=countdown", "algorithm=grpo", "init_from=random", wrong)
    assert done.code == 2 and f"did you mean {right}?" in done.err
