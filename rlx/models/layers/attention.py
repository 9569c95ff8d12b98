"""`attention`: softmax attention with grouped key/value heads."""

from dataclasses import dataclass

from rlx.errors import ConfigError
from rlx.models.base import Layer, ModelConfig, Mup, check_divides, check_positive, layer
from rlx.nn.attention import Attention


@layer("attention", hows=frozenset({"local", "nope"}))
@dataclass(kw_only=True)
class WithAttention(ModelConfig):
    """Settings of attention, and of other mixers with heads of queries, keys and values."""

    n_heads: int = 4
    """Query heads; must divide d_model unless head_dim is given."""
    head_dim: int | None = None
    """Width of a head; null: d_model / n_heads."""
    n_kv_heads: int | None = None
    """Key/value heads, each shared by n_heads / n_kv_heads query heads; null: as many as n_heads."""
    qk_norm: bool = False
    """RMS norm of queries and keys per head."""
    window: int | None = None
    """Tokens that `.local` layers attend, the token itself included."""

    def check_attention(self) -> None:
        self.check_heads()
        if self.n_kv_heads is not None:
            check_divides("model.n_kv_heads", self.n_kv_heads, "model.n_heads", self.n_heads)
        if self.window is not None:
            check_positive("model.window", self.window)
        if self.window is None and any("local" in each.hows for each in self.pattern()):
            raise ConfigError(
                "model.layers has .local layers; say how many tokens they attend, such as model.window=64"
            )

    def check_heads(self) -> None:
        """
        Raises:
            ConfigError: the heads do not fit the width.
        """
        if self.head_dim is None:
            check_divides("model.n_heads", self.n_heads, "model.d_model", self.d_model)
        else:
            check_positive("model.n_heads", self.n_heads)
            if self.head_dim < 2 or self.head_dim % 2:
                raise ConfigError(f"model.head_dim={self.head_dim} must be even: rotary positions turn pairs")
        if self.head_width() % 2:
            raise ConfigError(
                f"model.d_model={self.d_model} over model.n_heads={self.n_heads} makes heads of odd width "
                f"{self.head_width()}; rotary positions turn pairs, so make d_model a multiple of {2 * self.n_heads}"
            )

    def head_width(self) -> int:
        """Width of a head."""
        return self.head_dim or self.d_model // self.n_heads

    def build_attention(self, layer: Layer) -> Attention:
        return Attention(
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            head_dim=self.head_width(),
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            rope_theta=None if "nope" in layer.hows else self.rope_theta,
            window=self.window if "local" in layer.hows else None,
            mup=self.mup is Mup.full,
        )
