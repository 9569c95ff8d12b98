"""`stage=sft`: next-token training on solutions, prompts given."""

from dataclasses import dataclass
from typing import ClassVar

from rlx.options import option
from rlx.stages.training import TrainingConfig


@option("stage", "sft")
@dataclass(kw_only=True, slots=True)
class SftConfig(TrainingConfig):
    """Only the solution and the end mark count in the loss."""

    whole: ClassVar[bool] = False
    steps: int | None = 500
    """Optimizer steps; null: as many as max_flops pays for."""
