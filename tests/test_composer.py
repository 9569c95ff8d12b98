"""The composer against Hydra itself: every kind of override, in one composer, so that each finds what others left."""

import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from rlx.composer import Composer, Memory, kept, parse
from rlx.errors import ConfigError
from rlx.explain import unknown_key
from rlx.store import register

OWN = {
    "experiment/mine": "# @package _global_\ndefaults:\n  - override /optim: muon\n  - override /scale: smoke\n"
    "model: {d_model: 48}\nrerun: seed-${seed}\noptim:\n  lr: ${task.max_target}\n",
    "experiment/linked": "# @package _global_\neval:\n  every: ${seed}\nrerun: ${runs_dir}\nseed: ${task.numbers}\n",
    "task/easy": "defaults: [countdown, _self_]\nmax_target: 50\nnumbers: ${seed}\n",
    "study/small": "defaults: [/schema/study@_here_: quickstart, _self_]\ncommon: [task=countdown, task.numbers=3]\n"
    "common_at: {smoke: [stage.steps=2]}\nruns: {a: {overrides: [stage=pretrain]}, b: {overrides: [stage=sft]}}\n",
}
"""A folder of the user's own."""
PRETRAIN = ("stage=pretrain", "task=countdown")
SAME = {
    "nothing": (),
    "groups": (*PRETRAIN, "model=dense", "optim=muon", "schedule=constant"),
    "groups in another order": ("optim=muon", *PRETRAIN),
    "a group twice": (*PRETRAIN, "optim=muon", "optim=adamw"),
    "a scale with files of its own": ("stage=rl", "task=countdown", "algorithm=grpo", "scale=gpu"),
    "its smoke": ("stage=rl", "task=countdown", "algorithm=grpo", "scale=smoke"),
    "values": (*PRETRAIN, "seed=3", "model.d_model=64", "optim.lr=3e-4", "trainer.compile=true"),
    "values before groups": ("optim.lr=0.1", "model.n_heads=2", *PRETRAIN, "optim=muon"),
    "a value twice": (*PRETRAIN, "seed=3", "seed=4", "optim.lr=1", "optim.lr=2"),
    "a text": ("runs_dir='a b'", 'init_from="runs/x/seed=0"', "rerun=why-not"),
    "an enum": (*PRETRAIN, "task.trace=operations", "init.state=all"),
    "null": (*PRETRAIN, "stage.max_flops=null", "init_from=null", "checkpoint.best=null"),
    "a group without an option": ("stage=rl", "task=countdown", "algorithm=null"),
    "a group deleted": ("stage=rl", "task=countdown", "~algorithm"),
    "a list": ("stage=merge", "merge=linear", "merge.models=[runs/a@best,runs/b]"),
    "a list twice": ("stage=merge", "merge=linear", "merge.models=[a]", "merge.models=[b,c]"),
    "a place in a list": ("study=small", "study.common.0='seed=3'"),
    "an empty list": ("study=small", "study.common=[]"),
    "a dict": (*PRETRAIN, "task={numbers:5,max_target:9}"),
    "a dict before a value": (*PRETRAIN, "task={numbers:5,max_target:9}", "task.numbers=3"),
    "a value before a dict": (*PRETRAIN, "task.numbers=3", "task={numbers:5}"),
    "a dict of dicts": ("study=small", "study.runs={a:{label:first}}", "study.runs.b.label=second"),
    "below a dict": ("study=small", "study.runs.a.overrides=['stage=sft']", "study.common_at.smoke=['seed=4']"),
    "added": (*PRETRAIN, "+modle.d_model=64"),
    "added to a dict": ("study=small", "+study.common_at.gpu=[]", "++study.common_at.cpu=['seed=2']"),
    "added or changed": (*PRETRAIN, "++model.d_model=64", "seed=2", "++seed=3"),
    "a dict added or changed": (*PRETRAIN, "++task={numbers:5,trace:dfs}"),
    "a key deleted": ("study=small", "~study.runs.a"),
    "a key deleted by its value": ("study=small", "~study.common_at.smoke=['stage.steps=2']"),
    "a preset": (*PRETRAIN, "experiment=mine", "seed=5"),
    "a preset and a scale": (*PRETRAIN, "experiment=mine", "scale=cpu", "model.d_model=32"),
    "a preset that links": (*PRETRAIN, "experiment=linked", "task.numbers=4", "runs_dir=there"),
    "a link replaced": (*PRETRAIN, "experiment=linked", "seed=9"),
    "a link typed": (*PRETRAIN, "stage.steps=${seed}", "seed=9"),
    "an option of one's own": ("stage=pretrain", "task=easy", "seed=4"),
    "the experiment taken away": (*PRETRAIN, "experiment=mine", "experiment=null"),
    "a file of another package": (*PRETRAIN, "at/stage@stage=gpu/pretrain"),
    "of Hydra": (*PRETRAIN, "hydra.job.chdir=true", "hydra/launcher=parallel"),
}  # fmt: skip
WRONG = {
    "an option that there is not": ("stage=pretrian",),
    "a key that there is not": (*PRETRAIN, "model.d_modle=3"),
    "a root key that there is not": ("sede=3",),
    "a wrong type": (*PRETRAIN, "model.d_model=wide"),
    "half of a dict": (*PRETRAIN, "task={numbers:5,bogus:1}"),
    "below a number": (*PRETRAIN, "seed.x=3"),
    "below null": ("stage=rl", "task=countdown", "algorithm.group=3"),
    "added to a dict": (*PRETRAIN, "++task={numbers:5,bogus:1}"),
    "added below null": ("++algorithm.group_size=3",),
    "below a list": ("study=small", "study.common.first=3"),
    "beyond a list": ("study=small", "study.common.7=3"),
    "null for a number": (*PRETRAIN, "model.d_model=null"),
    "several options": ("task=[countdown,easy]",),
    "a group that cannot be unset": ("optim=null",),
    "several values": (*PRETRAIN, "seed=0,1"),
    "several groups": ("stage=pretrain,sft",),
    "added where it is": (*PRETRAIN, "+seed=3"),
    "added below a number": (*PRETRAIN, "+seed.width=3"),
    "deleted where it is not": (*PRETRAIN, "~model.d_modle"),
    "deleted by another value": (*PRETRAIN, "~seed=7"),
    "a package of no group": (*PRETRAIN, "modle@model=dense"),
    "grammar": ("init_from=runs/x/seed=0",),
    "an enum": (*PRETRAIN, "task.trace=foo"),
    "after a good one": (*PRETRAIN, "seed=4", "optim.lr=fast"),
}


def begun() -> Any:
    """Hydra as a command starts it, with a folder of the user's own."""
    path = create_automatic_config_search_path(None, None, "pkg://rlx.conf")
    path.prepend("command-line", f"file://{Path('my_conf').resolve()}", SearchPathQuery(provider="schema"))
    return Hydra.create_main_hydra2("rlx", path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[tuple[Any, Composer]]:
    """Hydra, and a composer of another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("composer"))
        for name, text in OWN.items():
            Path("my_conf", f"{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
            Path("my_conf", f"{name}.yaml").write_text(text)
        register()
        GlobalHydra.instance().clear()
        hydra = begun()
        GlobalHydra.instance().clear()
        composer = Composer(begun().config_loader, lambda config: None)
        yield hydra, composer
        GlobalHydra.instance().clear()


def plain(config: Any) -> dict:
    """What a config says: as written, and with its references followed."""
    written = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    return {"written": written, "read": OmegaConf.to_container(config, resolve=True, enum_to_str=True)}


def by_hydra(hydra: Any, overrides: tuple[str, ...]) -> tuple[dict, dict]:
    config = hydra.compose_config("config", list(overrides), RunMode.RUN, False, from_shell=False)
    choices = {name: str(value) for name, value in config.hydra.runtime.choices.items()}
    OmegaConf.set_struct(config, False)
    OmegaConf.set_readonly(config, False)
    del config["hydra"]
    return plain(config), choices


def by_composer(composer: Composer, overrides: tuple[str, ...]) -> tuple[dict, dict]:
    with composer.compose(overrides) as (config, choices):
        return plain(config), choices


def told(error: BaseException | None) -> list[tuple[type, str]]:
    """An error and its causes."""
    found = []
    while error is not None:
        found.append((type(error), str(error)))
        error = error.__cause__
    return found


@pytest.mark.parametrize("overrides", SAME.values(), ids=SAME)
def test_configs_equal_hydra_s(pair, overrides):
    hydra, composer = pair
    expected = by_hydra(hydra, overrides)
    assert by_composer(composer, overrides) == expected
    assert by_composer(composer, overrides) == expected


@pytest.mark.parametrize("overrides", WRONG.values(), ids=WRONG)
def test_errors_equal_hydra_s(pair, overrides):
    hydra, composer = pair
    errors = []
    for compose in (lambda: by_hydra(hydra, overrides), lambda: by_composer(composer, overrides)):
        with pytest.raises(Exception) as caught:
            compose()
        errors.append(told(caught.value))
    assert errors[0] == errors[1]


def test_every_command_leaves_the_composer_as_it_was(pair):
    _, composer = pair
    chosen = [overrides for name, overrides in SAME.items() if name != "of Hydra"]
    before = {overrides: by_composer(composer, overrides) for overrides in chosen}
    bases = {groups: plain(idle[0][0]) for groups, idle in composer.idle.items() if idle}
    for wrong in WRONG.values():
        with pytest.raises(Exception):  # noqa: B017
            by_composer(composer, wrong)
    for first, second in itertools.pairwise([*chosen, *reversed(chosen)]):
        with composer.compose(first) as (config, _):
            inside = by_composer(composer, second)
            assert plain(config) == before[first][0]
        assert inside == before[second]
    assert all(plain(config) == base for groups, base in bases.items() for config, _ in composer.idle[groups])


def test_what_a_reference_leads_to_is_not_put_back_by_its_own_place():
    """`b.x=2` changes `a` here, so the config that other commands share is no place for it."""
    config = OmegaConf.create({"a": {"x": 1}, "b": "${a}", "c": {"x": 1}})
    assert kept(config, [parse("c.x=2"), parse("b.x=2")]) is None
    assert kept(config, [parse("a.x=2"), parse("c.x=2")]) == [(config.a, "x", 1), (config.c, "x", 1)]


def test_an_error_of_the_reader_leaves_it_too(pair):
    _, composer = pair
    with pytest.raises(KeyError), composer.compose((*PRETRAIN, "seed=8")):
        raise KeyError
    with composer.compose(PRETRAIN) as (config, _):
        assert config.seed == 0


def test_files_are_merged_once_for_all_values(pair, monkeypatch):
    _, composer = pair
    with composer.compose(PRETRAIN):
        pass
    monkeypatch.setattr(composer.loader, "load_configuration", None)
    for seed in range(3):
        with composer.compose((f"seed={seed}", *PRETRAIN, "optim.lr=0.1")) as (config, choices):
            assert config.seed == seed and config.optim.lr == 0.1 and choices["task"] == "countdown"


def test_the_check_is_made_for_each_set_of_options_and_for_added_keys(pair):
    composer = Composer(pair[1].loader, unknown_key)
    for overrides in [(*PRETRAIN, "+modle=3"), (*PRETRAIN, "seed=1", "+task.nmbers=3")]:
        with pytest.raises(ConfigError, match="unknown key"), composer.compose(overrides):
            pass
    with composer.compose(PRETRAIN) as (config, _):
        assert config.seed == 0


def test_another_search_path_has_a_memory_of_its_own(pair, tmp_path):
    """Files that one folder lacks are not missing in another; `hydra.searchpath=` adds a folder for one command."""
    hydra, composer = pair
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/theirs.yaml").write_text("# @package _global_\nseed: 7\n")
    with pytest.raises(Exception, match="theirs"):
        by_composer(composer, (*PRETRAIN, "experiment=theirs"))
    typed = (*PRETRAIN, f"hydra.searchpath=['file://{tmp_path}']", "experiment=theirs", "task.numbers=3")
    expected = by_hydra(hydra, typed)
    assert by_composer(composer, typed) == expected and expected[0]["read"]["seed"] == 7
    with pytest.raises(Exception, match="theirs"):
        by_composer(composer, (*PRETRAIN, "experiment=theirs"))


def test_what_is_read_is_not_changed_by_merging(pair):
    memory = pair[1].loader.repository
    assert isinstance(memory, Memory)
    first = memory.load_config("scale/cpu")
    first.config.clear()
    assert memory.load_config("scale/cpu").config


def test_a_memory_may_go_to_another_process(pair):
    memory = pickle.loads(pickle.dumps(pair[1].loader.repository))
    assert memory.group_exists("model") and "dense" in memory.get_group_options("model")
