"""`study=quickstart`: random weights to a merged, RL-tuned Countdown solver, and what each stage did.

Five models meet the same problems, whose targets none was trained on: pretrained, fine-tuned (SFT), RL from SFT with
GRPO, the mean of the SFT and RL weights, and a control that continues SFT for as many operations as RL may spend. The
claims are thresholds set before the runs; a claim that fails is shown as failing.
"""

from dataclasses import dataclass

from rlx.options import option
from rlx.studies.base import Claim, Results, StudyConfig, difference_claim, undecided

GAIN = 0.10
"""RL is to beat its SFT parent by this share of sampled pass@1."""
PLATEAU = 0.02
"""Held-out loss of SFT is to improve by less than this over the last fifth of its steps."""
BARRIER = 0.0
"""Nats by which the merge's held-out loss may exceed the mean of its parents'."""


@option("study", "quickstart")
@dataclass(kw_only=True, slots=True)
class QuickstartConfig(StudyConfig):
    """Pretrain, SFT, RL, merge, eval on Countdown."""

    def claims(self, results: Results) -> list[Claim]:
        gain = "RL beats its SFT parent by at least 10 points of sampled pass@1 on held-out targets"
        control = "RL beats continuing SFT for the same FLOPs"
        merge = "The mean of the SFT and RL weights beats the SFT parent"
        return [
            difference_claim(results, gain, "rl", "sft", threshold=GAIN),
            plateau(results),
            difference_claim(results, control, "rl", "sft_more", threshold=0.0),
            difference_claim(results, merge, "merge", "sft", threshold=0.0),
            barrier(results),
        ]


def plateau(results: Results) -> Claim:
    """How much SFT's held-out loss still fell over the last fifth of its steps; the worst seed decides."""
    sentence = "SFT was trained to its plateau: held-out loss fell by less than 2 % over its last fifth"
    quantity = "relative fall of val/loss over the last fifth of SFT's steps, worst seed"
    falls = [fall(series) for series in results.series("sft", "val/loss") if len(series) > 1]
    if not falls:
        return undecided(sentence, quantity, "< 2 %", "no finished SFT run with held-out losses")
    worst = max(falls)
    verdict = "holds" if worst < PLATEAU else "fails"
    return Claim(
        claim=sentence, quantity=quantity, threshold="< 2 %", verdict=verdict, value=100 * worst, unit="%",
        note="per seed: " + ", ".join(f"{100 * value:.2f} %" for value in falls),
    )  # fmt: skip


def fall(series: list[tuple[int, float]]) -> float:
    """1 - (last value / value at four fifths of the steps, by straight line between measurements)."""
    last_step, last = series[-1]
    at = 0.8 * last_step
    before = [point for point in series if point[0] <= at] or series[:1]
    after = next(point for point in series if point[0] >= at)
    (x0, y0), (x1, y1) = before[-1], after
    there = y0 if x1 == x0 else y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return 1 - last / there


def barrier(results: Results) -> Claim:
    """Held-out loss of the merge against the mean of its parents'; the worst seed decides."""
    sentence = "SFT and RL weights lie in one basin: no loss barrier at their mean"
    quantity = "held-out loss of the merge minus the mean of its parents', worst seed"
    found = [run.last("merge/barrier") for run in results.runs("merge")]
    values = [value for value in found if value is not None]
    if not values:
        return undecided(sentence, quantity, "≤ 0 nats", "no finished merge")
    verdict = "holds" if max(values) <= BARRIER else "fails"
    return Claim(
        claim=sentence, quantity=quantity, threshold="≤ 0 nats", verdict=verdict, value=max(values), unit="nats",
    )  # fmt: skip
