"""`delta`: Gated DeltaNet's mixer, the gated delta rule with a state of fixed size."""

from dataclasses import dataclass

from rlx.models.base import Layer, ModelConfig, check_divides, check_positive, heads_of, layer
from rlx.nn.delta import Delta

HEAD, LEAST_HEADS = 64, 2


@layer("delta")
@dataclass(kw_only=True)
class WithDelta(ModelConfig):
    """Settings of the gated delta rule. As they are, a layer has as many parameters as one of attention, 4 d_model^2,
    and few more; keys are half as wide as values, as in the paper."""

    delta_heads: int | None = None
    """Heads; must divide d_model. null: values of 64 channels, but at least 2 heads."""
    delta_key: int | None = None
    """Width of a head's keys and queries; null: half of its values', d_model / heads."""
    delta_conv: int = 4
    """Tokens that the short convolution sees."""

    def check_delta(self) -> None:
        check_divides("model.delta_heads", self.delta_count(), "model.d_model", self.d_model)
        check_positive("model.delta_key", self.delta_width())
        check_positive("model.delta_conv", self.delta_conv)

    def delta_count(self) -> int:
        """Heads."""
        return heads_of(self.d_model, HEAD, LEAST_HEADS) if self.delta_heads is None else self.delta_heads

    def delta_width(self) -> int:
        """Width of a head's keys."""
        return -(-self.d_model // self.delta_count() // 2) if self.delta_key is None else self.delta_key

    def build_delta(self, layer: Layer) -> Delta:
        return Delta(
            d_model=self.d_model,
            width=self.d_model,
            heads=self.delta_count(),
            state=self.delta_width(),
            conv=self.delta_conv,
            norm_eps=self.norm_eps,
        )
