"""The mixture of experts as it is defined: every token through each of its experts, one expert after the other."""

import torch
from torch import Tensor
from torch.nn import functional as F


def experts_reference(x: Tensor, chosen: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """y[n] = sum over k of gates[n, k] * E(chosen[n, k], x[n]), E(e, x) = down[e] (silu(gate[e] x) * up[e] x).

    Shapes as `rlx.kernels.experts.experts`; computed in at least float32, [N, D] in x's dtype.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, out = x.to(dtype), torch.zeros(x.shape, dtype=dtype, device=x.device)
    for number in range(gate_up.shape[0]):
        gate, up = (wide @ gate_up[number].to(dtype).T).chunk(2, dim=-1)  # [N, I] each
        answer = (F.silu(gate) * up) @ down[number].to(dtype).T  # [N, D]
        weight = (gates.to(dtype) * (chosen == number)).sum(-1, keepdim=True)  # [N, 1], 0 for tokens of other experts
        out = out + weight * answer
    return out.to(x.dtype)
