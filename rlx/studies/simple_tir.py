"""`study=simple_tir`: a model with a calculator, trained with and without the filter of void turns.

Source: SimpleTIR (Xue et al., arXiv 2509.02479). Theirs runs programs for competition problems, with models of 7B that
diverge without the filter; here a model of 0.2 M asks a calculator for products of a number of 2 to 4 digits and one
digit (`environment=tool`).

1. The base has read problems with their answers, and demonstrations of calls in 3 of 10, of which one in ten is flawed
   (5 % have an unfinished call, 5 % a corrupted reply), so that void turns exist.
2. `noise` arms are told random digits in a fifth of the replies of training; all are measured without.
3. `single` begins as the others, with the algorithm of the others, and answers at once, for as many operations as
   `tool` took in training and rollouts. It has three times as many prompts an iteration, whose samples are so much
   shorter, and makes some 70 iterations for the operations of 100.
4. The algorithm is the paper's: GRPO without a divergence, clipped at 0.2 and 0.28, four minibatches an iteration.
5. Thresholds were set before any run. Problems, sizes, steps and rates were chosen by looking at seed 0 alone. Products
   of two long numbers are never right in one turn, so that nothing could be compared; these are in a fourth. At a rate
   of 1e-3 all arms fall below their start, filtered or not, and at 5e-4 those with noise and one without do; at 2e-4,
   which was taken, the calculator is learnt.
6. "Start" and later are means over tenths of a run's iterations. Of claims without an interval the worst seed decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlx.options import option
from rlx.statistics import Estimate
from rlx.studies.base import Claim, Results, StudyConfig, at_least, difference_claim, undecided

CALMER = 0.5
"""The filter is to bring the 95th percentile of the gradient's norm, or its variance, down to this share."""
GAIN = 0.03
"""The filter is to gain so much accuracy; or, as near as this, a norm of half the variance."""
PAIRS = {"without noise": ("tool", "unfiltered"), "with noise": ("noise", "noise_unfiltered")}
"""The arms with and without the filter."""
MISSING = "runs are missing"


@option("study", "simple_tir")
@dataclass(kw_only=True, slots=True)
class SimpleTirConfig(StudyConfig):
    """Void turns filtered, and not, in a dialogue with a calculator."""

    def claims(self, results: Results) -> list[Claim]:
        single = "Calls and an answer beat an answer at once, trained for as many operations"
        falls = "Without the filter and with noise, training ends below its start"
        found = [difference_claim(results, single, "tool", "single", threshold=0.0)]
        for told, (filtered, unfiltered) in PAIRS.items():
            found.append(norms(results, told, filtered, unfiltered))
            found.append(turns(results, told, filtered))
            found.append(accuracy(results, told, filtered, unfiltered))
        return [*found, difference_claim(results, falls, "base", "noise_unfiltered", threshold=0.0)]


def norms(results: Results, told: str, filtered: str, unfiltered: str) -> Claim:
    """The gradient's norm with the filter over that without; the worst seed decides."""
    sentence = f"The filter halves the 95th percentile of the gradient's norm, {told}"
    quantity = f"95th percentile of train/grad_norm of {filtered} over that of {unfiltered}, worst seed"
    shares = _shares(results, filtered, unfiltered, lambda values: float(np.percentile(values, 95)))
    if not shares:
        return undecided(sentence, quantity, "≤ 0.5", MISSING)
    return Claim(
        claim=sentence, quantity=quantity, threshold="≤ 0.5", verdict="holds" if max(shares) <= CALMER else "fails",
        value=max(shares), note=f"per seed: {_plain(shares)}",
    )  # fmt: skip


def turns(results: Results, told: str, name: str) -> Claim:
    """The lowest tenth of a run after the first, less the first; the worst seed decides."""
    sentence = f"Turns an episode do not fall below their start, {told}"
    quantity = f"lowest turns/mean of {name} over a later tenth minus the first's, worst seed"
    tenths = [_tenths([value for _, value in series]) for series in results.series(name, "turns/mean")]
    if not tenths or min(map(len, tenths)) < 2:
        return undecided(sentence, quantity, "≥ 0 turns", MISSING)
    falls, starts = [min(later) - first for first, *later in tenths], [first for first, *_ in tenths]
    return Claim(
        claim=sentence, quantity=quantity, threshold="≥ 0 turns", verdict="holds" if min(falls) >= 0 else "fails",
        value=min(falls), unit="turns", note=f"per seed: {_plain(falls)}; they start at {_plain(starts)}",
    )  # fmt: skip


def accuracy(results: Results, told: str, filtered: str, unfiltered: str) -> Claim:
    """More of it; or as much, with a calmer gradient in the worst seed."""
    sentence = f"The filter gains 3 points, or none with half the variance of the gradient's norm, {told}"
    quantity = f"pass@1 of {filtered} minus {unfiltered}, same problems"
    threshold = "≥ 3 points, or within 3 and variance ≤ 0.5"
    found = results.difference(filtered, unfiltered)
    shares = _shares(results, filtered, unfiltered, lambda values: float(np.var(values, ddof=1)))
    if found is None or not shares:
        return undecided(sentence, quantity, threshold, MISSING)
    each = ", ".join(f"{100 * value:.1f}" for value in results.differences(filtered, unfiltered))
    return Claim(
        claim=sentence, quantity=quantity, threshold=threshold,
        verdict=either(at_least(found, GAIN), equal(found) if max(shares) <= CALMER else "fails"),
        value=100 * float(found.value), unit="points", interval=[100 * float(found.low), 100 * float(found.high)],
        note=f"per seed: {each}; variance of the norm, filtered over not: {_plain(shares)}",
    )  # fmt: skip


def equal(found: Estimate) -> str:
    """holds when the whole interval is nearer to 0 than `GAIN`, fails when none of it is, else undecided."""
    if found.low >= -GAIN and found.high <= GAIN:
        return "holds"
    return "fails" if found.high < -GAIN or found.low > GAIN else "undecided"


def either(one: str, other: str) -> str:
    """The verdict on two of which one is enough."""
    if "holds" in (one, other):
        return "holds"
    return "fails" if one == other == "fails" else "undecided"


def _shares(results: Results, first: str, second: str, measure: Callable[[Sequence[float]], float]) -> list[float]:
    """A measure of one arm's gradient norms over that of another's, a seed each; [] where runs are missing."""
    arms = [
        [[value for _, value in each] for each in results.series(arm, "train/grad_norm")] for arm in (first, second)
    ]
    if len(arms[0]) != len(arms[1]) or not all(len(values) > 1 for arm in arms for values in arm):
        return []
    pairs = [(measure(one), measure(other)) for one, other in zip(*arms, strict=True)]
    return [one / other if other else float("inf") for one, other in pairs]


def _tenths(values: Sequence[float]) -> list[float]:
    """Means over tenths of them, in order; single values where there are fewer than ten, and what is over is in the
    last."""
    size = max(1, len(values) // 10)
    starts = range(0, size * min(10, len(values)), size)
    return [float(np.mean(values[start : start + size if start != starts[-1] else None])) for start in starts]


def _plain(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
