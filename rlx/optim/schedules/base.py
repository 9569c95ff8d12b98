"""Fields that every schedule has."""

from dataclasses import dataclass

from rlx.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Linear warm-up, then the schedule's own shape."""

    warmup_steps: int = 20
    """Steps until the peak learning rate."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ConfigError(f"schedule.warmup_steps={self.warmup_steps} must be at least 0")

    def factor(self, step: int, total: int) -> float:
        """What multiplies the peak rate at `step` (0-based) of `total`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self.shape(min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps)))

    def shape(self, progress: float) -> float:
        """The factor after warm-up, for progress from 0 to 1."""
        raise NotImplementedError
