"""Runs on text alone: without a task, resumed to the same bits, wrong ones refused at the door."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlx.stages.estimate import Estimator
from tests.stages.kills import Server, differences
from tests.stages.runs import SMALL, place, record, rl, rows, status

SMALLEST = ("scale=smoke", *SMALL, "stage.steps=12", "stage.val_every=4", "checkpoint.every=3")
WORDS = ("one", "two", "three", "for", "in", "return", "self", "def", "class", "value", "left", "right", "of", "to")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 short texts, a third of them in a folder below."""
    found = tmp_path_factory.mktemp("texts")
    (found / "more").mkdir()
    for number in range(200):
        words = [WORDS[(number * 31 + place * place) % len(WORDS)] for place in range(1 + number * 37 % 60)]
        name = f"more/{number:03}.py" if number % 3 == 0 else f"{number:03}.txt"
        (found / name).write_text(" ".join(words) + f" {number}\n")
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def pretrain(folder: Path, *more: str) -> list[str]:
    return ["stage=pretrain", "corpus=text", f"corpus.path={folder}", "corpus.max_tokens=64", *SMALLEST, *more]


KILLS = [("forward pass", 2), ("weights written", 1), ("state written", 2), ("validation", 1), ("row", 3)]


@pytest.mark.parametrize("tokenizer", [[], ["tokenizer=bpe", "tokenizer.vocab_size=300"]], ids=["char", "bpe"])
def test_killed_at_many_places_and_its_cache_removed(server, folder, door, tmp_path_factory, tokenizer):
    arguments = pretrain(folder, *tokenizer)
    done = door(*arguments, f"runs_dir={tmp_path_factory.mktemp('whole')}")
    assert done.code == 0, done.err
    whole = place(done.out)
    assert whole.parent.name.startswith("text-dense-pretrain-h") and "task" not in done.out
    for where, count in KILLS:
        for cache in Path(os.environ["RLX_CACHE"]).iterdir():
            shutil.rmtree(cache)
        done = server.run(arguments, place=where, count=count)
        assert done.code == -signal.SIGKILL and "tokenizing train" in done.out, f"{where} {count}: {done}"
    done = door(*arguments)
    assert done.code == 0 and "tokenizing" not in done.out, done
    assert differences(place(done.out), whole) == []
    assert status(whole)["state"] == "finished" and record(whole)["task"] == "text"


def test_it_learns_and_others_go_on_from_it(folder, door):
    done = door(*pretrain(folder, "stage.steps=60", "optim.lr=1e-2"))
    assert done.code == 0, done.err
    run = place(done.out)
    losses = [row["val/loss"] for row in rows(run) if "val/loss" in row]
    assert losses[-1] < losses[0] - 1
    tuned = door("stage=sft", f"init_from={run}", *pretrain(folder)[1:])
    assert tuned.code == 0 and place(tuned.out).parent.name.startswith("text-dense-sft-h"), tuned.err
    assert rows(place(tuned.out))[0]["train/loss"] < losses[0] - 1
    improved = door(*rl(run, "stage.steps=2"))
    assert improved.code == 0 and len(rows(place(improved.out))) == 2, improved.err


def test_evaluated_on_a_task_on_the_way(folder, door):
    measured = ["eval.every=6", "eval.problems=4", "eval.samples=2", "decode.max_tokens=6"]
    done = door(*pretrain(folder, "task=countdown", "task.numbers=3", *measured))
    assert done.code == 0, done.err
    assert place(done.out).parent.name.startswith("countdown-dense-pretrain-h")
    assert any(name.startswith("eval/countdown/") for row in rows(place(done.out)) for name in row)
    done = door(*pretrain(folder, *measured))
    assert done.code == 2 and "stage=pretrain needs task=" in done.err


def test_the_name_is_of_the_files_that_are_read(folder, asked, tmp_path):
    py = ["corpus.pattern=**/*.py"]
    names = [
        asked(*pretrain(folder, *more))[0] for more in ([], py, ["corpus.pattern=more/*.py"], ["corpus.lines=true"])
    ]
    assert len(set(names)) == 3 and names[1] == names[2]
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "000.md").write_text("not read")
    assert asked(*pretrain(tmp_path / "copy"))[0] == names[0]
    (tmp_path / "copy" / "000.txt").write_text("read")
    assert asked(*pretrain(tmp_path / "copy"))[0] != names[0]
    assert asked(*pretrain(tmp_path / "copy", *py))[0] == names[1]


def test_it_is_estimated_without_tokens_made(folder, asked, door, rlx, monkeypatch, tmp_path):
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    arguments = pretrain(folder, "trainer.threads=1")
    cost = Estimator("runs").estimate(*asked(*arguments)).cost
    planned = rlx("-m", *arguments, "seed=0,1", "plan.dry=true")
    assert planned.code == 0 and planned.out.count("text-dense-pretrain-h") >= 1, planned
    assert not (tmp_path / "cache" / "tokens").exists()
    made = record(place(door(*arguments).out))
    assert cost and cost.steps == made["steps"]
    assert cost.tokens == pytest.approx(made["tokens"], rel=0.1)
    assert cost.train == pytest.approx(made["flops"]["train"], rel=0.1)


WRONG = {
    "no path": (["corpus.path=null"], "corpus=text needs corpus.path="),
    "not there": (["corpus.path=nowhere"], "nowhere is not there"),
    "no file": (["corpus.pattern=*.md"], "holds no file that matches *.md"),
    "no column": (["corpus.column=body"], "has no column 'body' in row 1; corpus.column= names one of text"),
    "no text": (["corpus.path=numbers.jsonl", "corpus.column=id"], "column 'id' holds int; expected text"),
    "empty": (["corpus.path=empty.txt"], "has no text that can be trained on"),
    "short": (["corpus.path=short.txt"], "is too short to hold some of it out"),
    "held out": (["corpus.path=numbers.jsonl", "corpus.pattern=*.txt"], "is no folder of files"),
}


@pytest.mark.parametrize("more, expected", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_read_is_one_line_and_nothing_is_written(folder, door, tmp_path, more, expected):
    Path("numbers.jsonl").write_text('{"id": 1}\n')
    Path("empty.txt").write_text("")
    Path("short.txt").write_text("a few words")
    done = door(*pretrain(folder, *more))
    assert done.code == 2 and expected in done.err and len(done.err.strip().splitlines()) == 1, done
    assert not Path("runs").exists()
