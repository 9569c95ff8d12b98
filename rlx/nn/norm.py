"""Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlx.kernels.precision import wide


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; the mean is taken in at least float32."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        inner = wide(x)
        return F.rms_norm(inner, (x.shape[-1],), self.weight.to(inner.dtype), self.eps).to(x.dtype)
