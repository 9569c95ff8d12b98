"""The scalar-gated scan: S_t = g_t S_{t-1} + k_t v_t^T, o_t = q_t S_t, per head; Mamba-2's recurrence.

Chunked form (Dao and Gu, arXiv 2405.21060, section 6; Yang et al., arXiv 2312.06635, section 4): inside a chunk a
masked product as in attention, between chunks the state. Heads of a group share queries and keys, so their products
are made once a group, and those with the state are one product for all its heads.

1. Everything inside is float32 (float64 where the inputs are), log-gates and states above all.
2. States at chunk ends follow from each other in a loop over chunks. One product with an [M, M] matrix of decays in
   its place was slower: it needs the states in another order, and is a copy of them with little to compute.
"""

import torch
from torch import Tensor

from rlx.kernels.base import Impl
from rlx.kernels.fla import pick, run
from rlx.kernels.gates import decays, in_chunks
from rlx.kernels.scan.reference import scan_reference

CHUNK = 32
"""Tokens of a chunk."""


def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gates: Tensor,
    *,
    starts: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int = CHUNK,
    impl: Impl = Impl.auto,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, H, K] in v's dtype, and the state [B, H, N, K] after the last token, at least in float32.

    Args:
        q, k: [B, T, G, N], each shared by H / G heads that follow one another.
        v: [B, T, H, K].
        log_gates: [B, T, H] float32, logarithms of the gates, at most 0.
        starts: [B, T] bool, True where the state is emptied before the token; None: nowhere.
        state: [B, H, N, K], the state before the first token; None: empty.
        chunk: tokens of a chunk, for impl=torch.

    Raises:
        ConfigError: the implementation cannot be had.
    """
    if q.shape != k.shape or v.shape[:2] != q.shape[:2] or log_gates.shape != v.shape[:3] or v.shape[2] % q.shape[2]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v, log_gates))
        raise ValueError(f"q, k [B, T, G, N], v [B, T, H, K], log_gates [B, T, H] and G dividing H expected; {shapes}")
    impl = pick("scan", v.device, impl)
    if impl is Impl.fla:
        return _by_fla(q, k, v, log_gates, starts, state)
    with torch.autocast(v.device.type, enabled=False):
        if impl is Impl.reference:
            return scan_reference(q, k, v, log_gates, starts, state)
        return _chunked(q, k, v, log_gates, starts, state, min(chunk, v.shape[1]))


def scan_step(q: Tensor, k: Tensor, v: Tensor, log_gates: Tensor, state: Tensor) -> Tensor:
    """Outputs [B, H, K] of one token: q, k [B, G, N], v [B, H, K], log_gates [B, H]; `state` is updated in place."""
    share = v.shape[1] // q.shape[1]
    q, k, v = (x.to(state.dtype) for x in (q, k, v))
    came = k.repeat_interleave(share, dim=1)[..., None] * v[..., None, :]  # [B, H, N, K]
    state.copy_(state * log_gates.to(state.dtype).exp()[..., None, None] + came)
    return (q.repeat_interleave(share, dim=1)[..., None] * state).sum(-2)


def scan_flops(heads: int, groups: int, width: int, size: int, *, cached: bool) -> float:
    """Operations for one token: of a chunked pass, or of a step."""
    if cached:
        return 5.0 * heads * size * width
    return 2.0 * CHUNK * (groups * size + heads * width) + 4.0 * heads * size * width


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, log_gates: Tensor, starts: Tensor | None, state: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    (batch, length, heads, width), groups, v_dtype = v.shape, q.shape[2], v.dtype
    dtype = torch.promote_types(v.dtype, torch.float32)
    q, k, v, logs = (in_chunks(x.to(dtype), chunk) for x in (q, k, v, log_gates))  # [B, M, C, ...]
    begins = None if starts is None else in_chunks(starts, chunk)
    inside = decays(logs, begins, dtype)
    q, k = q.transpose(2, 3), k.transpose(2, 3)  # [B, M, G, C, N]

    scores = (q @ k.transpose(-1, -2))[:, :, :, None] * inside.between.unflatten(2, (groups, -1))  # [B, M, G, R, C, C]
    out = (scores.flatten(2, 3) @ v.transpose(2, 3)).transpose(2, 3)  # [B, M, C, H, K]

    came = v * inside.until_end.transpose(2, 3)[..., None]  # [B, M, C, H, K]
    came = came.view(*came.shape[:3], groups, -1).transpose(2, 3)  # [B, M, G, C, R*K]
    added = (k.transpose(-1, -2) @ came).unflatten(-1, (-1, width))  # [B, M, G, N, R, K]
    gone = inside.since_begin[..., -1].view(batch, -1, groups, 1, heads // groups, 1)
    if state is None:
        state = v.new_zeros(batch, heads, k.shape[-1], width)
    s = state.to(dtype).unflatten(1, (groups, -1)).transpose(2, 3)  # [B, G, N, R, K]
    before = []
    for new, kept in zip(added.unbind(1), gone.unbind(1), strict=True):
        before.append(s)
        s = torch.addcmul(new, s, kept)
    read = (q @ torch.stack(before, dim=1).flatten(-2)).unflatten(-1, (-1, width))  # [B, M, G, C, R, K]
    left = inside.since_begin.unflatten(2, (groups, -1)).transpose(3, 4)[..., None]  # [B, M, G, C, R, 1]
    out = out + (read * left).transpose(2, 3).flatten(3, 4)
    return out.flatten(1, 2)[:, :length].to(v_dtype), s.transpose(2, 3).flatten(1, 2)


def _by_fla(
    q: Tensor, k: Tensor, v: Tensor, log_gates: Tensor, starts: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    from fla.ops.simple_gla import chunk_simple_gla  # pyright: ignore[reportMissingImports]

    share = v.shape[2] // q.shape[2]
    q, k = (x.to(v.dtype).repeat_interleave(share, dim=2) for x in (q, k))
    return run(chunk_simple_gla, {"q": q, "k": k, "v": v, "g": log_gates.float()}, starts, state)
