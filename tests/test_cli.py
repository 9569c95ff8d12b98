"""The door: every wrong input is one line, exit code 2, and nothing on the disk."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import COUNTDOWN, command, environment, only

WRONG = {
    "no stage": ([], "no stage", "pretrain"),
    "no task": (["stage=pretrain"], "needs task=", "countdown"),
    "no algorithm": (["stage=rl", "task=countdown"], "needs algorithm=", "grpo"),
    "stage misspelt": (["stage=pretrian", "task=countdown"], "stage=pretrian", "did you mean pretrain"),
    "task misspelt": (["stage=pretrain", "task=countdwn"], "task=countdwn", "did you mean countdown"),
    "key misspelt": (["stage=pretrain", "task=countdown", "model.d_modle=3"], "model.d_modle", "did you mean d_model"),
    "root key misspelt": (["stage=pretrain", "task=countdown", "sede=3"], "sede", "did you mean seed"),
    "group misspelt": (["sacle=smoke"], "unknown key sacle", "did you mean scale?"),
    "group left out": (["steps=3"], "unknown key steps", "did you mean stage.steps"),
    "below two groups": (["samples=3"], "unknown key samples", "did you mean eval.samples or stage.samples?"),
    "added key": (["stage=pretrain", "task=countdown", "+modle.width=3"], "modle", "did you mean model"),
    "added inner key": (["stage=pretrain", "task=countdown", "+model.n_head=3"], "model.n_head", "you mean n_heads"),
    "another model's key": (["stage=pretrain", "model.n_experts=4"], "model.n_experts; ", "and model=moe have it"),
    "adapter of fresh weights": (["stage=pretrain", "task=math", "adapter=lora"], "fresh weights", "init_from=random"),
    "layers as a product": (["model.layers=[attention,gssm]*4"], "model.layers=[attention,gssm]*4", "list of layers"),
    "one layer without a list": (["model.layers=attention"], "model.layers=attention", "=[attention*3,gssm]"),
    "mixer misspelt": (["stage=pretrain", "task=math", "model.layers=[atention]"], "atention", "mean attention"),
    "field of no group": (["stage=rl", "task=countdown", "algorithm.group=3"], "algorithm.group was", "=cispo|dapo"),
    "name as in papers": (["stage=rl", "task=math", "algorithm=reinforce++"], "=reinforce++;", "reinforce_plus_plus?"),
    "unused group": (["stage=pretrain", "task=countdown", "algorithm=grpo"], "does not use algorithm", "leave"),
    "unused field": (["stage=eval", "task=countdown", "optim.lr=1"], "does not use optim", "leave"),
    "the stage's own": (["stage=eval", "task=countdown", "eval.samples=1"], "not use eval;", "set stage.samples inst"),
    "no group at all": (["stage=export", "task=countdown"], "does not use task", "leave task out"),
    "null for a number's group": (["scale=null"], "scale cannot be null", "scale=cpu|gpu|smoke"),
    "group taken away": (["~optim", "stage=pretrain"], "optim cannot be null", "optim=adamw|muon"),
    "number for an option": (["stage=3"], "no stage=3", "pretrain"),
    "two options": (["task=[countdown,easy]"], "task=[countdown,easy]", "expected one option"),
    "fields of no group": (["stage=rl", "task={numbers:3}"], "task was set", "|countdown|"),
    "two flags": (["-m", "--cfg", "job"], "Only one of", "--multirun"),
    "option of nothing": (["=3"], "group", "must be a string"),
    "preset of nowhere": (["stage=pretrain", "experiment=foo"], "no experiment=foo", "give --config-dir <folder>"),
    "flag misspelt": (["stage=pretrain", "--confg", "job"], "unrecognized arguments: --confg", "rlx --help"),
    "flag without value": (["stage=pretrain", "--config-dir"], "--config-dir/-cd", "expected one argument"),
    "flag's value": (["stage=pretrain", "--cfg", "foo"], "'foo'", "'job'"),
    "two values": (["stage=pretrain", "seed=0,1"], "seed=0,1", "-m"),
    "two rules": (["stage=pretrain", "checkpoint.keep=last:2,log:3"], "joined by `+`", "keep=last:2+log:3"),
    "not a number": (["stage=pretrain", "task=countdown", "model.d_model=abc"], "model.d_model", "abc"),
    "bool for float": (["stage=pretrain", "task=countdown", "optim.lr=true"], "optim.lr=true", "expected a number"),
    "words for a number": (["stage=pretrain", "stage.max_flops=3G"], "stage.max_flops=3G", "such as 0.1 or 3e9"),
    "powers of ten": (["stage=pretrain", "stage.steps=1e3"], "stage.steps=1e3", "whole number, written out: 1000"),
    "half a step": (["stage=pretrain", "stage.steps=1.5"], "stage.steps=1.5", "expected a whole number"),
    "maybe": (["trainer.compile=maybe"], "trainer.compile=maybe", "true or false"),
    "no number": (["stage=pretrain", "stage.row_tokens=null"], "stage.row_tokens=null", "cannot be null"),
    "no row": (["stage=pretrain", "task=countdown", "stage.row_tokens=0"], "stage.row_tokens=0", "at least 2"),
    "no part": (["stage=sft", "task=countdown", "stage.micro_batches=0"], "stage.micro_batches=0", "at least 1"),
    "no folder": (["stage=pretrain", "task=countdown", "runs_dir="], "runs_dir=''", "is empty"),
    "one for a list": (["stage=merge", "merge=linear", "merge.models=runs/a"], "list, as in", "models=[runs/a,...]"),
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
    "one parent": (["stage=merge", "task=countdown", "merge=linear"], "2 parents", "merge.models"),
    "no equals sign": (["foo"], "'foo'", "key=value"),
    "equals in path": (["stage=sft", "task=countdown", "init_from=runs/x/seed=0"], "seed=0", "quotes"),
    "letters in path": (["stage=sft", "init_from=../w s/ünï"], "twice", "as in 'init_from=\"../w s/ünï\"'"),
    "equals in a list": (["merge.models=[a=b,c]"], "twice", "as in 'merge.models=[\"a=b\",\"c\"]'"),
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


def own(option, text):
    """An option or a preset of one's own, in my_conf."""
    path = Path("my_conf", f"{option}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("text, expected", PRESETS.values(), ids=PRESETS.keys())
def test_own_preset_with_a_mistake_names_the_file(rlx, text, expected):
    own("experiment/mine", text)
    done = rlx("--config-dir", "my_conf", "stage=pretrain", "task=countdown", "experiment=mine")
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert all(part in line for part in expected), line
    assert [path.name for path in Path().iterdir()] == ["my_conf"]


TASKS = {
    "names no option": ("numbers: 3\n", ["in task/easy", "begin it with `defaults: [countdown, _self_]`"]),
    "misspelt": ("defaults: [countdown, _self_]\nnmbers: 3\n", ["in task/easy", "task.nmbers", "mean numbers?"]),
}


@pytest.mark.parametrize("text, expected", TASKS.values(), ids=TASKS.keys())
def test_own_option_with_a_mistake_says_what_to_write(rlx, text, expected):
    own("task/easy", text)
    done = rlx("--config-dir", "my_conf", "stage=pretrain", "task=easy")
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert all(part in line for part in expected), line


def test_a_preset_that_is_not_there_is_told_from_one_without_its_first_line(rlx):
    own("experiment/mine", "# @package _global_\n")
    done = rlx("--config-dir", "my_conf", "experiment=mien", "stage=pretrain")
    assert done.code == 2 and done.err == "rlx: no experiment=mien; did you mean mine?\n"


SMALL = (*COUNTDOWN, "stage.steps=1", "stage.batch_tokens=256", "stage.row_tokens=64", "stage.val_every=0",
         "trainer.threads=1")  # fmt: skip


def test_null_unsets_what_a_preset_chose_and_the_run_repeats(rlx):
    own("experiment/mine", "# @package _global_\ndefaults: [override /algorithm: grpo, override /stage: pretrain]\n")
    small = ("--config-dir", "my_conf", "experiment=mine", *SMALL)
    done = rlx(*small)
    assert done.code == 2 and "set algorithm=null" in done.err
    done = rlx(*small, "algorithm=null")
    assert done.code == 0, done.err
    first = only("runs/*/seed0/overrides.txt").read_text().split()
    assert first[0] == "rlx" and "algorithm=null" in first
    for again in (first[1:], [*small, "~algorithm"]):
        done = rlx(*again)
        assert done.code == 0 and "finished already" in done.out


@pytest.mark.parametrize("group", ["task", "stage", "algorithm", "merge", "study", "experiment"])
def test_null_leaves_a_group_as_if_it_was_not_typed(rlx, group):
    done, plain = rlx(f"{group}=null", "--cfg", "job"), rlx("--cfg", "job")
    assert done.code == 0 and done.out == plain.out


def test_null_in_a_sweep(rlx):
    done = rlx("-m", "stage=glob(pretr*)", *SMALL, "algorithm=null,grpo")
    assert done.code == 1 and "1 run of the sweep failed" in done.err
    only("runs/*/seed0/checkpoints")


def test_a_swept_group_and_a_field_of_it(rlx):
    own("task/easy", "defaults: [countdown, _self_]\nmax_target: 50\n")
    done = rlx("--config-dir", "my_conf", "-m", *SMALL[1:], "task=countdown,easy", "stage=pretrain,sft",
               "init_from=random")  # fmt: skip
    assert done.code == 0, done.err
    assert len(list(Path("runs").glob("*/seed0"))) == 4


def test_flags_may_stand_anywhere(rlx):
    own("task/easy", "defaults: [countdown, _self_]\nmax_target: 50\n")
    done = rlx("task=easy", "--cfg", "job", "stage=pretrain", "--config-dir", "my_conf", "seed=3")
    assert done.code == 0 and "max_target: 50" in done.out and "seed: 3" in done.out
    done = rlx("stage=pretrain", "-m", *SMALL, "seed=0,1")
    assert done.code == 0 and len(list(Path("runs").glob("*/seed*"))) == 2


@pytest.mark.parametrize("flags", [("--cfg=job",), ("--cfg", "job"), ("-c", "job"), ("--info=config",)])
def test_a_config_is_shown_with_a_launcher_too(rlx, flags):
    done = rlx(*flags, "hydra/launcher=parallel", "stage=pretrain")
    assert done.code == 0 and "d_model: " in done.out, done.err


def test_the_version_is_rlx_s(rlx):
    from rlx import __version__

    done = rlx("--version")
    assert done.code == 0 and done.out == f"rlx {__version__}\n"


def test_own_preset_beats_the_scale_and_the_command_line_beats_it(rlx):
    own(
        "experiment/mine",
        "# @package _global_\ndefaults:\n  - override /scale: smoke\nmodel:\n  d_model: 40\n  n_layers: 3\n",
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


def test_output_that_nobody_reads_any_more_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command(*COUNTDOWN, "stage=pretrain", "plan.dry=true"), stdout=write, stderr=subprocess.PIPE,
                          text=True, cwd=tmp_path, env=environment())  # fmt: skip
    os.close(write)
    assert done.returncode == 1 and not done.stderr


def test_a_pipe_of_a_library_that_breaks_is_told(capsys):
    from rlx.cli import _report

    assert _report(BrokenPipeError("of a library")) == 1 and "of a library" in capsys.readouterr().err
