"""What every layer may need to know about the rows of one forward pass, worked out once."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True, kw_only=True)
class Rows:
    """Positions and visibility of the tokens of one pass, shared by all layers."""

    positions: Tensor
    """[B, T] int64, position of each token in its document."""
    mask: Tensor | None
    """[B, 1, T, S] bool, True where token t may see slot s; None: plain causal over equal T and S."""
    rotary: tuple[Tensor, Tensor] | None
    """cos and sin, each [B, 1, T, K] float32; None when the model has no rotary positions."""


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
