"""Fields that every optimizer has."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from rlx.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Learning rate and decay."""

    lr: float = 1e-3
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: float = 0.1
    """Decoupled decay, on matrices only (norms and biases get none)."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"optim.lr={self.lr} must be above 0")
        if self.weight_decay < 0:
            raise ConfigError(f"optim.weight_decay={self.weight_decay} must be at least 0")

    def check_shares(self, *names: str) -> None:
        """Fields that are the decay of a running mean.

        Raises:
            ConfigError: one is not in [0, 1).
        """
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name}={getattr(self, name)} must be in [0, 1)")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        raise NotImplementedError


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    """Parameter groups: matrices with decay, everything else without."""
    trained = [p for p in parameters if p.requires_grad]
    groups = (
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]
