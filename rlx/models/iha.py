"""`model=iha`: interleaved-head attention (arXiv 2602.21371) and SwiGLU in every block."""

from dataclasses import dataclass
from typing import ClassVar

from rlx.models.layers.iha import WithIha
from rlx.models.layers.mlp import WithMlp
from rlx.options import option


@option("model", "iha")
@dataclass(kw_only=True, slots=True)
class IhaConfig(WithIha, WithMlp):
    """Attention among pseudo-heads that are mixed of all heads, then SwiGLU."""

    plain: ClassVar[str] = "iha+mlp"
