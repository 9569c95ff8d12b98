"""Sparse mixture of SwiGLU experts: a router sends each token to K of E experts (Shazeer et al., arXiv 1701.06538).

Where the sources differ:

1. Logits, scores and gates are float32, whatever autocast says: a rounded logit sends tokens elsewhere. Scores are the
   logits' softmax (Mixtral, arXiv 2401.04088) or their sigmoid (DeepSeek-V3, arXiv 2412.19437, section 2.1.2); gates
   are the chosen experts' scores, renormalised to sum to 1 where asked. Of equal scores the lower expert is chosen.
2. Balance loss (Switch, arXiv 2101.03961, section 2.2): E * sum f_e p_e over the experts, f_e the share of choices, p_e
   the mean probability (sigmoids divided by their sum): 1 at an even load. Router z-loss (ST-MoE, arXiv 2202.08906,
   section 2.2): mean squared logsumexp of the logits. Both are means over the real tokens of a pass, per layer, and
   summed over layers.
3. Balancing without a loss (arXiv 2408.15664): a bias that is added to the scores for the choice only, not to gates.
   `rebalance` moves it after an optimizer step; it is in the checkpoint. It is a part of the router: where that is
   frozen, as beside adapters, it stays too, so that one base serves all its adapters.
"""

from collections.abc import Mapping
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlx.kernels.base import Impl, chose
from rlx.kernels.experts import experts, pick
from rlx.kernels.precision import wide
from rlx.nn.aux import Aux, Routing
from rlx.nn.mlp import SwiGLU
from rlx.nn.rows import Need, Rows, real


class Router(str, Enum):
    """How logits become scores."""

    softmax = "softmax"
    """A distribution over the experts."""
    sigmoid = "sigmoid"
    """Each expert for itself."""


_TINY = 1e-20
"""Least sum of the gates that are renormalised: replayed choices may have scores of 0."""


class Experts(nn.Module):
    """Channel mixer: [B, T, D] to [B, T, D]. `gate_up` [E, 2I, D] holds each expert's gate above its up."""

    stacks = ("gate_up", "down")
    """Parameters that are matrices one upon the other, as linear layers hold one: used in autocast's dtype, and moved
    by optimizers that move matrices. The router is not cast."""

    def __init__(
        self,
        *,
        d_model: int,
        n_experts: int,
        top_k: int,
        width: int,
        shared_width: int = 0,
        router: Router = Router.softmax,
        renormalise: bool = True,
        balance_loss: float = 0.0,
        router_z_loss: float = 0.0,
        balance_rate: float = 0.0,
        number: int = 0,
        impl: Impl = Impl.auto,
    ) -> None:
        """`number` counts the routed layers before this one, `shared_width` is that of the experts of all tokens."""
        super().__init__()
        self.top_k, self.scores_by, self.renormalise = top_k, router, renormalise
        self.balance_loss, self.router_z_loss, self.balance_rate = balance_loss, router_z_loss, balance_rate
        self.number, self.impl, self.width = number, impl, width
        self.router = nn.Parameter(torch.empty(n_experts, d_model))
        self.gate_up = nn.Parameter(torch.empty(n_experts, 2 * width, d_model))
        self.down = nn.Parameter(torch.empty(n_experts, d_model, width))
        self.shared = SwiGLU(d_model=d_model, d_ff=shared_width) if shared_width else None
        self.bias: Tensor
        self.register_buffer("bias", torch.zeros(n_experts))

    @property
    def n_experts(self) -> int:
        return len(self.router)

    @property
    def active_numel(self) -> int:
        """Weights that a token meets, besides the shared expert's."""
        return self.router.numel() + self.top_k * 3 * self.width * self.router.shape[1]

    def forward(self, x: Tensor, *, rows: Rows) -> tuple[Tensor, Aux]:
        flat, taken = x.flatten(0, 1), None if rows.routing is None else rows.routing[self.number].flatten(0, 1)
        logits = self._logits(flat)  # [N, E]
        scores = logits.softmax(-1) if self.scores_by is Router.softmax else logits.sigmoid()
        chosen = self._choose(scores.detach(), taken)  # [N, K]
        gates = scores.gather(1, chosen)
        if self.renormalise:
            gates = gates / gates.sum(-1, keepdim=True).clamp_min(_TINY)
        dtype = _autocast_dtype(x) or x.dtype
        out = experts(flat.to(dtype), chosen, gates, self.gate_up.to(dtype), self.down.to(dtype), impl=self.impl)
        out = out.view(x.shape)
        if self.shared is not None:
            out = out + self.shared(x, rows=rows)[0]
        return out, self._aux(logits, scores, chosen.view(*x.shape[:2], -1), rows.given["real"])

    def needs(self) -> Mapping[str, Need]:
        chose("experts", pick(self.impl))
        return {"real": real}

    def _logits(self, x: Tensor) -> Tensor:
        """[N, E] in at least float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = wide(x)
            return F.linear(x, self.router.to(x.dtype))

    def _choose(self, scores: Tensor, taken: Tensor | None) -> Tensor:
        """[N, K] int64 from scores [N, E], the highest first; `taken` [N, K] is taken instead where it is not -1."""
        left, found = scores + self.bias, []
        for _ in range(self.top_k):  # not torch.topk: which of equal scores it takes is left open
            best = left.argmax(-1, keepdim=True)  # [N, 1], of equal ones the first
            found.append(best)
            left = left.scatter(1, best, -torch.inf)
        chosen = torch.cat(found, dim=1)
        return chosen if taken is None else torch.where(taken < 0, chosen, taken)

    def _aux(self, logits: Tensor, scores: Tensor, chosen: Tensor, counted: Tensor | None) -> Aux:
        """Losses and counts over the tokens [B, T] that are counted; chosen is [B, T, K]."""
        count = self.n_experts
        shares = scores if self.scores_by is Router.softmax else scores / scores.sum(-1, keepdim=True).clamp_min(_TINY)
        weight = torch.ones_like(logits[:, 0]) if counted is None else counted.flatten().to(logits.dtype)  # [N]
        total = weight.sum().clamp_min(1)
        hits = chosen.flatten(0, 1)[..., None] == torch.arange(count, device=chosen.device)  # [N, K, E]
        load = (hits.sum(1) * weight[:, None]).sum(0).float()  # [E]
        plain = shares.detach()
        entropy = -(torch.special.xlogy(plain, plain).sum(-1) * weight).sum().float()
        losses = {}
        if self.balance_loss:
            even = load / (self.top_k * total)
            losses["balance"] = self.balance_loss * count * (even * (shares * weight[:, None]).sum(0) / total).sum()
        if self.router_z_loss:
            squares = logits.logsumexp(-1).square() * weight
            losses["router_z"] = self.router_z_loss * squares.sum() / total
        return Aux(losses, (Routing(chosen=chosen, load=load, entropy=entropy),))

    @torch.no_grad()
    def rebalance(self, load: Tensor) -> None:
        """Move the bias by `balance_rate` towards experts that had less than an even share of load [E]: the tokens of
        the whole optimizer step, over all micro-batches and ranks. Beside a frozen router it stays."""
        if self.balance_rate and self.router.requires_grad:
            self.bias += self.balance_rate * (load.mean() - load).sign()


def routed_layers(model: nn.Module) -> list[Experts]:
    """The model's layers of experts, from first to last."""
    return [module for module in model.modules() if isinstance(module, Experts)]


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that a linear layer would compute in, where autocast is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
