"""How a metric moved since a run began: its mean over the last iterations against that over the first.

Both windows have `WINDOW` values and share none, so a trend says nothing before it has twice as many; the spread in
each window tells what noise there is.
"""

import math
from collections.abc import Iterable
from statistics import fmean, variance
from typing import Any

WINDOW = 20
"""Values that a mean is taken over."""


class Trends:
    """First and last values of metrics; a row need not have all of them."""

    def __init__(self, names: Iterable[str]) -> None:
        self.first: dict[str, list[float]] = {name: [] for name in names}
        self.last: dict[str, list[float]] = {name: [] for name in self.first}

    def add(self, row: dict[str, Any]) -> None:
        for name in self.first.keys() & row.keys():
            if len(self.first[name]) < WINDOW:
                self.first[name].append(row[name])
            else:
                self.last[name] = [*self.last[name], row[name]][-WINDOW:]

    def of(self, name: str) -> tuple[float, float] | None:
        """Mean over the first and over the last values; None while there are too few."""
        last = self.last[name]
        return (fmean(self.first[name]), fmean(last)) if len(last) == WINDOW else None

    def errors(self, name: str) -> float:
        """By how many standard errors the mean rose (below 0: fell); 0 while there are too few values."""
        means = self.of(name)
        if means is None or means[0] == means[1]:
            return 0.0
        error = math.sqrt((variance(self.first[name]) + variance(self.last[name])) / WINDOW)
        return (means[1] - means[0]) / error if error else math.copysign(math.inf, means[1] - means[0])

    def state(self) -> dict[str, Any]:
        sides = {"first": self.first, "last": self.last}
        return {side: {name: list(values) for name, values in of.items()} for side, of in sides.items()}

    def restore(self, state: dict[str, Any]) -> None:
        for name in self.first:
            self.first[name] = list(state["first"].get(name, []))
            self.last[name] = list(state["last"].get(name, []))
