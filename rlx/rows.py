"""Rows of data files: one dict a row, read lazily, whatever the file is.

A source is
- a file: .jsonl (one object a line), .json (a list of objects, or one object), .csv (the first line names the
  columns; every value is text), each also with .gz; .parquet;
- a folder of such files. A file belongs to a split when its name, or that of a folder above it, begins with train, val,
  valid, validation, dev or test (`test.jsonl`, `train-00000-of-00002.parquet`, `test/algebra/7.json`); where one does,
  the others are no part of the data;
- a folder that `datasets` saved with `save_to_disk`;
- a data set of the hub, `hf:<owner>/<name>[:<config>][@<revision>]`, through `datasets` and its cache.

Where texts are asked for (`Files`), a .txt file, also .txt.gz, is one row {"text": all of it}, and so is any other file
that is named, or that a pattern finds in a folder. One of more than `MAX_TEXT` characters is several rows, cut at line
ends. Files that a pattern finds are all one: their names name no splits (a program's test_it.py and train.py are just
files), and without a pattern names of texts do only where one begins with train.

Without the `hf:` a name is a path, so that a missing file is never looked for on the hub. Code of a data set is never
run. Rows come in the order of the file, files in the order of their names. Standard library only at import.
"""

import csv
import gzip
import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rlx.errors import ConfigError

MAX_LINE = 1 << 24
"""Characters of the longest line: a file without line ends is not read into memory."""
MAX_JSON = 1 << 28
"""Characters of the longest .json file, which is parsed as one."""
MAX_TEXT = 1 << 20
"""Characters of a text file that are read at once, and the rest of the line."""
HUB = "hf:"
TEXT = ".txt"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_SPLIT = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^:@]+))?(?:@(?P<revision>[^@]+))?")
_HELD_OUT = ("val", "valid", "validation", "dev")
_TEXTS = (TEXT, f"{TEXT}.gz")
_digests: dict[Path, tuple[tuple[int, int, int], str]] = {}


class Files(NamedTuple):
    """Which files of a folder count, where texts do as well as data."""

    pattern: str | None = None
    """Of paths in the folder: `*.py` are the files right in it, `**/*.py` those below it too; None: those with the
    suffixes of data and .txt."""
    exclude: Sequence[str] = ()
    """Patterns of names: a file that is called so, or lies in a folder that is, does not count."""


def rows(
    source: str,
    *,
    split: str | None = None,
    files: Files | None = None,
    spoilt: Callable[[Path], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of a source, or of one of its splits.

    Args:
        split: as the source names it; val, valid, validation and dev are one name. None where there is but one.
        files: texts are asked for, of these files; None: data alone.
        spoilt: told of text files that are not UTF-8, which are then left out from there on; None: they are an error.

    Raises:
        ConfigError: the source is not there, has no such split or several to choose from, or a row is damaged (the
            line says where, when it is reached).
    """
    if _is_hub(source):
        return _of_datasets(_chosen(source, _load_hub(source), split))
    path = _existing(source)
    _check_folder(source, path, files)
    if path.is_file():
        if split is not None:
            raise ConfigError(
                f"{source} is one file and has no splits; leave out the split {split!r}, or name a folder"
            )
        return _of_file(path, files is not None, spoilt)
    if _is_saved(path):
        return _of_datasets(_chosen(source, _load_saved(path), split))
    return _of_files(_chosen(source, _files(path, source, files), split), files is not None, spoilt)


def splits(source: str, files: Files | None = None) -> list[str]:
    """Names of a source's splits; [] for a file, or a folder whose files belong to none.

    Raises:
        ConfigError: as `rows`.
    """
    if _is_hub(source):
        return list(_load_hub(source))
    path = _existing(source)
    if path.is_file():
        return []
    return [name for name in (_load_saved(path) if _is_saved(path) else _files(path, source, files)) if name]


def fingerprint(source: str, files: Files | None = None) -> str:
    """What a source is, wherever it lies: a digest of the file, of a folder's files and their names, or the hub's name
    as written (a hub cannot be asked everywhere).

    Names that begin with a dot do not count. With `files` only those that are read do, and what they are read as: which
    split a file is of, and of a file alone whether it is rows or a text. A file is read again in this
    process when its size or time changed.

    Raises:
        ConfigError: nothing is there.
    """
    if _is_hub(source):
        return source
    path = _existing(source)
    _check_folder(source, path, files)
    if path.is_file():
        return _digest(path) if files is None else f"{_kind(path)} {_digest(path)}"
    whole = hashlib.sha256()
    parts = {"": _walk(path)} if files is None or _is_saved(path) else _files(path, source, files)
    for split, paths in parts.items():
        if split:
            whole.update(f"split {split}\n".encode())
        for file in paths:
            whole.update(f"{file.relative_to(path).as_posix()}\0{_digest(file)}\n".encode())
    return whole.hexdigest()


def _kind(path: Path) -> str:
    """What a file is read as, where texts are asked for."""
    name = path.name.removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), TEXT)


def _digest(path: Path) -> str:
    try:
        state = path.stat()
        seen = (state.st_mtime_ns, state.st_size, state.st_ino)
        path = path.absolute()
        known = _digests.get(path)
        if known is None or known[0] != seen:
            with open(path, "rb") as file:
                known = _digests[path] = seen, hashlib.file_digest(file, "sha256").hexdigest()
        return known[1]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _is_hub(source: str) -> bool:
    """True for `hf:<name>`, unless what follows is a folder here."""
    return source.startswith(HUB) and (source == HUB or not Path(source[len(HUB) :]).expanduser().is_dir())


def _existing(source: str) -> Path:
    """The path that a source names.

    Raises:
        ConfigError: it is empty, or nothing is there; the line has the nearest name.
    """
    if not source:
        raise ConfigError(f"the path of a data file is empty; give a file, a folder or {HUB}<owner>/<name>")
    path = Path(source.removeprefix(HUB)).expanduser()
    if path.exists():
        return path
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1)
    hint = f"did you mean {path.parent / near[0]}?" if near else f"a data set of the hub is {HUB}<owner>/<name>"
    raise ConfigError(f"{source} is not there (looked in {Path.cwd()}); {hint}")


def _check_folder(source: str, path: Path, files: Files | None) -> None:
    """Raise ConfigError where files are chosen of what is no folder of files."""
    if files is not None and (files.pattern or files.exclude) and (path.is_file() or _is_saved(path)):
        raise ConfigError(f"{source} is no folder of files; leave out pattern and exclude, which choose among some")


def _walk(folder: Path, exclude: Sequence[str] = ()) -> Iterator[Path]:
    """All files below a folder, in the order of their names, without hidden and excluded ones."""

    def shown(names: Iterable[str]) -> list[str]:
        counted = (name for name in names if not name.startswith("."))
        return sorted(name for name in counted if not any(fnmatchcase(name, pattern) for pattern in exclude))

    for above, folders, names in os.walk(folder):
        folders[:] = shown(folders)
        yield from (Path(above, name) for name in shown(names))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, part by part, is one that the pattern means; `**` stands for any number of folders."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _files(folder: Path, source: str, files: Files | None = None) -> dict[str, list[Path]]:
    """Files of a folder that count, by split, in the order of the splits' first files; those of none under ""."""
    if files is not None and files.pattern:
        return {"": _matching(folder, source, files.pattern, files.exclude)}
    suffixes = SUFFIXES if files is None else (TEXT, *SUFFIXES)
    found: dict[str, list[Path]] = {}
    for path in _walk(folder, files.exclude if files is not None else ()):
        if path.name.removesuffix(".gz").endswith(suffixes):
            names = reversed(path.relative_to(folder).parts)
            match = next((match for name in names if (match := _SPLIT.match(name))), None)
            found.setdefault(match[1].lower() if match else "", []).append(path)
    if not found:
        more = "" if files is None else "; pattern= names others, such as *.md"
        raise ConfigError(f"{source} holds no data file; expected {', '.join(suffixes)} (or these with .gz){more}")
    paths = sorted(chain(*found.values()))
    if files is not None and "train" not in found and any(path.name.endswith(_TEXTS) for path in paths):
        return {"": paths}
    return {name: paths for name, paths in found.items() if name} or found


def _matching(folder: Path, source: str, pattern: str, exclude: Sequence[str]) -> list[Path]:
    parts = pattern.split("/")
    found = [path for path in _walk(folder, exclude) if _matches(path.relative_to(folder).parts, parts)]
    if not found:
        without = f" (without {', '.join(exclude)})" if exclude else ""
        raise ConfigError(
            f"{source} holds no file that matches {pattern}{without}; *.md are files right in it, **/*.md at any depth"
        )
    return found


def _chosen(source: str, parts: Mapping[str, Any], split: str | None) -> Any:
    """The one part that is meant."""
    if split is None and len(parts) == 1:
        return next(iter(parts.values()))
    if split is not None and split in parts:
        return parts[split]
    names = [name for name in parts if split is not None and _plain(name) == _plain(split)]
    if len(names) == 1:
        return parts[names[0]]
    there = f"there are {', '.join(parts)}" if any(parts) else "its files name none"
    raise ConfigError(f"{source}: {'which split?' if split is None else f'no split {split!r};'} {there}")


def _plain(split: str) -> str:
    return "val" if split in _HELD_OUT else split


def _of_files(paths: Iterable[Path], texts: bool, spoilt: Callable[[Path], None] | None) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from _of_file(path, texts, spoilt)


def _of_file(path: Path, texts: bool, spoilt: Callable[[Path], None] | None) -> Iterator[dict[str, Any]]:
    name = path.name.removesuffix(".gz")
    readers = {".jsonl": _of_jsonl, ".json": _of_json, ".csv": _of_csv}
    for suffix, reader in readers.items():
        if name.endswith(suffix):
            return _of_text(path, reader)
    if name.endswith(".parquet"):
        return _of_parquet(path)
    if texts:
        return _of_text(path, _of_plain, spoilt)
    raise ConfigError(f"{path} is no data file; expected {', '.join(SUFFIXES)} (or the first three with .gz)")


def _of_text(path: Path, reader: Any, spoilt: Callable[[Path], None] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a file of characters; what the file system and the encoding have against it, in a line."""
    try:
        if spoilt is not None and _is_long(path) and _line_of(path) != "?":
            return spoilt(path)  # else its beginning would be there already
        with _opened(path, None if reader is _of_plain else "") as file:
            yield from reader(path, file)
    except UnicodeDecodeError as error:
        if spoilt is not None:
            return spoilt(path)
        raise ConfigError(f"{path}:{_line_of(path)}: expected UTF-8 text, got another encoding") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} is damaged: {error}; expected a whole gzip file") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def _is_long(path: Path) -> bool:
    """True for a file that is perhaps not read at once."""
    return path.name.endswith(".gz") or path.stat().st_size > MAX_TEXT


def _opened(path: Path, newline: str | None) -> TextIO:
    opened = gzip.open if path.name.endswith(".gz") else open
    return opened(path, "rt", encoding="utf-8-sig", newline=newline)


def _of_plain(path: Path, file: TextIO) -> Iterator[dict[str, Any]]:
    """A text, in parts where it is long; line ends of every system as one character."""
    while text := file.read(MAX_TEXT):
        yield {"text": text if text.endswith("\n") else text + file.readline(MAX_TEXT)}


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), 1):
        if len(line) > MAX_LINE:
            raise ConfigError(f"{path}:{number}: longer than {MAX_LINE} characters; expected one row a line")
        yield line


def _of_jsonl(path: Path, file: TextIO) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path, file), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.strip():
                continue
            raise ConfigError(f"{path}:{number}: expected a JSON object, got {_told(line)}") from error
        if type(row) is not dict:
            raise ConfigError(f"{path}:{number}: expected a JSON object, got {_told(line)}")
        yield row


def _of_json(path: Path, file: TextIO) -> Iterator[dict[str, Any]]:
    text = file.read(MAX_JSON + 1)
    if len(text) > MAX_JSON:
        raise ConfigError(f"{path}: longer than {MAX_JSON} characters, all read at once; write it as .jsonl")
    try:
        read = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: expected a list of JSON objects; {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected a list of JSON objects; {error}") from error
    for number, row in enumerate(read if isinstance(read, list) else [read], 1):
        if type(row) is not dict:
            raise ConfigError(f"{path}: row {number}: expected a JSON object, got {_told(json.dumps(row))}")
        yield row


def _of_csv(path: Path, file: TextIO) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(_lines(path, file), strict=True)
    try:
        names = next((row for row in reader if row), [])
        if not names or not all(names) or len(set(names)) < len(names):
            raise ConfigError(f"{path}:{reader.line_num}: expected a line of different column names, got {names}")
        width = len(names)
        for row in reader:
            if len(row) == width:
                yield dict(zip(names, row, strict=True))
            elif row:
                raise ConfigError(
                    f"{path}:{reader.line_num}: expected {width} values ({', '.join(names)}), got {len(row)}"
                )
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num}: expected comma-separated values; {error}") from error


def _of_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is damaged: {_first_line(error)}; expected a parquet file") from error


def _is_saved(folder: Path) -> bool:
    """True for a folder that `datasets` saved."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _load_saved(folder: Path) -> dict[str, Any]:
    from datasets import load_from_disk

    return _loaded(str(folder), lambda: load_from_disk(str(folder)), "it was saved with save_to_disk?")


def _load_hub(source: str) -> dict[str, Any]:
    match = _HUB_NAME.fullmatch(source[len(HUB) :])
    if match is None:
        raise ConfigError(f"{source}: expected {HUB}<owner>/<name>, {HUB}<owner>/<name>:<config> or with @<revision>")
    from datasets import load_dataset

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are not for who typed the command
    advice = "needs the network once, then its cache; or name a file"
    return _loaded(source, lambda: load_dataset(match["name"], match["config"], revision=match["revision"]), advice)


def _loaded(source: str, load: Callable[[], Any], advice: str) -> dict[str, Any]:
    """Splits by name; of a data set without splits, the whole under ""."""
    try:
        found = load()
    except Exception as error:  # whatever the file formats, the hub and the network raise
        raise ConfigError(f"{source} cannot be loaded by datasets: {_first_line(error)} ({advice})") from error
    return dict(found) if isinstance(found, dict) else {"": found}


def _of_datasets(data: Any) -> Iterator[dict[str, Any]]:
    for batch in data.iter(batch_size=1024):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _line_of(path: Path) -> str:
    """The number of the first line that is not UTF-8."""
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return str(number)
    return "?"


def _told(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
