"""Streams of documents, on a task made here."""

import pytest

from rlx.data.corpora.task import TaskCorpusConfig
from rlx.data.documents import document_of, prompt_ids
from rlx.data.tokenizers.base import Tokenizer
from rlx.data.tokenizers.char import CharConfig
from rlx.errors import ConfigError
from rlx.types import Example, Outcome, Split, Verdict


class Counting:
    """Prompts that name their split and index."""

    baseline = "says yes"

    def __init__(self, size: int | None) -> None:
        self.count = size

    def size(self, split: Split) -> int | None:
        return self.count

    def example(self, split: Split, index: int) -> Example:
        assert self.count is None or index < self.count
        return Example(id=f"{split.value}-{index}", prompt=f"{split.value} {index}:", solution=f"yes {index}")

    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(Outcome.correct)

    def chance(self, example: Example) -> float:
        return 0.0

    def guess(self, example: Example) -> str:
        return "yes"

    def words(self) -> list[str]:
        return []


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return CharConfig().build()


def texts(size: int | None, tokenizer: Tokenizer, split: Split, count: int, *key: object) -> list[str]:
    corpus = TaskCorpusConfig().build(Counting(size), tokenizer, split=split, whole=True, key=key)
    return [tokenizer.decode(corpus.document(position).ids) for position in range(count)]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "solution"])
def test_a_document_is_begin_prompt_solution_end(tokenizer: Tokenizer, whole: bool) -> None:
    example = Example(id="a", prompt="2+2=", solution="4")
    assert prompt_ids(example, tokenizer) == [tokenizer.begin_id, *tokenizer.encode("2+2=")]
    document = document_of(example, tokenizer, whole=whole)
    assert document.ids == [tokenizer.begin_id, *tokenizer.encode("2+2=4"), tokenizer.end_id]
    counted = document.ids[document.given :]
    assert counted == [*tokenizer.encode("2+2=4" if whole else "4"), tokenizer.end_id]


def test_an_epoch_has_every_example_once(tokenizer: Tokenizer) -> None:
    found = texts(30, tokenizer, Split.train, 60, 0, "pretrain")
    assert sorted(found[:30]) == sorted(found[30:]) == sorted(f"train {n}:yes {n}" for n in range(30))
    assert found[:30] != found[30:]


def test_keys_name_the_order(tokenizer: Tokenizer) -> None:
    assert texts(None, tokenizer, Split.train, 5, 0, "sft") == texts(None, tokenizer, Split.train, 5, 0, "sft")
    seen = [set(texts(None, tokenizer, Split.train, 50, seed, "sft")) for seed in range(3)]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


@pytest.mark.parametrize("split", [Split.val, Split.test], ids=lambda split: split.value)
def test_held_out_splits_are_the_same_for_every_run(tokenizer: Tokenizer, split: Split) -> None:
    expected = [f"{split.value} {n}:yes {n}" for n in range(4)]
    assert texts(None, tokenizer, split, 4, 0, "sft") == texts(None, tokenizer, split, 4, 1, "rl") == expected


def test_a_small_held_out_split_begins_again(tokenizer: Tokenizer) -> None:
    assert texts(3, tokenizer, Split.val, 7, 0) == [f"val {n % 3}:yes {n % 3}" for n in range(7)]


def test_a_task_is_needed(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="corpus=task needs a task"):
        TaskCorpusConfig().build(None, tokenizer, split=Split.train, whole=True, key=())
