"""`merge=lora_hub`: one weight an adapter, searched without gradients (LoraHub, Huang et al., arXiv 2307.13269).

What is made small is the loss on a few documents plus 0.05 times the mean size of the weights (section 2.3), with
weights from -1.5 to 1.5 that begin at 0, in 40 evaluations (its code). Where the paper and its code leave a choice:

1. Factors are combined as in the paper: (sum w_i A_i), (sum w_i B_i) (equation 2), whose product has cross terms and
   needs adapters of one rank; a scale goes with its B. `combine=cat` searches over exact sums.
2. The search is a strategy of our own (`rlx.merges.evolution`), seeded by the run's seed; the paper has that of
   nevergrad.
3. The few documents are one batch of the run's corpus (the paper: five examples of the task that is asked for).
4. The best weights met are taken, and merge.json lists all that were tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rlx.errors import ConfigError
from rlx.merges.adapters import AdapterMergeConfig, Search, check_ranks, concatenated
from rlx.merges.base import AdapterMethod, Factors, weighted_sum
from rlx.options import option


class Combine(Enum):
    """What adapters with weights become."""

    linear = "linear"
    """A sum of A's and a sum of B's."""
    cat = "cat"
    """The sum of their products."""


@option("merge", "lora_hub")
@dataclass(kw_only=True, slots=True)
class LoraHubConfig(AdapterMergeConfig):
    """One weight an adapter, searched on a few documents."""

    combine: Combine = Combine.linear
    """What adapters with weights become: linear (sums of factors, as in the paper), cat (the exact sum)."""
    evaluations: int = 40
    """Weights that are tried."""
    batch_tokens: int = 640
    """Tokens of the documents that the loss is measured on, padding included; at least a row of stage.row_tokens."""
    penalty: float = 0.05
    """Times the mean size of the weights, added to the loss (nats)."""
    bound: float = 1.5
    """Largest size of a weight."""

    def __post_init__(self) -> None:
        AdapterMergeConfig.__post_init__(self)
        for name, least in (("evaluations", 1), ("batch_tokens", 2), ("penalty", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"merge.{name}={getattr(self, name)} must be at least {least}")
        if not self.bound > 0:
            raise ConfigError(f"merge.bound={self.bound} must be above 0")
        if self.weights is not None or self.weight is not None:
            raise ConfigError("merge.weights are given and merge=lora_hub searches them; leave them out")

    def check(self, factors: Sequence[Factors]) -> None:
        if self.combine is Combine.linear:
            check_ranks(factors, "merge.combine=cat takes any")

    def found_by(self) -> Search:
        return Search(self.evaluations, self.batch_tokens, self.penalty, self.bound)

    def build(self) -> AdapterMethod:
        return Hub(self.combine)


class Hub:
    """What adapters with weights become."""

    def __init__(self, rule: Combine) -> None:
        self.rule = rule

    def combine(self, factors: Sequence[Factors], weights: Sequence[float]) -> Factors:
        if self.rule is Combine.cat:
            return concatenated(factors, weights)
        a = weighted_sum((each.a for each in factors), weights)
        scaled = [weight * each.scale for each, weight in zip(factors, weights, strict=True)]
        return Factors(a, weighted_sum((each.b for each in factors), scaled), 1.0)
