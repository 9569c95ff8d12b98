"""`mlp`: the SwiGLU feed-forward."""

from dataclasses import dataclass

from rlx.models.base import Layer, ModelConfig, check_positive, layer
from rlx.nn.mlp import SwiGLU


@layer("mlp", channel=True)
@dataclass(kw_only=True)
class WithMlp(ModelConfig):
    """Settings of the feed-forward."""

    d_ff: int | None = None
    """Width of the feed-forward; null: 8/3 of d_model, rounded up to a multiple of 32."""

    def check_mlp(self) -> None:
        if self.d_ff is not None:
            check_positive("model.d_ff", self.d_ff)

    def feed_forward_width(self) -> int:
        return self.d_ff or -(-(self.d_model * 8 // 3) // 32) * 32

    def build_mlp(self, layer: Layer) -> SwiGLU:
        return SwiGLU(d_model=self.d_model, d_ff=self.feed_forward_width())
