"""stage=data: what is shown, what is written, what is refused."""

import json
import re
import signal
from collections import Counter

import pytest
from datasets import load_dataset

from rlx.data.__main__ import arguments
from rlx.data.documents import Document
from rlx.data.shown import COUNTS, LINES, WIDTH, show
from rlx.data.tokenizers.char import CharConfig
from rlx.rows import rows
from rlx.signals import stop
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.types import Outcome, Split
from tests.conftest import COUNTDOWN

MIXTURE = ("corpus=mixture", "corpus.sources={c:{task:copy,weight:1},p:{task:cpm3,weight:2}}")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """`datasets` copies what it opens into a cache of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_shown_documents_have_marks_under_what_counts(door):
    for loss, begins in (("solution", 17), ("whole", len("<|begin|>"))):
        found = door("stage=data", "task=copy", "task.min_length=7", "task.max_length=7", "stage.show=2",
                     f"stage.loss={loss}")  # fmt: skip
        assert found.code == 0, found.err
        title, _, text, marks, *_ = found.out.splitlines()
        counted = 16 if loss == "whole" else 8
        assert title == f"document 0: 17 tokens, {counted} count in the loss"
        assert re.fullmatch(r"<\|begin\|>(\w{7})\|\1<\|end\|>", text)
        assert marks == " " * begins + COUNTS * (len(text) - begins)
        assert found.out.count("document ") == 2


def test_long_documents_are_cut_and_line_ends_shown():
    tokenizer = CharConfig().build()
    ids = [tokenizer.begin_id, *tokenizer.encode("a\n" * 2 + "b" * (WIDTH + 1)), tokenizer.end_id]
    assert show(Document(ids, 3), tokenizer) == [
        "<|begin|>a↵", "a↵", "^^", "b" * WIDTH, "^" * WIDTH, "b<|end|>", "^" * 8]  # fmt: skip
    ids = tokenizer.encode("a\n" * (LINES + 5))
    assert show(Document(ids, len(ids)), tokenizer) == [*["a↵"] * LINES, "... 5 lines more"]


def test_characters_that_cannot_be_printed_are_told():
    class Raw:
        special_ids = frozenset[int]()

        def decode(self, ids):
            return "".join(map(chr, ids))

    assert show(Document([97, 0, 27], 1), Raw()) == ["a\\x00\\x1b", " ^^^^^^^^"]  # type: ignore[arg-type]


def test_a_written_task_opens_with_datasets(door, tmp_path):
    done = door(*COUNTDOWN, "task.val_examples=30", "stage=data", "stage.to=made", "stage.examples=1500",
                "stage.show=0", "stage.ids=true")  # fmt: skip
    assert done.code == 0 and "1580/1580" not in done.err, done.err
    assert not (tmp_path / "runs").exists() and "document 0" not in done.out
    found = load_dataset(str(tmp_path / "made"))
    assert {name: len(part) for name, part in found.items()} == {"train": 1500, "validation": 30, "test": 1000}
    task, tokenizer = CountdownConfig(numbers=3, trace=Trace.operations, val_examples=30).build(), CharConfig().build()
    for index in range(30):
        row, example = found["validation"][index], task.example(Split.val, index)
        assert (row["id"], row["prompt"], row["completion"]) == (example.id, example.prompt, example.solution)
        assert json.loads(row["difficulty"]) == dict(example.difficulty)
        ids = [tokenizer.begin_id, *tokenizer.encode(example.prompt + example.solution), tokenizer.end_id]
        assert row["input_ids"] == ids and row["tokens"] == len(ids)
        given = 1 + len(example.prompt)
        assert row["loss_mask"] == [0] * given + [1] * (len(ids) - given)
        assert task.verify(example, row["completion"]).outcome is Outcome.correct
    assert len(set(found["train"]["id"])) > 1400 and not set(found["train"]["id"]) & set(found["test"]["id"])
    assert [row["id"] for row in rows(str(tmp_path / "made"), split="val")] == found["validation"]["id"]


def test_dialogues_are_written_turn_by_turn(door, tmp_path):
    told = ("task=arithmetic", "corpus=dialogues", "corpus.environment={name:multi_attempt,attempts:3}")
    done = door(*told, "corpus.share=0.7", "stage=data", "stage.to=made", "stage.examples=60", "stage.held_out=30",
                "stage.show=0", "stage.ids=true")  # fmt: skip
    assert done.code == 0, done.err
    task, tokenizer, spoken = ArithmeticConfig().build(), CharConfig().build(), Counter()
    for index, row in enumerate(load_dataset(str(tmp_path / "made"))["validation"]):
        example = task.example(Split.val, index)
        assert row["id"] == example.id and json.loads(row["difficulty"]) == dict(example.difficulty)
        assert row["completion"] == example.solution
        spoken[len(row["turns"])] += 1
        counted = [number for number, counts in zip(row["input_ids"], row["loss_mask"], strict=True) if counts]
        assert counted == [*tokenizer.encode(example.solution), tokenizer.end_id]
        if not row["turns"]:
            assert row["prompt"] == example.prompt
            continue
        said = [message["text"] for message in row["turns"]]
        assert row["prompt"] == said[0] and said[0].endswith(f" tries\n{example.prompt}")
        assert [message["role"] for message in row["turns"]] == ["user", "assistant"] * (len(said) // 2)
        assert said[-1] == example.solution and "".join(said) == tokenizer.decode(row["input_ids"])
        tries = int(said[0][0])
        assert said[2::2] == [f"wrong, {tries - n - 1} left" for n in range(len(said) // 2 - 1)]
        assert not any(task.verify(example, text).correct for text in said[1:-1:2])
    assert set(spoken) == {0, 2, 4, 6}
    text = (tmp_path / "made/README.md").read_text()
    assert "the loss is on the assistant's turns, but for those that show a mistake." in text


def test_the_card_says_what_it_is(door, tmp_path):
    door(*COUNTDOWN, "stage=data", "stage.to=made", "stage.examples=50", "stage.held_out=40")
    text = (tmp_path / "made/README.md").read_text()
    assert "rlx stage=data" not in text.partition("```")[0]
    assert f"rlx {' '.join(COUNTDOWN)} stage=data stage.to=made stage.examples=50 stage.held_out=40" in text
    assert "the loss is on the completion" in text and "Tokens of tokenizer=char" in text
    tokens = load_dataset(str(tmp_path / "made"), split="train")["tokens"]
    assert f"| train | - | 50 | {sum(tokens)} | {sum(tokens) / 50:.1f} | {max(tokens)} |" in text
    assert "A solver that" in text and "drawn evenly" in text
    again = door(*COUNTDOWN, "stage=data", "stage.to=made")
    assert again.code == 2 and "is there already" in again.err


def test_a_mixture_names_its_sources(door, tmp_path):
    done = door("stage=data", *MIXTURE, "stage.to=made", "stage.examples=400", "stage.held_out=2000", "stage.show=1")
    assert done.code == 0, done.err
    assert re.search(r"document 0: [cp], \d+ tokens", done.out)
    found = load_dataset(str(tmp_path / "made"))
    tokens = {"c": 0, "p": 0}
    for row in found["train"]:
        tokens[row["source"]] += row["tokens"]
    assert tokens["p"] / sum(tokens.values()) == pytest.approx(2 / 3, abs=0.05)
    counts = Counter(found["validation"]["source"])
    assert counts["p"] > counts["c"] and 990 <= counts["p"] <= 1000  # its held-out problems are used up first
    assert 'pretty_name: "mixture: c, p"' in (tmp_path / "made/README.md").read_text()


def test_a_stop_leaves_nothing_half_written(door, tmp_path, monkeypatch):
    def update(*_, **__):
        stop.signal = signal.SIGTERM

    monkeypatch.setattr("rlx.stages.data.Progress.update", update)
    done = door("stage=data", "task=copy", "stage.to=made", "stage.examples=2000", "stage.show=0")
    assert done.code == 75 and not list(tmp_path.iterdir())


def test_flags_stand_for_fields(door):
    typed = ["task=copy", "--show", "2", "--out=made", "--examples", "9", "--ids", "--held-out", "5", "--loss=whole"]
    assert arguments(typed) == ["stage=data", "task=copy", "stage.show=2", "stage.to=made", "stage.examples=9",
                                "stage.ids=true", "stage.held_out=5", "stage.loss=whole"]  # fmt: skip
    assert arguments(["--help"]) == ["stage=data", "--help"]


@pytest.mark.parametrize(
    "typed, says",
    [
        (["stage=data"], "needs task="),
        (["stage=data", "task=copy", "stage.examples=0"], "stage.examples=0 must be at least 1"),
        (["stage=data", "task=copy", "stage.show=-1"], "stage.show=-1 must be at least 0"),
        (["stage=data", "task=copy", "model=dense"], "does not use model"),
        (["stage=data", "task=copy", "init_from=runs/a"], "leave init_from out"),
        (["stage=data", "task=copy", "stage.to='a b'"], "would need to quote"),
        (["stage=data", "task=copy", "stage.loss=all"], "solution"),
        (["stage=data", "corpus=mixture", "corpus.sources={a:{task:copy,repeats:2}}"], "whose problems have no end"),
    ],
)
def test_what_is_wrong_is_one_line(door, tmp_path, typed, says):
    found = door(*typed)
    assert found.code == 2 and says in found.err and found.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
