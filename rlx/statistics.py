"""Numbers with intervals: pass@k, mean@k, maj@k, and bootstrap intervals over problems and seeds.

Every arm of a study answers the same held-out problems, so results are crossed: counts [S, N] hold, for each of S
training seeds and N problems, how many of n samples were correct. One seed: `counts` may be [N].

Choices, where practice differs:
1. pass@k is the unbiased estimator of Chen et al. 2021 (https://arxiv.org/abs/2107.03374, section 2.1), written as a
   product, so that no binomial overflows.
2. Problems are resampled once per replicate and for all seeds together, as they are the same problems (the pigeonhole
   bootstrap, Owen 2007, https://arxiv.org/abs/0712.1111). With one seed only problems are resampled.
3. Intervals are percentile intervals. They know nothing beyond the data: when every problem has the same score the
   interval has no width, and a handful of seeds gives one that is too narrow (by sqrt((S-1)/S) in its seed part).
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CHUNK = 1_000_000  # numbers drawn at once: 8 MB, whatever the number of problems


class Estimate(NamedTuple):
    """A mean and the ends of its interval, in the unit of what was averaged."""

    value: float
    low: float
    high: float


def pass_at_k(correct: ArrayLike, n: ArrayLike, k: int) -> Floats:
    """The chance that k of a problem's n samples, drawn without replacement, contain a correct one.

    correct: whole numbers, any shape; n: samples made, an int or an array that broadcasts to it.
    Returns probabilities in [0, 1] in the broadcast shape. Raises ValueError unless 0 <= correct <= n and 1 <= k <= n.
    """
    c, total = _counts(correct, n)
    if k < 1 or k > total.min():
        raise ValueError(f"pass@{k} needs 1 <= k <= n samples a problem; the fewest is n={int(total.min())}")
    all_wrong = np.ones_like(c)
    for drawn in range(k):
        all_wrong *= np.maximum(total - c - drawn, 0) / (total - drawn)
    return 1.0 - all_wrong


def mean_at_k(correct: ArrayLike, n: ArrayLike) -> Floats:
    """The share of a problem's n samples that are correct: mean@n, and the unbiased estimate of mean@k for any k <= n.

    Shapes and errors as in `pass_at_k`.
    """
    c, total = _counts(correct, n)
    return c / total


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Whether the commonest answer among the first k samples of one problem is correct.

    answers: one per sample, None where there was none (it has no vote); correct: the verdict on each, equal for equal
    answers. Of several commonest answers one is drawn, so the value is the share of them that is correct. No answer at
    all is 0. Raises ValueError unless 1 <= k <= len(answers) == len(correct).
    """
    if not 1 <= k <= len(answers) or len(answers) != len(correct):
        raise ValueError(f"maj@{k} needs k answers, each with a verdict; got {len(answers)} and {len(correct)}")
    votes = Counter(answer for answer in answers[:k] if answer is not None)
    if not votes:
        return 0.0
    right = {answer for answer, ok in zip(answers[:k], correct, strict=False) if ok}
    winners = [answer for answer, count in votes.items() if count == max(votes.values())]
    return sum(answer in right for answer in winners) / len(winners)


def bootstrap(scores: ArrayLike, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Estimate:
    """The mean of scores [S, N] or [N], with a percentile interval over problems and, when S > 1, over seeds.

    scores: one number per seed and problem (a pass@k, a 0 or 1, a loss). Each replicate draws N problems with
    replacement, the same for all seeds, and S seeds with replacement. The same arguments give the same interval.
    Raises ValueError for no scores, scores that are not finite, or a level outside (0, 1).
    """
    table = _table(scores)
    return _interval([table], resamples, level, seed)


def bootstrap_pass_at_k(
    counts: ArrayLike, n: ArrayLike, k: int, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """pass@k averaged over counts [S, N], with its interval. Resampling as in `bootstrap`, errors of both."""
    return bootstrap(pass_at_k(counts, n, k), resamples=resamples, level=level, seed=seed)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    paired_seeds: bool = True,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """mean(first) - mean(second) of two arms on the same problems, with its interval.

    first [S, N] and second [S', N] (or [N]): column j of both is the same problem. Problems are drawn jointly, so what
    makes a problem hard for both arms cancels. With `paired_seeds` row i of both is the same seed (S = S') and seeds
    are drawn jointly too; without, each arm's seeds are drawn on their own. Raises ValueError as `bootstrap` does, and
    for arms that do not line up.
    """
    a, b = _table(first), _table(second)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"paired arms need the same problems; got {a.shape[1]} and {b.shape[1]}")
    if paired_seeds and len(a) != len(b):
        raise ValueError(f"paired seeds need as many in both arms; got {len(a)} and {len(b)}: paired_seeds=False")
    return _interval([a - b] if paired_seeds else [a, -b], resamples, level, seed)


def _counts(correct: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Both as floats of one shape. Raises ValueError unless they are whole, n >= 1 and 0 <= correct <= n."""
    c, total = np.broadcast_arrays(np.asarray(correct, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not c.size:
        raise ValueError("no problems: counts are empty")
    whole = np.all(c == np.floor(c)) and np.all(total == np.floor(total))
    if not whole or c.min() < 0 or total.min() < 1 or np.any(c > total):
        raise ValueError("counts must be whole numbers with 0 <= correct <= n and n >= 1")
    return c, total


def _table(scores: ArrayLike) -> Floats:
    """Scores as a finite float array [S, N]."""
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if table.ndim != 2 or not table.size:
        raise ValueError(f"scores must be [problems] or [seeds, problems], and some; got shape {np.shape(scores)}")
    if not np.isfinite(table).all():
        raise ValueError("scores must be finite; leave out the problems that have none, in every seed")
    return table


def _interval(arms: Sequence[Floats], resamples: int, level: float, seed: int) -> Estimate:
    """The sum of the arms' means. Problems are drawn once for all arms, seeds for each arm on its own."""
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"an interval needs 0 < level < 1 and resamples >= 1; got {level} and {resamples}")
    seeds = [_weights(len(arm), resamples, (seed, 1 + index)) for index, arm in enumerate(arms)]
    replicates = np.zeros(resamples)
    step = max(1, CHUNK // arms[0].shape[1])
    for start in range(0, resamples, step):
        rows = slice(start, min(start + step, resamples))
        problems = _weights(arms[0].shape[1], rows.stop - start, (seed, 0, start))
        for arm, weights in zip(arms, seeds, strict=True):
            replicates[rows] += (weights[rows] * (problems @ arm.T)).sum(axis=1) / arm.size
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(sum(arm.mean() for arm in arms)), float(low), float(high))


@lru_cache(maxsize=16)  # a report asks for the same draws hundreds of times; at most 128 MB
def _weights(size: int, resamples: int, stream: tuple[int, ...]) -> Floats:
    """How often each of `size` things is drawn in `size` draws with replacement: counts [resamples, size]."""
    drawn = np.random.default_rng(stream).integers(size, size=(resamples, size)) + np.arange(resamples)[:, None] * size
    counts = np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)
    counts.setflags(write=False)
    return counts
