"""Mamba-2's token mixer (Dao and Gu, arXiv 2405.21060, section 7): a scan with a scalar gate per head.

    z, xBC, dt = proj(u);  x, B, C = silu(conv(xBC));  dt = softplus(dt + bias);  g = exp(-dt exp(A_log))
    S_t = g_t S_{t-1} + B_t (dt_t x_t)^T;  y_t = C_t S_t + D x_t;  out(norm(y silu(z)))

1. Heads of a group share B and C, its keys and queries; the norm is over a group.
2. dt is clamped to `dt_limits` in every pass. transformers 5.23 leaves the clamp out when it decodes one token, so
   where limits bind its cached pass is not its own full pass; ours is the full one.
3. Fresh weights: A uniform in [1, 16], dt log-uniform in [0.001, 0.1], D = 1, the convolution as torch draws it, as in
   the authors' code (transformers' class has A = 1, 2, ..., H). Both projections are drawn as the decoder's others.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlx.kernels.base import Impl, chose
from rlx.kernels.fla import pick
from rlx.kernels.scan import scan, scan_flops, scan_step
from rlx.nn.cache import StateCache
from rlx.nn.conv import ShortConv
from rlx.nn.recurrence import GatedNorm, fresh_decays, new_state, wide
from rlx.nn.rows import Need, Pass, Rows, real, starts


class GSSM(nn.Module):
    """Token mixer: [B, T, D] to [B, T, D], with a state of fixed size.

    `proj` holds, one above the other, the rows of z, x, B, C and dt.
    """

    def __init__(
        self,
        *,
        d_model: int,
        width: int,
        heads: int,
        groups: int,
        state: int,
        conv: int,
        norm_eps: float,
        dt_limits: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        super().__init__()
        self.width, self.heads, self.groups, self.size, self.dt_limits = width, heads, groups, state, dt_limits
        mixed = width + 2 * groups * state
        self.splits = (width, mixed, heads)
        self.proj = nn.Linear(d_model, sum(self.splits), bias=False)
        self.conv = ShortConv(mixed, conv, bias=True)
        self.dt_bias = nn.Parameter(torch.zeros(heads))
        self.A_log = nn.Parameter(torch.zeros(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedNorm(width, groups=groups, eps=norm_eps, shared=False, gate_first=True)
        self.out = nn.Linear(width, d_model, bias=False)

    def reset_own(self) -> None:
        fresh_decays(self.A_log, self.dt_bias)

    def forward(self, x: Tensor, *, rows: Rows, cache: StateCache | None = None) -> Tensor:
        z, mixed, dt = self.proj(x).split(self.splits, dim=-1)
        dt = F.softplus(wide(dt) + self.dt_bias)
        if self.dt_limits != (0.0, math.inf):
            dt = dt.clamp(*self.dt_limits)  # [B, T, H]
        found = self._whole(mixed, dt, rows) if cache is None else self._cached(mixed, dt, rows, cache)
        return self.out(self.norm(found.flatten(-2), z))

    def _whole(self, mixed: Tensor, dt: Tensor, rows: Rows) -> Tensor:
        begins: Tensor | None = rows.given["starts"]
        v, k, q = self._heads(self.conv(mixed, starts=begins))
        out, _ = scan(q, k, v * dt[..., None], self._log_gates(dt), starts=begins, impl=rows.given["impl/scan"])
        return out + self.D[:, None] * v

    def _cached(self, mixed: Tensor, dt: Tensor, rows: Rows, cache: StateCache) -> Tensor:
        """Goes on from the cache; tokens that are padding have a step of size 0, which leaves the state as it is."""
        known: Tensor | None = rows.given["real"]
        if known is not None:
            dt = dt * known[..., None]
        v, k, q = self._heads(self.conv(mixed, tail=cache.tail))
        lengths = None if known is None else known.sum(1)
        cache.tail.copy_(self.conv.next_tail(mixed, cache.tail, lengths))
        came, logs = v * dt[..., None], self._log_gates(dt)
        if mixed.shape[1] == 1:
            out = scan_step(q[:, 0], k[:, 0], came[:, 0], logs[:, 0], cache.state)[:, None]
        else:
            out, state = scan(q, k, came, logs, state=cache.state, impl=rows.given["impl/scan"])
            cache.state.copy_(state)
        return out + self.D[:, None] * v

    def _heads(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, H, K], B and C [B, T, G, N]."""
        part = self.groups * self.size
        x, b, c = mixed.split((self.width, part, part), dim=-1)
        return tuple(y.unflatten(-1, (n, -1)) for y, n in ((x, self.heads), (b, self.groups), (c, self.groups)))  # pyright: ignore[reportReturnType]

    def _log_gates(self, dt: Tensor) -> Tensor:
        return -dt * wide(self.A_log).exp()

    def needs(self) -> Mapping[str, Need]:
        return {"starts": starts, "real": real, "impl/scan": _impl}

    def new_cache(self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device) -> StateCache:
        """A state of zeros; it is as large for any `length`."""
        tail = (self.conv.size - 1, self.splits[1])
        return new_state(batch, tail, (self.heads, self.size, self.width // self.heads), dtype=dtype, device=device)

    def state_numel(self, seq_len: int) -> int:
        """Numbers kept per sequence, however long it is."""
        return self.size * self.width + (self.conv.size - 1) * self.splits[1]

    def flops(self, attended: Tensor, *, cached: bool) -> Tensor:
        """The scan's, the same at every length; with the decay and the update of the state in a step."""
        cost = scan_flops(self.heads, self.groups, self.width // self.heads, self.size, cached=cached)
        return torch.full_like(attended, cost)


def _impl(known: Pass) -> Impl:
    return chose("scan", pick("scan", known.positions.device))
