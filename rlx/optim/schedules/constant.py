"""`schedule=constant`: the peak rate after warm-up."""

from dataclasses import dataclass

from rlx.optim.schedules.base import ScheduleConfig
from rlx.options import option


@option("schedule", "constant")
@dataclass(kw_only=True, slots=True)
class ConstantConfig(ScheduleConfig):
    """No decay."""

    def shape(self, progress: float) -> float:
        return 1.0
