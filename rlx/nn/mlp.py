"""SwiGLU feed-forward (Shazeer, arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

from torch import Tensor, nn
from torch.nn import functional as F

Aux = dict[str, Tensor]
"""Named scalar losses that a channel mixer adds to the stage's own; {} when there are none."""


class SwiGLU(nn.Module):
    """Channel mixer: [B, T, D] to [B, T, D]. `gate_up` holds gate above up."""

    def __init__(self, *, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Aux]:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up), {}
