"""What an RL run says of itself: whether it can learn before it starts, what goes wrong on the way, what came of it.

Each alarm is a sentence with its likely cause. Thresholds are judged on windows of iterations, against the noise of
sampled rewards, and are not tuned to a task.
"""

import math
from collections import deque
from collections.abc import Sequence
from statistics import variance
from typing import Any

WINDOW = 20
"""Iterations that a mean is taken over."""
GAP_LIMIT = 0.02
"""Mean gap (nats) between sampled and trained log-probabilities above which rollouts are off-policy."""


def preflight(row: dict[str, float], group_size: int) -> list[str]:
    """Sentences about the start checkpoint, from the metrics of one rollout before the first step."""
    solved, dead = row["rewards/verifier/mean"], row["frac_reward_zero_std"]
    said = [
        f"preflight: pass@1 {solved:.1%}, pass@{group_size} {row['rewards/verifier/any_of_group']:.1%}, "
        f"groups without signal {dead:.1%}, completions cut {row['completions/clipped_ratio']:.1%}"
    ]
    if dead >= 1.0:
        cause = "no sample was right" if solved == 0 else "every sample of a group got the same reward"
        said.append(
            f"this start cannot learn: {cause}, so no group has a signal; train the start longer, take easier "
            "problems, or raise algorithm.group_size"
        )
    elif dead > 0.9:
        said.append(f"{dead:.0%} of the groups have no signal: expect slow learning; raise algorithm.group_size")
    if row["completions/clipped_ratio"] > 0.5:
        said.append(
            f"{row['completions/clipped_ratio']:.0%} of the completions are cut at decode.max_tokens: raise it, "
            "or train the start until it ends its answers"
        )
    return said


class Alarms:
    """Watches the rows of a run."""

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.rewards: deque[float] = deque(maxlen=WINDOW)
        self.first: float | None = None
        self.best = 0.0
        self.entropy: float | None = None
        self.dead = 0

    def check(self, row: dict[str, Any]) -> list[str]:
        """Sentences for what this row shows; the caller says each once."""
        self.rewards.append(row["reward"])
        self.dead = self.dead + 1 if row["frac_reward_zero_std"] >= 1.0 else 0
        if self.entropy is None and row.get("entropy", 0) > 0:
            self.entropy = row["entropy"]
        checks = (self._collapsed, self._dead, self._entropy, self._clipped, self._gap)
        return [sentence for check in checks if (sentence := check(row))]

    def _collapsed(self, row: dict[str, Any]) -> str:
        if len(self.rewards) < WINDOW:
            return ""
        mean = sum(self.rewards) / WINDOW
        if self.first is None:
            self.first = mean
        self.best = max(self.best, mean)
        if mean < 0.5 * self.best and self.best > 0.01:
            return (
                f"the policy collapsed: mean reward fell below half of its best ({self.best:.3f}); "
                f"optim.lr={self.lr:g} is probably too high, try {self.lr / 5:.1g}"
            )
        return ""

    def _dead(self, row: dict[str, Any]) -> str:
        if self.dead < WINDOW:
            return ""
        what = "wrong" if row["reward"] == 0 else "equally rewarded"
        return (
            f"no signal for {WINDOW} iterations: all samples are {what}, every advantage is 0 and nothing is learnt; "
            "the start is too weak for these problems, or the policy has collapsed"
        )

    def _entropy(self, row: dict[str, Any]) -> str:
        if self.entropy and 0 < row.get("entropy", 0) < 0.1 * self.entropy:
            return (
                "entropy fell below a tenth of its start: samples of a group are nearly equal and exploration ends; "
                "a lower optim.lr, algorithm.entropy_coefficient or algorithm.kl_coefficient hold it up"
            )
        return ""

    def _clipped(self, row: dict[str, Any]) -> str:
        if row["completions/clipped_ratio"] >= 1.0:
            return "every completion is cut at decode.max_tokens: none can be right; raise it"
        return ""

    def _gap(self, row: dict[str, Any]) -> str:
        if row.get("sampling/sampling_logp_difference/mean", 0) > GAP_LIMIT:
            return (
                f"sampled and trained log-probabilities differ by more than {GAP_LIMIT} nats on average: the rollouts "
                "are off-policy; use trainer.precision=fp32"
            )
        return ""

    def state(self) -> dict[str, Any]:
        return {
            "rewards": list(self.rewards),
            "first": self.first,
            "best": self.best,
            "entropy": self.entropy,
            "dead": self.dead,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.rewards = deque(state["rewards"], maxlen=WINDOW)
        self.first, self.best = state["first"], state["best"]
        self.entropy, self.dead = state["entropy"], state["dead"]


def conclusion(before: Sequence[float], after: Sequence[float]) -> str:
    """What came of the run, from the mean rewards of its first and of its last iterations.

    The change is called a move when it exceeds two standard errors, which the spread between iterations gives: each
    iteration draws its own problems, so it holds whatever rewards are worth and however alike a group's samples are.
    """
    first, last = sum(before) / len(before), sum(after) / len(after)
    change = f"{first:.3f} → {last:.3f}"
    if len(before) < 2 or len(after) < 2:
        return f"reward: {change} (too few iterations to tell from noise)"
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    if last - first > 2 * error:
        return f"reward rose: {change}"
    if first - last > 2 * error:
        return f"reward FELL: {change}; optim.lr is probably too high"
    return (
        f"reward did not move: {change} (within noise of ±{2 * error:.3f}); look at frac_reward_zero_std (signal), "
        "optim.lr (too low?) and stage.steps (too few?)"
    )
