"""Runs whose examples are made ahead: the same bits as without, stopped and killed or not."""

import signal
from pathlib import Path

import pytest

from rlx.data.blocks import _Maker
from rlx.data.corpora.task import TaskCorpus
from rlx.errors import RunError
from rlx.signals import stop
from rlx.tasks.countdown import Countdown
from rlx.types import Split
from tests.stages.kills import Server, differences
from tests.stages.runs import PRETRAIN, place, status

FEW = (*PRETRAIN, "task.train_examples=60")
"""Fewer than the run reads: a block that is read to its end."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and walks that are never too short for it."""
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rlx.data.corpora.task.FEWEST", 0)
    return tmp_path / "cache"


@pytest.fixture
def unbroken(door) -> Path:
    done = door(*FEW, "corpus.cache=false", "runs_dir=unbroken")
    assert done.code == 0 and "ahead" not in done.out
    return place(done.out)


def unmade(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no training example is made in this process."""
    made = Countdown.example

    def example(task: Countdown, split: Split, index: int):
        assert split is not Split.train, f"{index} is not read"
        return made(task, split, index)

    monkeypatch.setattr(Countdown, "example", example)


def test_the_same_run_with_and_without(door, unbroken, cache, monkeypatch):
    done = door(*FEW, "corpus.cache=true", "runs_dir=first")
    assert done.code == 0 and "examples made ahead" in done.out
    assert differences(place(done.out), unbroken) == []
    assert [path.name for path in cache.glob("examples/*/*")] == ["train-0"]
    unmade(monkeypatch)
    again = door(*FEW, "corpus.cache=true", "runs_dir=second")
    assert again.code == 0 and "ahead" not in again.out
    assert differences(place(again.out), unbroken) == []
    assert place(again.out).parts[-2:] == unbroken.parts[-2:], "where examples come from is no part of a run's name"


def test_a_stop_while_examples_are_made_is_heeded(door, unbroken, cache, monkeypatch):
    made = _Maker.make

    def stopped(maker: _Maker, *given) -> None:
        stop.signal = signal.SIGTERM
        made(maker, *given)

    with monkeypatch.context() as patch:
        patch.setattr(_Maker, "make", stopped)
        patch.setattr("rlx.data.blocks.LOOK_S", 0.001)
        done = door(*FEW, "corpus.cache=true")
    assert done.code == 75, done.err
    assert not [*place(done.out).glob("checkpoints/*")], "no step was made"
    assert not [path for path in cache.glob("examples/*/*") if path.name.startswith(".")]
    done = door(*FEW, "corpus.cache=true")
    assert done.code == 0 and status(place(done.out))["state"] == "finished"
    assert differences(place(done.out), unbroken) == []


def test_where_examples_cannot_be_kept_they_are_made_as_needed(door, unbroken, monkeypatch):
    def failing(*_) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(Countdown, "__init__", _costly(Countdown.__init__))
    monkeypatch.setattr(_Maker, "make", failing)
    done = door(*FEW)
    assert done.code == 0 and "  the disk is full; examples are made as they are needed" in done.out
    assert differences(place(done.out), unbroken) == []
    asked = door(*FEW, "corpus.cache=true", "seed=1")
    assert asked.code == 1 and "the disk is full" in asked.err


def _costly(init):
    def built(task: Countdown, config) -> None:
        init(task, config)
        task.costly = True

    return built


def test_killed_and_resumed_with_kept_examples(door, unbroken, monkeypatch):
    made = door(*FEW, "corpus.cache=true", "runs_dir=made")
    assert made.code == 0 and "examples made ahead" in made.out
    with Server() as server:
        for where, count in (("minibatch", 4), ("state written", 1), ("row written", 5)):
            done = server.run([*FEW, "corpus.cache=true"], place=where, count=count)
            assert done.code == -signal.SIGKILL, done
    unmade(monkeypatch)
    done = door(*FEW, "corpus.cache=true")
    assert done.code == 0, done.err
    assert differences(place(done.out), unbroken) == []


def test_a_continued_run_prepares_what_is_left(door, monkeypatch):
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(TaskCorpus, "prepare", lambda _, after, tokens, **more: seen.append((after, tokens)))
    first = place(door(*PRETRAIN, "stage.steps=4").out)
    done = door(*PRETRAIN, "stage.steps=10", f"init_from={first}", "init.state=all")
    assert done.code == 0, done.err
    assert seen == [(0, 4 * 256), (4 * 256, 6 * 256)]
