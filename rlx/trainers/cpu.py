"""`trainer=cpu`."""

from dataclasses import dataclass

from rlx.options import option
from rlx.trainers.base import TrainerConfig


@option("trainer", "cpu")
@dataclass(kw_only=True, slots=True)
class CpuConfig(TrainerConfig):
    """The processor's cores."""
