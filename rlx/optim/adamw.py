"""`optim=adamw`: AdamW (Loshchilov and Hutter, arXiv 1711.05101), torch's fused implementation."""

from dataclasses import dataclass

import torch
from torch import nn

from rlx.optim.base import OptimConfig, decay_groups
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

    def build(self, model: nn.Module) -> torch.optim.AdamW:
        groups = decay_groups(model.parameters(), self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)
