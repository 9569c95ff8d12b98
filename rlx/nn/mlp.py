"""SwiGLU feed-forward (Shazeer, arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from rlx.nn.aux import NONE, Aux
from rlx.nn.rows import Need, Rows


class SwiGLU(nn.Module):
    """Channel mixer: [B, T, D] to [B, T, D]. `gate_up` holds gate above up."""

    def __init__(self, *, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor, *, rows: Rows) -> tuple[Tensor, Aux]:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up), NONE

    def parts(self) -> Mapping[str, Mapping[str, int]]:
        """What `gate_up` holds (`rlx.nn.lora.Fused`)."""
        width = self.down.in_features
        return {"gate_up": {"gate": width, "up": width}}

    def needs(self) -> Mapping[str, Need]:
        return {}
