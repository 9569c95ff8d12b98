"""What a run logged, as columns of a few hundred rows: reading metrics.jsonl is what a big report costs.

Parsing takes 5 to 11 microseconds a row, so a page has a number of rows to spend, shared out among its runs. A file
with more is thinned before it is parsed: evenly, but for rows with `val/` or `eval/`, which are rare and all kept while
they are few, and for the last ones, which tables show.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlx.report.metrics import THROUGHPUT, is_kept

Floats = NDArray[np.float64]
MOST_ROWS = 400_000  # of all runs of a page: two to five seconds
FEWEST_ROWS = 300  # of one run
LAST_ROWS = 8
RARE = (b'"val/', b'"eval/')


@dataclass(frozen=True)
class History:
    """Metrics that figures and tables show, NaN where a row has none."""

    columns: dict[str, Floats] = field(default_factory=dict)  # each [rows kept]
    rows: int = 0  # in the file
    kept: int = 0

    def last(self, key: str) -> float | None:
        """The newest value of a metric, if it was ever logged."""
        column = self.columns.get(key)
        return None if column is None else float(column[~np.isnan(column)][-1])

    def curve(self, key: str, x: str) -> tuple[Floats, Floats] | None:
        """(x, y) of a metric in order of x; None where it was never logged."""
        if key not in self.columns or x not in self.columns:
            return None
        xs, ys = self.columns[x], self.columns[key]
        seen = ~(np.isnan(xs) | np.isnan(ys))
        order = np.argsort(xs[seen], kind="stable")
        return (xs[seen][order], ys[seen][order]) if order.size else None


def share(runs: int) -> int:
    """How many rows of each of so many runs are read."""
    return max(FEWEST_ROWS, MOST_ROWS // max(1, runs))


def read_history(path: Path, most: int) -> History:
    """The metrics of a file, of at most about `most` rows; nothing of a file that is not there."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return History()
    lines = [line for line in lines if line]
    wanted = lines if len(lines) <= most else [lines[index] for index in _thinned(lines, most)]
    rows = [row for row in map(_row, wanted) if row is not None]
    names = dict.fromkeys(key for row in rows for key in row)
    columns = {name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names}
    return History(_with_throughput(columns), len(lines), len(wanted))


def _thinned(lines: list[bytes], most: int) -> Iterable[int]:
    """Which lines are read: at most three times `most`."""
    chosen = {*_evenly(range(len(lines)), most), *range(len(lines) - LAST_ROWS, len(lines))}
    for mark in RARE:  # each for itself: one of them may be in every row
        chosen.update(_evenly([index for index, line in enumerate(lines) if mark in line], most))
    return sorted(chosen)


def _evenly(indices: Sequence[int], most: int) -> Sequence[int]:
    if len(indices) <= most:
        return indices
    return [indices[place] for place in np.linspace(0, len(indices) - 1, most).round().astype(int)]


def as_number(value: Any) -> float | None:
    """The value if it is a finite number that a float can hold, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _row(line: bytes) -> dict[str, float] | None:
    """The finite numbers of a row that are shown; None for one that is torn."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    return {key: number for key, value in row.items() if is_kept(key) and (number := as_number(value)) is not None}


def _with_throughput(columns: dict[str, Floats]) -> dict[str, Floats]:
    """Tokens a second from the tokens and seconds between rows, where the run did not log it."""
    if THROUGHPUT in columns or not {"tokens", "wall"} <= columns.keys():
        return columns
    tokens, seconds = np.diff(columns["tokens"]), np.diff(columns["wall"])
    with np.errstate(invalid="ignore", divide="ignore"):
        speed = np.where((seconds > 0) & (tokens > 0), tokens / seconds, np.nan)
    return columns if np.isnan(speed).all() else columns | {THROUGHPUT: np.array([np.nan, *speed])}
