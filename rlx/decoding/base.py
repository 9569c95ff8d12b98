"""How completions are drawn: the fields of `decode=`."""

from dataclasses import dataclass
from enum import Enum

from rlx.errors import ConfigError
from rlx.options import recorded


class Scheduling(str, Enum):
    """Which samples run while there are more of them than rows."""

    fcfs = "fcfs"
    """First come, first served, each to its end."""
    trail = "trail"
    """Those that are predicted to end first (TRAIL); in rl the predictor learns from the run's own rollouts, and where
    nothing was learnt it is first come."""


@dataclass(kw_only=True, slots=True)
class DecodeConfig:
    """Fields that every way of decoding has."""

    max_tokens: int = 512
    """Most tokens drawn for one completion, the end mark included."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax; 0 takes the most likely token."""
    top_k: int | None = None
    """Keep only the k most likely tokens; null: all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probability reaches this; 1: all."""
    rows: int = recorded(512)
    """Rows decoded side by side; memory grows with it."""
    scheduler: Scheduling = recorded(Scheduling.fcfs)  # noqa: RUF009 (it is a field)
    """Which samples run while there are more of them than rows; none of them depends on it."""
    preempt: float = recorded(0.8)
    """trail: a running sample may be set aside for a shorter one until it has drawn this share of the tokens that were
    predicted for it first; 0: never."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.rows < 1:
            raise ConfigError(f"decode.max_tokens={self.max_tokens} and decode.rows={self.rows} must be at least 1")
        if self.temperature < 0:
            raise ConfigError(f"decode.temperature={self.temperature} is below 0; use 0 for greedy, 1 to sample")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"decode.top_p={self.top_p} is not in (0, 1]; 1 keeps every token")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"decode.top_k={self.top_k} must be at least 1; null keeps every token")

        if not self.preempt >= 0:
            raise ConfigError(f"decode.preempt={self.preempt} must be at least 0; 0 sets no running sample aside")

    @property
    def truncates(self) -> bool:
        """True when tokens are dropped from the distribution, so that it is no longer the trainer's."""
        return self.top_k is not None or self.top_p < 1
