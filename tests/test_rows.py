"""Rows of files: every format gives the same rows, and what is wrong is told with its file and line."""

import csv
import gzip
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from rlx import rows as module
from rlx.errors import ConfigError
from rlx.rows import Files, fingerprint, rows, splits
from tests.conftest import environment

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": 'a "b",\n ½ c', "answer": "0,5"}]


def write(path, found=ROWS):
    """The rows in the format of the path's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(found), path)
        return path
    with (gzip.open if path.name.endswith(".gz") else open)(path, "wt", encoding="utf-8", newline="") as file:
        if name.endswith(".jsonl"):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        elif name.endswith(".json"):
            json.dump(found, file, indent=1)
        else:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.parquet"])
def test_formats_give_the_same_rows(tmp_path, name):
    path = write(tmp_path / name)
    assert list(rows(str(path))) == ROWS
    assert splits(str(path)) == []


def test_what_editors_of_windows_write_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4\r\n")
    (tmp_path / "one.json").write_text('{"a": 1}')
    assert list(rows(str(tmp_path / "a.jsonl"))) == [{"a": 1}, {"a": 2}]
    assert list(rows(str(tmp_path / "a.csv"))) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert list(rows(str(tmp_path / "one.json"))) == [{"a": 1}]


DAMAGED = {
    "no object": ("a.jsonl", b'{"a": 1}\n\n[2]\n', ":3: expected a JSON object, got '[2]'"),
    "no json": ("a.jsonl", b'{"a": 1}\n{"a": \n', ":2: expected a JSON object, got"),
    "deep": ("a.jsonl", b"[" * 100_000, ":1: expected a JSON object, got '[[["),
    "digits": ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", ":1: expected a JSON object, got"),
    "long line": ("a.jsonl", b'{"a": 1}\n' + b" " * 2000, ":2: longer than 1000 characters"),
    "bytes": ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', ":2: expected UTF-8 text"),
    "list": ("a.json", b'[{"a": 1},\n 3]', ": row 2: expected a JSON object, got '3'"),
    "list end": ("a.json", b'[{"a": 1},\n', ":2: expected a list of JSON objects"),
    "deep list": ("a.json", b"[" * 1999, ": expected a list of JSON objects"),
    "long file": ("a.json", b"[" * 3000, ": longer than 2000 characters"),
    "columns": ("a.csv", b"a,b\n1,2\n1,2,3\n", ":3: expected 2 values (a, b), got 3"),
    "one name twice": ("a.csv", b"a,a\n1,2\n", ":1: expected a line of different column names"),
    "empty": ("a.csv", b"", ":0: expected a line of different column names"),
    "quotes": ("a.csv", b'a,b\n"1"2,3\n', ":2: expected comma-separated values"),
    "open quote": ("a.csv", b'a,b\n"1,3\n', ":2: expected comma-separated values"),
    "no gzip": ("a.jsonl.gz", b'{"a": 1}\n', " is damaged: Not a gzipped file"),
    "half gzip": ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-9], " is damaged: "),
    "no parquet": ("a.parquet", b"PAR1 nothing", " is damaged: "),
    "suffix": ("a.md", b"text", " is no data file; expected .jsonl"),
}


@pytest.mark.parametrize("name, data, expected", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_one_line_that_says_where(tmp_path, monkeypatch, name, data, expected):
    monkeypatch.setattr(module, "MAX_LINE", 1000 if name == "a.jsonl" and len(data) < 3000 else 1 << 20)
    monkeypatch.setattr(module, "MAX_JSON", 2000)
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        list(rows(str(path)))
    told = str(error.value)
    assert told.startswith(f"{path}{expected}") and "\n" not in told and len(told) < len(str(path)) + 200


def test_rows_before_the_damage_are_given_and_nothing_is_read_ahead(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' * 10 + "damage\n" + '{"a": 1}\n')
    assert len(list(islice(rows(str(path)), 10))) == 10


def test_a_long_file_takes_no_memory(tmp_path):
    path = tmp_path / "a.csv"
    with open(path, "w") as file:
        file.write("quizzes,solutions\n")
        file.writelines(f"{'0' * 81},{number:081d}\n" for number in range(200_000))
    text = (
        "import resource, sys\nfrom rlx.rows import rows\n"
        "next(rows(sys.argv[1])); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(1 for _ in rows(sys.argv[1]))\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 'datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", text, path], capture_output=True, text=True, env=environment())
    count, grown, loaded = done.stdout.split()
    assert int(count) == 200_000 and int(grown) < 4096 and loaded == "False"  # the file has 33 MB; ru_maxrss is in KiB


def test_splits_of_a_folder(tmp_path):
    write(tmp_path / "train.jsonl", [{"a": 1}])
    write(tmp_path / "data" / "valid-00000-of-00002.parquet", [{"a": 2}])
    write(tmp_path / "data" / "valid-00001-of-00002.parquet", [{"a": 3}])
    write(tmp_path / "test" / "algebra" / "1.json.gz", [{"a": 4}])
    write(tmp_path / "trainer.jsonl", [{"a": 5}])
    write(tmp_path / ".cache" / "train.jsonl", [{"a": 6}])
    (tmp_path / "README.md").write_text("train")
    source = str(tmp_path)
    assert sorted(splits(source)) == ["test", "train", "valid"]
    assert list(rows(source, split="train")) == [{"a": 1}]
    assert list(rows(source, split="valid")) == list(rows(source, split="val")) == [{"a": 2}, {"a": 3}]
    assert list(rows(source, split="test")) == [{"a": 4}]
    with pytest.raises(ConfigError, match=r"which split\? there are train, valid, test"):
        rows(source)
    with pytest.raises(ConfigError, match="no split 'tset'; there are train, valid, test"):
        rows(source, split="tset")


def test_a_folder_without_splits_is_read_in_order(tmp_path):
    for number in (10, 9, 11):
        write(tmp_path / "algebra" / f"{number:03}.json", [{"a": number}])
    assert [row["a"] for row in rows(str(tmp_path))] == [9, 10, 11]
    assert splits(str(tmp_path)) == []
    with pytest.raises(ConfigError, match="no split 'test'; its files name none"):
        rows(str(tmp_path), split="test")
    with pytest.raises(ConfigError, match="is one file and has no splits"):
        rows(str(tmp_path / "algebra" / "009.json"), split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds no data file; expected \.jsonl"):
        rows(str(tmp_path / "empty"))


def test_folders_that_datasets_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=made, test=made.select([1])).save_to_disk(str(tmp_path / "two"))
    assert list(rows(str(tmp_path / "one"))) == ROWS
    assert splits(str(tmp_path / "two")) == ["train", "test"]
    assert list(rows(str(tmp_path / "two"), split="test")) == ROWS[1:]
    with pytest.raises(ConfigError, match=r"which split\? there are train, test"):
        rows(str(tmp_path / "two"))
    (tmp_path / "two" / "train" / "state.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be loaded by datasets"):
        rows(str(tmp_path / "two"), split="test")


def test_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data" / "train.jsonl")
    for source, expected in {
        "data/trian.jsonl": r"data/trian.jsonl is not there \(looked in .*\); did you mean data/train.jsonl\?",
        "openai/gsm8k": r"openai/gsm8k is not there .*a data set of the hub is hf:<owner>/<name>",
        "": "the path of a data file is empty",
        "hf:": "hf:: expected hf:<owner>/<name>",
        "hf:a b": "hf:a b: expected hf:<owner>/<name>",
    }.items():
        with pytest.raises(ConfigError, match=expected):
            rows(source)
    assert list(rows("hf:data", split="train")) == list(rows("data", split="train")) == ROWS


def test_the_hub(monkeypatch):
    """What is asked of `datasets`, and what is said when it cannot answer."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*names, **options):
        asked.append((*names, options))
        return datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(rows("hf:openai/gsm8k:main@abc", split="train")) == list(rows("hf:own")) == ROWS
    assert asked == [("openai/gsm8k", "main", {"revision": "abc"}), ("own", None, {"revision": None})]

    def refuse(*names, **options):
        raise ConnectionError("no way out\nand more")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ConfigError) as error:
        rows("hf:openai/gsm8k", split="train")
    assert str(error.value).startswith("hf:openai/gsm8k cannot be loaded by datasets: no way out (needs the network")


def test_a_fingerprint_is_of_what_is_there_and_not_of_where(tmp_path, monkeypatch):
    one = write(tmp_path / "one" / "train.jsonl")
    two = write(tmp_path / "two" / "train.jsonl")
    assert fingerprint(str(one)) == fingerprint(str(two))
    assert fingerprint(str(tmp_path / "one")) == fingerprint(str(tmp_path / "two"))
    (tmp_path / "two" / ".DS_Store").write_text("")
    assert fingerprint(str(tmp_path / "one")) == fingerprint(str(tmp_path / "two"))
    two.rename(two.with_name("test.jsonl"))
    assert fingerprint(str(tmp_path / "one")) != fingerprint(str(tmp_path / "two"))
    before = fingerprint(str(one))
    write(one, ROWS[:1])
    assert fingerprint(str(one)) != before
    monkeypatch.chdir(tmp_path)
    assert fingerprint("one") == fingerprint(str(tmp_path / "one"))
    assert fingerprint("hf:openai/gsm8k@abc") == "hf:openai/gsm8k@abc"
    with pytest.raises(ConfigError, match="onne is not there"):
        fingerprint("onne")


def test_a_fingerprint_is_taken_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl")
    before = fingerprint(str(path))
    monkeypatch.setattr(module.hashlib, "file_digest", None)
    assert fingerprint(str(path)) == before


def written(folder, **texts):
    """Text files by name, `_` for a folder's mark."""
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def found(source, pattern=None, exclude=()):
    return [row["text"] for row in rows(source, files=Files(pattern, exclude))]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "Makefile"])
def test_a_text_is_a_row(tmp_path, name):
    data = "\ufeffone\r\ntwo ½".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert found(str(tmp_path / name)) == ["one\ntwo ½"]
    with pytest.raises(ConfigError, match="is no data file"):
        list(rows(str(tmp_path / name)))


def test_a_long_text_is_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_TEXT", 10)
    source = written(tmp_path, a_txt="12345678\n" * 3 + "1234567890" * 3)
    parts = found(source)
    assert "".join(parts) == "12345678\n" * 3 + "1234567890" * 3
    assert max(map(len, parts)) <= 20 and parts[0].endswith("\n")


def test_texts_and_rows_of_a_folder(tmp_path):
    source = written(tmp_path, b_txt="B", a_jsonl='{"text": "A"}\n', c__d_txt="D", README_md="no")
    assert found(source) == ["A", "B", "D"] and splits(source, Files()) == []
    assert list(rows(source)) == [{"text": "A"}], "without texts, data alone"
    assert found(source, "*.md") == ["no"]
    with pytest.raises(ConfigError, match=r"pattern= names others"):
        found(written(tmp_path / "empty", a_md="A"))


PATTERNS = {
    "right in it": ("*.py", (), ["a", "train"]),
    "at any depth": ("**/*.py", (), ["a", "lib.b", "lib.test.c", "site.d", "train"]),
    "a folder": ("lib/*.py", (), ["lib.b"]),
    "below a folder": ("lib/**/*.py", (), ["lib.b", "lib.test.c"]),
    "any folder": ("*/*.py", (), ["lib.b", "site.d"]),
    "without": ("**/*.py", ("site", "te*", "b.*"), ["a", "train"]),
}


@pytest.mark.parametrize("pattern, exclude, expected", PATTERNS.values(), ids=PATTERNS.keys())
def test_patterns_are_those_of_pathlib(tmp_path, pattern, exclude, expected):
    """But for hidden files, and for names that would be splits'."""
    names = ("a.py", "train.py", "lib/b.py", "lib/test/c.py", "site/d.py", ".git/e.py", ".f.py", "lib/g.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name.removesuffix(".py").replace("/", "."))
    texts = sorted(found(str(tmp_path), pattern, exclude))
    assert texts == expected and splits(str(tmp_path), Files(pattern)) == []
    if not exclude:
        paths = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(pattern))
        assert texts == [p.removesuffix(".py").replace("/", ".") for p in paths if not p.startswith(".")]


def test_a_pattern_that_finds_nothing(tmp_path):
    source = written(tmp_path, a_txt="A", b__c_py="C")
    with pytest.raises(ConfigError, match=r"no file that matches \*\.py; .*\*\*/\*\.md at any depth"):
        found(source, "*.py")
    with pytest.raises(ConfigError, match=r"no file that matches \*\*/\*\.py \(without b, d\)"):
        found(source, "**/*.py", ("b", "d"))
    with pytest.raises(ConfigError, match="is no folder of files; leave out pattern and exclude"):
        found(str(tmp_path / "a.txt"), "*.txt")


def test_names_of_texts_are_splits_where_one_is_train(tmp_path):
    source = written(tmp_path / "one", train_txt="A", valid_txt="B", other_txt="C")
    assert splits(source, Files()) == ["train", "valid"]
    assert [row["text"] for row in rows(source, split="val", files=Files())] == ["B"]
    source = written(tmp_path / "two", Test_txt="A", dev__b_txt="B", other_txt="C")
    assert splits(source, Files()) == [] and sorted(found(source)) == ["A", "B", "C"]


def test_texts_that_are_not_utf_8_are_left_out_where_it_is_told(tmp_path):
    source = written(tmp_path, a_txt="A", b_txt=b"\xe9t\xe9", c_txt="C")
    told = []
    assert [row["text"] for row in rows(source, files=Files(), spoilt=told.append)] == ["A", "C"]
    assert told == [tmp_path / "b.txt"]
    with pytest.raises(ConfigError, match=r"b\.txt:1: expected UTF-8 text"):
        found(source)


def test_a_fingerprint_of_texts_is_of_the_files_that_are_read(tmp_path):
    source = written(tmp_path, a_txt="A", b_md="B", site__c_txt="C")
    whole, some, md = (fingerprint(source, files) for files in (Files(), Files(None, ("site",)), Files("*.md")))
    assert len({whole, some, md, fingerprint(source)}) == 4
    written(tmp_path, d_md="D", site__c_txt="other")
    assert fingerprint(source, Files(None, ("site",))) == some
    assert fingerprint(source, Files()) != whole and fingerprint(source, Files("*.md")) != md
    assert fingerprint(source, Files("b.md")) == md, "by which pattern they are found is nothing of theirs"


def test_a_fingerprint_of_texts_says_what_files_are_read_as(tmp_path: Path) -> None:
    """The same bytes as rows and as a text are two sources, and so are files by splits and all as one."""
    for name in ("a.jsonl", "a.txt", "b.md"):
        (tmp_path / name).write_text('{"text": "a"}\n')
    rows_, text, other = (fingerprint(str(tmp_path / name), Files()) for name in ("a.jsonl", "a.txt", "b.md"))
    assert rows_ != text == other and fingerprint(str(tmp_path / "a.jsonl")) == fingerprint(str(tmp_path / "a.txt"))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("train.txt", "val.txt"):
        (folder / name).write_text(name)
    assert fingerprint(str(folder), Files()) != fingerprint(str(folder), Files("*.txt"))


def test_a_text_with_a_bad_end_is_left_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of it would be read before its bad byte is reached."""
    monkeypatch.setattr("rlx.rows.MAX_TEXT", 100)
    (tmp_path / "good.txt").write_text("good\n" * 100)
    (tmp_path / "late.txt").write_bytes(b"fine\n" * 10_000 + b"\xff\n")
    (tmp_path / "late.txt.gz").write_bytes(gzip.compress(b"fine\n" * 10_000 + b"\xff\n"))
    spoilt: list[Path] = []
    found = "".join(row["text"] for row in rows(str(tmp_path), files=Files(), spoilt=spoilt.append))
    assert found == "good\n" * 100
    assert [path.name for path in spoilt] == ["late.txt", "late.txt.gz"]


def test_values_of_csv_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "a" * 200_000 + "\n")
    assert [len(row["text"]) for row in rows(str(tmp_path / "a.csv"))] == [200_000]
