"""What is trained on and what is held out: whole texts of many, blocks of few, on one side each."""

import json
import re
from pathlib import Path

import pytest

from rlx.data import passages as module
from rlx.data.passages import BLOCK, FEW, Source, cut
from rlx.errors import ConfigError
from rlx.rows import Files
from rlx.types import Split

WORDS = ("river", "stone", "under", "seven", "light")


def text_of(number: int, size: int = 20) -> str:
    return " ".join(WORDS[(number * 7 + place * number + place) % 5] for place in range(size)) + f" {number}."


def source_of(path: Path, texts: list[str], **more: object) -> Source:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return at(path, **more)


def at(path: Path, column: str = "text", lines: bool = False, share: int = 64) -> Source:
    return Source(str(path), Files(), column, lines, share)


def texts(source: Source, split: Split) -> list[str]:
    return [passage.text for passage in source.passages(split)]


def test_whole_texts_of_many_are_divided(tmp_path: Path) -> None:
    made = [text_of(number) for number in range(3000)]
    source = source_of(tmp_path / "a.jsonl", [*made, *made[:500], "", " \n"])
    train, val, test = (texts(source, split) for split in (Split.train, Split.val, Split.test))
    assert sorted([*train, *val, *test]) == sorted([*made, *made[:500]])
    assert not (set(train) & set(val) or set(train) & set(test) or set(val) & set(test))
    assert 20 < len(val) < 90 and 20 < len(test) < 90
    assert all(passage.ends for passage in source.passages(Split.train))
    assert train == [text for text in [*made, *made[:500]] if text in set(train)], "in the order of the source"
    more = texts(at(tmp_path / "a.jsonl", share=8), Split.val)
    assert 8 * len(more) == pytest.approx(3500, rel=0.15)
    other = source_of(tmp_path / "b.jsonl", [text_of(number) for number in range(1000, 5000)])
    assert not set(texts(other, Split.train)) & set(val), "a text is on its side in every source"


def test_blocks_of_a_book_are_divided(tmp_path: Path) -> None:
    book = "\n".join(text_of(number) for number in range(5000))
    (tmp_path / "book.txt").write_text(book)
    source = at(tmp_path / "book.txt")
    sides = {split: list(source.passages(split)) for split in Split}
    assert sum(len(passage.text) for side in sides.values() for passage in side) == len(book)
    numbers = {split: set(re.findall(r"\d+", " ".join(p.text for p in side))) for split, side in sides.items()}
    assert set().union(*numbers.values()) == {str(n) for n in range(5000)}
    assert sum(map(len, numbers.values())) == 5000, "no line is on two sides or cut"
    assert all(side for side in sides.values())
    assert [p.ends for side in sides.values() for p in side].count(True) == 1
    (last,) = (p for side in sides.values() for p in side if p.ends)
    assert book.endswith(last.text)
    assert all(BLOCK <= len(p.text) <= 2 * BLOCK or p.ends for p in sides[Split.val][:1])
    assert any(len(p.text) > 8 * BLOCK for p in sides[Split.train]), "what follows each other stays together"


@pytest.mark.parametrize("count, whole", [(FEW - 1, False), (FEW, True)])
def test_how_many_are_few(tmp_path: Path, count: int, whole: bool) -> None:
    made = ["\n".join(text_of(1000 * number + line) for line in range(150)) for number in range(count)]
    source = source_of(tmp_path / "a.jsonl", made)
    assert (set(texts(source, Split.train)) < set(made)) is whole
    found = "".join(text for split in Split for text in texts(source, split))
    assert sorted(found) == sorted("".join(made))


def test_something_is_held_out_where_the_hash_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "split_of", lambda text, share: Split.train)
    made = ["a" * 3000 + "\n", "b" * 3000 + "\n", "c" * 3000 + "\n"]
    source = source_of(tmp_path / "a.jsonl", made)
    assert sorted(text for split in Split for text in texts(source, split)) == made
    assert [len(texts(source, split)) for split in Split] == [1, 1, 1]
    assert [len(texts(source_of(tmp_path / "c.jsonl", made[:2]), split)) for split in Split] == [1, 1, 0]
    many = source_of(tmp_path / "b.jsonl", [text_of(number) for number in range(200)])
    assert [len(texts(many, split)) for split in Split] == [198, 1, 1]


@pytest.mark.parametrize("made", [["a"], ["a"] * 300, ["one\n" * 1000]], ids=["one", "copies", "one block"])
def test_what_cannot_be_divided_is_one_line(tmp_path: Path, made: list[str]) -> None:
    source = source_of(tmp_path / "a.jsonl", made)
    with pytest.raises(ConfigError, match="is too short to hold some of it out: it has no two different") as error:
        next(source.passages(Split.train))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("made", [[], ["", " \n\t"]], ids=["no row", "blanks"])
def test_nothing_is_one_line(tmp_path: Path, made: list[str]) -> None:
    with pytest.raises(ConfigError, match="has no text that can be trained on"):
        next(source_of(tmp_path / "a.jsonl", made).passages(Split.train))


def test_the_source_s_own_splits_are_kept(tmp_path: Path) -> None:
    made = [text_of(number) for number in range(1000)]
    source_of(tmp_path / "train.jsonl", made)
    source_of(tmp_path / "validation.jsonl", ["held out", *made[:3]])
    source = at(tmp_path)
    assert texts(source, Split.val) == ["held out", *made[:3]]
    train, test = texts(source, Split.train), texts(source, Split.test)
    assert sorted([*train, *test]) == sorted(made) and test, "what it lacks is drawn of train"
    source_of(tmp_path / "test.jsonl", ["asked last"])
    assert texts(at(tmp_path), Split.train) == made and texts(at(tmp_path), Split.test) == ["asked last"]


def test_a_source_without_train_is_one_line(tmp_path: Path) -> None:
    source_of(tmp_path / "test.jsonl", ["a"])
    source_of(tmp_path / "val.jsonl", ["a"])
    with pytest.raises(ConfigError, match="has no split train; there are test, val"):
        next(at(tmp_path).passages(Split.train))


def test_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": n, "body": text_of(n) if n else None}) + "\n" for n in range(400)))
    found = [text for split in Split for text in texts(at(path, column="body"), split)]
    assert sorted(found) == sorted(text_of(n) for n in range(1, 400)), "null is no text"
    with pytest.raises(ConfigError, match=r"has no column 'text' in row 1; corpus\.column= names one of id, body"):
        next(at(path).passages(Split.train))
    with pytest.raises(ConfigError, match="row 1: column 'id' holds int; expected text"):
        next(at(path, column="id").passages(Split.train))


def test_lines_are_texts(tmp_path: Path) -> None:
    made = [text_of(number) for number in range(500)]
    (tmp_path / "a.txt").write_text("\n\n".join(made) + "\n")
    source = at(tmp_path / "a.txt", lines=True)
    assert sorted(text for split in Split for text in texts(source, split)) == sorted(made)
    assert not source.division.few and at(tmp_path / "a.txt").division.few


def test_half_a_surrogate_is_no_character(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "{text_of(n)} \\ud800 é"}}\n' for n in range(200)))
    assert all(text.endswith("? é") for text in texts(at(path), Split.train))


def test_files_that_are_not_utf_8_are_told(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(text_of(number))
    (tmp_path / "077.txt").write_bytes(b"\xe9")
    told: list[Path] = []
    found = [p.text for p in at(tmp_path).passages(Split.train, told.append)]
    assert told == [tmp_path / "077.txt"] and text_of(77) not in found and text_of(78) in found


def test_a_huge_text_is_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 1000)
    text = "\n".join(text_of(number) for number in range(5000))
    source = source_of(tmp_path / "a.jsonl", [text])
    assert not source.division.few
    assert max(len(each) for each in texts(source, Split.train)) <= 2000
    assert sum(len(each) for split in Split for each in texts(source, split)) == len(text)


def test_many_texts_are_not_all_read_to_know_how_they_are_divided(tmp_path: Path) -> None:
    source = source_of(tmp_path / "a.jsonl", [text_of(number) for number in range(2000)])
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write("damage\n")
    assert not source.division.few
    with pytest.raises(ConfigError, match=":2001: expected a JSON object"):
        list(source.passages(Split.train))


def test_the_identity_is_of_what_is_read(tmp_path: Path) -> None:
    source = source_of(tmp_path / "a.jsonl", ["a"])
    assert source.identity == source_of(tmp_path / "b.jsonl", ["a"]).identity
    path = tmp_path / "a.jsonl"
    others = [source_of(tmp_path / "c.jsonl", ["b"]), at(path, "body"), at(path, lines=True), at(path, share=9)]
    assert len({str(each.identity) for each in [source, *others]}) == 5


TEXTS = ("", "abc", "a\nbc\n" * 9, "word " * 9, "x" * 47, f"line\n{'x' * 30} y\n")


@pytest.mark.parametrize("size", [1, 5, 10, 100])
@pytest.mark.parametrize("text", TEXTS, ids=len)
def test_cut(text: str, size: int) -> None:
    parts = list(cut(text, size))
    assert "".join(parts) == text and all(parts)
    assert all(size <= len(part) <= 2 * size for part in parts[:-1])
    for part in parts[:-1]:
        assert part[-1] == "\n" or ("\n" not in part[size:] and (part[-1] == " " or " " not in part[size:]))


def test_a_file_that_is_named_and_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"a line\n" * 3000 + b"\xff\n")
    with pytest.raises(ConfigError, match=r"bad\.txt:3001: expected UTF-8 text"):
        list(at(path).passages(Split.train))
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "bad.txt")
    with pytest.raises(ConfigError, match="all are blank or not UTF-8"):
        list(at(tmp_path / "folder").passages(Split.train))


def test_a_text_whose_only_block_is_drawn_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    said = set()
    for number in range(200):
        path.write_text(f"line {number}\n")
        with pytest.raises(ConfigError) as error:
            list(at(path).passages(Split.train))
        said.add("too short to hold some of it out" in str(error.value))
    assert said == {True}
