"""The byte-level BPE tokenizer: any text comes back, digits stay apart, and the same is learnt everywhere, once."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rlx.data.stored import cache_folder
from rlx.data.tokenizers.base import SPECIALS, Material, Tokenizer
from rlx.data.tokenizers.bpe import BpeConfig
from rlx.errors import ConfigError, RunError, UnknownTextError
from rlx.runs.identity import described
from tests.conftest import environment

WORDS = ["the", "apples", " then", " 25", "7", "\n", "x = ", "bought ", "three ", "é", "ing "]
HOSTILE = [
    "",
    " ",
    "\n\n \t",
    "3 5 7 25 -> 40\n(25-5)*7",
    "naïve café",
    "日本語",
    "🙂👩‍👩‍👧",
    "\x00\x01",
    "<|end|>",
    "\u200b",
]


def texts(seed: int = 0) -> Iterator[str]:
    source = random.Random(seed)
    for _ in count():
        yield "".join(source.choices(WORDS, k=12))


def material(seed: int = 0) -> Material:
    return Material(texts=lambda: texts(seed), identity=lambda: str(seed))


def of(seed: int = 0, **settings: Any) -> BpeConfig:
    return BpeConfig(**{"vocab_size": 320, "sample_characters": 20_000, **settings})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    return cache_folder("tokenizers")


@pytest.fixture
def tokenizer() -> Tokenizer:
    return of().build(material())


def test_any_text_comes_back(tokenizer: Tokenizer) -> None:
    source = random.Random(0)
    made = ["".join(chr(source.randrange(0xD800)) for _ in range(40)) for _ in range(50)]
    for text in [*HOSTILE, *made, next(texts())]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_specials_come_first_and_are_never_made_from_text(tokenizer: Tokenizer) -> None:
    assert [tokenizer.inner.token_to_id(name) for name in SPECIALS] == list(range(len(SPECIALS)))
    assert (tokenizer.pad_id, tokenizer.begin_id, tokenizer.end_id) == (0, 1, 2)
    for name in SPECIALS:
        ids = tokenizer.encode(name)
        assert min(ids) >= len(SPECIALS) and tokenizer.decode([1, *ids, 2]) == name
    assert tokenizer.special_ids == set(range(len(SPECIALS)))


def test_every_digit_is_a_token_and_no_blank_is_joined_to_it(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.decode([number]) for number in tokenizer.encode("the 25 7 2525")]
    assert pieces[-10:] == [" ", "2", "5", " ", "7", " ", "2", "5", "2", "5"]
    whole = [tokenizer.decode([n]) for n in range(len(SPECIALS), tokenizer.vocab_size)]
    assert all(len(text) == 1 for text in whole if any(character.isdigit() for character in text))


def test_words_that_are_seen_often_are_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("apples")) == 1 and len(tokenizer.encode("zqxjkv")) == 6


def test_ids_are_those_of_the_tokenizers_library(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Of a tokenizer.json that is read by it alone."""
    from tokenizers import Tokenizer as Inner

    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    plain, again = Inner.from_file(str(path)), Tokenizer.load(path)
    for text in [*HOSTILE[:-2], next(texts(3))]:
        assert again.encode(text) == plain.encode(text).ids == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == text


def test_its_merges_are_those_of_pairs_counted_by_hand() -> None:
    """Each merge is of the pair that is there most often after those before it."""
    tokenizer = of(vocab_size=274).build(Material(texts=lambda: iter(["ababab ab cd"] * 3), identity=lambda: "ab"))
    assert json.loads(tokenizer.to_json())["model"]["merges"] == [["a", "b"], ["ab", "ab"]]


def test_a_pair_that_is_seen_once_is_not_merged_and_the_vocabulary_may_stay_small() -> None:
    found = of(vocab_size=4096).build(Material(texts=lambda: iter(["abc 12", "ab"]), identity=lambda: "few"))
    assert found.vocab_size == len(SPECIALS) + 256 + 1


def test_another_process_learns_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    script = (
        "import hashlib; from tests.data.test_bpe import material, of;"
        "print(hashlib.sha256(of().build(material()).to_json().encode()).hexdigest())"
    )
    made = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(RLX_CACHE=str(tmp_path / "another"), PYTHONHASHSEED="7", RAYON_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.splitlines()[-1] == hashlib.sha256(tokenizer.to_json().encode()).hexdigest()


def test_no_more_is_read_than_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    read = []

    def counted() -> Iterator[str]:
        for text in texts():
            read.append(len(text))
            yield text

    of(sample_characters=1000).build(Material(texts=counted, identity=lambda: "counted"))
    assert sum(read[1:-1]) < 1000 <= sum(read)  # the first was drawn once more, to see whether there is any
    assert "learnt from 0.0M characters" in capsys.readouterr().out


def test_the_last_text_is_cut_where_reading_ends() -> None:
    """A text of all that there is, and one that goes on, teach the same."""
    short = of(sample_characters=8).build(Material(texts=lambda: iter(["abababab"]), identity=lambda: "short"))
    long = of(sample_characters=8).build(Material(texts=lambda: iter(["abababab" + "cd" * 9]), identity=lambda: "long"))
    assert short.to_json() == long.to_json()


def test_what_was_learnt_is_kept_and_said_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = of().build(material())
    assert capsys.readouterr().out == "tokenizer: 320 tokens learnt from 0.0M characters in 0 s\n"
    again = of().build(Material(texts=unread, identity=lambda: "0"))
    assert again.to_json() == first.to_json() and capsys.readouterr().out == ""
    assert len(list(cache.iterdir())) == 1


def unread() -> Iterator[str]:
    raise AssertionError("it was kept")


@pytest.mark.parametrize("change", [{"vocab_size": 300}, {"sample_characters": 500}], ids=str)
def test_other_settings_are_learnt_apart(cache: Path, change: dict[str, Any]) -> None:
    of().build(material())
    of(**change).build(material())
    assert len(list(cache.iterdir())) == 2


def test_other_texts_and_another_version_are_learnt_apart(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of().build(material())
    of().build(material(1))
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr("tokenizers.__version__", "0.0.1")
    of().build(material())
    assert len(list(cache.iterdir())) == 3


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "a changed merge": lambda text: text.replace("apples", "applez"),
    "no object": lambda text: "[]",
    "no text": lambda text: '{"sha256": "", "text": null}',
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_made_again(cache: Path, damage: Callable[[str], str]) -> None:
    first = of().build(material())
    (path,) = cache.iterdir()
    whole = path.read_text()
    path.write_text(damage(whole))
    assert path.read_text() != whole
    assert of().build(material()).to_json() == first.to_json()
    assert path.read_text() == whole and [each.name for each in cache.iterdir()] == [path.name]


def test_it_is_learnt_from_a_file_by_content(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"answer": "apples apples"}) + "\n" for _ in range(9)))
    config = of(path=str(path), column="answer")
    first = config.build(Material())
    assert len(first.encode("apples")) == 1
    moved = tmp_path / "moved.jsonl"
    path.rename(moved)
    assert of(path=str(moved), column="answer").build(Material(texts=unread)).to_json() == first.to_json()
    moved.write_text(moved.read_text().replace("apples", "pears"))
    assert len(of(path=str(moved), column="answer").build(Material()).encode("pears")) == 1
    assert len(list(cache.iterdir())) == 2


def test_of_several_splits_train_is_read(tmp_path: Path) -> None:
    for split, word in (("test", "pears"), ("train", "apples")):
        (tmp_path / f"{split}.jsonl").write_text((json.dumps({"text": f"{word} {word}"}) + "\n") * 9)
    found = of(path=str(tmp_path)).build()
    assert len(found.encode("apples")) == 1 < len(found.encode("pears"))


def test_rows_without_the_column_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "n": 3}\n')
    for column in ("text", "n"):
        with pytest.raises(ConfigError, match=rf"row 1 has no text in tokenizer\.column={column}; .* question, n"):
            of(path=str(path), column=column).check(Material())


def test_no_text_is_one_line(tmp_path: Path) -> None:
    for make in (of().check, of().build):
        with pytest.raises(ConfigError, match="no text to learn from"):
            make(Material())


def test_settings_that_make_no_sense_are_one_line() -> None:
    wrong = ({"vocab_size": 271}, "at least 272"), ({"vocab_size": 10**20}, "at most"), ({"sample_characters": 0}, "1")
    for settings, message in wrong:
        with pytest.raises(ConfigError, match=message):
            of(**settings)


def test_half_of_a_surrogate_pair_is_named_and_teaches_nothing(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnknownTextError, match=r"'\\ud800'"):
        tokenizer.encode("a\ud800b")
    found = of().build(Material(texts=lambda: iter(["ab\ud800ab"] * 9), identity=lambda: "half"))
    assert len(found.encode("abab")) == 1


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"cannot be written.*RLX_CACHE"):
        of().build(material())


def test_it_is_learnt_from_a_text(tmp_path: Path, cache: Path) -> None:
    """What the file is read as counts: the same bytes are rows where the name says so."""
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_text('{"text": "pears and pears"}\n' * 3)
    text, rows = (of(path=str(tmp_path / name)).build() for name in ("a.txt", "a.jsonl"))
    assert len(text.encode('{"')) == 1 < len(rows.encode('{"'))
    seen = [described(of(path=str(tmp_path / name))) for name in ("a.txt", "a.jsonl")]
    assert seen[0] != seen[1]
