"""`merge=average`: the mean of checkpoints of one run, plain or with weights that stand for a decaying learning rate.

`equal` is the plain mean: SWA (Izmailov et al., arXiv 1803.05407), LAWA (Kaddour, arXiv 2209.14981: the newest few),
PMA (arXiv 2505.12082). `exponential` is the moving average that begins with the first checkpoint and keeps
`merge.factor` of itself at each later one.

`linear`, `cosine` and `sqrt` are merging as decay (WSM, arXiv 2507.17634): had the rate of the steps between the
checkpoints k-1 and k been multiplied by g_k, and the gradients been the same, training from checkpoint 0 would end at

    theta_0 + sum_k g_k (theta_k - theta_{k-1})                                             k = 1 ... n-1
    = (1 - g_1) theta_0 + sum_k (g_k - g_{k+1}) theta_k + g_{n-1} theta_{n-1}               k = 1 ... n-2

that is, a mean whose weights sum to 1 and are at least 0 where the rate never rises. g_k is G(u_k), with

    linear: 1 - u               cosine: (1 + cos(pi u)) / 2             sqrt: 1 - sqrt(u)
    u_k = (t_k - t_0) / T       T = (t_{n-1} - t_0) n / (n - 1)

at the steps t of the checkpoints: the decay begins at the first, and ends at 0 one mean interval after the last. So
`linear` of evenly spaced checkpoints is the plain mean, as the paper has it; of others each counts by the interval
that follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import cos, pi, sqrt
from typing import ClassVar

from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, MergeConfig, SameShapes, weighted_sum, without
from rlx.options import option


class Decay(Enum):
    """The checkpoints' weights."""

    equal = "equal"
    """The plain mean."""
    exponential = "exponential"
    """A moving average."""
    linear = "linear"
    """As if the rate had fallen in a line."""
    cosine = "cosine"
    """As if the rate had fallen by a half cosine."""
    sqrt = "sqrt"
    """As if the rate had fallen by 1 - sqrt."""


def rate_at(decay: Decay, u: float) -> float:
    """G(u), from 1 at 0 to 0 at 1."""
    if decay is Decay.cosine:
        return (1 + cos(pi * u)) / 2
    return 1 - (sqrt(u) if decay is Decay.sqrt else u)


@option("merge", "average")
@dataclass(kw_only=True, slots=True)
class AverageConfig(MergeConfig):
    """Mean of a run's checkpoints."""

    least: ClassVar[int] = 1
    most: ClassVar[int | None] = 1

    steps: list[int] | None = None
    """Steps of the checkpoints; or give last."""
    last: int | None = None
    """The newest so many checkpoints."""
    decay: Decay = Decay.equal
    """Their weights: equal, exponential, or as a falling rate: linear, cosine, sqrt."""
    factor: float = 0.9
    """Of decay=exponential: what the average keeps of itself at each checkpoint."""

    def __post_init__(self) -> None:
        without(self, "average", ("weights", "weight", "align", "tokens", "tied"))
        MergeConfig.__post_init__(self)
        if (self.steps is None) == (self.last is None):
            what = "both" if self.last is not None else "neither"
            raise ConfigError(f"merge=average takes merge.steps=[200,400] or merge.last=5, and {what} of them is given")
        if self.last is not None and self.last < 1:
            raise ConfigError(f"merge.last={self.last} must be at least 1")
        if self.steps is not None and (not self.steps or self.steps != sorted(set(self.steps)) or self.steps[0] < 0):
            raise ConfigError(f"merge.steps={self.steps} must be steps in order, each once")
        if not 0 <= self.factor < 1:
            raise ConfigError(f"merge.factor={self.factor} must be at least 0 and below 1")

    def count(self) -> int:
        return len(self.steps) if self.steps is not None else self.last or 0

    def spelled(self, there: Sequence[int]) -> "AverageConfig":
        (run,) = self.models
        if "@" in run.rpartition("/")[2] or run.startswith("hf:"):
            raise ConfigError(f"merge=average takes a run and its steps from merge.steps or merge.last, got {run}")
        steps = self.steps if self.steps is not None else list(there)[-(self.last or 0) :]
        missing = [step for step in steps if step not in there]
        if missing or len(steps) < (self.last or 0):
            shown = ", ".join(map(str, there)) or "none"
            lacks = f"has no checkpoint at step {missing[0]}" if missing else f"has fewer than merge.last={self.last}"
            raise ConfigError(f"{run} {lacks}; there are steps {shown}")
        return replace(self, models=[f"{run}@{step}" for step in steps], steps=steps, last=None)

    def build(self) -> SameShapes:
        return SameShapes(self.mean)

    def mean(self, given: Given) -> Tensor:
        """The weighted mean of checkpoints, in the order of `steps`."""
        assert self.steps is not None and len(self.steps) == len(given.tensors), "steps are spelled out"
        return weighted_sum(given.tensors, shares_of(self.steps, self.decay, self.factor))


def shares_of(steps: Sequence[int], decay: Decay, factor: float) -> list[float]:
    """What each checkpoint counts in the mean; they sum to 1."""
    count = len(steps)
    if decay is Decay.equal or count == 1:
        return [1 / count] * count
    rates: list[float]
    if decay is Decay.exponential:
        rates = [1.0, *(1 - factor ** (count - number) for number in range(1, count))]
    else:
        whole = (steps[-1] - steps[0]) * count / (count - 1)
        rates = [rate_at(decay, (step - steps[0]) / whole) for step in steps]
    return [now - after for now, after in zip(rates, [*rates[1:], 0.0], strict=True)]
