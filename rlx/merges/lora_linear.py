"""`merge=lora_linear`: factors of adapters added, A's to A's and B's to B's: of their rank, and not their sum.

The product of two sums has cross terms B_i A_j, which no parent has; merge.json and `merge/sum_error` say how far the
result is from the exact sum (`merge=lora_cat`). Where sources differ:

1. `rule=peft`: A = sum sgn(w_i) sqrt(|w_i s_i|) A_i, B = sum sqrt(|w_i s_i|) B_i (PEFT 0.21, `linear`), so that one
   parent alone keeps its product.
2. `rule=soups`: (sum w_i s_i B_i)(sum A_i) (aksh555/LoRA-Soups, `linear`). The cross terms are as large as the terms
   themselves.
3. Both need adapters of one rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rlx.merges.adapters import WeightedConfig, check_ranks
from rlx.merges.base import AdapterMethod, Factors, weighted_sum
from rlx.options import option


class Rule(Enum):
    """Where weights and scales go."""

    peft = "peft"
    """Their roots to both factors."""
    soups = "soups"
    """To the B's."""


@option("merge", "lora_linear")
@dataclass(kw_only=True, slots=True)
class LoraLinearConfig(WeightedConfig):
    """Sums of the adapters' factors."""

    rule: Rule = Rule.peft
    """Where weights and scales go: peft (roots to both factors), soups (to the B's)."""

    def check(self, factors: Sequence[Factors]) -> None:
        check_ranks(factors, "merge=lora_cat or lora_svd takes any")

    def build(self) -> AdapterMethod:
        return FactorSum(self.rule)


class FactorSum:
    """A sum of A's and a sum of B's."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def combine(self, factors: Sequence[Factors], weights: Sequence[float]) -> Factors:
        strengths = [weight * each.scale for each, weight in zip(factors, weights, strict=True)]
        if self.rule is Rule.soups:
            of_a, of_b = [1.0] * len(strengths), strengths
        else:
            of_b = [math.sqrt(abs(strength)) for strength in strengths]
            of_a = [math.copysign(root, strength) for root, strength in zip(of_b, strengths, strict=True)]
        a, b = weighted_sum((each.a for each in factors), of_a), weighted_sum((each.b for each in factors), of_b)
        return Factors(a, b, 1.0)
