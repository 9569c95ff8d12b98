"""`stage=pretrain`: next-token training on whole documents, prompts included."""

from dataclasses import dataclass
from typing import ClassVar

from rlx.options import option
from rlx.stages.training import TrainingConfig


@option("stage", "pretrain")
@dataclass(kw_only=True, slots=True)
class PretrainConfig(TrainingConfig):
    """Every token after the begin mark counts in the loss."""

    whole: ClassVar[bool] = True
    steps: int | None = 1000
    """Optimizer steps; null: as many as max_flops pays for."""
