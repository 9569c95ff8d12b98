"""Interleaved-head attention as it is defined, step by step; any dtype, and nothing is done to be fast.

N tokens, H heads of width K, P pseudo-heads a head ("Interleaved Head Attention", arXiv 2602.21371, section 3):

1. mix: q~[n, p, h] = sum over m of mix_q[m, h, p] q[n, m], and so keys and values with their own mixtures;
2. interleave: token n becomes the virtual positions n P .. n P + P - 1, of which n P + p holds pseudo-head p;
3. norm, where asked, then rotate by the tables of the virtual positions;
4. one softmax attention a head over the N P virtual positions, scaled by 1 / sqrt(K);
5. collapse: y[n, h] = sum over h', p of collapse[h, h', p] o[n, p, h'], or over the head's own p alone.
"""

import math

import torch
from torch import Tensor


def seen(length: int, pseudo: int, *, flat: bool, window: int | None, documents: Tensor | None) -> Tensor:
    """[B or 1, 1, N P, N P] bool, True where virtual position i may see virtual position j.

    flat: j is no later than i; else j's token is no later than i's. A window of W tokens adds that j's token is among
    the last W up to i's, documents [B, N] that both are of one.
    """
    virtual = torch.arange(length * pseudo, device=None if documents is None else documents.device)
    token = virtual // pseudo
    i, j = (virtual[:, None], virtual) if flat else (token[:, None], token)
    mask = (j <= i)[None, None]
    if window is not None:
        mask = mask & (token[:, None] - token < window)
    if documents is not None:
        document = documents[:, token]
        mask = mask & (document[:, None, :, None] == document[:, None, None, :])
    return mask


def interleaved_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mix_q: Tensor,
    mix_k: Tensor,
    mix_v: Tensor,
    collapse: Tensor,
    mask: Tensor,
    rotary: tuple[Tensor, Tensor] | None,
    norms: tuple[Tensor, Tensor, float] | None,
) -> Tensor:
    """As `rlx.kernels.iha.interleaved_attention`, with the mask [B or 1, 1, N P, N P] given."""
    batch, length, heads, width = q.shape
    pseudo = mix_q.shape[-1]

    def virtual(x: Tensor, mix: Tensor) -> Tensor:
        mixed = torch.einsum("bnmk,mhp->bhnpk", x, mix)
        return mixed.reshape(batch, heads, length * pseudo, width)

    q, k, v = virtual(q, mix_q), virtual(k, mix_k), virtual(v, mix_v)
    if norms is not None:
        q_scale, k_scale, eps = norms
        q = q / (q.square().mean(-1, keepdim=True) + eps).sqrt() * q_scale
        k = k / (k.square().mean(-1, keepdim=True) + eps).sqrt() * k_scale
    if rotary is not None:
        q, k = turned(q, *rotary), turned(k, *rotary)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(width)).masked_fill(~mask, -torch.inf)
    found = (scores.softmax(-1) @ v).view(batch, heads, length, pseudo, width)
    if collapse.shape[1] == heads:
        return torch.einsum("bmnpk,hmp->bnhk", found, collapse)
    return torch.einsum("bhnpk,hp->bnhk", found, collapse[:, 0])


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., K] with the pairs (i, i + K/2) turned by the angles of cos and sin [..., K], in x's dtype."""
    half = x.shape[-1] // 2
    cos, sin = cos[..., :half], sin[..., :half]
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)
