"""Adapters of a matrix, drawn, and what they add to it, worked out in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlx.merges.base import Factors

STACKS = {"matrix": (), "stack": (3,)}
"""Dimensions before those of a matrix."""


def drawn(ranks: Sequence[int], scales: Sequence[float], stack: Sequence[int] = (), *, o: int = 11, i: int = 9):
    """Factors of these ranks and scales for [*stack, o, i]."""
    generator = torch.Generator().manual_seed(sum(ranks))
    return [
        Factors(
            torch.randn(*stack, rank, i, generator=generator), torch.randn(*stack, o, rank, generator=generator), scale
        )
        for rank, scale in zip(ranks, scales, strict=True)
    ]


def dense(factors: Factors) -> Tensor:
    """scale B A in float64."""
    return factors.scale * torch.einsum("...or,...ri->...oi", factors.b.double(), factors.a.double())


def total(factors: Sequence[Factors], weights: Sequence[float]) -> Tensor:
    """sum w_i s_i B_i A_i in float64."""
    return torch.stack([weight * dense(each) for each, weight in zip(factors, weights, strict=True)]).sum(0)


def distance(one: Tensor, other: Tensor) -> float:
    """Relative to the second."""
    return float((one - other).norm() / other.norm())
