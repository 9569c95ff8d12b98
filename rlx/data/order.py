"""In which order a run walks through a task: a pure function, so that nothing but a position is saved.

Streams start at a place of their own for every (run seed, purpose): two stages of one lineage do not see the same
examples in the same order, and two seeds share none of an unbounded stream. A bounded set is walked in epochs, each a
fresh shuffle of blocks and of the places inside them (generators make neighbouring examples together, so a walk that
jumps at every example would make each block a thousand times).
"""

import random

from rlx.tasks.base import stable_hash

BLOCK = 1024
"""Neighbouring examples that are walked together."""


class Order:
    """Position (0, 1, 2, ...) to example index.

    Args:
        size: number of examples, None for an unbounded stream.
        key: anything that names the walk, such as (seed, stage, depth).
    """

    def __init__(self, size: int | None, *key: object) -> None:
        self.size, self.key = size, key
        self._start = (stable_hash("order", *key) % 2**30) * BLOCK
        self._epoch: tuple[int, list[int], int] | None = None
        self._block: tuple[tuple[int, int], list[int]] | None = None

    def __getitem__(self, position: int) -> int:
        """The example index at `position` (>= 0)."""
        if self.size is None:
            return self._start + position
        epoch, place = divmod(position, self.size)
        return self._place(epoch, place)

    def _place(self, epoch: int, place: int) -> int:
        """Index of the `place`-th example of an epoch: blocks shuffled, then each block."""
        assert self.size is not None
        blocks, where = self._blocks(epoch)
        short = self.size % BLOCK  # the last block may be short, wherever the shuffle put it
        after = place - where * BLOCK
        if after < 0:
            number, inside = divmod(place, BLOCK)
        elif after < short:
            number, inside = where, after
        else:
            number, inside = divmod(place - short, BLOCK)
            number += bool(short)
        return self._members(epoch, blocks[number])[inside]

    def _blocks(self, epoch: int) -> tuple[list[int], int]:
        """An epoch's blocks in their order, and where among them the short one is (past the end without one)."""
        assert self.size is not None
        if self._epoch is None or self._epoch[0] != epoch:
            blocks = list(range(-(-self.size // BLOCK)))
            random.Random(stable_hash("blocks", epoch, *self.key)).shuffle(blocks)
            where = blocks.index(len(blocks) - 1) if self.size % BLOCK else len(blocks)
            self._epoch = (epoch, blocks, where)
        return self._epoch[1:]

    def _members(self, epoch: int, block: int) -> list[int]:
        assert self.size is not None
        if self._block is None or self._block[0] != (epoch, block):
            members = list(range(block * BLOCK, min(self.size, (block + 1) * BLOCK)))
            random.Random(stable_hash("members", epoch, block, *self.key)).shuffle(members)
            self._block = ((epoch, block), members)
        return self._block[1]
