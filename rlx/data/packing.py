"""Documents into fixed-size batches: whole documents, first fit, boundaries kept.

A document is not cut here. One that fits nowhere in the current batch is carried to the next; after `TRIES` of them
the batch is closed. The packer's state is the position in the stream and the positions carried, so a resumed run packs
the same rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlx.batches import Batch
from rlx.data.documents import Document
from rlx.errors import ConfigError

TRIES = 8
"""Documents that did not fit before a batch is closed: fills rows to about 95 % with short documents."""

ROOM = 512
"""Row lengths that are proposed are multiples of it."""

SMALLEST_GAP = 4
"""Full rows at the front with fewer free tokens are not looked at again."""


class Packer:
    """A stream of batches [rows, length].

    Args:
        document: position in the stream (0, 1, 2, ...) to its document; pure.
        rows: B.
        length: T, tokens a row.
        pad_id: token id of unused places.
        coupled: the documents have coupled positions, and the batches are to have them too.
        mixed: the documents come from several sources, and the batches are to say from which.
    """

    def __init__(
        self,
        document: Callable[[int], Document],
        *,
        rows: int,
        length: int,
        pad_id: int,
        coupled: bool = False,
        mixed: bool = False,
    ) -> None:
        self.document, self.rows, self.length, self.pad_id = document, rows, length, pad_id
        self.coupled, self.mixed = coupled, mixed
        self.position, self.carried = 0, []
        self._waiting: dict[int, Document] = {}

    def state_dict(self) -> dict:
        """{"position": next of the stream, "carried": positions still to be placed}."""
        return {"position": self.position, "carried": list(self.carried)}

    def load_state_dict(self, state: dict) -> None:
        self.position, self.carried = state["position"], list(state["carried"])

    def next(self) -> Batch:
        """The next batch.

        Raises:
            ConfigError: a document longer than a row.
        """
        sheet = _Sheet(self.rows, self.length, self.coupled)
        made, self._waiting = self._waiting, {}
        for position in self.carried:
            self._place(sheet, position, made.get(position))
        while len(self._waiting) < TRIES:
            position, self.position = self.position, self.position + 1
            self._place(sheet, position)
        self.carried = list(self._waiting)
        return sheet.batch(self.pad_id, mixed=self.mixed)

    def _place(self, sheet: "_Sheet", position: int, made: Document | None = None) -> None:
        """Put a document into the sheet, or where it waits for the next one."""
        document = made or self.document(position)
        if len(document.ids) > self.length:
            room = ROOM * -(-len(document.ids) * 3 // (2 * ROOM))
            raise ConfigError(
                f"a document of {len(document.ids)} tokens does not fit stage.row_tokens={self.length}; try "
                f"stage.row_tokens={room} (others may be longer; stage.batch_tokens is a multiple of it), shorter "
                f"traces, or corpus.max_tokens={self.length} (a mixture's source has its own), which cuts documents; "
                "corpus=dialogues has none, take fewer turns there"
            )
        if not sheet.place(document):
            self._waiting[position] = document


class _Sheet:
    """Rows being filled."""

    def __init__(self, rows: int, length: int, coupled: bool) -> None:
        self.free = [length] * rows
        self.count = [0] * rows
        self.length = length
        self.first = 0
        self.ids: list[int] = []
        self.coupled: list[int] | None = [] if coupled else None
        self.spans: list[tuple[int, int, int, int, int]] = []
        """Of each document: place of its first token, rows laid end to end; size; given tokens; number in its row;
        source."""
        self.told: list[tuple[int, int]] = []
        """Begins and ends of what is told in between, rows laid end to end."""

    def place(self, document: Document) -> bool:
        """Put the document into the first row with room; False when there is none."""
        size = len(document.ids)
        for row in range(self.first, len(self.free)):
            if self.free[row] >= size:
                start = (row + 1) * self.length - self.free[row]
                self.spans.append((start, size, document.given, self.count[row], document.source))
                self.ids += document.ids
                self.told += [(start + begin, start + end) for begin, end in document.told]
                if self.coupled is not None:
                    assert document.places is not None
                    self.coupled += document.places
                self.free[row] -= size
                self.count[row] += 1
                while self.first < len(self.free) and self.free[self.first] < min(SMALLEST_GAP, self.length):
                    self.first += 1
                return True
        return False

    def batch(self, pad_id: int, *, mixed: bool) -> Batch:
        starts, sizes, given, numbers, sources = np.array(self.spans, dtype=np.int64).T
        positions = np.arange(len(self.ids)) - np.repeat(sizes.cumsum() - sizes, sizes)
        places = np.repeat(starts, sizes) + positions
        shape = (len(self.free), self.length)

        def filled(empty: int, values: NDArray[Any], dtype: type) -> torch.Tensor:
            cells = np.full(shape, empty, dtype=dtype)
            cells.reshape(-1)[places] = values
            return torch.from_numpy(cells)

        counted = filled(0, positions >= np.repeat(given, sizes), np.float32)
        for begin, end in self.told:
            counted.view(-1)[begin:end] = 0
        return Batch(
            tokens=filled(pad_id, np.array(self.ids), np.int64),
            positions=filled(0, positions, np.int64),
            documents=filled(-1, np.repeat(numbers, sizes), np.int64),
            loss_mask=counted,
            places=None if self.coupled is None else filled(0, np.array(self.coupled), np.int64),
            sources=filled(0, np.repeat(sources, sizes), np.int64) if mixed else None,
        )
