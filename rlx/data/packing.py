"""Documents into fixed-size batches: whole documents, first fit, boundaries kept.

A document is never cut. One that fits nowhere in the current batch is carried to the next; after `TRIES` of them the
batch is closed. The packer's state is the position in the stream and the positions carried, so a resumed run packs the
same rows.
"""

from collections.abc import Callable

import numpy as np
import torch

from rlx.batches import Batch
from rlx.data.documents import Document
from rlx.errors import ConfigError

TRIES = 8
"""Documents that did not fit before a batch is closed: fills rows to about 95 % with short documents."""

SMALLEST_GAP = 4
"""Full rows at the front with fewer free tokens are not looked at again."""


class Packer:
    """A stream of batches [rows, length].

    Args:
        document: position in the stream (0, 1, 2, ...) to its document; pure.
        rows: B.
        length: T, tokens a row.
        pad_id: token id of unused places.
    """

    def __init__(self, document: Callable[[int], Document], *, rows: int, length: int, pad_id: int) -> None:
        self.document, self.rows, self.length, self.pad_id = document, rows, length, pad_id
        self.position, self.carried = 0, []

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
        sheet = _Sheet(self.rows, self.length, self.pad_id)
        carried = [position for position in self.carried if not sheet.place(self._fetch(position))]
        while len(carried) < TRIES:
            position, self.position = self.position, self.position + 1
            if not sheet.place(self._fetch(position)):
                carried.append(position)
        self.carried = carried
        return sheet.batch()

    def _fetch(self, position: int) -> Document:
        document = self.document(position)
        if len(document.ids) > self.length:
            raise ConfigError(
                f"a document of {len(document.ids)} tokens does not fit stage.row_tokens={self.length}; raise it, "
                "or choose shorter traces"
            )
        return document


class _Sheet:
    """Rows being filled."""

    def __init__(self, rows: int, length: int, pad_id: int) -> None:
        shape = (rows, length)
        self.tokens = np.full(shape, pad_id, dtype=np.int64)
        self.positions = np.zeros(shape, dtype=np.int64)
        self.documents = np.full(shape, -1, dtype=np.int64)
        self.mask = np.zeros(shape, dtype=np.float32)
        self.free = [length] * rows
        self.count = [0] * rows
        self.length = length
        self.first = 0

    def place(self, document: Document) -> bool:
        """Put the document into the first row with room; False when there is none."""
        size = len(document.ids)
        for row in range(self.first, len(self.free)):
            if self.free[row] >= size:
                self._write(row, document, size)
                return True
        return False

    def _write(self, row: int, document: Document, size: int) -> None:
        start = self.length - self.free[row]
        span = slice(start, start + size)
        self.tokens[row, span] = document.ids
        self.positions[row, span] = np.arange(size)
        self.documents[row, span] = self.count[row]
        self.mask[row, start + document.given : start + size] = 1
        self.free[row] -= size
        self.count[row] += 1
        while self.first < len(self.free) and self.free[self.first] < min(SMALLEST_GAP, self.length):
            self.first += 1

    def batch(self) -> Batch:
        return Batch(
            tokens=torch.from_numpy(self.tokens),
            positions=torch.from_numpy(self.positions),
            documents=torch.from_numpy(self.documents),
            loss_mask=torch.from_numpy(self.mask),
        )
