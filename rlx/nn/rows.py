"""What every layer may need to know about the rows of one forward pass, worked out once.

A layer names what it needs (`needs`: a name, and how to make it of a `Pass`). Layers that name the same thing share it,
and a compiled pass is handed it ready-made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True, kw_only=True)
class Pass:
    """What is known when a pass begins."""

    positions: Tensor
    """[B, T] int64 (or [1, T], the same in every row), position of each token in its document."""
    documents: Tensor | None
    """[B, T] int64, number of the token's document in its row, -1 on padding; None: one document a row."""
    slots: int | None
    """How many positions of a cache are attended; None: a pass without a cache."""
    lengths: Tensor | None
    """[B] int64, without documents: tokens of each row that are no padding; None: all."""


Need = Callable[[Pass], Any]
"""What a layer needs of a pass: tensors, or None where the usual will do."""


@dataclass(slots=True, kw_only=True)
class Rows:
    """Positions of the tokens of one pass, and what its layers asked for."""

    positions: Tensor
    """[B, T] int64, position of each token in its document."""
    given: dict[str, Any]
    """What layers need, by the name that they gave it."""
    places: Tensor | None = None
    """[B, T] int64: ids that the task gives the tokens, of models that embed them (`rlx.nn.places`)."""
    routing: Tensor | None = None
    """[L, B, T, K] int64: experts that the L routed layers are to take instead of choosing, which they do where it is
    -1; None: they choose."""
    look: int | None = None
    """Layer (0, 1, ...) after which the residual stream is given back besides (`Aux.looked`); None: of none."""


def seen_by(window: int | tuple[int, ...] | None) -> tuple[str, Need]:
    """Name and maker of a mask [B, 1, T, S] bool, True where token t may see slot s: its document so far, and of that
    the last `window` tokens, itself included, where a window is given; of several, one a head, [B, H, T, S]. None
    stands for plain causal rows of T = S."""
    return ("seen" if window is None else f"seen/{window}"), lambda known: _mask(known, window)


def _mask(known: Pass, window: int | tuple[int, ...] | None) -> Tensor | None:
    positions = known.positions
    if known.slots is not None:
        mask, slots = cache_mask(positions, known.slots), torch.arange(known.slots, device=positions.device)
        return mask if window is None else mask & _within(positions[:, None, :, None] - slots, window)
    length = positions.shape[1]
    packed = known.documents is not None and not one_document_a_row(known.documents)
    if known.documents is not None and packed:
        mask = document_mask(known.documents)
    elif window is None or (isinstance(window, int) and window >= length):
        return None
    else:
        mask = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()[None, None]
    if window is None:
        return mask
    place = torch.arange(length, device=positions.device)
    return mask & _within((place[:, None] - place)[None, None], window)


def _within(distance: Tensor, window: int | tuple[int, ...]) -> Tensor:
    """Where distances [B, 1, T, S] are inside the window, or (several) inside each head's, [B, H, T, S]."""
    if isinstance(window, int):
        return distance < window
    return distance < _windows(window, distance.device)


@cache
def _windows(window: tuple[int, ...], device: torch.device) -> Tensor:
    """[H, 1, 1] int64, made once: a step that is recorded may not read what the host makes."""
    return torch.tensor(window, device=device)[:, None, None]


def document_mask(documents: Tensor) -> Tensor:
    """[B, 1, T, T] bool from documents [B, T] int64: causal, and never across documents."""
    length = documents.shape[1]
    same = documents[:, None, :, None] == documents[:, None, None, :]  # [B, 1, T, T]
    return same & torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()


def one_document_a_row(documents: Tensor) -> bool:
    """True when plain causal attention is enough: in no row a document follows another one.

    Padding (-1) may follow: what it attends counts nowhere. Looked at on a CPU only; elsewhere it would be waited for.
    """
    return documents.device.type == "cpu" and not bool((documents > 0).any())


def cache_mask(positions: Tensor, slots: int) -> Tensor:
    """[B, 1, T, S] bool from positions [B, T] int64: slot s holds position s, and a token sees slots up to its own."""
    return torch.arange(slots, device=positions.device) <= positions[:, None, :, None]


def starts(known: Pass) -> Tensor | None:
    """[B, T] bool, True on the first token of each document; None where a row is one document (padding may follow) or
    goes on from a cache."""
    documents = known.documents
    if documents is None or one_document_a_row(documents):
        return None
    return torch.nn.functional.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)


def real(known: Pass) -> Tensor | None:
    """[B, T] bool, False on padding; None where there is none."""
    if known.lengths is not None:
        place = torch.arange(known.positions.shape[1], device=known.lengths.device)
        return place < known.lengths[:, None]
    return None if known.documents is None else known.documents >= 0
