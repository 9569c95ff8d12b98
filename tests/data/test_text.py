"""corpus=text: every token of every text once, in documents that fit, from a cache that is made once."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Inner

from rlx.data.corpora import text as module
from rlx.data.corpora.mixture import MixtureConfig
from rlx.data.corpora.text import TextCorpus, TextCorpusConfig
from rlx.data.packing import Packer
from rlx.data.tokenizers.base import END, SPECIALS, Tokenizer
from rlx.data.tokenizers.char import CharConfig
from rlx.errors import ConfigError, RunError
from rlx.runs.identity import described
from rlx.types import Split

WORDS = ("one", "two", "three", "for", "in", "return", "self", "def", "class", "value", "left", "right", "of", "to")


def text_of(number: int) -> str:
    """A text of 1 to 300 words, some of them special."""
    words = [WORDS[(number * 31 + place * place) % len(WORDS)] for place in range(1 + number * 37 % 300)]
    return " ".join(words) + (f" {END}é\n" if number % 10 == 0 else f" {number}\n")


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator(map(text_of, range(50)), trainer)
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return Tokenizer(inner)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "a.jsonl"
    found.write_text("".join(json.dumps({"text": text_of(number)}) + "\n" for number in range(300)))
    return found


def built(config: TextCorpusConfig, tokenizer: Tokenizer, split: Split = Split.train, *key: object) -> TextCorpus:
    return config.build(None, tokenizer, split=split, whole=True, key=key or (0, "pretrain", 0))


def pieces(corpus: TextCorpus) -> list[list[int]]:
    """An epoch's documents in the order of the source."""
    return [corpus.store[number].ids for number in range(corpus.size)]


@pytest.mark.parametrize("size", [3, 64, 10_000])
def test_every_token_of_every_text_is_in_one_document(bpe: Tokenizer, cache: Path, path: Path, size: int) -> None:
    config = TextCorpusConfig(path=str(path), max_tokens=size)
    expected = []
    for text in config.texts(None):
        ids = bpe.inner.encode(text, add_special_tokens=False).ids
        expected += [*ids, bpe.end_id]
    found = pieces(built(config, bpe))
    assert all(piece[0] == bpe.begin_id and 2 <= len(piece) <= size for piece in found)
    assert [number for piece in found for number in piece[1:]] == expected
    assert bpe.begin_id not in expected and expected.count(bpe.end_id) == len(list(config.texts(None)))
    short = [piece for piece in found if len(piece) < size]
    assert all(piece[-1] == bpe.end_id for piece in short), "only a text's last document is shorter"


def test_nothing_is_a_prompt(bpe: Tokenizer, cache: Path, path: Path) -> None:
    config = TextCorpusConfig(path=str(path))
    for whole in (True, False):
        corpus = config.build(None, bpe, split=Split.val, whole=whole, key=())
        assert {corpus.document(place).given for place in range(corpus.size)} == {1}


def test_all_at_once_is_as_one_by_one(bpe: Tokenizer) -> None:
    """Names of special tokens are text."""
    texts = [*map(text_of, range(30)), "", END, f"a{END}b", "±½ 中"]
    found = bpe.encode_all(texts)
    assert found == [bpe.encode(text) for text in texts]
    assert [bpe.decode(ids) for ids in found] == texts
    char = CharConfig().build()
    assert char.encode_all(["ab", "", END]) == [char.encode("ab"), [], char.encode(END)]


def test_a_character_that_is_unknown_is_named(path: Path, cache: Path) -> None:
    with pytest.raises(RunError, match="no token for 'é'"):
        built(TextCorpusConfig(path=str(path)), CharConfig().build())
    assert not list(cache.iterdir())
    inner = Inner(models.BPE({"a": 0, "?": 1, **{name: 2 + n for n, name in enumerate(SPECIALS)}}, [], unk_token="?"))
    with pytest.raises(RunError, match="no token for 'b'"):
        Tokenizer(inner).encode_all(["a", "ab"])


def test_a_book_ends_once(bpe: Tokenizer, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("".join(text_of(number) for number in range(1, 300) if number % 10))
    config = TextCorpusConfig(path=str(tmp_path / "book.txt"), max_tokens=100_000)
    found = [piece for split in Split for piece in pieces(built(config, bpe, split))]
    assert sum(piece.count(bpe.end_id) for piece in found) == 1
    numbers = re.findall(r"\d+", " ".join(bpe.decode(piece) for piece in found))
    assert sorted(map(int, numbers)) == [number for number in range(1, 300) if number % 10]


def test_train_is_walked_in_epochs_and_val_round_and_round(bpe: Tokenizer, cache: Path, path: Path) -> None:
    config = TextCorpusConfig(path=str(path), max_tokens=50)
    corpus = built(config, bpe)
    first, second = ([corpus.document(n + epoch * corpus.size).ids for n in range(corpus.size)] for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second) == sorted(pieces(corpus))
    assert [built(config, bpe).document(n).ids for n in range(9)] == first[:9]
    assert [built(config, bpe, Split.train, 1, "pretrain", 0).document(n).ids for n in range(9)] != first[:9]
    held_out = built(config, bpe, Split.val, 7)
    found = [held_out.document(n).ids for n in range(2 * held_out.size)]
    assert found == 2 * pieces(held_out)


def test_the_first_texts_of_train_alone(bpe: Tokenizer, cache: Path, path: Path) -> None:
    whole, some = TextCorpusConfig(path=str(path)), TextCorpusConfig(path=str(path), train_texts=20)
    assert list(some.texts(None)) == list(whole.texts(None))[:20]
    found, expected = pieces(built(some, bpe)), pieces(built(whole, bpe))
    assert sum(piece[-1] == bpe.end_id for piece in found) == 20 and found == expected[: len(found)]
    one = TextCorpusConfig(path=str(path), train_texts=1)
    held_out = pieces(built(whole, bpe, Split.val))
    assert pieces(built(some, bpe, Split.val)) == pieces(built(one, bpe, Split.val)) == held_out
    assert len(list(one.passages(Split.val))) > 1


def test_tokens_are_made_once_and_again_where_they_are_gone(
    bpe: Tokenizer, cache: Path, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TextCorpusConfig(path=str(path))
    first = pieces(built(config, bpe))
    total = sum(map(len, config.texts(None)))
    said = capsys.readouterr().out
    assert "reading train of" in said and f"{total}/{total}" in said and "0s left" in said
    (folder,) = cache.iterdir()
    monkeypatch.setattr(Tokenizer, "encode_all", None)
    assert pieces(built(config, bpe, Split.train, 5)) == first
    moved = path.rename(path.with_name("b.jsonl"))
    assert pieces(built(TextCorpusConfig(path=str(moved)), bpe)) == first
    assert not capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setenv("RLX_CACHE", str(cache.parent))
    shutil.rmtree(folder)
    assert pieces(built(TextCorpusConfig(path=str(moved)), bpe)) == first and list(cache.iterdir()) == [folder]


def test_what_makes_other_tokens_has_a_place_of_its_own(bpe: Tokenizer, cache: Path, path: Path) -> None:
    def places(tokenizer: Tokenizer = bpe, split: Split = Split.train, **more: object) -> set[Path]:
        built(TextCorpusConfig(path=str(path), **more), tokenizer, split)  # type: ignore[arg-type]
        return set(cache.iterdir())

    found = [places(), places(max_tokens=50), places(train_texts=9), places(split=Split.val), places(held_out=9)]
    foreign = Tokenizer(Inner.from_str(bpe.to_json()), {"pad": END, "begin": END, "end": END})
    found.append(places(foreign))
    path.write_text(path.read_text() + '{"text": "more"}\n')
    found.append(places())
    assert [len(each) for each in found] == [1, 2, 3, 4, 5, 6, 7]
    assert len(places(split=Split.val, train_texts=9)) == 8 and len(places(split=Split.val)) == 8


def test_a_damaged_cache_is_one_line(bpe: Tokenizer, cache: Path, path: Path) -> None:
    config = TextCorpusConfig(path=str(path))
    built(config, bpe)
    (ids,) = cache.glob("*/ids.u16")
    ids.write_bytes(ids.read_bytes()[:-10])
    with pytest.raises(RunError, match="is damaged: it is shorter than it says; remove it, and it is made again"):
        built(config, bpe)


def test_memory_is_bounded_by_chunks(bpe: Tokenizer, cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pieces(built(TextCorpusConfig(path=str(path)), bpe))
    shutil.rmtree(cache)
    sizes = []
    encode = Tokenizer.encode_all

    def watched(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        sizes.append(sum(map(len, texts)))
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_all", watched)
    monkeypatch.setattr(module, "CHUNK", 1000)
    assert pieces(built(TextCorpusConfig(path=str(path)), bpe)) == whole
    assert len(sizes) > 20 and min(sizes[:-1]) >= 1000 and max(sizes) < 1000 + max(len(text_of(n)) for n in range(300))


def test_files_that_are_left_out_are_named(
    bpe: Tokenizer, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(150):
        (tmp_path / f"{number:03}.txt").write_text(text_of(number))
    for number in range(4):
        (tmp_path / f"{number}.txt").write_bytes(b"\xe9")
    config = TextCorpusConfig(path=str(tmp_path), exclude=["cache"])
    built(config, bpe)
    line = "  corpus: 4 files left out, not UTF-8: 0.txt, 1.txt, 2.txt, ...\n"
    assert capsys.readouterr().out.count(line) == 1
    built(config, bpe)
    built(config, bpe, Split.val)
    assert line not in capsys.readouterr().out, "once in a process"
    module._told.clear()
    built(config, bpe)
    assert capsys.readouterr().out == line, "what lies in the cache says so too"


def test_a_sample_has_lengths_of_train_and_makes_nothing(bpe: Tokenizer, cache: Path, path: Path) -> None:
    config = TextCorpusConfig(path=str(path), max_tokens=64)
    found = [document.ids for document in config.sample(None, bpe, split=Split.train, count=40)]
    assert not cache.exists()
    assert found == pieces(built(config, bpe))[:40]
    few = TextCorpusConfig(path=str(path), train_texts=2).sample(None, bpe, split=Split.train, count=5)
    assert len(few) == 5 and few[0] == few[2] != few[1]


def test_wrong_settings_are_one_line(bpe: Tokenizer, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.max_tokens must be at least 3, got 2; try"):
        TextCorpusConfig(max_tokens=2)
    with pytest.raises(ConfigError, match=r"corpus\.held_out must be at least 3, got 2"):
        TextCorpusConfig(held_out=2)
    with pytest.raises(ConfigError, match=r"corpus\.train_texts must be at least 1, got 0"):
        TextCorpusConfig(train_texts=0)
    for use in (lambda c: c.check(None), lambda c: built(c, bpe), lambda c: list(c.texts(None))):
        with pytest.raises(ConfigError, match=r"corpus=text needs corpus\.path="):
            use(TextCorpusConfig())
    (tmp_path / "train.txt").write_text("a")
    (tmp_path / "val.txt").write_text(" \n")
    config = TextCorpusConfig(path=str(tmp_path), exclude=["cache"])
    for use in (lambda: config.check(None), lambda: built(config, bpe, Split.val)):
        with pytest.raises(ConfigError, match="has no texts in val: all are blank, or there is none"):
            use()
    assert built(config, bpe).document(0) and not built(config, bpe, Split.test).size
    assert built(config, bpe).example(0) is None
    assert not config.words(None) and not config.names() and not config.needs_task()


def test_rows_are_packed_full(bpe: Tokenizer, cache: Path, path: Path) -> None:
    corpus = built(TextCorpusConfig(path=str(path), max_tokens=64), bpe)
    packer = Packer(corpus.document, rows=8, length=64, pad_id=bpe.pad_id)
    filled = torch.cat([packer.next().documents >= 0 for _ in range(20)]).float().mean()
    assert filled > 0.95


def test_a_source_of_a_mixture(bpe: Tokenizer, cache: Path, path: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.md").write_text("".join(text_of(number) for number in range(60)))
    sources = {
        "a": {"path": str(path), "weight": 1, "max_tokens": 64},
        "b": {"path": str(tmp_path / "more"), "weight": 1, "settings": {"pattern": "*.md", "exclude": ["x"]}},
    }
    mixture = MixtureConfig(sources=sources)
    mixture.check(None)
    corpus = mixture.build(None, bpe, split=Split.train, whole=True, key=(0,))
    documents = [corpus.document(place) for place in range(1000)]
    tokens = [sum(len(each.ids) for each in documents if each.source == source) for source in (0, 1)]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.1)
    first = described(mixture)
    (tmp_path / "more" / "b.txt").write_text("not read")
    assert described(mixture) == first
    (tmp_path / "more" / "b.md").write_text("read")
    assert described(mixture) != first


def test_what_datasets_saved(bpe: Tokenizer, cache: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"body": [text_of(number) for number in range(200)]})
    held = datasets.Dataset.from_dict({"body": ["held out"]})
    datasets.DatasetDict(train=made, validation=held).save_to_disk(str(tmp_path / "saved"))
    config = TextCorpusConfig(path=str(tmp_path / "saved"), column="body")
    assert [bpe.decode(piece) for piece in pieces(built(config, bpe, Split.val))] == ["held out"]
    assert len(list(config.texts(None))) > 150
    with pytest.raises(ConfigError, match="is no folder of files; leave out pattern and exclude"):
        TextCorpusConfig(path=str(tmp_path / "saved"), column="body", pattern="*.txt").check(None)
