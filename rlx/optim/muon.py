"""`optim=muon`: Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), torch's implementation.

Matrices of the blocks move by the orthogonalised momentum of their gradient, scaled so that an update has AdamW's
root-mean-square (Liu et al., arXiv 2502.16982, section 2.2): `lr` means the same as for AdamW. Embedding, head, norms
and biases are left to AdamW, with its own rate. Weight decay acts on the blocks' matrices alone.

An orthogonal update is scale-free, but the root-mean-square that it is given makes its spectral norm grow with the root
of the width. So with `model.mup` the blocks' matrices move by the root of the share that AdamW's would.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rlx.errors import ConfigError
from rlx.optim.base import OptimConfig, rate_scales
from rlx.options import option


@option("optim", "muon")
@dataclass(kw_only=True, slots=True)
class MuonConfig(OptimConfig):
    """Orthogonalised momentum on the blocks' matrices, AdamW on the rest."""

    momentum: float = 0.95
    """Decay of the gradient's running mean, with Nesterov's step."""
    adamw_lr: float = 3e-3
    """Peak learning rate of embedding, head and norms."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's running mean."""
    beta2: float = 0.95
    """AdamW's decay of the squared gradient's running mean."""

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        self.check_shares("momentum", "beta1", "beta2")
        if not self.adamw_lr > 0:
            raise ConfigError(f"optim.adamw_lr={self.adamw_lr} must be above 0")

    def build(self, model: nn.Module) -> "MuonWithAdamW":
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        scales = rate_scales(model)
        blocks = {name: p for name, p in named if p.dim() == 2 and name.startswith("blocks.")}
        rest = {name: p for name, p in named if name not in blocks}
        parts: list[torch.optim.Optimizer] = []
        if blocks:
            groups = [
                self.group([blocks[name] for name in names], self.lr * math.sqrt(scale), decays=True)
                for scale, names in _by_scale(blocks, scales)
            ]
            parts.append(
                torch.optim.Muon(
                    groups, lr=self.lr, momentum=self.momentum, nesterov=True, adjust_lr_fn="match_rms_adamw"
                )
            )
        if rest:  # there is none where adapters of the blocks alone are trained
            groups = [
                self.group([rest[name] for name in names], self.adamw_lr * scale, decays=False)
                for scale, names in _by_scale(rest, scales)
            ]
            betas = (self.beta1, self.beta2)
            parts.append(torch.optim.AdamW(groups, lr=self.adamw_lr, betas=betas, fused=True))
        return MuonWithAdamW(parts)


def _by_scale(names: Iterable[str], scales: Mapping[str, float]) -> list[tuple[float, list[str]]]:
    """The names by their share of the rate, largest first."""
    found: dict[float, list[str]] = {}
    for name in names:
        found.setdefault(scales.get(name, 1.0), []).append(name)
    return sorted(found.items(), reverse=True)


class MuonWithAdamW(torch.optim.Optimizer):
    """Several optimizers that step as one; their groups are this one's groups, so a schedule reaches them all."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self.param_groups = [group for part in parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
