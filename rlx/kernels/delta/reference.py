"""The gated delta rule, one token after the other: the definition."""

import torch
from torch import Tensor


def delta_reference(
    q: Tensor, k: Tensor, v: Tensor, log_gates: Tensor, rates: Tensor, starts: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `rlx.kernels.delta.delta`, in the dtype of the inputs, but at least in float32."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    q, k, wanted, rates = (x.to(dtype) for x in (q, k, v, rates))
    gates = log_gates.to(dtype).exp()
    if starts is not None:
        gates = gates.masked_fill(starts[..., None], 0.0)
    s = v.new_zeros(*k.shape[:1], *k.shape[2:], v.shape[-1], dtype=dtype) if state is None else state.to(dtype)
    out = []
    for t in range(v.shape[1]):
        s = gates[:, t, :, None, None] * s  # [B, H, N, K]
        found = (k[:, t, :, None, :] @ s).squeeze(-2)  # [B, H, K], what the state holds for the key
        s = s + k[:, t, :, :, None] * (rates[:, t, :, None] * (wanted[:, t] - found))[:, :, None, :]
        out.append((q[:, t, :, None, :] @ s).squeeze(-2))
    return torch.stack(out, dim=1).to(v.dtype), s
