"""Tokens added to a tokenizer: what is missing, after what there is, and nothing else changed."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex

from rlx.data.corpora.mixture import MixtureConfig
from rlx.data.corpora.task import TaskCorpusConfig
from rlx.data.tokenizers.base import Material, Tokenizer
from rlx.data.tokenizers.bpe import BpeConfig
from rlx.data.tokenizers.char import CHARACTERS, CharConfig
from rlx.data.tokenizers.extension import cut_anew, extended, missing
from rlx.data.tokenizers.word import WordConfig
from rlx.errors import ConfigError
from rlx.tasks.copy import CopyConfig
from rlx.types import Split
from tests.models.foreign import a_tokenizer


def of(*words: str) -> Tokenizer:
    return WordConfig().build(Material(words=lambda: words))


def reading(*texts: str, words: tuple[str, ...] = ()) -> Material:
    return Material(
        words=lambda: words, texts=lambda: iter(texts), all_texts=lambda: iter(texts), identity=lambda: repr(texts)
    )


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    return sorted(vocab := tokenizer.inner.get_vocab(), key=lambda name: vocab[name])


def same_inside(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids == tokenizer.inner.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text


def test_characters_of_words_and_texts_come_after_the_old_ones(tmp_path: Path) -> None:
    plain, material = CharConfig().build(), reading("abc", "naïve\tcafé", words=("über", "ab"))
    assert missing(plain, material) == ["\t", "é", "ï", "ü"]
    found = extended(plain, missing(plain, material))
    assert vocabulary(found) == [*vocabulary(plain), "\t", "é", "ï", "ü"] and found.vocab_size == 116
    for text in ("über naïve\tcafés", CHARACTERS):
        same_inside(found, text)
    assert found.encode(CHARACTERS) == plain.encode(CHARACTERS)
    path = tmp_path / "tokenizer.json"
    path.write_text(found.to_json(), encoding="utf-8")
    again = Tokenizer.load(path)
    assert again.of_characters and again.encode("ü\té") == found.encode("ü\té")
    assert missing(again, material) == []


def test_words_are_added_whole_and_found_in_texts(tmp_path: Path) -> None:
    plain = of("the", "1", "0", " ")
    material = reading("there 10é", words=("there", "10", "the"))
    assert missing(plain, material) == ["10", "there", "é"]
    found = extended(plain, missing(plain, material))
    assert vocabulary(found) == [*vocabulary(plain), "10", "there", "é"]
    for text in ("there the10 1é 01", "the"):
        same_inside(found, text)
    assert [vocabulary(found)[n] for n in found.encode("there10 1")] == ["there", "10", " ", "1"]
    path = tmp_path / "tokenizer.json"
    path.write_text(found.to_json(), encoding="utf-8")
    again = Tokenizer.load(path)
    assert again.words == found.words is not None and not again.of_characters
    assert missing(again, material) == []


def test_words_of_one_character_get_words() -> None:
    """Their tokenizer is one of words, though a token is a character."""
    plain = of(*" a\n1")
    found = extended(plain, missing(plain, reading(words=("aa1",))))
    assert vocabulary(found)[-1] == "aa1" and len(found.encode("aa1 a")) == 3
    same_inside(found, "aa1 a\n1a")


def test_words_that_were_several_tokens_are_told() -> None:
    plain = of("the", "1", "0", "t")
    assert cut_anew(plain, ["10", "ten", "tthe", "é"]) == ["10", "tthe"]
    assert cut_anew(CharConfig().build(), ["é"]) == []


def test_a_tokenizer_that_lacks_nothing_stays() -> None:
    plain = CharConfig().build()
    assert missing(plain, reading("abc", words=("ab",))) == []
    assert extended(plain, []) is plain


def test_new_ids_come_after_rows_that_no_token_has() -> None:
    plain = CharConfig().build()
    padded = Tokenizer(plain.inner, size=128)
    found = extended(padded, ["é"])
    assert found.encode("aé") == [plain.encode("a")[0], 128] and found.vocab_size == 129
    assert found.decode([127, 128]) == "é"


def test_what_comes_late_and_what_is_held_out_are_found() -> None:
    def texts():
        yield from itertools.repeat("abc" * 1000, 1000)
        yield "é"

    assert missing(CharConfig().build(), Material(all_texts=texts)) == ["é"]


def test_all_texts_are_those_of_all_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files everything, of a task without end some of each split, of a mixture those of its sources."""
    (tmp_path / "a.txt").write_text("".join(f"{chr(0x4E00 + number)} line\n" for number in range(400)))
    text = {"path": str(tmp_path / "a.txt"), "settings": {"lines": True}, "weight": 1}
    config = MixtureConfig(sources={"a": {"task": "copy", "weight": 1}, "b": text})
    found = list(config.all_texts(None))
    assert {chr(0x4E00 + number) for number in range(400)} <= set("".join(found))
    assert len(found) == 400 + 3 * 256
    monkeypatch.setattr("rlx.data.corpora.task.MANY", 30)
    bounded = CopyConfig(train_examples=50, val_examples=10, test_examples=20).build()
    texts = list(TaskCorpusConfig().all_texts(bounded))
    assert len(texts) == 30 + 10 + 20
    example = bounded.example(Split.test, 19)
    assert texts[-1] == example.prompt + example.solution


def test_half_of_a_surrogate_pair_is_no_token() -> None:
    assert missing(CharConfig().build(), reading("a\ud800é")) == ["é"]


def test_a_tokenizer_of_bytes_lacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLX_CACHE", str(tmp_path))
    plain = BpeConfig(extend=True).build(reading("abab"))
    assert missing(plain, reading("日本")) == [] and extended(plain, []) is plain


def test_others_cannot_be_extended() -> None:
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, pre_tokenizers

    inner: Any = Inner(models.WordLevel({"<unk>": 0, "</s>": 1, "two": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(inner, dict.fromkeys(("pad", "begin", "end"), "</s>"))
    for call in (lambda: missing(tokenizer, reading("two")), lambda: extended(tokenizer, ["three"])):
        with pytest.raises(ConfigError, match=r"tokenizer\.extend=true adds tokens to tokenizer=char"):
            call()


def test_a_byte_level_one_of_others_lacks_nothing_if_it_has_all_bytes(tmp_path: Path) -> None:
    a_tokenizer().save_pretrained(tmp_path)
    settings = [{"eos_token": "<|endoftext|>"}]
    tokenizer = Tokenizer.load_foreign(tmp_path / "tokenizer.json", settings, 300)
    assert missing(tokenizer, reading("日本")) == []


def test_marks_of_others_stay_marks() -> None:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    inner: Any = Inner(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    inner.add_special_tokens(["<unk>", "</s>"])
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    plain = Tokenizer(inner, dict.fromkeys(("pad", "begin", "end"), "</s>"))
    found = extended(plain, missing(plain, reading("ab")))
    assert found.tokens == plain.tokens and found.end_id == 1 and found.encode("ba") == [3, 2]


def test_one_that_has_not_all_bytes_cannot_be_extended() -> None:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    letters = {letter: n for n, letter in enumerate(["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())[:-1]])}
    inner: Any = Inner(models.BPE(vocab=letters, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    with pytest.raises(ConfigError, match="the checkpoint's is neither"):
        missing(Tokenizer(inner, dict.fromkeys(("pad", "begin", "end"), "</s>")), reading("a"))


def test_fresh_ones_are_extended_as_they_are_built() -> None:
    material = reading("é 1", words=("1",))
    assert vocabulary(CharConfig(extend=True).build(material))[112:] == ["é"]
    assert vocabulary(WordConfig(extend=True).build(material))[16:] == ["1", " ", "é"]
    assert CharConfig().build(material).vocab_size == 112
