"""Interleaved-head attention of torch's own operations, on any device.

1. Pseudo-heads lie outside the heads, [B, N, P, H, K]: the interleaved row is then a view, [B, N P, H, K].
2. Without a window the core is torch's `scaled_dot_product_attention`, but for bf16 on a CPU, where it is two to four
   times slower than (3) at short rows.
3. Else it is matrix products over blocks of queries, each against the keys that it may see: the upper triangle and
   what lies before a window are not computed.
4. Mixing and collapse are products with matrices of a few heads: a multiply-and-sum where the compiler fuses it (two
   to five times faster than its matrix products on a CPU), else matrix products.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rlx.kernels.iha.reference import seen, turned
from rlx.kernels.precision import wide

BLOCK = 64
"""Virtual queries whose scores are held at once in form 3."""


def mixed(x: Tensor, mix: Tensor) -> Tensor:
    """Pseudo-heads [B, N, P, H, K] of heads x [B, N, H, K], in x's dtype."""
    pseudo, heads = mix.shape[2], mix.shape[1]
    return _product(mix.permute(2, 1, 0).flatten(0, 1), x).unflatten(2, (pseudo, heads))


def _product(weights: Tensor, x: Tensor) -> Tensor:
    """weights [R, C] times x [B, N, C, K], in x's dtype."""
    if not torch.compiler.is_compiling():
        return weights.to(x.dtype) @ x
    return (wide(x)[:, :, None] * wide(weights)[:, :, None]).sum(3).to(x.dtype)


def virtual(x: Tensor, mix: Tensor, norm: tuple[Tensor, float] | None, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Steps 1 to 3 of the definition: [B, H, N P, K] of heads x [B, N, H, K]."""
    found = mixed(x, mix).flatten(1, 2).transpose(1, 2)
    if norm is not None:
        scale, eps = norm
        found = F.rms_norm(wide(found), (found.shape[-1],), wide(scale), eps).to(x.dtype)
    return found if rotary is None else turned(found, *rotary)


def interleaved_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mix_q: Tensor,
    mix_k: Tensor,
    mix_v: Tensor,
    collapse: Tensor,
    mask: Tensor | None,
    window: int | None,
    rotary: tuple[Tensor, Tensor] | None,
    norms: tuple[Tensor, Tensor, float] | None,
) -> Tensor:
    """As `rlx.kernels.iha.interleaved_attention`."""
    pseudo = mix_q.shape[-1]
    q_norm, k_norm = (None, None) if norms is None else ((norms[0], norms[2]), (norms[1], norms[2]))
    q, k = virtual(q, mix_q, q_norm, rotary), virtual(k, mix_k, k_norm, rotary)
    v = virtual(v, mix_v, None, None)
    if q.device.type == "cpu" and (window is not None or q.dtype is torch.bfloat16):
        found = attend_blocks(q, k, v, mask, window=window, pseudo=pseudo)
    else:
        if mask is None and window is not None:
            mask = seen(q.shape[2] // pseudo, pseudo, flat=True, window=window, documents=None).to(q.device)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return collapsed(found, collapse)


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, window: int | None, pseudo: int) -> Tensor:
    """[B, H, S, K] from queries, keys and values [B, H, S, K] over S virtual positions."""
    length, parts = q.shape[2], []
    step = -(-BLOCK // pseudo) * pseudo  # whole tokens: under the token mask a query sees its token's later keys
    for start in range(0, length, step):
        end = min(start + step, length)
        first = 0 if window is None else max(0, (start // pseudo - window + 1) * pseudo)
        if mask is None:
            i, j = torch.arange(start, end, device=q.device)[:, None], torch.arange(first, end, device=q.device)
            visible = j <= i
            if window is not None:
                visible = visible & (i // pseudo - j // pseudo < window)
        else:
            visible = mask[:, :, start:end, first:end]
        parts.append(weigh(q[:, :, start:end], k[:, :, first:end].transpose(-1, -2), v[:, :, first:end], visible))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def attend_cached(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, *, pseudo: int) -> Tensor:
    """[B, H, N P, K] from the virtual queries of N tokens [B, H, N P, K], cached keys [B, H, K, S P] and values
    [B, H, S P, K], and a mask [B, 1, N P, S P].

    One token in a compiled step is a multiply-and-sum that the compiler fuses, all else matrix products.
    """
    if q.shape[2] > pseudo or not torch.compiler.is_compiling():
        return weigh(q, keys.to(q.dtype), values.to(q.dtype), mask)
    q = (wide(q) / math.sqrt(q.shape[-1]))[..., None]  # [B, H, P, K, 1]
    scores = (q * wide(keys[:, :, None])).sum(-2).masked_fill(~mask, -torch.inf)  # [B, H, P, S P]
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    found = (weights[..., None] * wide(values[:, :, None])).sum(-2) / weights.sum(-1, keepdim=True)
    return found.to(values.dtype)


def weigh(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention by matrix products; `keys` is [B, H, K, S].

    The weights are divided by their sum after the product with the values: a pass over K numbers a query instead of
    one over S.
    """
    scores = q @ keys
    scores = (wide(scores) / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    return (weights.to(values.dtype) @ values / weights.sum(-1, keepdim=True)).to(values.dtype)


def collapsed(found: Tensor, collapse: Tensor) -> Tensor:
    """Heads [B, N, H, K] of pseudo-heads [B, H, N P, K]."""
    batch, heads, _, width = found.shape
    pseudo = collapse.shape[-1]
    found = found.transpose(1, 2).reshape(batch, -1, pseudo * heads, width)  # [B, N, P H, K]
    if collapse.shape[1] == heads:
        return _product(collapse.permute(0, 2, 1).flatten(1), found)
    weights = collapse[:, 0].t()[..., None]  # [P, H, 1]
    return (found.view(batch, -1, pseudo, heads, width) * weights).sum(2).to(found.dtype)
