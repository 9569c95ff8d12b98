"""The scalar-gated scan, one token after the other: the definition."""

import torch
from torch import Tensor


def scan_reference(
    q: Tensor, k: Tensor, v: Tensor, log_gates: Tensor, starts: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `rlx.kernels.scan.scan`, in the dtype of the inputs, but at least in float32."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    heads = v.shape[2]
    q, k = (x.to(dtype).repeat_interleave(heads // x.shape[2], dim=2) for x in (q, k))  # [B, T, H, N]
    gates = log_gates.to(dtype).exp()
    if starts is not None:
        gates = gates.masked_fill(starts[..., None], 0.0)
    s = v.new_zeros(v.shape[0], heads, k.shape[-1], v.shape[-1], dtype=dtype) if state is None else state.to(dtype)
    out = []
    for t in range(v.shape[1]):
        s = gates[:, t, :, None, None] * s + k[:, t, :, :, None] * v[:, t, :, None, :].to(dtype)  # [B, H, N, K]
        out.append((q[:, t, :, None, :] @ s).squeeze(-2))
    return torch.stack(out, dim=1).to(v.dtype), s
