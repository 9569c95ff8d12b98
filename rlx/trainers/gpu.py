"""`trainer=gpu`: one CUDA device, bf16."""

from dataclasses import dataclass

from rlx.options import option, recorded
from rlx.trainers.base import Precision, TrainerConfig


@option("trainer", "gpu")
@dataclass(kw_only=True, slots=True)
class GpuConfig(TrainerConfig):
    """One CUDA device."""

    precision: Precision = Precision.bf16
    """bf16 by autocast, or fp32."""
    accelerator: str = recorded("cuda")
    """Lightning's name of the device kind."""
