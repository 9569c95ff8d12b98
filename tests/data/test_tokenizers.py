"""The character tokenizer: a fixed vocabulary, exact round trips, and the same ids as the `tokenizers` object."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from rlx.data.tokenizers.base import BEGIN, END, PAD, SPECIALS, Tokenizer
from rlx.data.tokenizers.char import CHARACTERS, CharConfig
from rlx.errors import CheckpointError, RunError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return CharConfig().build()


def some_texts() -> list[str]:
    source = random.Random(0)
    made = ["".join(source.choices(CHARACTERS, k=source.randrange(1, 60))) for _ in range(200)]
    return ["", " ", "\n", "  \n\n  a", CHARACTERS, "3 5 7 25 -> 40\n(25-5)*7", "<|", "|>", "<end>", *made]


def test_the_vocabulary_never_changes(tokenizer: Tokenizer) -> None:
    """Checkpoints travel between tasks because of it; a change here breaks every model that was saved."""
    assert tokenizer.vocab_size == 112
    assert (tokenizer.pad_id, tokenizer.begin_id, tokenizer.end_id) == (0, 1, 2)
    assert tokenizer.inner.token_to_id("<|turn|>") == 3
    assert [tokenizer.inner.token_to_id(f"<|spare-{n}|>") for n in (0, 11)] == [4, 15]
    assert tokenizer.encode("\n 09AZaz~") == [16, 17, 33, 42, 50, 75, 82, 107, 111]
    ordered = sorted(tokenizer.inner.get_vocab().items(), key=lambda item: item[1])
    assert [number for _, number in ordered] == list(range(112))
    digest = hashlib.sha256("\x00".join(text for text, _ in ordered).encode()).hexdigest()
    assert digest == "af26ccf9efb824d8aa6b34872b10a531cd53eb194c2149c51286c2fcb9673430"


def test_round_trips(tokenizer: Tokenizer) -> None:
    for text in some_texts():
        ids = tokenizer.encode(text)
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text


def test_ids_are_those_of_the_tokenizers_object(tokenizer: Tokenizer) -> None:
    for text in [*some_texts(), f"a{END}b", f"{PAD}{BEGIN}", "<|turn|>"]:
        inner = tokenizer.inner.encode(text, add_special_tokens=False)
        assert inner.ids == tokenizer.encode(text), text
        assert tokenizer.inner.decode(inner.ids) == text


def test_special_names_in_a_text_are_characters(tokenizer: Tokenizer) -> None:
    for name in SPECIALS:
        ids = tokenizer.encode(name)
        assert min(ids) >= len(SPECIALS) and len(ids) == len(name)
        assert tokenizer.decode(ids) == name


def test_special_tokens_decode_to_nothing(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ab")
    assert tokenizer.decode([1, ids[0], 0, 15, 3, ids[1], 2, 0]) == "ab"


@pytest.mark.parametrize("character", ["é", "\t", "\r", "\x00", "\u2212", "🙂", "\ud800"], ids=ascii)
def test_a_character_that_is_missing_is_named(tokenizer: Tokenizer, character: str) -> None:
    with pytest.raises(RunError) as error:
        tokenizer.encode(f"one {character} two\nthree")
    assert repr(character) in str(error.value)
    assert "\n" not in str(error.value)


def test_saves_and_reloads(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    again = Tokenizer.load(path)
    assert again.to_json() == tokenizer.to_json()
    assert again.inner.get_vocab() == tokenizer.inner.get_vocab()
    for text in [*some_texts(), f"a{END}b"]:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.inner.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_transformers_reads_the_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token=PAD, bos_token=BEGIN, eos_token=END)
    for text in some_texts():
        ids = theirs.encode(text, add_special_tokens=False)
        assert ids == tokenizer.encode(text)
        assert theirs.decode([*ids, 2], skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_files_that_are_no_tokenizer_are_one_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match=r"not a readable tokenizer\.json"):
        Tokenizer.load(path)
    path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"not a readable tokenizer\.json"):
        Tokenizer.load(path)
    description = json.loads(tokenizer.to_json())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] != END]
    del description["model"]["vocab"][END]
    path.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"lacks <\|end\|>"):
        Tokenizer.load(path)
