"""`model=dense`: attention and SwiGLU in every block, the architecture of Llama (arXiv 2302.13971).

On the same weights its logits are those of transformers' `LlamaForCausalLM` (`rlx/models/layouts/dense.py` has the
layout); with `qk_norm` those of Qwen3, which norms queries and keys per head before rotating them.
"""

from dataclasses import dataclass

from rlx.models.layers.attention import WithAttention
from rlx.models.layers.mlp import WithMlp
from rlx.options import option


@option("model", "dense")
@dataclass(kw_only=True, slots=True)
class DenseConfig(WithAttention, WithMlp):
    """Attention with grouped key/value heads, then SwiGLU."""
