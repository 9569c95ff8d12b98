"""Fields that every optimizer has."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from rlx.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Learning rate and decay."""

    lr: float = 1e-3
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: float = 0.1
    """Decoupled decay, on matrices only (norms and biases get none); a step takes off weight_decay times the rate."""
    independent_decay: bool = False
    """A step takes off weight_decay times the schedule's factor, whatever the rate (arXiv 2309.14322)."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"optim.lr={self.lr} must be above 0")
        if self.weight_decay < 0:
            raise ConfigError(f"optim.weight_decay={self.weight_decay} must be at least 0")

    def group(self, parameters: list[nn.Parameter], lr: float, *, decays: bool) -> dict[str, Any]:
        """A parameter group with a peak rate; optimizers multiply a decay by the rate, so an independent one is divided
        by it."""
        decay = self.weight_decay / lr if self.independent_decay else self.weight_decay
        return {"params": parameters, "lr": lr, "weight_decay": decay if decays else 0.0}

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups: matrices with decay, everything else without, then matrices with a rate of their own."""
        scales, trained = rate_scales(model), [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [(scales.get(name, 1.0), p) for name, p in trained if p.dim() >= 2]
        groups = [
            self.group([p for scale, p in matrices if scale == 1.0], self.lr, decays=True),
            self.group([p for _, p in trained if p.dim() < 2], self.lr, decays=False),
        ]
        for own in sorted({scale for scale, _ in matrices} - {1.0}):
            groups.append(self.group([p for scale, p in matrices if scale == own], self.lr * own, decays=True))
        return [group for group in groups if group["params"]]

    def at(self, lr: float) -> Self:
        """The same with another peak rate; rates beside it keep their share of it."""
        return replace(self, lr=lr)

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


def rate_scales(model: nn.Module) -> dict[str, float]:
    """Shares of the learning rate by parameter that a model asks for (`Decoder.rate_scales`)."""
    told: Any = getattr(model, "rate_scales", None)
    return {} if told is None else told()
