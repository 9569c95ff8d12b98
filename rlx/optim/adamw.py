"""`optim=adamw`: AdamW (Loshchilov and Hutter, arXiv 1711.05101), torch's fused implementation."""

from dataclasses import dataclass

import torch
from torch import nn

from rlx.errors import ConfigError
from rlx.optim.base import OptimConfig
from rlx.options import option


@option("optim", "adamw")
@dataclass(kw_only=True, slots=True)
class AdamWConfig(OptimConfig):
    """Adam with decoupled weight decay."""

    beta1: float = 0.9
    """Decay of the gradient's running mean."""
    beta2: float = 0.95
    """Decay of the squared gradient's running mean."""
    eps: float = 1e-8
    """Added to the root of the squared mean."""

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        self.check_shares("beta1", "beta2")
        if self.eps < 0:
            raise ConfigError(f"optim.eps={self.eps} must be at least 0")

    def build(self, model: nn.Module) -> torch.optim.AdamW:
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(self.groups(model), lr=self.lr, betas=betas, eps=self.eps, fused=True)
