"""Interleaved-head attention ("Interleaved Head Attention", arXiv 2602.21371) as a token mixer.

P pseudo-heads a head, each a learned mixture of all heads, stand one after the other in the row, which one ordinary
attention then passes: up to P^2 maps a head. What is computed is in `rlx/kernels/iha`. Where the paper is silent:

1. Mixtures begin as the head itself for every pseudo-head, plus normal noise: without it pseudo-heads that share mask
   and position would have equal gradients for ever. Noise alone would shrink the scores by orders of magnitude.
2. The collapse begins as the mean over a head's own pseudo-heads: all of them are in use from the first step, at the
   scale of one head. A collapse that picks one would leave the others' queries without a gradient to speak of. With the
   token mask and a token's position for all its pseudo-heads (or none) the layer then begins as ordinary attention, up
   to the noise; with the flat mask or virtual positions it does not, whatever the collapse.
3. The norm of queries and keys stands between mixing and turning.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rlx.kernels.base import Impl, chose
from rlx.kernels.iha import choose, interleaved_attention
from rlx.kernels.iha.stock import attend_cached, collapsed, virtual
from rlx.nn.cache import KeyValueCache
from rlx.nn.norm import RMSNorm
from rlx.nn.rope import rotary_tables
from rlx.nn.rows import Need, Pass, Rows, seen_by


def seen_of(pseudo: int, *, flat: bool, window: int | None) -> tuple[str, Need]:
    """Name and maker of a mask [B or 1, 1, T P, S P] over virtual positions, which are slots with a cache; None stands
    for the earlier ones and itself, within the window."""
    name = f"seen/iha/{pseudo}/{'flat' if flat else 'token'}" + ("" if window is None else f"/{window}")
    tokens = seen_by(window)[1]

    def make(known: Pass) -> Tensor | None:
        if flat and known.slots is None and (known.documents is None or seen_by(None)[1](known) is None):
            return None
        mask: Tensor | None = tokens(known)
        positions = known.positions
        if mask is None:
            length = positions.shape[1]
            mask = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()[None, None]
        mask = mask.repeat_interleave(pseudo, 2).repeat_interleave(pseudo, 3)
        if not flat:
            return mask
        place = (
            positions if known.slots is not None else torch.arange(positions.shape[1], device=positions.device)[None]
        )
        slots = torch.arange(mask.shape[3], device=positions.device)
        return mask & (slots <= virtual_positions(place, pseudo)[:, None, :, None])

    return name, make


def virtual_positions(positions: Tensor, pseudo: int) -> Tensor:
    """[B, T P] int64 of positions [B, T]: token n is n P .. n P + P - 1."""
    return (positions[..., None] * pseudo + torch.arange(pseudo, device=positions.device)).flatten(1)


def rotary_of(pseudo: int, head_dim: int, theta: float, *, shared: bool) -> tuple[str, Need]:
    """Name and maker of the tables [B or 1, 1, T P, K] that turn virtual positions: by their own place, or (shared) all
    of a token by the token's."""

    def make(known: Pass) -> tuple[Tensor, Tensor]:
        positions = known.positions
        places = positions.repeat_interleave(pseudo, 1) if shared else virtual_positions(positions, pseudo)
        return rotary_tables(places, head_dim=head_dim, theta=theta)

    return f"rotary/iha/{pseudo}/{'token' if shared else 'virtual'}/{head_dim}/{theta}", make


class InterleavedAttention(nn.Module):
    """Token mixer: [B, T, D] to [B, T, D], causal within a document.

    `qkv` holds the three projections one above the other; `mix_q`, `mix_k`, `mix_v` [H, H, P] (source head, head,
    pseudo-head) and `collapse` ([H, H, P]: head, source head, pseudo-head; or [H, 1, P]: of the head's own) are the
    4 H^2 P parameters (3 H^2 P + H P) more than those of attention.
    """

    def __init__(
        self,
        *,
        d_model: int,
        n_heads: int,
        head_dim: int,
        pseudo: int,
        flat: bool,
        shared_rotary: bool,
        full_collapse: bool,
        noise: float,
        qk_norm: bool,
        norm_eps: float,
        rope_theta: float | None,
        window: int | None = None,
        impl: Impl = Impl.auto,
    ) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.pseudo = n_heads, head_dim, pseudo
        self.flat, self.noise, self.window = flat, noise, window
        self.impl = choose(impl, pseudo=pseudo)
        self._seen, self._mask_need = seen_of(pseudo, flat=flat, window=window)
        self._rotary = None if rope_theta is None else rotary_of(pseudo, head_dim, rope_theta, shared=shared_rotary)
        self.qkv = nn.Linear(d_model, 3 * n_heads * head_dim, bias=False)
        self.out = nn.Linear(n_heads * head_dim, d_model, bias=False)
        self.mix_q, self.mix_k, self.mix_v = (nn.Parameter(torch.empty(n_heads, n_heads, pseudo)) for _ in range(3))
        self.collapse = nn.Parameter(torch.empty(n_heads, n_heads if full_collapse else 1, pseudo))
        self.q_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None

    @torch.no_grad()
    def reset_own(self) -> None:
        """Mixtures begin near the head itself, the collapse as the mean over its pseudo-heads."""
        own = torch.eye(self.n_heads, device=self.mix_q.device)[..., None]  # [H, H, 1]
        for mix in (self.mix_q, self.mix_k, self.mix_v):
            nn.init.normal_(mix, std=self.noise).add_(own)
        full = self.collapse.shape[1] == self.n_heads
        self.collapse.copy_((own if full else torch.ones_like(own[:, :1])).expand_as(self.collapse) / self.pseudo)

    def forward(self, x: Tensor, *, rows: Rows, cache: KeyValueCache | None = None) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (3, self.n_heads, self.head_dim))  # [B, T, 3, H, K]
        q, k, v = heads.unbind(2)
        rotary: tuple[Tensor, Tensor] | None = None if self._rotary is None else rows.given[self._rotary[0]]
        mask: Tensor | None = rows.given[self._seen]
        if cache is not None:
            assert mask is not None, "a cached pass needs a mask over the slots"
            mixed = self._cached(q, k, v, rotary, mask, rows.positions, cache)
        else:
            q_norm, k_norm = self._norms()
            mixed = interleaved_attention(
                q,
                k,
                v,
                mix_q=self.mix_q,
                mix_k=self.mix_k,
                mix_v=self.mix_v,
                collapse=self.collapse,
                mask=mask,
                window=self.window,
                rotary=rotary,
                norms=None if q_norm is None or k_norm is None else (q_norm[0], k_norm[0], q_norm[1]),
                impl=self.impl,
            )
        return self.out(mixed.flatten(2))

    def _cached(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        mask: Tensor,
        positions: Tensor,
        cache: KeyValueCache,
    ) -> Tensor:
        """[B, T, H, K], the pseudo-keys and -values written to the cache at the virtual positions."""
        q_norm, k_norm = self._norms()
        q, k = virtual(q, self.mix_q, q_norm, rotary), virtual(k, self.mix_k, k_norm, rotary)
        cache.write(k, virtual(v, self.mix_v, None, None), virtual_positions(positions, self.pseudo))
        keys, values = cache.read(mask.shape[-1])
        return collapsed(attend_cached(q, keys, values, mask, pseudo=self.pseudo), self.collapse)

    def _norms(self) -> tuple[tuple[Tensor, float] | None, tuple[Tensor, float] | None]:
        """Scale and epsilon of the norms of queries and keys."""
        if self.q_norm is None or self.k_norm is None:
            return None, None
        return (self.q_norm.weight, self.q_norm.eps), (self.k_norm.weight, self.k_norm.eps)

    def parts(self) -> Mapping[str, Mapping[str, int]]:
        """What `qkv` holds (`rlx.nn.lora.Fused`)."""
        return {"qkv": dict.fromkeys("qkv", self.out.in_features)}

    def needs(self) -> Mapping[str, Need]:
        chose("interleaved_attention", self.impl)
        return {self._seen: self._mask_need, **({} if self._rotary is None else dict([self._rotary]))}

    def new_cache(self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device) -> KeyValueCache:
        """An empty cache of `length` tokens for `batch` rows: P keys and values a head and token."""
        shape = (batch, self.n_heads, length * self.pseudo, self.head_dim)
        return KeyValueCache.empty(shape, dtype=dtype, device=device)

    def flops(self, attended: Tensor, *, cached: bool) -> Tensor:
        """A multiply-add each for the score and the value of a pair of virtual positions, and the products with the
        mixtures and the collapse.

        A token's P queries see P keys of each token, of their own token (flat) P (P + 1) / 2 pairs in sum.
        """
        seen = attended if self.window is None else attended.clamp(max=self.window)
        pairs = self.pseudo**2 * seen
        if self.flat:
            pairs = pairs - self.pseudo * (self.pseudo - 1) / 2
        products = 3 * self.mix_q.numel() + self.collapse.numel()
        return (4.0 * self.n_heads * pairs + 2.0 * products) * self.head_dim

    def state_numel(self, seq_len: int) -> int:
        """Numbers kept per sequence when decoding at `seq_len` tokens."""
        return 2 * self.n_heads * self.head_dim * self.pseudo * seq_len
