"""`model=dense`: attention and SwiGLU in every block, the architecture of Llama (arXiv 2302.13971).

On the same weights its logits are those of transformers' `LlamaForCausalLM` (`rlx/models/llama.py` has the layout);
with `qk_norm` those of Qwen3, which norms queries and keys per head before rotating them.
"""

from dataclasses import dataclass

from rlx.errors import ConfigError
from rlx.models.base import ModelConfig, check_divides, check_positive
from rlx.nn.attention import Attention
from rlx.nn.block import Block
from rlx.nn.mlp import SwiGLU
from rlx.options import option


@option("model", "dense")
@dataclass(kw_only=True, slots=True)
class DenseConfig(ModelConfig):
    """Attention with grouped key/value heads, then SwiGLU."""

    n_heads: int = 4
    """Query heads; must divide d_model unless head_dim is given."""
    head_dim: int | None = None
    """Width of a head; null: d_model / n_heads."""
    n_kv_heads: int | None = None
    """Key/value heads, each shared by n_heads / n_kv_heads query heads; null: as many as n_heads."""
    d_ff: int | None = None
    """Width of the feed-forward; null: 8/3 of d_model, rounded up to a multiple of 32."""
    qk_norm: bool = False
    """RMS norm of queries and keys per head."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.head_dim is None:
            check_divides("model.n_heads", self.n_heads, "model.d_model", self.d_model)
        else:
            check_positive("model.n_heads", self.n_heads)
            if self.head_dim < 2 or self.head_dim % 2:
                raise ConfigError(f"model.head_dim={self.head_dim} must be even: rotary positions turn pairs")
        if self.n_kv_heads is not None:
            check_divides("model.n_kv_heads", self.n_kv_heads, "model.n_heads", self.n_heads)
        if self.d_ff is not None:
            check_positive("model.d_ff", self.d_ff)
        if self.rotary_dim() % 2:
            raise ConfigError(
                f"model.d_model={self.d_model} over model.n_heads={self.n_heads} makes heads of odd width "
                f"{self.rotary_dim()}; rotary positions turn pairs, so make d_model a multiple of {2 * self.n_heads}"
            )

    def rotary_dim(self) -> int:
        return self.head_dim or self.d_model // self.n_heads

    def feed_forward_width(self) -> int:
        return self.d_ff or -(-(self.d_model * 8 // 3) // 32) * 32

    def blocks(self) -> list[Block]:
        return [self._block() for _ in range(self.n_layers)]

    def _block(self) -> Block:
        mixer = Attention(
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            head_dim=self.rotary_dim(),
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
        )
        channel = SwiGLU(d_model=self.d_model, d_ff=self.feed_forward_width())
        return Block(mixer=mixer, channel=channel, d_model=self.d_model, norm_eps=self.norm_eps)
