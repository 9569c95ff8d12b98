"""The word tokenizer: the union of words, the longest first, and the same ids as the `tokenizers` object."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlx.data.tokenizers.base import BEGIN, END, PAD, SPECIALS, Material, Tokenizer, text_of
from rlx.data.tokenizers.word import WordConfig
from rlx.data.tokenizers.words import LONGEST, finder, pattern_of
from rlx.errors import ConfigError, UnknownTextError
from rlx.options import discover
from rlx.tasks.base import Task
from rlx.types import Split

WORDS = ["1", "0", "10", "the", "there", "then", "ere", " ", "\n", "a", "[", "]", "^", "-", "\\", "|", "~~", "&&", "#"]


def of(words: Sequence[str], **settings: list[str]) -> Tokenizer:
    return WordConfig(**settings).build(Material(words=lambda: words))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return of(WORDS)


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {name: option.config().build() for name, option in discover("task").items()}


@pytest.fixture(scope="module")
def everything(tasks: dict[str, Task]) -> Tokenizer:
    return of([], tasks=list(tasks))


def some_texts() -> list[str]:
    source = random.Random(0)
    made = ["".join(source.choices(WORDS, k=source.randrange(1, 40))) for _ in range(300)]
    return ["", "there", "thenthere10", "~~&&[^]\\|", *made]


def ids_inside(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.inner.encode(text, add_special_tokens=False).ids


def test_specials_come_first_then_the_words_sorted(tokenizer: Tokenizer) -> None:
    names = sorted(tokenizer.inner.get_vocab().items(), key=lambda item: item[1])
    assert names == [(text, number) for number, text in enumerate([*SPECIALS, *sorted(WORDS)])]
    assert (tokenizer.pad_id, tokenizer.begin_id, tokenizer.end_id) == (0, 1, 2)


def test_the_vocabulary_hangs_on_no_order() -> None:
    tasks = ["graph", "countdown", "copy"]
    expected = of(WORDS, tasks=tasks).to_json()
    assert of([*WORDS[::-1], "a"], tasks=tasks[::-1]).to_json() == expected
    assert WordConfig(tasks=["graph", "copy", "graph"]) == WordConfig(tasks=["copy", "graph"])


def test_it_is_the_union_of_the_words_of_run_and_tasks(tasks: dict[str, Task]) -> None:
    found = of(["zebra"], tasks=["graph", "countdown"]).words
    assert found is not None and found.keys() == {"zebra", *tasks["graph"].words(), *tasks["countdown"].words()}


def test_the_longest_word_is_taken(tokenizer: Tokenizer) -> None:
    words = sorted(WORDS)
    assert [words[n - len(SPECIALS)] for n in tokenizer.encode("10there1 then")] == ["10", "there", "1", " ", "then"]


def test_ids_are_those_of_the_tokenizers_object(tokenizer: Tokenizer) -> None:
    for text in some_texts():
        ids = tokenizer.encode(text)
        assert ids == ids_inside(tokenizer, text), text
        assert tokenizer.decode(ids) == text == tokenizer.inner.decode(ids)


def test_the_faster_expression_cuts_like_the_plain_one() -> None:
    """Words that begin alike, in all ways that they can, against an alternation."""
    source = random.Random(1)
    for _ in range(100):
        words = {"".join(source.choices("ab[-", k=source.randrange(1, 5))) for _ in range(source.randrange(1, 12))}
        plain = re.compile(rf"{pattern_of(words)}|[\s\S]")
        for _ in range(20):
            text = "".join(source.choices("ab[-c\n", k=20))
            assert finder(words)(text) == plain.findall(text), (words, text)


def test_every_tasks_texts_come_back(tasks: dict[str, Task], everything: Tokenizer) -> None:
    """By a vocabulary of its own words, and by one of all tasks'."""
    for name, task in tasks.items():
        own = of(task.words())
        for split in (Split.train, Split.val):
            for index in range(8):
                example = task.example(split, index)
                for text in (example.prompt, example.solution):
                    for tokenizer in (own, everything):
                        ids = tokenizer.encode(text)
                        assert tokenizer.decode(ids) == text, name
                        assert ids == ids_inside(tokenizer, text), name
                    assert len(own.encode(text)) <= len(text)


@pytest.mark.parametrize("text", ["the é", "é", "th\u200b", "then \x00", "t", "\ud800", f"{END}", "there\t"], ids=ascii)
def test_a_character_where_no_word_begins_is_named(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(UnknownTextError) as error, text_of("corpus=text"), text_of("task=graph"):
        tokenizer.encode(f"10 {text} 10")
    missing = next(character for character in finder(WORDS)(text) if character not in WORDS)
    assert repr(missing) in str(error.value) and "task=graph" in str(error.value)
    assert "corpus" not in str(error.value) and "\n" not in str(error.value)
    assert error.value.text[error.value.place] == missing


def test_where_an_unknown_character_stands_is_shown(tokenizer: Tokenizer) -> None:
    """Not where the same one is a part of a word."""
    with pytest.raises(UnknownTextError, match=r"token for 'e' \(in '.*1ex.*'\)"):
        tokenizer.encode("the" * 20 + "1ex")


def test_special_names_in_a_text_are_no_tokens(tasks: dict[str, Task]) -> None:
    tokenizer = of(["<", "|", ">", *"abcdefghijklmnopqrstuvwxyz-0123456789"])
    for name in SPECIALS:
        ids = tokenizer.encode(name)
        assert len(ids) == len(name) and min(ids) >= len(SPECIALS)
        assert tokenizer.decode([tokenizer.begin_id, *ids, tokenizer.end_id]) == name


def test_saves_and_reloads(tokenizer: Tokenizer, everything: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for written in (tokenizer, everything):
        path.write_text(written.to_json(), encoding="utf-8")
        again = Tokenizer.load(path)
        assert again.to_json() == written.to_json()
        assert again.words == written.words is not None  # found in Python, not by the slower object
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    again = Tokenizer.load(path)
    for text in some_texts():
        assert again.encode(text) == tokenizer.encode(text)


def test_another_expression_is_not_taken_for_the_words(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json().replace("there|", "", 1), encoding="utf-8")
    again = Tokenizer.load(path)
    assert again.words is None
    assert again.encode("then") == tokenizer.encode("then")
    with pytest.raises(UnknownTextError, match=r"no token for 're' \(in 'there'\)"):
        again.encode("there")


def test_words_too_long_for_python_are_found_all_the_same() -> None:
    tokenizer = of(["a" * (LONGEST + 1), "a", "b"])
    assert tokenizer.words is None
    assert len(tokenizer.encode("a" * (LONGEST + 2) + "b")) == 3


def test_words_of_one_character_make_a_word_tokenizer() -> None:
    """Whatever the characters are: text between them is not cut into characters by the object."""
    tokenizer = of([*" a\n1"])
    assert not tokenizer.of_characters and tokenizer.words is not None
    assert tokenizer.encode("a1\n ") == ids_inside(tokenizer, "a1\n ")


def test_transformers_reads_the_file(everything: Tokenizer, tasks: dict[str, Task], tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    path = tmp_path / "tokenizer.json"
    path.write_text(everything.to_json(), encoding="utf-8")
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token=PAD, bos_token=BEGIN, eos_token=END)
    for name in ("countdown", "graph", "math"):
        text = tasks[name].example(Split.train, 0).prompt
        ids = theirs.encode(text, add_special_tokens=False)
        assert ids == everything.encode(text)
        assert theirs.decode([*ids, 2], skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_no_words_is_one_line() -> None:
    for config in (WordConfig().check, WordConfig().build):
        with pytest.raises(ConfigError, match=r"no words.*tokenizer\.tasks") as error:
            config(Material())
        assert "\n" not in str(error.value)


def test_a_task_that_is_misspelt_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="countdwn, which is no task; did you mean countdown"):
        WordConfig(tasks=["graph", "countdwn"])
