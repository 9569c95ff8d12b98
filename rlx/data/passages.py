"""Texts of a source, divided into what is trained on and what is held out.

1. A source of several splits keeps its own. `val` and `test`, where it lacks one, are drawn from `train`, one text in
   `share` each and at least one (of two texts none is left for `test`), by a hash of the text, so that texts that come
   twice are on one side.
2. Of a source of fewer than `FEW` texts (a book, a log) not whole texts are drawn but blocks of `BLOCK` to twice as
   many characters, at line ends. Blocks of one side that follow each other stay one passage; only what ends with its
   text has an end mark.
3. A text of more than `LONGEST` characters is several texts, cut at line ends. Blank ones do not count.
4. Text files of a folder that are not UTF-8 are left out, and it is said which; one that is named itself is an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from rlx.errors import ConfigError
from rlx.rows import Files, fingerprint, rows, splits
from rlx.tasks.base import HELD_OUT_SHARE, split_of, stable_hash
from rlx.types import Split

FEW = 128
"""Texts from which on whole ones are drawn."""
BLOCK = 2048
"""Characters of a block that is drawn of a source of few texts, at least."""
LONGEST = 1 << 20
"""Characters after which a text is cut at the next line end."""
VERSION = 1
"""Raised when the same files are divided otherwise."""
_NAMES = {
    "train": Split.train,
    "test": Split.test,
    **dict.fromkeys(("val", "valid", "validation", "dev"), Split.val),
}
_divisions: dict[tuple[Any, ...], "Division"] = {}


class Passage(NamedTuple):
    """A text, or a stretch of one."""

    text: str
    ends: bool
    """The text ends with it."""


@dataclass(frozen=True, slots=True)
class Division:
    """On which side of a division texts are, or blocks of texts."""

    parts: Mapping[Split, str | None]
    """What the source calls the splits that it has."""
    drawn: frozenset[Split]
    """Splits that are drawn from train."""
    share: int
    """One text in so many is drawn for each."""
    few: bool
    """Blocks are drawn."""
    named: Mapping[int, Split]
    """Those that are drawn because none would be, by a hash."""

    def side(self, text: str) -> Split:
        """The split of a text, or block, of the source's train."""
        found = split_of(text, self.share)
        return found if found in self.drawn else self.named.get(_key(text), Split.train)


@dataclass(frozen=True)
class Source:
    """Texts of files or of a data set."""

    path: str
    files: Files
    column: str
    """The field of a row that is the text."""
    lines: bool
    """Each line is a text of its own."""
    share: int = HELD_OUT_SHARE
    """One text in so many is drawn for val, and one for test."""

    def passages(self, split: Split, spoilt: Callable[[Path], None] | None = None) -> Iterator[Passage]:
        """The split's, in the order of the source.

        Raises:
            ConfigError: as `rows` and `division`, or the source has no such split.
        """
        division = self.division
        if split is not Split.train and split in division.parts:
            yield from (Passage(text, True) for text in self._texts(division.parts[split], spoilt))
            return
        for text in self._texts(division.parts[Split.train], spoilt):
            if not division.few:
                if division.side(text) is split:
                    yield Passage(text, True)
                continue
            left = len(text)
            for side, run in groupby(cut(text, BLOCK), division.side):
                passage = "".join(run)
                left -= len(passage)
                if side is split and passage.strip():
                    yield Passage(passage, not left)

    @cached_property
    def identity(self) -> list[Any]:
        """What decides which passages there are."""
        return [VERSION, fingerprint(self.path, self.files), self.column, self.lines, self.share]

    @cached_property
    def division(self) -> Division:
        """How the source is divided; of many texts only as many are read as it takes to know.

        Raises:
            ConfigError: it has no train, no text, or none that could be held out.
        """
        key = (self.path, *self.identity)
        if key not in _divisions:
            _divisions[key] = self._divided()
        return _divisions[key]

    def _divided(self) -> Division:
        names = splits(self.path, self.files)
        parts = {_NAMES[name]: name for name in names if name in _NAMES} if names else {Split.train: None}
        if Split.train not in parts:
            raise ConfigError(f"{self.path} has no split train; there are {', '.join(names)}")
        train = parts[Split.train]
        missing = {Split.val, Split.test} - set(parts)
        few = sum(1 for _ in islice(self._texts(train), FEW)) < FEW
        division = Division(parts, frozenset(missing), self.share, few, {})
        units = self._texts(train)
        keys: set[int] = set()
        some = False
        for unit in (block for text in units for block in cut(text, BLOCK)) if few else units:
            some, side = True, division.side(unit)
            missing.discard(side)
            if side is Split.train:
                keys.add(_key(unit))
            if not missing and keys:
                return division
        if not some:
            raise ConfigError(
                f"{self.path} has no text that can be trained on: all are blank or not UTF-8, or there is none"
            )
        if not keys or (Split.val in missing and len(keys) == 1):
            what = f"blocks of {BLOCK} characters" if few else "texts"
            raise ConfigError(
                f"{self.path} is too short to hold some of it out: it has no two different {what}; give more text"
            )
        named = {}
        for split in sorted(missing, reverse=True)[: len(keys) - 1]:  # val, and test where something is left
            least = min(keys, key=lambda key: stable_hash(split.value, key))
            keys.remove(least)
            named[least] = split
        return Division(parts, division.drawn, self.share, few, named)

    def _texts(self, part: str | None, spoilt: Callable[[Path], None] | None = None) -> Iterator[str]:
        leaves_out = None if Path(self.path).expanduser().is_file() else spoilt or (lambda path: None)
        found = rows(self.path, split=part, files=self.files, spoilt=leaves_out)
        for number, row in enumerate(found, start=1):
            whole = self._text_of(row, number)
            for line in whole.split("\n") if self.lines else (whole,):
                yield from (text for text in cut(line, LONGEST) if text.strip())

    def _text_of(self, row: Mapping[str, Any], number: int) -> str:
        if self.column not in row:
            there = ", ".join(row) or "none"
            raise ConfigError(
                f"{self.path} has no column {self.column!r} in row {number}; corpus.column= names one of {there}"
            )
        text = row[self.column]
        if text is not None and not isinstance(text, str):
            raise ConfigError(
                f"{self.path}: row {number}: column {self.column!r} holds {type(text).__name__}; expected text"
            )
        text = text or ""
        return text if text.isascii() else text.encode(errors="replace").decode()  # half a surrogate is no character


def cut(text: str, size: int) -> Iterable[str]:
    """The text in parts of `size` to twice as many characters, the last perhaps shorter: cut after a line end where one
    is in reach, else after a blank, else anywhere."""
    start = 0
    while len(text) - start > 2 * size:
        places = (text.find("\n", start + size, start + 2 * size), text.rfind(" ", start + size, start + 2 * size))
        end = next((place + 1 for place in places if place >= 0), start + 2 * size)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _key(text: str) -> int:
    return stable_hash("passage", text)
