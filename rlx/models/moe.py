"""`model=moe`: attention, and in every block a sparse mixture of SwiGLU experts, the architecture of Mixtral (arXiv
2401.04088).

On the same weights its logits are those of transformers' `MixtralForCausalLM`, with `qk_norm` those of Qwen3-MoE
(`rlx/models/layouts/moe.py` has the layouts). Left as it is, a token meets as many weights as in `model=dense` of the
same width (besides the router); `model.layers=[attention+mlp,attention+experts*3]` begins with a plain feed-forward.
"""

from dataclasses import dataclass
from typing import ClassVar

from rlx.models.layers.attention import WithAttention
from rlx.models.layers.experts import WithExperts
from rlx.options import option


@option("model", "moe")
@dataclass(kw_only=True, slots=True)
class MoeConfig(WithAttention, WithExperts):
    """Attention with grouped key/value heads, then experts."""

    plain: ClassVar[str] = "attention+experts"
