"""Fields that every trainer has."""

from dataclasses import dataclass
from enum import Enum

from rlx.errors import ConfigError
from rlx.options import recorded

MOST_THREADS = 1024
"""More threads than any machine has cores end the process."""


class Precision(str, Enum):
    """Arithmetic of matrix products; weights and optimizer state are float32 either way."""

    fp32 = "fp32"
    bf16 = "bf16"


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Device, precision, threads."""

    precision: Precision = Precision.fp32
    """fp32, or bf16 by autocast."""
    accelerator: str = recorded("cpu")
    """Kind of device: cpu or cuda."""
    devices: int = recorded(1)
    """Devices used by one run."""
    compile: bool = recorded(False)
    """Compile training and decoding steps: seconds to minutes before the first ones, then faster ones. Needs a C++
    compiler on a CPU. Sums change in their last bits with it."""
    threads: int | None = recorded(None)
    """Threads of CPU arithmetic; null: as many as the process may use. Sums change in their last bits with it."""

    def __post_init__(self) -> None:
        if self.accelerator not in ("cpu", "cuda"):
            raise ConfigError(f"trainer.accelerator={self.accelerator}: expected cpu or cuda")
        if self.devices != 1:
            raise ConfigError(f"trainer.devices={self.devices}: one device a run; start more runs with -m")
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise ConfigError(f"trainer.threads={self.threads} must be 1 to {MOST_THREADS}; null takes what there is")
