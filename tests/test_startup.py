"""Help and tab completion: what they say, and that they load neither torch nor Hydra to say it."""

import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlx.catalog import Catalog, Field, root_fields
from rlx.completion import BASH, answer, complete
from rlx.config import Config
from rlx.options import ROOMS, discover, plain_value
from tests.conftest import command, environment
from tests.runs.folders import make

HEAVY = ("torch", "numpy", "hydra", "omegaconf", "lightning", "pytorch_lightning", "wandb", "datasets", "transformers",
         "tokenizers", "safetensors", "matplotlib")  # fmt: skip
LIGHT = {
    "help": ["--help"],
    "help of options": ["stage=rl", "algorithm=grpo", "-h"],
    "a question of bash": ["-sc", "query=bash"],
    "the function for bash": ["--shell-completion", "install=bash"],
}
MAIN = "import sys; from rlx.cli import main; main(); print([name for name in {} if name in sys.modules])"


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT)
def test_nothing_heavy_is_loaded(tmp_path, arguments):
    """Away from the checkout, in a process of its own; as the script of the installed package calls it."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN.format(HEAVY), *arguments],
        capture_output=True, text=True, cwd=tmp_path, env=environment(COMP_LINE="rlx model.", COMP_POINT="10"),
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]" and len(done.stdout.splitlines()) > 5
    assert not done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["rlx hydra", "rlx stage=rl hydra.verb", "rlx +hydra/job_logging=no", "rlx ++hydra.v"])
def test_words_that_begin_with_hydra_are_not_answered_here(line):
    assert answer("query=bash", line) is None and answer("query=bash", f"{line} ") is not None


def test_launchers_and_their_fields_are_answered_here():
    assert complete("rlx hydra/launcher=s") == ["hydra/launcher=sequential", "hydra/launcher=slurm_array"]
    found = answer("query=bash", "rlx hydra/launcher=slurm_array hydra.launcher.ma")
    assert found == "hydra.launcher.max_parallel="


def test_what_the_words_of_hydra_name_is_left_to_hydra(rlx, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "rlx hydra/job_logging=no")
    done = rlx("-sc", "query=bash")
    assert done.code == 0 and done.out.split() == ["hydra/job_logging=none"]


OPTIONS = [found for group in ROOMS for found in discover(group).values()]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.group}={option.name}")
def test_fields_are_read_as_they_are(option):
    """Names and order, defaults, and choices of the source against those of the class."""
    here = Catalog(folders=())  # no YAML: the defaults of the class alone
    assert described(here.fields(option.group, option.name)) == described_class(option.config)


def test_fields_of_the_root_are_read_as_they_are():
    expected = [row for row in described_class(Config) if row[0] not in ROOMS]
    assert described(root_fields()) == expected
    assert all(field.doc for field in root_fields() if not field.inner)


def described(found: list[Field] | tuple[Field, ...]) -> list[Any]:
    return [
        (field.name, list(field.choices), described(field.inner) if field.inner else field.default) for field in found
    ]


def described_class(cls: type) -> list[Any]:
    types = typing.get_type_hints(cls)
    rows = []
    for field in fields(cls):
        made = field.default_factory() if field.default_factory is not MISSING else field.default
        kind = next(kind for kind in (*typing.get_args(types[field.name]), types[field.name]) if kind is not type(None))
        choices = [each.name for each in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []
        choices = ["false", "true"] if kind is bool else choices
        if is_dataclass(kind) and isinstance(kind, type):
            rows.append((field.name, choices, described_class(kind)))
        else:
            rows.append((field.name, choices, as_yaml(plain_value(made))))
    return rows


def as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


ANSWERS = {
    "rlx stage=": [f"stage={name}" for name in sorted(discover("stage"))],
    "rlx stage=pre": ["stage=pretrain"],
    "/usr/bin/rlx stage=pre": ["stage=pretrain"],
    "rlx sta": ["stage="],
    "rlx stage=rl sta": ["stage.", "stage="],
    "rlx mod": ["model.", "model="],
    "rlx see": ["seed="],
    "rlx seed=": ["seed=0"],
    "rlx model.n_h": ["model.n_heads="],
    "rlx model.tie_embeddings=": ["model.tie_embeddings=false", "model.tie_embeddings=true"],
    "rlx model.tie_embeddings=t": ["model.tie_embeddings=true"],
    "rlx optim.mom": [],
    "rlx optim=muon optim.mom": ["optim.momentum="],
    "rlx algorithm.": [],
    "rlx algorithm=grpo algorithm.re": ["algorithm.reference_every=", "algorithm.rewards."],
    "rlx algorithm=grpo algorithm.rewards.co": ["algorithm.rewards.correct="],
    "rlx algorithm=grpo algorithm.normalization=s": ["algorithm.normalization=sequence", "algorithm.normalization=sum"],
    "rlx trainer.precision=": ["trainer.precision=bf16", "trainer.precision=fp32"],
    "rlx checkpoint.": ["checkpoint."],
    "rlx -m optim=adamw,": ["optim=adamw,muon"],
    "rlx -m optim=adamw,mu": ["optim=adamw,muon"],
    "rlx +mod": ["+model.", "+model="],
    "rlx +model.tie_embeddings=t": ["+model.tie_embeddings=true"],
    "rlx +algorithm=grpo algorithm.rewards.co": ["algorithm.rewards.correct="],
    "rlx --mul": ["--multirun"],
    "rlx scale=sm": ["scale=smoke"],
    "rlx scale=smoke scal": ["scale="],
    "rlx nothing.": [],
    "rlx experiment": [],  # a group without an option
    "rlx nothing=": [],
    "rlx stage=pretrain stage=": [f"stage={name}" for name in sorted(discover("stage"))],
}  # fmt: skip


@pytest.mark.parametrize("line", ANSWERS)
def test_what_is_offered(line):
    found = complete(line)
    expected = ANSWERS[line]
    if line.endswith("checkpoint."):
        assert set(found) >= {"checkpoint.every=", "checkpoint.keep="}
    else:
        assert found == expected


def test_everything_is_offered_where_nothing_is_typed():
    found = complete("rlx ")
    assert {"stage=", "task=", "model=", "seed=", "init_from=", "checkpoint."} <= set(found)
    assert [word for word in found if word.startswith(("schema", "at/", "hydra"))] == ["hydra/launcher="]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


RUN = "runs/countdown-dense-sft-h0123456789"


def test_runs_and_checkpoints_are_offered_as_they_paste(here):
    make(f"{RUN.removeprefix('runs/')}/seed0", steps=(10, 200), best=10)
    make(f"{RUN.removeprefix('runs/')}/seed1")
    Path("runs/a file; rm -r").touch()
    Path("runs/.hidden").mkdir()
    assert complete("rlx init_from=") == ["init_from=runs/"]
    assert complete("rlx init_from=runs/") == [f"init_from={RUN}/"]
    assert complete("rlx init_from=runs/.h") == ["init_from=runs/.hidden/"]
    assert complete(f"rlx init_from={RUN}/") == [f"init_from={RUN}/seed0", f"init_from={RUN}/seed1"]
    points = ["10", "200", "best", "last"]
    assert complete(f"rlx init_from={RUN}/seed0@") == [f"init_from={RUN}/seed0@{point}" for point in points]
    assert complete(f"rlx init_from={RUN}/seed0@2") == [f"init_from={RUN}/seed0@200"]
    Path(f"{RUN}/seed0/best.json").write_text("{}")  # damaged: the other points are offered all the same
    assert complete(f"rlx init_from={RUN}/seed0@") == [f"init_from={RUN}/seed0@{point}" for point in (10, 200, "last")]
    words = f"merge.models=[{RUN}/seed0@10,{RUN}"
    assert complete(f"rlx merge=linear {words}/seed1") == complete(f"rlx {words}/seed1") == [f"{words}/seed1"]
    assert complete(f"rlx init_from={here}/ru") == [f"init_from={here}/runs/"]
    assert complete("rlx init_from=nowhere/") == []
    Path("me@host/saved").mkdir(parents=True)
    assert complete("rlx init_from=me@host/") == ["init_from=me@host/saved/"]  # an @ of a folder's name


def test_own_presets_are_offered_and_their_choices_count(here, monkeypatch):
    folder = Path("my_conf/experiment")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /optim: muon\n")
    Path("my_conf/optim").mkdir()
    (folder.parent / "optim" / "slow.yaml").write_text("defaults: [/schema/optim@_here_: muon, _self_]\nlr: 1e-5\n")
    for flag in ("--config-dir my_conf", "--config-dir=my_conf", "-cd my_conf"):
        assert complete(f"rlx {flag} experiment=") == ["experiment=mine"]
        assert complete(f"rlx {flag} experiment=mine optim.mom") == ["optim.momentum="]
    assert complete("rlx experiment=mine optim.mom") == []
    assert complete("rlx -cd my_conf optim=sl") == ["optim=slow"]
    assert complete("rlx -cd my_conf optim=slow optim.lr=") == ["optim.lr=1e-5"]
    Path("my_conf/optim/muon.yaml").write_text("lr: 0.777\n")  # Hydra looks into its folder after the package's
    assert complete("rlx -cd my_conf optim=muon optim.lr=") == complete("rlx optim=muon optim.lr=")
    Path("my_conf/algorithm").mkdir()
    defaults = "defaults: [/schema/algorithm@_here_: grpo, _self_]\n"
    Path("my_conf/algorithm/kind.yaml").write_text(f"{defaults}rewards:\n  truncated: 0.25\n")
    words = "rlx -cd my_conf algorithm=kind algorithm.rewards"
    assert complete(f"{words}.truncated=") == ["algorithm.rewards.truncated=0.25"]
    assert complete(f"{words}.correct=") == ["algorithm.rewards.correct=1.0"]
    for flag in ("--config-dir", "-cd"):
        assert complete(f"rlx {flag} mod") == []  # the shell offers folders, of which model= is none
    monkeypatch.setenv("HOME", str(here))
    assert complete("rlx --config-dir ~/my_conf experiment=") == ["experiment=mine"]  # the shell has not read it yet


def test_a_preset_that_cannot_be_read_offers_nothing_and_says_so(rlx, monkeypatch):
    Path("my_conf/experiment").mkdir(parents=True)
    Path("my_conf/experiment/mine.yaml").write_text("a: [\n")
    monkeypatch.setenv("COMP_LINE", "rlx -cd my_conf experiment=mine optim.")
    done = rlx("-sc", "query=bash")
    assert done.code == 2 and not done.out and done.err.count("\n") == 1


TYPED = {
    "rlx stage=pre": ["pretrain"],
    "rlx sta": ["stage="],
    "rlx model.n_h": ["model.n_heads="],
    f"rlx init_from={RUN}/seed0@1": ["@10"],
    f"rlx init_from={RUN}/seed0@": ["@10", "@200", "@last"],
    f"rlx stage=sft init_from={RUN}/se": [f"{RUN}/seed0"],
    "rlx +see": ["+seed="],
    "rlx no such thing=": [],
}


def test_in_bash(here):
    """The function, loaded as the README says and called as bash calls it: candidates without what readline keeps."""
    make(f"{RUN.removeprefix('runs/')}/seed0", steps=(10, 200))
    Path("rlx").write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    Path("rlx").chmod(0o755)
    lines = " ".join(f"'{line}'" for line in TYPED)
    script = f"""
        eval "$(rlx -sc install=bash)" || exit 1
        complete -p rlx
        COMP_WORDBREAKS=$' \\t\\n"\\'@><=;|&(:'
        COMP_WORDS=(rlx)
        for line in {lines}; do
            COMP_LINE="$line and more" COMP_POINT=${{#line}}
            _rlx_complete
            echo "${{COMPREPLY[@]}}"
        done
    """
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", script],
        capture_output=True, text=True, env=environment(PATH=f"{here}:{os.environ['PATH']}"), timeout=60,
    )  # fmt: skip
    registered, *offered = done.stdout.splitlines()
    assert done.returncode == 0 and registered.endswith("-F _rlx_complete rlx"), done.stderr
    assert [line.split() for line in offered] == list(TYPED.values())


def test_other_shells():
    assert answer("install=zsh", "") == f"autoload -Uz bashcompinit\nbashcompinit\n{BASH}"
    assert answer("query=fish", "rlx stage=p") == "stage=pretrain"
    assert answer("install=fish", "") is None  # Hydra's own
    assert answer("uninstall=bash", "") == "complete -r rlx; unset -f _rlx_complete"


def test_help_has_every_option_and_every_field_that_is_asked_for(rlx):
    done = rlx("--help")
    assert done.code == 0 and not done.err
    for option in OPTIONS:
        assert option.name in done.out
    assert "schema" not in done.out and "optim.lr" not in done.out and "adamw*" in done.out
    more = rlx("optim=muon", "stage=rl", "--help").out
    assert "muon*" in more and "adamw*" not in more
    assert "optim.lr" in more and "Peak learning rate" in more and "stage.prompts" in more
    assert "logger=local\n  no fields" in rlx("logger=local", "-h").out


def test_help_about_what_is_not_there_is_one_line(rlx):
    done = rlx("optim=moun", "--help")
    assert done.code == 2 and not done.out
    assert done.err == "rlx: no optim=moun; did you mean muon?\n"


def test_help_has_own_presets(rlx):
    Path("my_conf/experiment").mkdir(parents=True)
    Path("my_conf/experiment/mine.yaml").write_text("# @package _global_\n")
    assert "mine" in rlx("--config-dir", "my_conf", "--help").out


def test_help_has_the_fields_of_an_own_option_that_changes_another(rlx):
    Path("my_conf/task").mkdir(parents=True)
    Path("my_conf/task/easy.yaml").write_text("defaults: [countdown, _self_]\nnumbers: 3\n")
    (row,) = [line.split() for line in rlx("-cd", "my_conf", "task=easy", "-h").out.splitlines() if ".numbers" in line]
    assert row[:2] == ["task.numbers", "3"]
    assert "task.max_target=" in complete("rlx -cd my_conf task=easy task.max_t")


def test_help_of_own_options_that_name_each_other_ends(rlx):
    Path("my_conf/task").mkdir(parents=True)
    for name, other in (("one", "two"), ("two", "one")):
        Path(f"my_conf/task/{name}.yaml").write_text(f"defaults: [{other}, _self_]\n")
    assert rlx("--config-dir", "my_conf", "task=one", "--help").code == 0


def test_help_of_a_group_that_is_null(rlx):
    done = rlx("algorithm=null", "--help")
    assert done.code == 0 and "algorithm=null" not in done.out


def test_help_about_stages_names_each(rlx):
    (line,) = [line for line in rlx("-h").out.splitlines() if line.startswith("  stage:")]
    assert set(line.replace(",", "").rstrip(".").split()) >= set(discover("stage"))


def test_the_config_of_a_command_is_still_hydra_s(rlx):
    done = rlx("optim=muon", "--cfg", "job")
    assert done.code == 0 and "momentum:" in done.out
