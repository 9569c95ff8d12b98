"""`algorithm=dpo`: direct preference optimization (Rafailov et al., arXiv 2305.18290, equation 7), on pairs of a right
and a wrong completion of the same prompt that the policy itself has just sampled.

    L = mean over pairs of -log sigmoid( beta [ (log p(right) - log ref(right)) - (log p(wrong) - log ref(wrong)) ] )

with log-probabilities of whole completions, summed over tokens.

Choices where sources differ:
1. A group gives as many pairs as the fewer of its right and wrong completions are; each completion is in at most one.
2. The reference is the starting policy throughout; `reference_every` renews it (iterative DPO).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlx.algorithms.base import Algorithm, AlgorithmConfig, Totals, listed
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.options import option


@option("algorithm", "dpo")
@dataclass(kw_only=True, slots=True)
class DpoConfig(AlgorithmConfig):
    """Right completions made likelier than wrong ones of the same prompt."""

    beta: float = 0.1
    """How much a preference costs in divergence from the reference: larger stays nearer."""

    def __post_init__(self) -> None:
        AlgorithmConfig.__post_init__(self)
        self.check_compares("makes pairs of a prompt's samples")
        if not self.beta > 0:
            raise ConfigError(f"algorithm.beta={self.beta} must be above 0; 0.1 is usual")

    def build(self) -> "Dpo":
        return Dpo(self)


class Dpo(Algorithm):
    """The algorithm at one setting; rows are pairs, the right one first."""

    needs = frozenset({"reference"})
    silent_at_zero = False
    compares = True
    unit = 2
    undivided = "makes pairs of whole completions"

    def __init__(self, config: DpoConfig) -> None:
        self.config = config

    def select(self, batch: RolloutBatch) -> RolloutBatch:
        pairs: list[int] = []
        sampled = batch.loss_mask.any(-1)
        for number in sorted(set(listed(batch.group))):
            own = (batch.group == number) & sampled
            right: list[int] = listed((own & batch.correct).nonzero().squeeze(1))
            wrong: list[int] = listed((own & ~batch.correct).nonzero().squeeze(1))
            pairs += [row for pair in zip(right, wrong, strict=False) for row in pair]
        return batch.rows(torch.tensor(pairs, dtype=torch.int64, device=batch.group.device))

    def advantages(self, batch: RolloutBatch) -> Tensor:
        """1 for tokens of right completions, -1 for those of wrong ones."""
        return torch.where(batch.correct, 1.0, -1.0).to(batch.loss_mask.dtype)[:, None] * batch.loss_mask

    def losses(
        self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor, totals: Totals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert batch.reference_logprobs is not None, "the stage supplies what an algorithm needs"
        gained = self.config.beta * ((out.logprobs - batch.reference_logprobs) * batch.loss_mask).sum(-1)
        right, wrong = gained[0::2], gained[1::2]
        count = max(totals.rows // 2, 1)
        metrics = {  # TRL's names
            "rewards/chosen": right.detach(),
            "rewards/rejected": wrong.detach(),
            "rewards/margins": (right - wrong).detach(),
            "rewards/accuracies": (right > wrong).float(),
        }
        loss = -logsigmoid(right - wrong).sum() / count
        return {"policy": loss}, {name: value.sum() / count for name, value in metrics.items()}
