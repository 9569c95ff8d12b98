"""Gated DeltaNet's token mixer (Yang et al., arXiv 2412.06464, section 3.4 and figure 1): the gated delta rule.

    q, k, v = silu(conv(proj(u)));  q, k of norm 1 per head, q over sqrt(N)
    b = sigmoid(.);  g = exp(-A softplus(. + bias));  out(norm(o) silu(z)), the norm per head with one weight for all

It equals transformers' `Qwen3NextGatedDeltaNet` with as many key as value heads, but for the order of rows in its
projections. Fresh decays are Mamba-2's, as in the authors' code, but for A in [1, 16] instead of (0, 16].
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlx.kernels.base import Impl, chose
from rlx.kernels.delta import delta, delta_flops, delta_step
from rlx.kernels.fla import pick
from rlx.nn.cache import StateCache
from rlx.nn.conv import ShortConv
from rlx.nn.recurrence import GatedNorm, fresh_decays, new_state, wide
from rlx.nn.rows import Need, Pass, Rows, real, starts

TINY = 1e-6
"""Added to squared norms of queries and keys."""


class Delta(nn.Module):
    """Token mixer: [B, T, D] to [B, T, D], with a state of fixed size.

    `proj` holds, one above the other, the rows of z, q, k, v, b and g; keys are `state` wide, values `width / heads`.
    """

    def __init__(self, *, d_model: int, width: int, heads: int, state: int, conv: int, norm_eps: float) -> None:
        super().__init__()
        self.width, self.heads, self.size = width, heads, state
        mixed = width + 2 * heads * state
        self.splits = (width, mixed, heads, heads)
        self.proj = nn.Linear(d_model, sum(self.splits), bias=False)
        self.conv = ShortConv(mixed, conv, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(heads))
        self.A_log = nn.Parameter(torch.zeros(heads))
        self.norm = GatedNorm(width, groups=heads, eps=norm_eps, shared=True, gate_first=False)
        self.out = nn.Linear(width, d_model, bias=False)

    def reset_own(self) -> None:
        fresh_decays(self.A_log, self.dt_bias)

    def forward(self, x: Tensor, *, rows: Rows, cache: StateCache | None = None) -> Tensor:
        z, mixed, rates, steps = self.proj(x).split(self.splits, dim=-1)
        rates, steps = wide(rates).sigmoid(), F.softplus(wide(steps) + self.dt_bias)  # [B, T, H]
        if cache is None:
            begins: Tensor | None = rows.given["starts"]
            q, k, v = self._heads(self.conv(mixed, starts=begins))
            found, _ = delta(q, k, v, self._log_gates(steps), rates, starts=begins, impl=rows.given["impl/delta"])
        else:
            found = self._cached(mixed, rates, steps, rows, cache)
        return self.out(self.norm(found.flatten(-2), z))

    def _cached(self, mixed: Tensor, rates: Tensor, steps: Tensor, rows: Rows, cache: StateCache) -> Tensor:
        """Goes on from the cache; tokens that are padding neither decay the state nor write to it."""
        known: Tensor | None = rows.given["real"]
        if known is not None:
            rates, steps = rates * known[..., None], steps * known[..., None]
        q, k, v = self._heads(self.conv(mixed, tail=cache.tail))
        lengths = None if known is None else known.sum(1)
        cache.tail.copy_(self.conv.next_tail(mixed, cache.tail, lengths))
        logs = self._log_gates(steps)
        if mixed.shape[1] == 1:
            return delta_step(q[:, 0], k[:, 0], v[:, 0], logs[:, 0], rates[:, 0], cache.state)[:, None]
        found, state = delta(q, k, v, logs, rates, state=cache.state, impl=rows.given["impl/delta"])
        cache.state.copy_(state)
        return found

    def _heads(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q and k [B, T, H, N] of norm 1 / sqrt(N) and 1, v [B, T, H, K]."""
        part = self.heads * self.size
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in mixed.split((part, part, self.width), dim=-1))
        q, k = (y * (y.square().sum(-1, keepdim=True) + TINY).rsqrt() for y in (q, k))
        return q * self.size**-0.5, k, v

    def _log_gates(self, steps: Tensor) -> Tensor:
        return -steps * wide(self.A_log).exp()

    def needs(self) -> Mapping[str, Need]:
        return {"starts": starts, "real": real, "impl/delta": _impl}

    def new_cache(self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device) -> StateCache:
        """A state of zeros; it is as large for any `length`."""
        tail = (self.conv.size - 1, self.splits[1])
        return new_state(batch, tail, (self.heads, self.size, self.width // self.heads), dtype=dtype, device=device)

    def state_numel(self, seq_len: int) -> int:
        """Numbers kept per sequence, however long it is."""
        return self.size * self.width + (self.conv.size - 1) * self.splits[1]

    def flops(self, attended: Tensor, *, cached: bool) -> Tensor:
        """The recurrence's, the same at every length."""
        cost = delta_flops(self.heads, self.width // self.heads, self.size, cached=cached)
        return torch.full_like(attended, cost)


def _impl(known: Pass) -> Impl:
    return chose("delta", pick("delta", known.positions.device))
