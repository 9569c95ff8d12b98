"""What pruning removes, what it never does, and what a kill in the middle leaves."""

import json
import os
import shutil
from pathlib import Path

import pytest

from rlx.errors import RlxError
from rlx.runs.__main__ import main
from rlx.runs.checkpoints import list_checkpoints
from rlx.runs.lease import Lease
from rlx.runs.listing import find_runs, size_of
from rlx.runs.pruning import tidy
from rlx.runs.status import State, state_of, write_status
from tests.runs.folders import kept, make

PARENT, CHILD, GRANDCHILD = "a-b-pretrain-h01/seed0", "a-b-sft-h02/seed0", "a-b-rl-h03/seed0"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def prune(capsys):
    """Give arguments to `prune`; what it printed."""

    def run(*arguments: str, code: int = 0) -> str:
        assert main(["prune", *arguments]) == code
        said = capsys.readouterr()
        return said.out + said.err

    return run


def tree() -> set[str]:
    return {str(path) for path in Path("runs").rglob("*")}


def line_of(out: str, place: str) -> str:
    (line,) = (line for line in out.splitlines() if line.startswith(f"runs/{place}"))
    return line


@pytest.mark.parametrize("what", [["--keep", "last:1"], ["--trainer-state"], ["--runs"]], ids=" ".join)
def test_nothing_goes_without_yes(prune, what):
    run = make(PARENT, steps=(10, 20))
    before = tree()
    assert "would go; --yes removes it" in prune("stage=pretrain", *what)
    assert tree() == before and state_of(run) is State.finished


def test_checkpoints_go_by_the_rule_and_the_bytes_are_told(prune):
    run = make(PARENT, steps=(10, 20, 30, 40), best=20)
    (run / "checkpoints/step-000010/model.safetensors").write_bytes(b"x" * 5_000_000)
    before = size_of("runs")
    out = prune("--keep", "last:1")
    assert "checkpoints 10, 30" in line_of(out, PARENT) and "5 MB of 1 run would go" in out
    assert "freed 5 MB" in prune("--keep", "last:1", "--yes")
    assert kept(run) == [20, 40] and before - size_of("runs") >= 5_000_000
    assert not (run / "lease.json").exists()
    assert "0 B of 0 runs" in prune("--keep", "last:1")


KEEPS = {"last:3": [2, 4, 8], "log:2": [1, 8], "log:4": [1, 2, 4, 8], "log:2+last:2": [1, 4, 8], "all": [1, 2, 4, 8]}


@pytest.mark.parametrize("rule", KEEPS)
def test_the_grammar_is_that_of_a_run(prune, rule):
    run = make(PARENT, steps=(1, 2, 4, 8), planned_steps=8)
    prune("--keep", rule, "--yes")
    assert kept(run) == KEEPS[rule]


def test_log_spaced_steps_of_a_continued_run_count_from_its_parent(prune):
    make(PARENT, steps=(100,))
    run = make(CHILD, steps=(101, 102, 104, 108), parents=(f"{PARENT}@100",), planned_steps=108,
               config="init:\n  state: all\n")  # fmt: skip
    prune("stage=sft", "--keep", "log:4", "--yes")
    assert kept(run) == [101, 102, 104, 108]


def test_log_spaced_steps_of_a_run_that_took_weights_alone_are_its_own(prune):
    make(PARENT, steps=(100,))
    run = make(CHILD, steps=(1, 2, 4, 8), parents=(f"{PARENT}@100",), planned_steps=8)
    prune("stage=sft", "--keep", "log:2", "--yes")
    assert kept(run) == [1, 8]


def test_log_spaced_steps_need_the_length_of_the_run(prune):
    run = make(PARENT, steps=(1, 2, 4), state=State.failed)
    assert "the length of the run is not known" in line_of(prune("--keep", "log:1", "--yes"), PARENT)
    assert kept(run) == [1, 2, 4]


def test_a_damaged_best_keeps_everything(prune):
    run = make(PARENT, steps=(1, 2))
    (run / "best.json").write_text("{}")
    assert "best.json" in line_of(prune("--keep", "last:1", "--yes"), PARENT)
    assert kept(run) == [1, 2]


NAMED = {
    "run.json": dict(parents=(f"{PARENT}@20",)),
    "the command": dict(command=f"rlx stage=sft init_from=runs/{PARENT}@20"),
    "a path": dict(command=f"rlx stage=sft init_from=/elsewhere/runs/{PARENT}/checkpoints/step-000020"),
    "a list": dict(command=f"rlx stage=merge 'merge.models=[runs/{PARENT}@40,runs/{PARENT}@20]'"),
    "a link": dict(command="rlx stage=sft init_from=links/base@20"),
    "hf": dict(command=f"rlx stage=sft init_from=hf:runs/{PARENT}/checkpoints/step-000020"),
    "the config": dict(config=f"stage:\n  match_flops: runs/{PARENT}@20\n"),
}


@pytest.mark.parametrize("child", NAMED.values(), ids=NAMED)
def test_a_checkpoint_that_a_run_started_from_stays(prune, child):
    run = make(PARENT, steps=(10, 20, 30, 40))
    os.makedirs("links")
    os.symlink(run.absolute(), "links/base")
    make(CHILD, **child)
    out = prune("stage=pretrain", "--keep", "last:1", "--yes")
    assert f"checkpoint 20: parent of {CHILD}" in line_of(out, PARENT)
    assert kept(run) == [20, 40]
    prune("stage=pretrain", "--keep", "last:1", "--even-parents", "--yes")
    assert kept(run) == [40]


RECORDED = {
    "the step that was found": ({"reference": f"runs/{PARENT}@best", "run": f"runs/{PARENT}", "step": 20}, [20, 40]),
    "the text alone": ({"reference": f"runs/{PARENT}@20", "run": None, "step": None}, [20, 40]),
}


@pytest.mark.parametrize("parent, stays", RECORDED.values(), ids=RECORDED)
def test_a_parent_is_known_by_either_word_of_run_json(prune, parent, stays):
    run = make(PARENT, steps=(10, 20, 40))
    (make(CHILD) / "run.json").write_text(json.dumps({"parents": [parent]}))
    prune("stage=pretrain", "--keep", "last:1", "--yes")
    assert kept(run) == stays


def planned(**row: object) -> None:
    """A plan with one run, which is not there yet."""
    folder = Path("runs/plans/study-cpu-h09")
    folder.mkdir(parents=True)
    (folder / "manifest.jsonl").write_text(json.dumps({"name": "sft", "run": f"runs/{CHILD}", **row}) + "\n")


PLANS = {
    "the command": dict(command=f"rlx stage=sft init_from=runs/{PARENT}@10", parents=[]),
    "its parents": dict(command="rlx stage=sft", parents=[f"runs/{PARENT}@10"]),
}


@pytest.mark.parametrize("row", PLANS.values(), ids=PLANS)
def test_a_checkpoint_that_a_plan_names_stays(prune, row):
    run = make(PARENT, steps=(10, 20, 30))
    planned(**row)
    assert f"checkpoint 10: parent of {CHILD}" in line_of(prune("--keep", "last:1", "--yes"), PARENT)
    assert kept(run) == [10, 30]
    assert f"the parent of {CHILD}" in line_of(prune("--runs", "stage=pretrain", "--yes"), PARENT)
    assert run.is_dir()


def test_states_go_from_finished_runs_alone_and_the_models_stay(prune):
    finished = make(PARENT, steps=(10, 20))
    stopped = make(CHILD, steps=(10,), state=State.stopped)
    out = prune("--trainer-state", "--yes")
    assert "the state of 2 checkpoints" in line_of(out, PARENT) and "it is stopped" in line_of(out, CHILD)
    assert not list(finished.rglob("trainer")) and [step for step, _ in list_checkpoints(finished)] == [10, 20]
    assert (stopped / "checkpoints/step-000010/trainer/state.pt").is_file()


@pytest.mark.parametrize("state, stays", [(State.stopped, True), (State.finished, False)])
@pytest.mark.parametrize("at", ["", "@last", "@20"])
def test_a_state_that_an_unfinished_run_takes_over_stays(prune, state, stays, at):
    run = make(PARENT, steps=(10, 20))
    make(CHILD, state=state, command=f"rlx init_from=runs/{PARENT}{at}", config="init:\n  state: all\n")
    prune("stage=pretrain", "--trainer-state", "--even-parents", "--yes")
    assert [path.parent.name for path in run.rglob("trainer")] == ["step-000020"] * stays


def test_the_state_of_the_best_stays_for_an_unfinished_run_that_takes_it_over(prune):
    run = make(PARENT, steps=(10, 20), best=10)
    make(CHILD, state=State.stopped, command=f"rlx init_from=runs/{PARENT}@best", config="init:\n  state: all\n")
    prune("stage=pretrain", "--trainer-state", "--yes")
    assert [path.parent.name for path in run.rglob("trainer")] == ["step-000010"]


def test_a_state_that_a_planned_run_takes_over_stays(prune):
    run = make(PARENT, steps=(10, 20))
    planned(command=f"rlx stage=sft init_from=runs/{PARENT} init.state=all", parents=[f"runs/{PARENT}"])
    prune("stage=pretrain", "--trainer-state", "--yes")
    assert [path.parent.name for path in run.rglob("trainer")] == ["step-000020"]


def test_a_run_in_use_is_not_touched(prune):
    run = make(PARENT, steps=(10, 20), state=State.running)
    with Lease.acquire(run):
        before = tree()
        for what in (["--keep", "last:1"], ["--runs"], ["--trainer-state"]):
            assert "it is in use" in line_of(prune("stage=pretrain", *what, "--yes"), PARENT)
        assert tree() == before
    assert "checkpoint 10" in line_of(prune("--keep", "last:1", "--yes"), PARENT)  # interrupted by now
    assert kept(run) == [20]


def test_a_run_that_is_taken_or_goes_on_meanwhile_is_left_alone(prune, monkeypatch):
    """Between the look and the deletion: another process holds it, or has held it."""
    runs = [make(place, steps=(10, 20), state=State.stopped) for place in (PARENT, CHILD)]
    lease = Lease.acquire(runs[0])

    def meanwhile(*_: object) -> int:
        write_status(runs[1], State.stopped, attempt=2)
        return 0

    monkeypatch.setattr("rlx.runs.pruning.tidy", meanwhile)
    out = prune("--keep", "last:1", "--yes")
    lease.release()
    assert "in use by pid" in out and f"runs/{CHILD}: left alone, it went on meanwhile" in out
    assert [kept(run) for run in runs] == [[10, 20], [10, 20]] and "freed 0 B" in out


def test_temporaries_of_a_run_that_is_taken_meanwhile_stay():
    run = make(PARENT)
    left = run / "checkpoints" / f".tmp-step-000010-{os.getpid()}"
    left.mkdir(parents=True)
    (listed,) = find_runs("runs")
    assert listed.state is State.finished
    with Lease.acquire(run):
        left.mkdir(parents=True, exist_ok=True)
        tidy("runs", [listed])
        assert left.is_dir()
    tidy("runs", [listed])
    assert not left.exists()


def test_whole_runs_go_with_all_that_name_them(prune):
    for place, parents in ((PARENT, ()), (CHILD, (f"{PARENT}@10",)), (GRANDCHILD, (f"{CHILD}@10",))):
        make(place, steps=(10,), parents=parents)
    assert "the run: it is the parent of" in line_of(prune("--runs", "stage=pretrain,sft", "--yes"), PARENT)
    assert len(list(Path("runs").glob("*/seed0"))) == 3
    order = [line.split()[0] for line in prune("--runs", "model=b").splitlines()[1:-1]]
    assert order == [f"runs/{place}" for place in (GRANDCHILD, CHILD, PARENT)]
    prune("--runs", "model=b", "--yes")
    assert not list(Path("runs").iterdir())


def test_a_checkpoint_whose_child_goes_goes_too(prune):
    """The parent stays, for another child that was not picked."""
    run = make(PARENT, steps=(10, 20, 30))
    make(CHILD, parents=(f"{PARENT}@10",))
    make(GRANDCHILD, parents=(f"{PARENT}@20",))
    prune("stage=pretrain,sft", "--runs", "--keep", "last:1", "--yes")
    assert kept(run) == [20, 30] and not Path("runs", CHILD).exists()


def test_other_seeds_and_names_stay(prune):
    gone, other = make(PARENT, state=State.failed), make("a-b-pretrain-h01/seed1")
    child = make(CHILD, parents=("a-b-pretrain-h01/seed1@10",))
    prune("--runs", "state=failed", "--yes")
    assert not gone.exists() and other.is_dir() and child.is_dir()


def test_even_parents_go_when_it_is_said(prune):
    parent, child = make(PARENT, steps=(10,)), make(CHILD, parents=(f"{PARENT}@10",))
    prune("--runs", "stage=pretrain", "--even-parents", "--yes")
    assert not parent.parent.exists() and child.is_dir()


def test_a_run_that_stays_as_a_parent_still_loses_what_the_other_rules_name(prune):
    run = make(PARENT, steps=(10, 20, 30))
    make(CHILD, parents=(f"{PARENT}@20",))
    out = line_of(prune("stage=pretrain", "--runs", "--keep", "last:1", "--trainer-state", "--yes"), PARENT)
    assert "the parent of" in out and "checkpoint 10, the state of 2 checkpoints" in out
    assert kept(run) == [20, 30] and not list(run.rglob("trainer"))


@pytest.mark.parametrize("what", [["--keep", "last:1"], ["--trainer-state"], ["--runs"]], ids=" ".join)
def test_a_kill_leaves_nothing_half_and_the_next_pruning_removes_it(prune, monkeypatch, what):
    run = make(PARENT, steps=(10, 20))
    make("a-b-pretrain-h01/seed1")

    class Killed(BaseException):
        pass

    def killed(path: object, **_: object) -> None:
        if Path(str(path)).exists():
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("rlx.runs.files.shutil.rmtree", killed)
        with pytest.raises(Killed):
            main(["prune", "seed=0", *what, "--yes"])
    left = [path for path in Path("runs").rglob(".tmp-*")]
    assert len(left) == 1 and left[0].name.endswith(f"-{os.getpid()}")
    whole = [path for path in run.glob("checkpoints/step-*")] if run.exists() else []
    assert all((path / "model.safetensors").is_file() for path in whole)
    states = [path for path in run.rglob("trainer")] if run.exists() else []
    assert all((path / "state.pt").is_file() for path in states)
    assert "freed 0 B" not in prune("--keep", "last:2", "--yes")
    assert not list(Path("runs").rglob(".tmp-*"))
    assert Path("runs/a-b-pretrain-h01/seed1").is_dir()


WRONG = {
    "": "nothing to prune was named",
    "--runs": "would remove every run",
    "--keep some": "--keep some is not understood",
    "--keep last:0": "--keep last:0",
    "stag=rl --runs": "did you mean stage?",
    "--kep last:1": "unrecognized arguments",
    "--keep last:1 --runs-dir nowhere": "no folder nowhere",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_what_cannot_be_meant_is_one_line_and_removes_nothing(prune, arguments):
    make(PARENT, steps=(10, 20))
    before = tree()
    said = prune(*arguments.split(), "--yes", code=2)
    assert WRONG[arguments] in said and said.count("\n") == 1 and tree() == before


def test_a_folder_that_cannot_be_changed_is_one_line(prune, monkeypatch):
    make(PARENT, steps=(10, 20))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "runs")

    monkeypatch.setattr("rlx.runs.files.os.rename", refuse)
    said = prune("--keep", "last:1", "--yes", code=1)
    assert "permission denied" in said.splitlines()[-1]


def test_the_pruned_run_is_a_parent_as_before(prune):
    from rlx.runs.references import parse_reference, resolve

    run = make(PARENT, steps=(10, 20, 30), best=10)
    prune("--keep", "last:1", "--trainer-state", "--yes")
    for at, step in (("", 30), ("@best", 10), ("@last", 30)):
        assert resolve(parse_reference(f"{run}{at}")).name == f"step-0000{step}"
    with pytest.raises(RlxError, match="there are steps 10, 30"):
        resolve(parse_reference(f"{run}@20"))
    shutil.rmtree(run)


def test_hostile_words_are_no_parents(prune):
    run = make(PARENT, steps=(10, 20))
    make(CHILD, config='stage: {name: "a/b\\0c", other: "hf:/@/../@99"}\n', command="rlx init_from=/@best hf:hf:/x")
    prune("--keep", "last:1", "--yes")
    assert kept(run) == [20]
