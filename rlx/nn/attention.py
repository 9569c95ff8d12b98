"""Causal self-attention with grouped key/value heads (Ainslie et al., arXiv 2305.13245), rotary positions, qk-norm.

The core is one of three forms of softmax(q k / sqrt(K)) v:
1. torch's `scaled_dot_product_attention`, where a whole row is passed in float32 or on a GPU;
2. matrix products over blocks of queries, each against the keys up to the block's end, for bf16 on a CPU, where (1) is
   two to four times slower at rows of up to 256 tokens;
3. from a cache: matrix products, and for one token in a compiled step a multiply-and-sum that the compiler fuses.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlx.kernels.precision import wide
from rlx.nn.alibi import alibi, head_windows
from rlx.nn.cache import KeyValueCache
from rlx.nn.norm import RMSNorm
from rlx.nn.rope import rotary_of, rotate
from rlx.nn.rows import Need, Rows, seen_by

BLOCK = 64
"""Queries whose scores are held at once in form 2; with 128 a training step took 6 to 8 % longer, with 32 as well."""


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """[B, H, T, K] from queries [B, H, T, K], keys and values [B, G, T, K], and a causal mask [B, 1, T, T] or None.

    Masks, here and below, may also be [B, H, T, S], one a head, and float: what is added to the scores.
    """
    length, parts = q.shape[2], []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        if mask is None:
            seen = torch.ones(end - start, end, dtype=torch.bool, device=q.device).tril(start)[None, None]
        else:
            seen = mask[:, :, start:end, :end]
        parts.append(_weigh(q[:, :, start:end], k[:, :, :end].transpose(-1, -2), v[:, :, :end], seen))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def attend_cached(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """[B, H, T, K] from queries [B, H, T, K], cached keys [B, G, K, S] and values [B, G, S, K], and a mask
    [B, 1, T, S]."""
    if q.shape[2] > 1 or not torch.compiler.is_compiling():
        return _weigh(q, keys.to(q.dtype), values.to(q.dtype), mask)
    batch, heads, _, width = q.shape
    groups = keys.shape[1]
    q = wide(q.view(batch, groups, heads // groups, width, 1)) / math.sqrt(width)  # [B, G, R, K, 1]
    mask = mask.view(len(mask), -1, heads // groups, mask.shape[-1]) if mask.shape[1] > 1 else mask
    scores = _masked((q * wide(keys[:, :, None])).sum(-2), mask)  # [B, G, R, S]
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    mixed = (weights[..., None] * wide(values[:, :, None])).sum(-2) / weights.sum(-1, keepdim=True)
    return mixed.view(batch, heads, 1, width).to(values.dtype)


def _weigh(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Form 2 for one block; the query heads of a group are rows of one product. `keys` is [B, G, K, S].

    The weights are divided by their sum after the product with the values (as in FlashAttention, arXiv 2205.14135): a
    pass over [T, K] numbers instead of one over [T, S].
    """
    batch, heads, length, width = q.shape
    groups = values.shape[1]
    scores = q.reshape(batch, groups, -1, width) @ keys  # [B, G, R*T, S]
    scores = _masked(wide(scores.view(batch, heads, length, -1)) / math.sqrt(width), mask)
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    mixed = weights.to(values.dtype).view(batch, groups, -1, weights.shape[-1]) @ values  # [B, G, R*T, K]
    return (mixed.view(batch, heads, length, width) / weights.sum(-1, keepdim=True)).to(values.dtype)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores with -inf where a mask is False, or with a bias added."""
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask


class Attention(nn.Module):
    """Token mixer: [B, T, D] to [B, T, D], causal within a document.

    `qkv` holds the three projections one above the other, in the order queries, keys, values. With `mup` scores are
    divided by the heads' width, not its root, and queries begin at 0 (`rlx.models.base.Mup.full`).
    """

    def __init__(
        self,
        *,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        qk_norm: bool,
        norm_eps: float,
        rope_theta: float | None,
        window: int | None = None,
        mup: bool = False,
        with_alibi: bool = False,
        hard_heads: int = 0,
    ) -> None:
        super().__init__()
        self.mup = mup
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, head_dim
        self.window = head_windows(n_heads, window, hard_heads)
        self.heads_alike = not with_alibi and not hard_heads
        """Heads differ in nothing but their weights."""
        self._seen, self._mask_need = alibi(n_heads, window) if with_alibi else seen_by(self.window)
        self._rotary = None if rope_theta is None else rotary_of(head_dim, rope_theta)
        self.qkv = nn.Linear(d_model, (n_heads + 2 * n_kv_heads) * head_dim, bias=False)
        self.out = nn.Linear(n_heads * head_dim, d_model, bias=False)
        self.q_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None

    def forward(self, x: Tensor, *, rows: Rows, cache: KeyValueCache | None = None) -> Tensor:
        q, k, v = self._project(x)
        if self._rotary is not None:
            tables = rows.given[self._rotary[0]]
            q, k = rotate(q, tables), rotate(k, tables)
        if self.mup:
            q = q / math.sqrt(self.head_dim)
        mask: Tensor | None = rows.given[self._seen]
        if cache is not None:
            assert mask is not None, "a cached pass needs a mask over the slots"
            cache.write(k, v, rows.positions)
            keys, values = cache.read(mask.shape[-1])
            mixed = attend_cached(q, keys, values, mask)
        elif q.dtype is torch.bfloat16 and q.device.type == "cpu":
            mixed = attend_blocks(q, k, v, mask)
        else:
            grouped = self.n_kv_heads != self.n_heads
            if mask is not None and mask.is_floating_point():
                mask = mask.to(q.dtype)
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
            )  # [B, H, T, K]
        return self.out(mixed.transpose(1, 2).flatten(2))

    def parts(self) -> Mapping[str, Mapping[str, int]]:
        """What `qkv` holds (`rlx.nn.lora.Fused`)."""
        shared = self.n_kv_heads * self.head_dim
        return {"qkv": {"q": self.n_heads * self.head_dim, "k": shared, "v": shared}}

    def reset_own(self) -> None:
        if self.mup:
            with torch.no_grad():
                self.qkv.weight[: self.n_heads * self.head_dim].zero_()

    def needs(self) -> Mapping[str, Need]:
        return {self._seen: self._mask_need, **({} if self._rotary is None else dict([self._rotary]))}

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

    def flops(self, attended: Tensor, *, cached: bool) -> Tensor:
        """A multiply-add each for the score and the value of a position."""
        if isinstance(self.window, tuple):
            seen = torch.stack([attended.clamp(max=window) for window in self.window]).sum(0)
            return 4.0 * self.head_dim * seen
        seen = attended if self.window is None else attended.clamp(max=self.window)
        return 4.0 * self.n_heads * self.head_dim * seen

    def state_numel(self, seq_len: int) -> int:
        """Numbers kept per sequence when decoding at `seq_len` tokens."""
        return 2 * self.n_kv_heads * self.head_dim * seq_len
