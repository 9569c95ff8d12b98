"""Append-only JSON lines: metrics.jsonl and samples.jsonl.

A row is one line, written with one write. JSON has no NaN and no infinities: they are written as the texts "nan",
"inf" and "-inf", which `float()` reads back (`rlx.runs.files.plain`). Reading does not turn them back, because a
sample's text may be "nan" too.

A checkpoint stores `offset` after a `sync`; a resume calls `rewind` with it before the first row.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlx.errors import CheckpointError, RunError
from rlx.runs.files import LOGS, METRICS, StrPath, attempt_log, explained, plain, sync_folder, write_bytes

NOT_FINITE = ("nan", "inf", "-inf")
"""How a row has the numbers that JSON lacks."""


class MetricsLog:
    """Writes one file of JSON lines; the file is made at once, and half a row left by a kill is cut off."""

    def __init__(self, path: StrPath) -> None:
        """
        Raises:
            RunError: the file cannot be written.
        """
        self.path = Path(path)
        self.appended = 0
        """Rows written since the file was opened; the first of them comes after a `rewind`."""
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._offset = self._mend()

    @property
    def offset(self) -> int:
        """Length of the file in bytes: the end of its last row."""
        return self._offset

    def append(self, row: dict[str, Any]) -> None:
        """Write one row.

        Raises:
            TypeError: a value that JSON cannot hold, naming its key.
            RunError: the disk is full or cannot be written; the file still ends with a whole row.
        """
        line = (json.dumps(plain(row), allow_nan=False) + "\n").encode("ascii")
        with explained(self.path):
            try:
                _write_all(self._file, line)
            except OSError:
                os.ftruncate(self._file, self._offset)
                raise
        self._offset += len(line)
        self.appended += 1

    def sync(self) -> None:
        """Flush the rows to the disk; call before a checkpoint stores `offset`.

        Raises:
            RunError: the disk is full (some file systems find out only now) or cannot be written.
        """
        with explained(self.path):
            os.fsync(self._file)

    def rewind(self, offset: int, attempt: int) -> int:
        """Move the rows after byte `offset` to `logs/attempt-<attempt>.dropped.jsonl` and return how many they were.

        They are on the disk there before the file is cut, and moved once however often a kill comes between. Files
        other than metrics.jsonl have their name in it: `attempt-1.samples.dropped.jsonl`.

        Raises:
            CheckpointError: the file is shorter than `offset`, or no row ends there.
            RunError: the disk is full or cannot be written.
        """
        self.check_row_ends(offset)
        tail = os.pread(self._file, self._offset - offset, offset)
        if tail:
            self._keep_dropped(tail, attempt)
            with explained(self.path):
                os.ftruncate(self._file, offset)
                os.fsync(self._file)
            self._offset = offset
        return tail.count(b"\n")

    def check_row_ends(self, offset: int) -> None:
        """Change nothing, and raise as `rewind` would: CheckpointError unless a row ends at byte `offset`."""
        advice = "restore the file from a copy, or start in a new place with rerun=<label>"
        if offset > self._offset:
            raise CheckpointError(
                f"{self.path} has {self._offset} bytes but the checkpoint was made after {offset}; {advice}"
            )
        if offset < 0 or (offset and os.pread(self._file, 1, offset - 1) != b"\n"):
            raise CheckpointError(f"{self.path} has no row that ends at the checkpoint's byte {offset}; {advice}")

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def read(path: StrPath) -> list[dict[str, Any]]:
        """The rows of a file, [] without one. Half a row at the end (a kill, or a writer at work) is left out.

        Raises:
            CheckpointError: another line is not a JSON object.
        """
        try:
            lines = Path(path).read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        last = lines.pop()
        rows = [as_row(line) for line in lines]
        for number, row in enumerate(rows, start=1):
            if row is None:
                raise CheckpointError(f"{path} line {number} is not a JSON object; restore the file from a copy")
        return [row for row in [*rows, as_row(last)] if row is not None]

    def _mend(self) -> int:
        """Cut half a row off the end, or end a whole one; returns the length in bytes."""
        length = os.fstat(self._file).st_size
        torn = _after_last_newline(self._file, length)
        if torn and as_row(torn) is not None:
            _write_all(self._file, b"\n")
            return length + 1
        if torn:
            os.ftruncate(self._file, length - len(torn))
        return length - len(torn)

    def _keep_dropped(self, tail: bytes, attempt: int) -> None:
        suffix = "dropped.jsonl" if self.path.name == METRICS else f"{self.path.stem}.dropped.jsonl"
        kept = attempt_log(self.path.parent, attempt, suffix)
        with explained(kept):
            (self.path.parent / LOGS).mkdir(exist_ok=True)
            sync_folder(self.path.parent)
            if not self._newest_dropped(attempt, suffix).endswith(tail):
                write_bytes(kept, (kept.read_bytes() if kept.exists() else b"") + tail)

    def _newest_dropped(self, attempt: int, suffix: str) -> bytes:
        """What was moved last: by this attempt, or an earlier one that was killed before it cut the file."""
        files = (attempt_log(self.path.parent, number, suffix) for number in range(attempt, 0, -1))
        newest = next((file for file in files if file.exists()), None)
        return newest.read_bytes() if newest else b""


def as_row(line: bytes | str) -> dict[str, Any] | None:
    """A line's JSON object; None where it is none, or one that is nested too deeply to be read."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def with_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics with "nan", "inf" and "-inf" turned back into numbers."""
    return {name: float(value) if value in NOT_FINITE else value for name, value in row.items()}


def _write_all(descriptor: int, data: bytes) -> None:
    """One write; the rest of it where a nearly full disk took only a part, which then raises."""
    while data:
        written = os.write(descriptor, data)
        if written <= 0:
            raise RunError("the system wrote nothing and gave no reason")
        data = data[written:]


def _after_last_newline(descriptor: int, length: int, block: int = 1 << 16) -> bytes:
    """The bytes after the last newline: empty in a file that ends with a whole row."""
    tail = b""
    while len(tail) < length:
        start = max(0, length - len(tail) - block)
        part = os.pread(descriptor, length - len(tail) - start, start)
        cut = part.rfind(b"\n")
        if cut >= 0:
            return part[cut + 1 :] + tail
        tail = part + tail
    return tail
