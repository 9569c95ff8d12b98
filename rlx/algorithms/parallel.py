"""`algorithm=parallel`: RL and fine-tuning updates averaged (Bansal et al., arXiv 2606.04272, parallel averaging).

    D_RL  = the step of an optimizer with the gradient of GRPO's loss            (state of its own, rate optim.lr)
    D_SFT = the step of another with the gradient of solutions' mean -log p      (state of its own, rate sft_lr)
    weights <- weights + (D_RL + D_SFT) / 2

Both gradients are taken at the same weights, and each optimizer preconditions its own: neither a sum of losses, nor a
mean of gradients, nor a mean of models trained apart. Decay and clipping are inside each step.

Choices where the source is silent:
1. Every minibatch of a rollout goes with `sft_rows` solutions as the task writes them, of problems in an order of their
   own from the same training split; in an interaction, with the environment's demonstrations of them.
2. `combine=sum` adds `sft_coefficient` times the solutions' loss to GRPO's under one optimizer: the control.
3. The RL side is GRPO with all of its fields. Solutions are trained on as in `stage=sft`, at temperature 1, whatever
   decode.temperature completions are drawn at.
"""

from dataclasses import dataclass
from enum import Enum

from rlx.algorithms.base import Demonstrations, Normalization
from rlx.algorithms.policy_gradient import GroupConfig, GroupRelative
from rlx.errors import ConfigError
from rlx.options import option


class Combine(str, Enum):
    """How two losses move one model."""

    average = "average"
    """Two optimizers, whose steps are averaged."""
    sum = "sum"
    """One optimizer on the sum of the losses."""


@option("algorithm", "parallel")
@dataclass(kw_only=True, slots=True)
class ParallelConfig(GroupConfig):
    """GRPO and fine-tuning at the same weights, their steps averaged."""

    normalization: Normalization = Normalization.sequence
    """How the per-token loss becomes one number: token, sequence, constant or sum."""
    combine: Combine = Combine.average
    """average (two optimizers, their steps averaged) or sum (one, on the sum of the losses)."""
    sft_rows: int = 64
    """Solutions an update."""
    sft_lr: float | None = None
    """Peak learning rate of the fine-tuning side; null: optim.lr."""
    sft_coefficient: float = 1.0
    """Weight of the solutions' loss, with combine=sum."""

    def __post_init__(self) -> None:
        GroupConfig.__post_init__(self)
        if self.sft_rows < 1:
            raise ConfigError(f"algorithm.sft_rows={self.sft_rows} must be at least 1")
        self.check_at_least_0("sft_coefficient")
        if self.sft_lr is not None and self.sft_lr < 0:
            raise ConfigError(f"algorithm.sft_lr={self.sft_lr} must be at least 0; null takes optim.lr")
        if self.combine is Combine.sum and self.sft_lr is not None:
            raise ConfigError("algorithm.sft_lr: combine=sum has one optimizer; give sft_coefficient, or leave it out")
        if self.combine is Combine.average and self.sft_coefficient != 1.0:
            raise ConfigError("algorithm.sft_coefficient: combine=average has a rate, sft_lr; leave it out")

    def build(self) -> "Parallel":
        return Parallel(self)


class Parallel(GroupRelative[ParallelConfig]):
    """The algorithm at one setting."""

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__(config)
        self.demonstrations = Demonstrations(
            rows=config.sft_rows,
            lr=config.sft_lr,
            averaged=config.combine is Combine.average,
            weight=config.sft_coefficient,
        )
