"""`algorithm=npo`: negative preference optimization (Zhang et al., arXiv 2404.05868, equation 3), on the wrong
completions that the policy itself has just sampled.

    L = mean over wrong completions of (2 / beta) log(1 + (p / ref)^beta)

with probabilities of whole completions. It is DPO with the losing side alone: as beta goes to 0 it becomes ascent on
the wrong completions' loss, and what is far below the reference already is hardly pushed any more. The policy-gradient
relative is `algorithm=grpo algorithm.signs=negative`.

With `retain_coefficient` right completions are trained on too, with their mean negative log-likelihood a token (the
paper's NPO+GD with the policy's own successes as what is to be kept). The mean is then over both kinds of rows
together, in the metrics too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlx.algorithms.base import Algorithm, AlgorithmConfig, Totals
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.options import option


@option("algorithm", "npo")
@dataclass(kw_only=True, slots=True)
class NpoConfig(AlgorithmConfig):
    """Wrong completions made less likely, the less the farther they are from the reference."""

    beta: float = 0.1
    """How soon a completion that has become less likely is left alone: larger is sooner."""
    retain_coefficient: float = 0.0
    """Weight of the negative log-likelihood of right completions; 0: they are not trained on."""

    def __post_init__(self) -> None:
        AlgorithmConfig.__post_init__(self)
        if not self.beta > 0:
            raise ConfigError(f"algorithm.beta={self.beta} must be above 0; 0.1 is usual")
        self.check_at_least_0("retain_coefficient")

    def build(self) -> "Npo":
        return Npo(self)


class Npo(Algorithm):
    """The algorithm at one setting."""

    needs = frozenset({"reference"})
    silent_at_zero = False
    undivided = "makes whole completions less likely"

    def __init__(self, config: NpoConfig) -> None:
        self.config = config

    def select(self, batch: RolloutBatch) -> RolloutBatch:
        wanted = batch.loss_mask.any(-1)
        if not self.config.retain_coefficient:
            wanted &= ~batch.correct
        return batch.rows(wanted.nonzero().squeeze(1))

    def advantages(self, batch: RolloutBatch) -> Tensor:
        """-1 for tokens of wrong completions, `retain_coefficient` for those of right ones."""
        sign = torch.where(batch.correct, self.config.retain_coefficient, -1.0)
        return sign.to(batch.loss_mask.dtype)[:, None] * batch.loss_mask

    def losses(
        self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor, totals: Totals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert batch.reference_logprobs is not None, "the stage supplies what an algorithm needs"
        beta, mask, rows = self.config.beta, batch.loss_mask, max(totals.rows, 1)
        above = ((out.logprobs - batch.reference_logprobs) * mask).sum(-1)
        wrong = ~batch.correct
        losses = {"policy": (2 / beta * softplus(beta * above) * wrong).sum() / rows}
        if self.config.retain_coefficient:
            mean = -(out.logprobs * mask).sum(-1) / mask.sum(-1).clamp(min=1)
            losses["retain"] = self.config.retain_coefficient * (mean * batch.correct).sum() / rows
        weight = 2 * (beta * above.detach()).sigmoid() * wrong
        return losses, {"npo/weight": weight.sum() / rows, "npo/log_ratio": (above.detach() * wrong).sum() / rows}
