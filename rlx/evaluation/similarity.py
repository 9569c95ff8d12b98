"""How alike two models are: linear CKA of their activations, and the loss on the straight path between their weights.

1. CKA (Kornblith et al., arXiv 1905.00414) is the unbiased one over batches (Nguyen et al., arXiv 2010.15327, section
   2.2, with the estimator HSIC_1 of Song et al., 2012): the ratio of sums over the batches, never a mean of ratios. The
   plain estimator is near 1 for anything where there are more features than rows.
2. Barrier height and convexity gap are those of Juneja et al. (arXiv 2205.12411, section 3): the largest rise of the
   loss above the chord of the whole path, and above the chord of any part of it.
"""

from collections.abc import Sequence
from itertools import combinations
from math import isfinite, nan

import torch
from torch import Tensor


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """HSIC_1 of activations [N, D] and [N, E] of the same N > 3 rows, with linear kernels; a float64 scalar."""
    n = len(first)
    k, m = (_gram(each) for each in (first, second))
    ones_k, ones_m = k.sum(0), m.sum(0)
    whole = (k * m).sum() + ones_k.sum() * ones_m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (ones_k @ ones_m)
    return whole / (n * (n - 3))


def _gram(x: Tensor) -> Tensor:
    """[N, N] products of rows, without those of a row with itself."""
    x = x.double()
    return (x @ x.T).fill_diagonal_(0)


def cka(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Linear CKA of two lists of batches of activations, [N, D] and [N, E] of the same rows each.

    1 where they are equal but for a rotation, a scale and a shift; about 0, perhaps below, where they are independent.
    """
    cross = own = other = torch.zeros((), dtype=torch.float64)
    for x, y in zip(first, second, strict=True):
        cross, own, other = cross + unbiased_hsic(x, y), own + unbiased_hsic(x, x), other + unbiased_hsic(y, y)
    scale = (own * other).sqrt()
    return float(cross / scale) if scale > 0 else float("nan")


def barrier_height(losses: Sequence[float]) -> float:
    """The largest rise above the straight line from the first loss to the last, of evenly spaced points; at least 0,
    and NaN where a loss is not finite."""
    if not all(map(isfinite, losses)):
        return nan
    last = len(losses) - 1
    rises = (
        loss - ((last - place) * losses[0] + place * losses[-1]) / last for place, loss in enumerate(losses) if last
    )
    return max(0.0, *rises, 0.0)


def convexity_gap(losses: Sequence[float]) -> float:
    """The largest barrier height of any part of the path: at least that of the whole, and equal in both directions; NaN
    where a loss is not finite."""
    if not all(map(isfinite, losses)):
        return nan
    parts = combinations(range(len(losses) + 1), 2)
    return max((barrier_height(losses[first:last]) for first, last in parts), default=0.0)
