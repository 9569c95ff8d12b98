"""`study=thinker`: a fast answer, a verdict on it and a slow answer, each trained by its own reward.

Source: Thinker (Chung, Du and Fu, arXiv 2505.21097). Theirs are models of 1.5B on mathematics; here a model of two
layers adds numbers of two digits, at once or digit by digit (`task=arithmetic task.trace=scratchpad`).

1. `base` is fine-tuned on demonstrations of all four steps (`corpus=dialogues`), and stopped while it is mediocre. A
   verdict is one word, without work before it.
2. `thinker` is GRPO turn by turn, without division by the standard deviation: that would undo what weights of 1 - p and
   p are for, since a group's fast answers are often of one kind.
3. `flat` has no such weights, `bare` no term for the likelihood of summaries. `plain` answers at once and is trained
   for nothing else, from the same start, within the same tokens an answer, for as many operations as `thinker` took.
4. All are measured in the whole environment, where a Yes of the model accepts its fast answer and anything else goes on
   to the slow one: fast accuracy, and the verifier's balanced accuracy, the mean of the share of right fast answers
   that it accepts and that of wrong ones that it refuses (with a No; no verdict is none).
5. Thresholds are proposals for 5 to 20 M parameters and 300 iterations that were made before any run, and are told here
   all the same. Task, base, sizes, steps and rates were chosen by looking at seed 0, of the whole study twice: with a
   base that had learnt less of the slow answer (18 % right), and rates twice as high, the final answer became worse.
   Other seeds were not looked at. How often the base is right at once differs much between seeds (19, 63 and 66 % in
   the first three, where 30 to 60 % was meant): it learns that within a few dozen steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlx.options import option
from rlx.statistics import Estimate, paired_difference
from rlx.studies.base import Claim, Quantity, Results, StudyConfig, at_least, difference_claim, points_claim, undecided

Floats = NDArray[np.float64]
BALANCED = 0.70
"""Balanced accuracy of the verifier; it must be above one half by three standard errors too."""
FINAL = 0.03
"""The final answer is to be more often right than the fast one by this."""
NEAR = 0.01
"""The fast answer may be less often right than that of plain training by this."""
WEIGHTS = 0.05
"""What the weights of verdicts are worth, where p is outside `EVEN`."""
EVEN = (0.35, 0.65)
"""Shares of right fast answers with which weights of 1 - p and p say little."""
UNTOLD = "runs are missing, or have fast answers of one kind alone"
"""Why nothing is told of balanced accuracy."""
KINDS = ("fast", "yes_to_right", "no_to_wrong")
"""Measures that balanced accuracy is of."""


@option("study", "thinker")
@dataclass(kw_only=True, slots=True)
class ThinkerStudyConfig(StudyConfig):
    """Four steps rewarded apart, their ablations, and plain answers."""

    def claims(self, results: Results) -> list[Claim]:
        near = "Fast answers are no worse than those of plain training for as many operations, by more than a point"
        sign = "The likelihood of summaries makes fast answers no worse"
        learnt = "Training in steps makes the final answer better"
        return [
            balanced(results),
            final(results),
            fast_claim(results, near, "plain", threshold=-NEAR),
            weights(results),
            fast_claim(results, sign, "bare", threshold=0.0),
            difference_claim(results, learnt, "thinker", "base", threshold=0.0),
        ]


def of(name: str) -> Quantity:
    """A measure of a problem, which is a mean over its samples."""
    return lambda row: row["measures"][name]


def share_right(row: dict[str, Any]) -> float:
    """pass@1 of a problem."""
    return row["correct"] / row["n"]


def balanced_accuracy(fast: Floats, accepted: Floats, refused: Floats) -> float:
    """Of shares of episodes by problem, [N] each: right fast answers, those that are accepted, and wrong ones that are
    refused; NaN where all are right, or none."""
    right = float(fast.mean())
    return float(accepted.mean() / right + refused.mean() / (1 - right)) / 2 if 0 < right < 1 else math.nan


def verdicts(results: Results, *names: str) -> list[Floats] | None:
    """[3, S, N] of each run: what `balanced_accuracy` is of, on the same seeds and problems; None where runs are
    missing, or a seed of one has fast answers of one kind alone."""
    tables = results.tables(*((f"eval_{name}", of(kind)) for name in names for kind in KINDS))
    if tables is None:
        return None
    arms = [np.stack(tables[3 * n : 3 * n + 3]) for n in range(len(names))]
    return arms if all(np.isfinite(by_seed(arm)).all() for arm in arms) else None


def by_seed(arm: Floats) -> list[float]:
    """Balanced accuracy of each seed of [3, S, N]."""
    return [balanced_accuracy(*arm[:, seed]) for seed in range(arm.shape[1])]


def resampled(arms: Sequence[Floats], resamples: int = 1000) -> Estimate:
    """Mean balanced accuracy over seeds, of the first of arms [3, S, N] less the second's if there is one; the interval
    is over problems, the same for all seeds and arms, and over seeds."""
    draw = np.random.default_rng(0)
    _, seeds, problems = arms[0].shape

    def value(rows: Any, columns: Any) -> float:
        found = [float(np.mean(by_seed(arm[:, rows][:, :, columns]))) for arm in arms]
        return found[0] - sum(found[1:])

    drawn = [value(draw.integers(seeds, size=seeds), draw.integers(problems, size=problems)) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(value(range(seeds), range(problems)), float(low), float(high))


def balanced(results: Results) -> Claim:
    """Whether the verifier tells right from wrong."""
    sentence = "The verifier learns to tell right fast answers from wrong ones"
    quantity = "balanced accuracy of the verdicts of thinker"
    told = "≥ 70 %, and > 50 % by 3 standard errors"
    arms = verdicts(results, "thinker", "base")
    if arms is None:
        return undecided(sentence, quantity, told, UNTOLD)
    found = resampled(arms[:1])
    apart = found.value - 3 * (found.high - found.low) / 3.92 > 0.5
    verdict = at_least(found, BALANCED) if apart else "fails"
    return Claim(
        claim=sentence, quantity=quantity, threshold=told, verdict=verdict,
        value=100 * found.value, unit="%", interval=[100 * found.low, 100 * found.high],
        note=f"per seed: {_percent(by_seed(arms[0]))}; base {_percent(by_seed(arms[1]))}",
    )  # fmt: skip


def weights(results: Results) -> Claim:
    """What balanced accuracy loses without weights, where right and wrong fast answers are not as frequent."""
    sentence = "Without weights of 1 - p and p the verifier's balanced accuracy falls by at least 5 points"
    quantity = "balanced accuracy of thinker minus flat"
    told = "≥ 5 points, where p is outside 35 to 65 %"
    arms = verdicts(results, "thinker", "flat")
    if arms is None:
        return undecided(sentence, quantity, told, UNTOLD)
    shares = [_mean(series) for series in results.series("thinker", "turns/fast/correct")]
    parts = [one - other for one, other in zip(by_seed(arms[0]), by_seed(arms[1]), strict=True)]
    claim = points_claim(sentence, quantity, resampled(arms), parts, threshold=WEIGHTS)
    note = f"{claim.note}; p in training: {_percent(shares)}"
    inside = any(EVEN[0] <= share <= EVEN[1] for share in shares)
    return replace(claim, threshold=told, note=note, verdict="undecided" if inside else claim.verdict)


def final(results: Results) -> Claim:
    """What the verdict and the slow answer add to the fast one."""
    sentence = "The final answer (fast if Yes, else slow) is better than the fast one by at least 3 points"
    quantity = "final minus fast accuracy of thinker, same episodes"
    tables = results.tables(("eval_thinker", share_right), ("eval_thinker", of("fast")))
    return _points(sentence, quantity, tables, threshold=FINAL)


def fast_claim(results: Results, sentence: str, other: str, *, threshold: float) -> Claim:
    """A claim on the fast accuracy of thinker beside another run's."""
    quantity = f"fast accuracy of thinker minus {other}, same problems"
    tables = results.tables(("eval_thinker", of("fast")), (f"eval_{other}", of("fast")))
    return _points(sentence, quantity, tables, threshold=threshold)


def _points(sentence: str, quantity: str, tables: list[Floats] | None, *, threshold: float) -> Claim:
    if tables is None:
        return points_claim(sentence, quantity, None, [], threshold=threshold)
    parts = (tables[0] - tables[1]).mean(-1).tolist()
    return points_claim(sentence, quantity, paired_difference(*tables), parts, threshold=threshold)


def _mean(series: list[tuple[int, float]]) -> float:
    return sum(value for _, value in series) / max(len(series), 1)


def _percent(values: list[float]) -> str:
    return ", ".join(f"{100 * value:.1f} %" for value in values)
