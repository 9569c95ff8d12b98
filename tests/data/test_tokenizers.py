"""The character tokenizer: a fixed vocabulary, exact round trips, and the same ids as the `tokenizers` object; and
tokenizers that others saved: their ids, and which of their tokens pad, begin and end.
"""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from rlx.data.documents import document_of
from rlx.data.tokenizers.base import BEGIN, END, PAD, SPECIALS, TOKENS, Tokenizer, named_tokens
from rlx.data.tokenizers.char import CHARACTERS, CharConfig
from rlx.errors import CheckpointError, RunError
from rlx.types import Example
from tests.models.foreign import a_tokenizer


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


EOS = {"eos_token": "<|endoftext|>"}


def foreign(folder: Path, size: int = 300, **names: Any) -> tuple[Tokenizer, Any]:
    """Our reading of a tokenizer that transformers saved, and theirs."""
    theirs = a_tokenizer(**names)
    theirs.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    return Tokenizer.load_foreign(folder / "tokenizer.json", [settings], size), theirs


def test_ids_and_texts_are_those_of_a_tokenizer_that_was_saved(tmp_path: Path) -> None:
    ours, theirs = foreign(tmp_path)
    for text in [*some_texts(), "é 🙂\t", "25 -> 40", " 25"]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False, split_special_tokens=True), text
        assert ours.decode(ids) == text
    assert len(ours.encode("25 -> 40")) < 8  # it has merges
    assert len(ours.encode("<|im_end|>")) > 1 and ours.decode(ours.encode("<|im_end|>")) == "<|im_end|>"


def test_ids_without_a_token_are_special(tmp_path: Path) -> None:
    """Models are padded to a round number of rows."""
    ours, _ = foreign(tmp_path, size=300)
    own = ours.inner.get_vocab_size()
    assert own == 270 and ours.vocab_size == 300
    assert ours.special_ids == {0, 1, *range(270, 300)}
    ids = ours.encode("3 5")
    assert ours.decode([0, *ids[:1], 299, *ids[1:], 270, 1]) == "3 5"
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has 270 tokens, the model 269"):
        Tokenizer.load_foreign(tmp_path / "tokenizer.json", [EOS], 269)


def test_a_saved_tokenizer_neither_cuts_nor_pads(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Inner

    _, theirs = foreign(tmp_path)
    path = tmp_path / "tokenizer.json"
    inner: Any = Inner.from_file(str(path))
    inner.enable_truncation(4)
    inner.enable_padding(length=8)
    inner.save(str(path))
    ours = Tokenizer.load_foreign(path, [EOS], 300)
    text = "3 5 7 25 -> 40\n"
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert ours.encode("3") == theirs.encode("3", add_special_tokens=False)


def test_what_a_saved_tokenizer_adds_is_left_out(tmp_path: Path) -> None:
    """Documents get their marks from rlx, once."""
    from tokenizers import processors

    ours, _ = foreign(tmp_path)
    plain = ours.encode("3 5")
    ours.inner.post_processor = processors.TemplateProcessing("<|endoftext|> $A", None, [("<|endoftext|>", 0)])
    assert ours.encode("3 5") == plain


NAMED: dict[str, tuple[list[dict[str, Any]], tuple[str, str, str]]] = {
    "all three": (
        [{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}], ("<pad>", "<s>", "</s>")
    ),
    "no begin mark": ([{"eos_token": "</s>", "pad_token": "<pad>"}], ("<pad>", "</s>", "</s>")),
    "no padding": ([{"bos_token": "<s>", "eos_token": "</s>"}], ("</s>", "<s>", "</s>")),
    "null, then elsewhere": (
        [{"bos_token": None, "eos_token": "</s>"}, {"bos_token": "<s>", "eos_token": "<pad>"}], ("</s>", "<s>", "</s>")
    ),
    "with their flags": ([{"eos_token": {"content": "</s>", "lstrip": False}}], ("</s>", "</s>", "</s>")),
    "by ids": ([{}, {"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 0}], ("<pad>", "<s>", "</s>")),
    "ids of another tokenizer": (
        [{"eos_token": "</s>"}, {"bos_token_id": 3, "pad_token_id": 99}], ("</s>", "</s>", "</s>")
    ),
    "a name that is not there": ([{"eos_token": "<|eot|>", "eos_token_id": 2}], ("</s>", "</s>", "</s>")),
}  # fmt: skip


def with_specials() -> Any:
    from tokenizers import AddedToken, models
    from tokenizers import Tokenizer as Inner

    inner: Any = Inner(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}, unk_token="<s>"))
    inner.add_special_tokens([AddedToken(text, special=True) for text in ("<pad>", "<s>", "</s>")])
    return inner


@pytest.mark.parametrize(("settings", "expected"), NAMED.values(), ids=NAMED)
def test_which_tokens_pad_begin_and_end(settings: list[dict[str, Any]], expected: tuple[str, str, str]) -> None:
    found = named_tokens(with_specials(), settings, Path("here"))
    assert (found["pad"], found["begin"], found["end"]) == expected


@pytest.mark.parametrize("settings", [[], [{"eos_token": None}], [{"eos_token": "nowhere"}], [{"eos_token_id": 3}]])
def test_an_end_mark_is_needed(settings: list[dict[str, Any]]) -> None:
    with pytest.raises(CheckpointError, match=r"some/tokenizer\.json: .*eos_token") as error:
        named_tokens(with_specials(), settings, Path("some/tokenizer.json"))
    assert "\n" not in str(error.value)


def test_documents_without_a_begin_mark_begin_with_the_end_mark(tmp_path: Path) -> None:
    ours, _ = foreign(tmp_path, **EOS)
    assert ours.pad_id == ours.begin_id == ours.end_id == 0
    document = document_of(Example("x", "2+2=", "4", truth=4), ours, whole=True)
    assert document.ids == [0, *ours.encode("2+2="), *ours.encode("4"), 0] and document.given == 1


def test_our_folders_say_which_tokens(tmp_path: Path) -> None:
    ours, _ = foreign(tmp_path, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    assert ours.tokens == {"pad": "<|endoftext|>", "begin": "<|im_end|>", "end": "<|im_end|>"}
    path = tmp_path / "again.json"
    path.write_text(ours.to_json(), encoding="utf-8")
    again = Tokenizer.load(path, ours.tokens, 300)
    assert (again.to_json(), again.tokens, again.vocab_size) == (ours.to_json(), ours.tokens, 300)
    assert (again.pad_id, again.begin_id, again.end_id) == (0, 1, 1)
    with pytest.raises(CheckpointError, match=r"lacks <\|pad\|>"):
        Tokenizer.load(path)
    for tokens in ({"pad": "a"}, {**TOKENS, "end": 3}, "all", []):
        with pytest.raises(CheckpointError, match=r"config\.json has tokens .*expected names") as error:
            Tokenizer.load(path, tokens)
        assert "\n" not in str(error.value)


def test_bytes_and_words_are_not_taken_for_characters(tmp_path: Path) -> None:
    """A vocabulary of single characters alone does not make a character tokenizer."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    letters = {letter: n for n, letter in enumerate(["<end>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner: Any = Inner(models.BPE(vocab=letters, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    spoken = dict.fromkeys(TOKENS, "<end>")
    assert Tokenizer(inner, spoken).decode(Tokenizer(inner, spoken).encode("a é")) == "a é"
    inner = Inner(models.WordLevel(letters, unk_token="<unk>"))
    inner.add_special_tokens(["<end>", "<unk>"])
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    assert Tokenizer(inner, spoken).encode("a  b") == [letters["a"], letters["b"]]
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.WordPiece()
    assert Tokenizer(inner, spoken).decode([letters["a"], letters["b"]]) == "a b"
    inner.decoder, inner.normalizer = decoders.Fuse(), normalizers.Lowercase()
    assert Tokenizer(inner, spoken).encode("A") == [letters["a"]]


def test_text_that_a_saved_tokenizer_lacks_is_named() -> None:
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, pre_tokenizers

    inner: Any = Inner(models.WordLevel({"<unk>": 0, "two": 1, "</s>": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(inner, dict.fromkeys(TOKENS, "</s>"))
    assert tokenizer.encode("two two") == [1, 1]
    assert tokenizer.decode([1, 2, 1]) == "two two"  # a mark decodes to nothing, whether it is flagged or not
    with pytest.raises(RunError, match=r"no token for 'three' \(in 'two three'\)"):
        tokenizer.encode("two three")
