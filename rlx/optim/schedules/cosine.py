"""`schedule=cosine`: half a cosine from the peak to a floor (Loshchilov and Hutter, arXiv 1608.03983)."""

import math
from dataclasses import dataclass

from rlx.errors import ConfigError
from rlx.optim.schedules.base import ScheduleConfig
from rlx.options import option


@option("schedule", "cosine")
@dataclass(kw_only=True, slots=True)
class CosineConfig(ScheduleConfig):
    """Decay over the whole run."""

    floor: float = 0.1
    """Share of the peak rate left at the end."""

    def __post_init__(self) -> None:
        ScheduleConfig.__post_init__(self)
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"schedule.floor={self.floor} is a share of the peak rate; it must be in [0, 1]")

    def shape(self, progress: float) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
