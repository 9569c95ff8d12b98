"""`optim=muon`: Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), torch's implementation.

Matrices of the blocks move by the orthogonalised momentum of their gradient, scaled so that an update has AdamW's
root-mean-square (Liu et al., arXiv 2502.16982, section 2.2): `lr` means the same as for AdamW. Embedding, head, norms
and biases are left to AdamW, with its own rate. Weight decay acts on the blocks' matrices alone.

Matrices that are stacked [E, O, I], as a module of experts holds them (it names them in `stacks`), move each by
itself, as one that stood alone.

An orthogonal update is scale-free, but the root-mean-square that it is given makes its spectral norm grow with the root
of the width. So with `model.mup` the blocks' matrices move by the root of the share that AdamW's would.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from rlx.errors import ConfigError
from rlx.optim.base import OptimConfig, rate_scales
from rlx.options import option

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the iteration x ← a x + b (x x^T) x + c (x x^T)^2 x."""
STEPS = 5
EPS = 1e-7


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

    def at(self, lr: float) -> "MuonConfig":
        return replace(self, lr=lr, adamw_lr=self.adamw_lr * lr / self.lr)

    def build(self, model: nn.Module) -> "MuonWithAdamW":
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        scales = rate_scales(model)
        blocks = {name: p for name, p in named if p.dim() == 2 and name.startswith("blocks.")}
        held = {id(getattr(module, name)) for module in model.modules() for name in getattr(module, "stacks", ())}
        stacks = {name: p for name, p in named if id(p) in held}
        rest = {name: p for name, p in named if name not in blocks and name not in stacks}
        parts: list[torch.optim.Optimizer] = []
        for matrices in filter(None, (blocks, stacks)):
            groups = [
                self.group([matrices[name] for name in names], self.lr * math.sqrt(scale), decays=True)
                for scale, names in _by_scale(matrices, scales)
            ]
            parts.append(
                torch.optim.Muon(
                    groups, lr=self.lr, momentum=self.momentum, nesterov=True, adjust_lr_fn="match_rms_adamw"
                )
                if matrices is blocks
                else StackedMuon(groups, lr=self.lr, momentum=self.momentum)
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


class StackedMuon(torch.optim.Optimizer):
    """torch's Muon (Nesterov's momentum, five Newton-Schulz steps in bfloat16) on each matrix of parameters [E, O, I],
    all E at once."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for stack in group["params"]:
                if stack.grad is None:
                    continue
                state = self.state[stack]
                mean = state.setdefault("momentum_buffer", torch.zeros_like(stack.grad))
                mean.lerp_(stack.grad, 1 - group["momentum"])
                update = orthogonalised(stack.grad.lerp(mean, group["momentum"]))
                stack.mul_(1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * math.sqrt(max(stack.shape[-2:]))  # AdamW's root mean square
                stack.add_(update, alpha=-group["lr"] * scale)
        return loss


def orthogonalised(stack: torch.Tensor) -> torch.Tensor:
    """Nearly U V^T of every matrix U S V^T of [E, O, I], by the quintic iteration of Muon; 0 of a matrix of zeros."""
    tall = stack.shape[-2] > stack.shape[-1]
    x = stack.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(stack.dtype)


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
