"""`merge=lora_cat`: the exact weighted sum of adapters, whose ranks add up; its weights told, or learned (CAT).

sum w_i s_i B_i A_i of every matrix, as one product: the A's above each other and the B's side by side (PEFT's `cat`).
With `merge.learn` the weights are learned on the run's corpus, next-token loss on solutions, while base and adapters
are frozen: LoRA Soups (Prabhakar et al., arXiv 2410.13025). Where paper, its code (aksh555/LoRA-Soups) and PEFT
differ, or leave a choice:

1. One weight a parent and adapted matrix, a softmax over the parents (`learn=softmax`, `per=module`): so the code. The
   text has free numbers for each layer: `learn=free`, `per=layer`. `per=whole` is one for the whole adapter. Matrices
   are those of PEFT: q, k and v are three, though a model of ours keeps them in one.
2. The softmax is first taken of numbers drawn from N(0, 1) (code); `init_std=0` begins with equal weights, as free
   weights do.
3. AdamW without decay; the rate rises over `warmup` steps and falls in a line to 0, as in the code's trainer. Its rate
   is 1e-4, for a thousand steps and more of a model of 7B; ours is 0.05 for 200 steps: a weight of a softmax that is to
   come from 0.5 to 0.9 has to move by 2.
4. The paper learns on documents of the single skills, no composed one among them: `corpus=mixture` of the two.
5. The result is an adapter with the weights in its A's, alpha = rank (as PEFT has it); merge.json lists the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rlx.errors import ConfigError
from rlx.merges.adapters import Learning, Per, WeightedConfig, concatenated
from rlx.merges.base import AdapterMethod, Factors
from rlx.options import option


class Learn(Enum):
    """How the weights come about."""

    none = "none"
    """As they are told."""
    softmax = "softmax"
    """Learned, above 0 and 1 in sum."""
    free = "free"
    """Learned, any numbers."""


@option("merge", "lora_cat")
@dataclass(kw_only=True, slots=True)
class LoraCatConfig(WeightedConfig):
    """The exact sum of adapters, its weights told or learned."""

    learn: Learn = Learn.none
    """Whether the weights are learned: none (told), softmax (sum to 1), free."""
    per: Per = Per.module
    """What has learned weights of its own: module (each matrix), layer, whole."""
    steps: int = 200
    """Optimizer steps in which the weights are learned."""
    lr: float = 0.05
    """Peak learning rate of the weights (of what the softmax is taken of)."""
    warmup: int = 20
    """Steps in which the rate rises; it falls to 0 afterwards."""
    batch_tokens: int = 5120
    """Tokens a step, padding included; rows have stage.row_tokens."""
    init_std: float = 1.0
    """Spread of what the softmax is first taken of; 0: equal weights."""

    def __post_init__(self) -> None:
        WeightedConfig.__post_init__(self)
        for name, least in (("steps", 1), ("warmup", 0), ("batch_tokens", 2), ("init_std", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"merge.{name}={getattr(self, name)} must be at least {least}")
        if not self.lr > 0:
            raise ConfigError(f"merge.lr={self.lr} must be above 0")
        if self.learn is not Learn.none and (self.weights is not None or self.weight is not None):
            raise ConfigError("merge.weights are given and merge.learn learns them; leave one out")

    def found_by(self) -> Learning | None:
        if self.learn is Learn.none:
            return None
        return Learning(
            softmax=self.learn is Learn.softmax,
            per=self.per,
            steps=self.steps,
            lr=self.lr,
            warmup=self.warmup,
            batch_tokens=self.batch_tokens,
            init_std=self.init_std,
        )

    def build(self) -> AdapterMethod:
        return Concatenation()


class Concatenation:
    """sum w_i s_i B_i A_i."""

    def combine(self, factors: Sequence[Factors], weights: Sequence[float]) -> Factors:
        return concatenated(factors, weights)
