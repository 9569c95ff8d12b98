"""The gated delta rule (Yang et al., Gated DeltaNet, arXiv 2412.06464, equation 10), per head:

    S_t = g_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,    o_t = q_t S_t

so that what the state holds for a key moves by the rate b_t towards the new value. States are [N, K], keys first.

Chunked form (section 3.3 there; the WY representation of Yang et al., arXiv 2406.06484): what the tokens of a chunk
write follows from a triangular system of their keys' products, solved once for the values and once for the keys that
meet the state; then chunks follow each other. Everything inside is float32 (float64 where the inputs are).
"""

import torch
from torch import Tensor

from rlx.kernels.base import Impl
from rlx.kernels.delta.reference import delta_reference
from rlx.kernels.fla import pick, run
from rlx.kernels.gates import decays, in_chunks

CHUNK = 32
"""Tokens of a chunk."""


def delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gates: Tensor,
    rates: Tensor,
    *,
    starts: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int = CHUNK,
    impl: Impl = Impl.auto,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, H, K] in v's dtype, and the state [B, H, N, K] after the last token, at least in float32.

    Args:
        q, k: [B, T, H, N]; keys of norm 1, else the state may grow without end.
        v: [B, T, H, K].
        log_gates: [B, T, H] float32, logarithms of the gates g, at most 0.
        rates: [B, T, H] float32, the rates b, 0 to 1.
        starts: [B, T] bool, True where the state is emptied before the token; None: nowhere.
        state: [B, H, N, K], the state before the first token; None: empty.
        chunk: tokens of a chunk, for impl=torch.

    Raises:
        ConfigError: the implementation cannot be had.
    """
    if q.shape != k.shape or v.shape[:3] != k.shape[:3] or not log_gates.shape == rates.shape == v.shape[:3]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v, log_gates, rates))
        raise ValueError(f"q, k [B, T, H, N], v [B, T, H, K], log_gates and rates [B, T, H] expected; {shapes}")
    impl = pick("delta", v.device, impl)
    if impl is Impl.fla:
        return _by_fla(q, k, v, log_gates, rates, starts, state)
    with torch.autocast(v.device.type, enabled=False):
        if impl is Impl.reference:
            return delta_reference(q, k, v, log_gates, rates, starts, state)
        return _chunked(q, k, v, log_gates, rates, starts, state, min(chunk, v.shape[1]))


def delta_step(q: Tensor, k: Tensor, v: Tensor, log_gates: Tensor, rates: Tensor, state: Tensor) -> Tensor:
    """Outputs [B, H, K] of one token: q, k [B, H, N], v [B, H, K], log_gates, rates [B, H]; `state` is updated in
    place."""
    q, k, v, gates, rates = (x.to(state.dtype) for x in (q, k, v, log_gates.exp(), rates))
    left = state * gates[..., None, None]
    found = (k[..., None] * left).sum(-2)  # [B, H, K]
    state.copy_(left + k[..., None] * (rates[..., None] * (v - found))[..., None, :])
    return (q[..., None] * state).sum(-2)


def delta_flops(heads: int, width: int, size: int, *, cached: bool) -> float:
    """Operations for one token: of a chunked pass, or of a step."""
    if cached:
        return heads * size * width * 7.0
    inside = 4.0 * CHUNK * size + 2.0 * CHUNK * width  # products of keys and of queries with keys, and what they weigh
    solved = 1.0 * CHUNK * (size + width)
    return heads * (inside + solved + 6.0 * size * width)


def _chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gates: Tensor,
    rates: Tensor,
    starts: Tensor | None,
    state: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    length, kept, dtype = v.shape[1], v.dtype, torch.promote_types(v.dtype, torch.float32)
    q, k, v, logs, rates = (in_chunks(x.to(dtype), chunk).transpose(2, 3) for x in (q, k, v, log_gates, rates))
    begins = None if starts is None else in_chunks(starts, chunk)
    decay, since = decays(logs.transpose(2, 3), begins, dtype)
    before, after = since[..., None], decay[..., -1, :, None]  # [B, M, H, C, 1]
    keys = k.transpose(-1, -2)  # q, k [B, M, H, C, N], v [B, M, H, C, K], rates [B, M, H, C]

    weighted = rates[..., None] * k
    system = (weighted @ keys) * decay  # [B, M, H, C, C]; the diagonal, which the solver takes as 1, is not looked at
    wanted = torch.cat([rates[..., None] * v, before * weighted], dim=-1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    values, reading = solved.split((v.shape[-1], k.shape[-1]), dim=-1)
    scores, asking, writing = (q @ keys) * decay, before * q, keys * after.transpose(-1, -2)
    gone = before[..., -1:, :]  # [B, M, H, 1, 1]

    s = v.new_zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1]) if state is None else state.to(dtype)
    out = []
    for m in range(v.shape[1]):
        new = values[:, m] - reading[:, m] @ s  # [B, H, C, K], what each token writes
        out.append(asking[:, m] @ s + scores[:, m] @ new)
        s = gone[:, m] * s + writing[:, m] @ new
    return torch.stack(out, dim=1).transpose(2, 3).flatten(1, 2)[:, :length].to(kept), s


def _by_fla(
    q: Tensor, k: Tensor, v: Tensor, log_gates: Tensor, rates: Tensor, starts: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore[reportMissingImports]

    inputs = {"q": q.to(v.dtype), "k": k.to(v.dtype), "v": v, "g": log_gates.float(), "beta": rates.to(v.dtype)}
    return run(chunk_gated_delta_rule, inputs, starts, state)
