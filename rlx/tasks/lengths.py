"""Lengths of problems, for tasks that are trained on short ones and tested on long ones."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.tasks.base import TaskConfig
from rlx.types import Split

BANDS = 8
"""Lengths up to which each is a slice of its own."""


@dataclass(kw_only=True, slots=True)
class LengthConfig(TaskConfig):
    """Fields of tasks whose problems have a length."""

    least_length: ClassVar[int] = 1
    """The shortest that there can be."""
    most_length: ClassVar[int] = 10_000
    """The longest that there can be."""

    min_length: int = 5
    """Shortest problem."""
    max_length: int = 20
    """Longest problem."""
    test_min_length: int | None = None
    """Shortest problem of `test`; null is min_length."""
    test_max_length: int | None = None
    """Longest problem of `test`; null is max_length."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        for split, prefix in ((Split.train, ""), (Split.test, "test_")):
            shortest, longest = self.lengths(split)
            if not self.least_length <= shortest <= longest <= self.most_length:
                raise ConfigError(
                    f"task lengths need {self.least_length} <= {prefix}min_length <= {prefix}max_length <= "
                    f"{self.most_length}, got {shortest} and {longest}; try task.{prefix}min_length="
                    f"{self.least_length} task.{prefix}max_length={min(self.least_length + 15, self.most_length)}"
                )

    def lengths(self, split: Split) -> tuple[int, int]:
        """The shortest and the longest of a split."""
        if split is not Split.test:
            return self.min_length, self.max_length
        low, high = self.test_min_length, self.test_max_length
        return self.min_length if low is None else low, self.max_length if high is None else high


class Lengths:
    """The lengths of a setting's splits: which are drawn, and the slices that they make."""

    def __init__(self, config: LengthConfig) -> None:
        self._of = {split: config.lengths(split) for split in Split}
        self.least = min(low for low, _ in self._of.values())
        self.most = max(high for _, high in self._of.values())
        self._width = -(-(self.most - self.least + 1) // BANDS)

    def draw(self, random: Random, split: Split) -> int:
        """A length of the split, drawn evenly."""
        low, high = self._of[split]
        return low + int(random.random() * (high - low + 1))

    def band(self, length: int) -> int | str:
        """The length, or the part of the setting's lengths that it is in, as `low-high`, where there are many."""
        if self._width == 1:
            return length
        low = length - (length - self.least) % self._width
        return f"{low}-{min(low + self._width - 1, self.most)}"
