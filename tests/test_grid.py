"""What -m means: the commands of a sweep, in Hydra's order; zipped axes, unions, and what is refused."""

import shlex

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlx.errors import ConfigError
from rlx.grid import expand, swept

PLAIN = {
    "nothing": [],
    "one": ["seed=0,1,2"],
    "none swept": ["seed=0", "task=countdown"],
    "the last turns fastest": ["stage=pretrain,sft", "task=countdown", "seed=0,1", "optim.lr=1e-3,3e-4"],
    "a key twice stands where it stood first": ["seed=0,1", "optim.lr=1,2", "seed=5,6,7"],
    "the last of a key counts": ["seed=0,1", "seed=3"],
    "range": ["seed=range(3)", "model.d_model=range(32,97,32)", "optim.lr=range(0.1,0.3,step=0.1)"],
    "range of tags": ["seed=tag(a,range(3))"],
    "choice": ["seed=choice(1,2)", "task=choice(countdown)"],
    "sorted": ["seed=sort(3,1,2)", "optim.lr=sort(1,2,reverse=true)", "stage.steps=sort(range(1,4),reverse=true)"],
    "cast": ["seed=int(1.0,2.0)", "rerun=str(1,2)"],
    "blanks": ["rerun='a b',c", "runs_dir='x  y'"],
    "commas of lists": ["merge.models=[a,b],[c]", "study.common=[x,y]"],
    "dicts": ["task={numbers:3},{numbers:4}"],
    "equals signs": ['init_from="runs/x/seed=0","runs/y"'],
    "quotes": ["rerun='it\\'s','\"'"],
    "null": ["init_from=null,random", "algorithm=null,grpo"],
    "empty": ["rerun='',a"],
    "added": ["+model.x=1,2", "++seed=3,4"],
    "packages": ["optim@decode=muon,adamw"],
    "groups": ["stage=glob(pre*)", "optim=glob(*,exclude=[m*])"],
    "words for numbers": ["rerun=1e3,on,'1'"],
}  # fmt: skip


@pytest.fixture(scope="module")
def loader():
    """Hydra's, with the options of rlx."""
    from tests.test_composer import begun

    GlobalHydra.instance().clear()
    yield begun().config_loader
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("arguments", PLAIN.values(), ids=PLAIN)
def test_plain_sweeps_are_hydra_s(loader, arguments):
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
    (expected,) = BasicSweeper.split_arguments(parsed, None)
    assert expand(arguments, loader=loader) == expected


def test_what_is_deleted_stays_as_typed():
    assert expand(["~algorithm", "seed=0,1"]) == [["~algorithm", "seed=0"], ["~algorithm", "seed=1"]]


def test_shuffled_values_are_all_there():
    found = expand(["seed=shuffle(range(20))"])
    assert sorted(found) == sorted(expand(["seed=range(20)"])) and len(found) == 20


def test_axes_of_one_tag_are_walked_together():
    found = expand(["model.d_model=tag(w,choice(64,128))", "seed=0,1", "optim.lr=tag(w,choice(1e-3,3e-4))"])
    assert found == [
        ["model.d_model=64", "optim.lr=0.001", "seed=0"],
        ["model.d_model=64", "optim.lr=0.001", "seed=1"],
        ["model.d_model=128", "optim.lr=0.0003", "seed=0"],
        ["model.d_model=128", "optim.lr=0.0003", "seed=1"],
    ]


def test_a_key_may_have_the_name_of_a_tag():
    assert expand(["w=1,2", "a=tag(w,choice(3,4))"]) == [
        ["w=1", "a=3"], ["w=1", "a=4"], ["w=2", "a=3"], ["w=2", "a=4"],
    ]  # fmt: skip


def test_branches_of_a_union_are_counted_together(monkeypatch):
    monkeypatch.setattr("rlx.grid.MOST", 5)
    assert len(expand(["a=1,2"], ["c=1", "d=3"])) == 4
    with pytest.raises(ConfigError, match=r"a \(2\) x b \(2\): 6 commands are more than 5"):
        expand(["a=1,2"], ["b=1,2", "c=1"])


def test_three_axes_and_two_tags():
    found = expand(
        ["a=tag(x,choice(1,2))", "b=tag(y,range(2))", "c=tag(x,choice('p q','r=s'))", "d=tag(y,choice([1,2],[]))"]
    )
    assert [place[:2] for place in found[::2]] == [["a=1", "c=p\\ q"], ["a=2", "c=r\\=s"]]
    assert [place[2:] for place in found[:2]] == [["b=0", "d=[1,2]"], ["b=1", "d=[]"]]
    assert len(found) == 4


WRONG = {
    "unequal lengths": (["a.b=tag(w,choice(1,2))", "c=tag(w,choice(1,2,3))"], "a.b and c .* one has 2 .* other 3"),
    "two tags": (["a=tag(v,w,choice(1,2))"], "one tag an axis, got v, w"),
    "interval": (["optim.lr=interval(1e-4,1e-2)"], "optim.lr=1e-3,3e-4, or search it with hydra/sweeper=optuna"),
    "no end of values in a tag": (["optim.lr=tag(log,interval(1e-4,1e-2))"], "an interval has no end"),
    "no such option": (["stage=glob(x*)"], r"stage=glob\(x\*\): there is no such value"),
    "too many commands": (["a=range(100)", "b=range(1001)", "c=1"], r"a \(100\) x b \(1001\): 100,100 commands"),
    "too many values": (["a=shuffle(range(1,1000000000000))"], "are more than 100,000 values"),
    "too many broken values": (["a=range(0,1,1e-9)"], r"a=range\(0,1,1e-9\): these are more than 100,000 values"),
    "no step": (["a=range(0,9,0)"], "are more than"),
    "no end": (["a=range(0,inf,0.5)"], "are more than"),
    "empty range": (["seed=range(3,3)"], r"seed=range\(3,3\): there is no such value"),
}


@pytest.mark.parametrize("arguments, line", WRONG.values(), ids=WRONG)
def test_what_is_refused(loader, arguments, line):
    with pytest.raises(ConfigError, match=line):
        expand(arguments, loader=loader)


def test_a_union_of_sweeps():
    found = expand(["task=countdown", "seed=0,1"], ["stage=pretrain", "stage=rl algorithm=grpo,ppo"])
    assert [" ".join(command) for command in found] == [
        "task=countdown seed=0 stage=pretrain",
        "task=countdown seed=1 stage=pretrain",
        "task=countdown seed=0 stage=rl algorithm=grpo",
        "task=countdown seed=0 stage=rl algorithm=ppo",
        "task=countdown seed=1 stage=rl algorithm=grpo",
        "task=countdown seed=1 stage=rl algorithm=ppo",
    ]


def test_a_branch_replaces_keys_beside_it_and_may_zip():
    found = expand(["seed=0,1", "task=countdown"], ["seed=7", "", "a=tag(w,choice(1,2)) b=tag(w,choice(3,4)) seed=9"])
    assert found == [
        ["task=countdown", "seed=7"],
        ["seed=0", "task=countdown"],
        ["seed=1", "task=countdown"],
        ["task=countdown", "a=1", "b=3", "seed=9"],
        ["task=countdown", "a=2", "b=4", "seed=9"],
    ]


def test_a_branch_is_split_as_a_shell_splits():
    text = shlex.join(["rerun='a b','c'", 'init_from="runs/x/seed=0"', "merge.models=[a, b]"])
    assert expand([], [text]) == [
        ["rerun='a b'", 'init_from="runs/x/seed=0"', "merge.models=[a, b]"],
        ["rerun='c'", 'init_from="runs/x/seed=0"', "merge.models=[a, b]"],
    ]
    with pytest.raises(ConfigError, match=r"plan\.either: cannot read"):
        expand([], ["rerun='a"])


def test_keys_that_differ():
    commands = [["a=1", "b=2", "c=[x,y]"], ["a=1", "b=3", "c=[x,y]", "d=0"]]
    assert swept(commands) == {"b", "d"} and swept(commands[:1]) == swept([]) == set()
