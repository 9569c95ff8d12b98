"""Causal self-attention with grouped key/value heads (Ainslie et al., arXiv 2305.13245), rotary positions, qk-norm."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlx.nn.cache import KeyValueCache
from rlx.nn.norm import RMSNorm
from rlx.nn.rope import rotate
from rlx.nn.rows import Rows


class Attention(nn.Module):
    """Token mixer: [B, T, D] to [B, T, D], causal within a document.

    `qkv` holds the three projections one above the other, in the order queries, keys, values.
    """

    def __init__(
        self, *, d_model: int, n_heads: int, n_kv_heads: int, head_dim: int, qk_norm: bool, norm_eps: float
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, head_dim
        self.qkv = nn.Linear(d_model, (n_heads + 2 * n_kv_heads) * head_dim, bias=False)
        self.out = nn.Linear(n_heads * head_dim, d_model, bias=False)
        self.q_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None

    def forward(self, x: Tensor, *, rows: Rows, cache: KeyValueCache | None = None) -> Tensor:
        q, k, v = self._project(x)
        if rows.rotary is not None:
            q, k = rotate(q, rows.rotary), rotate(k, rows.rotary)
        if cache is not None:
            assert rows.mask is not None, "a cached pass needs a mask over the slots"
            cache.write(k, v, rows.positions)
            k, v = cache.read(rows.mask.shape[-1])
            k, v = k.to(q.dtype), v.to(q.dtype)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=rows.mask, is_causal=rows.mask is None, enable_gqa=self.n_kv_heads != self.n_heads
        )  # [B, H, T, K]
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, K], keys and values [B, G, T, K], normalised where asked, not yet rotated."""
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, H+2G, T, K]
        q, k, v = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def new_cache(self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device) -> KeyValueCache:
        """An empty cache of `length` positions for `batch` rows."""
        shape = (batch, self.n_kv_heads, length, self.head_dim)
        return KeyValueCache.empty(shape, dtype=dtype, device=device)

    @property
    def flops_per_position(self) -> int:
        """Operations for one token to attend one position: a multiply-add each for the score and the value."""
        return 4 * self.n_heads * self.head_dim

    def state_numel(self, seq_len: int) -> int:
        """Numbers kept per sequence when decoding at `seq_len` tokens."""
        return 2 * self.n_kv_heads * self.head_dim * seq_len
