"""`algorithm=grpo_lambda`: GRPO with a length penalty where answers are right already (Dai et al., arXiv 2505.18086).

The groups with the highest share of right answers, ceil(penalized_share * groups) of them and at least one, are
rewarded

    r = 1 - length_penalty * sigmoid((n - mean) / std)   for a right answer of n tokens, 0 for a wrong one

with mean and standard deviation over the group's right answers; all others 1 and 0. Not the eligibility traces of arXiv
2510.00194, which have the same name.

Choices where sources differ:
1. Groups are ranked; of equal ones the first go first. With `penalized_above` those at or above a share of right
   answers are taken instead, as the paper's abstract has it.
2. Wrong answers are never penalised (a public note's code does so). The penalty is taken off whatever a right answer is
   worth.
3. The standard deviation is the population's, and where it is 0 (one right answer, or equal lengths) the sigmoid is
   1/2.
4. `penalized_share=1` penalises every group (the paper's baseline "GRPO+LP").
5. length_penalty is that of a public note with code, which names no source for it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.algorithms.base import EQUAL, Normalization, group_mean, listed
from rlx.algorithms.policy_gradient import GroupConfig, GroupRelative
from rlx.batches import RolloutBatch
from rlx.errors import ConfigError
from rlx.options import option


@option("algorithm", "grpo_lambda")
@dataclass(kw_only=True, slots=True)
class GrpoLambdaConfig(GroupConfig):
    """GRPO that shortens the answers to prompts that are solved."""

    normalization: Normalization = Normalization.sequence
    """How the per-token loss becomes one number: token, sequence, constant or sum."""
    length_penalty: float = 0.6
    """Most that a right answer loses by its length (alpha)."""
    penalized_share: float = 0.2
    """Share of the groups, those with the most right answers, that are penalised (lambda)."""
    penalized_above: float | None = None
    """Penalise the groups with at least this share of right answers instead; null: by rank."""

    def __post_init__(self) -> None:
        GroupConfig.__post_init__(self)
        self.check_at_least_0("length_penalty")
        if not 0 < self.penalized_share <= 1:
            raise ConfigError(f"algorithm.penalized_share={self.penalized_share} must be in (0, 1]; 0.2 is the paper's")
        if self.dynamic_sampling:
            raise ConfigError(
                "algorithm.dynamic_sampling drops the prompts that are solved, whose answers grpo_lambda shortens; "
                "leave it out"
            )
        if self.penalized_above is not None and not 0 < self.penalized_above <= 1:
            raise ConfigError(f"algorithm.penalized_above={self.penalized_above} must be in (0, 1]")
        if self.penalized_above is not None:
            self.check_unread("penalized_above chooses the groups; give one of the two", "penalized_share")

    def build(self) -> "GrpoLambda":
        return GrpoLambda(self)


class GrpoLambda(GroupRelative[GrpoLambdaConfig]):
    """The algorithm at one setting."""

    undivided = "shortens whole completions that are right"

    def shape(self, batch: RolloutBatch, max_tokens: int) -> dict[str, Tensor]:
        found = super().shape(batch, max_tokens)
        right, group = batch.correct.double(), batch.group  # float64: the mean of equal lengths is theirs to EQUAL
        length = batch.loss_mask.sum(-1)
        solved, size = group_mean(right, group)
        count = (solved * size).round().clamp(min=1)
        mean = group_mean(length * right, group)[0] * size / count
        spread = (group_mean((length - mean).square() * right, group)[0] * size / count).sqrt()
        far = torch.where(spread > EQUAL, (length - mean) / spread.clamp(min=EQUAL), 0.0)
        lost = -self.config.length_penalty * far.sigmoid() * right * self._penalized(solved, group)
        found["length"] = lost.to(batch.rewards.dtype)
        return found

    def _penalized(self, solved: Tensor, group: Tensor) -> Tensor:
        """[B] bool: rows of the groups that are solved best; `solved` [B] is each group's share of right answers."""
        if self.config.penalized_above is not None:
            return solved >= self.config.penalized_above
        share: dict[int, float] = dict(zip(listed(group), listed(solved), strict=True))
        numbers = sorted(share, key=lambda number: (-share[number], number))
        taken = numbers[: max(math.ceil(self.config.penalized_share * len(numbers) - 1e-9), 1)]
        return torch.isin(group, torch.tensor(taken, device=group.device, dtype=group.dtype))
