"""A search without gradients: an evolution strategy of one parent and one child, (1+1)-ES (Rechenberg, 1973).

A child is the parent plus normal noise, and takes its place where it is no worse. The noise grows by a factor with each
success and shrinks with each failure so that one success in five keeps it (the 1/5 rule, in the form of Kern et al.,
2004, algorithm 1).
"""

import math
from collections.abc import Callable

import torch

FIRST = 0.5
"""Spread of the first noise, relative to the bound."""


def search(
    value: Callable[[list[float]], float], size: int, *, evaluations: int, bound: float, generator: torch.Generator
) -> list[tuple[list[float], float]]:
    """All points that were tried, with their values, beginning with 0; the best has the smallest value.

    Args:
        value: of a point of `size` numbers between -bound and bound; a NaN counts as the worst.
    """
    best, spread, growth = [0.0] * size, FIRST * bound, math.exp(1 / math.sqrt(size + 1))
    found = [(best, value(best))]
    least = found[0][1]
    while len(found) < evaluations:
        noise = torch.randn(size, generator=generator)
        child = [min(bound, max(-bound, x + spread * float(step))) for x, step in zip(best, noise, strict=True)]
        found.append((child, value(child)))
        success = found[-1][1] <= least or math.isnan(least)
        if success:
            best, least = found[-1]
        spread = min(spread * (growth if success else growth**-0.25), bound)
    return found
