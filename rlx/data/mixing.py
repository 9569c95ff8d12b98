"""Which source of a mixture stands at which position: a pure function, so that nothing but a position is saved.

Positions are taken in blocks of about `BLOCK`. In a block the sources have places by systematic sampling (Madow 1944):
the block is a line of length 1 on which each source owns a piece as long as its rate, as many evenly spaced marks are
put on it as there are positions, and a mark belongs to the source whose piece it falls on; then the places are
shuffled. So each source has within one of its rate in every block, and by moving the marks from block to block by the
golden ratio (the most even of such walks) even a source that has less than one place in a block gets its share over
many.
"""

import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlx.tasks.base import stable_hash

BLOCK = 1024
"""Positions that are shared out together, at most."""
STRETCH = 1024
"""Blocks whose counts are summed at once."""
GOLDEN = (math.sqrt(5) - 1) / 2


class Mixing:
    """Position (0, 1, 2, ...) to a source and the position in its own stream.

    Args:
        rates: documents of each source, relative to each other; above 0.
        key: anything that names the walk, such as (seed, stage, depth).
        size: positions after which the shares are to come out, as after every block; None: there is no such number.
    """

    def __init__(self, rates: Sequence[float], *key: object, size: int | None = None) -> None:
        whole = math.fsum(rates)
        self.block = BLOCK if size is None else size // -(-size // BLOCK)
        self._ends = np.cumsum(np.array(rates, dtype=np.float64) / whole) * self.block  # [S]
        self._ends[-1] = self.block
        self._key = key
        self._first = (stable_hash("mixing", *key) % 2**32) / 2**32
        self._before: NDArray[np.int64] = np.zeros((1, len(rates)), dtype=np.int64)
        """[K, S]: places of each source in all blocks before block k."""
        self._block: tuple[int, list[tuple[int, int]]] | None = None

    def __getitem__(self, position: int) -> tuple[int, int]:
        number, inside = divmod(position, self.block)
        if self._block is None or self._block[0] != number:
            self._block = (number, self._shared(number))
        return self._block[1][inside]

    def _shared(self, number: int) -> list[tuple[int, int]]:
        """A block's places in their order."""
        while number >= len(self._before):
            self._sum_up()
        sources = [source for source, count in enumerate(self._counts(number, number + 1)[0]) for _ in range(count)]
        random.Random(stable_hash("mixed", number, *self._key)).shuffle(sources)
        places, next_place = [], self._before[number].tolist()
        for source in sources:
            places.append((source, next_place[source]))
            next_place[source] += 1
        return places

    def _counts(self, first: int, last: int) -> NDArray[np.int64]:
        """[last - first, S]: places of each source in those blocks."""
        marks = (self._first + GOLDEN * np.arange(first, last)) % 1.0  # [K], where a block's first mark is
        ends = np.ceil(self._ends[None, :] - marks[:, None]).clip(0, self.block).astype(np.int64)
        ends[:, -1] = self.block
        return np.diff(ends, prepend=0, axis=-1)

    def _sum_up(self) -> None:
        first = len(self._before) - 1
        sums = self._before[-1] + self._counts(first, first + STRETCH).cumsum(0)
        self._before = np.concatenate([self._before, sums])
