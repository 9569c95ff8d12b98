"""`attention`: softmax attention with grouped key/value heads."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.models.base import Layer, ModelConfig, Mup, check_divides, check_positive, layer
from rlx.nn.attention import Attention
from rlx.nn.places import Places

POSITIONS = frozenset({"nope", "alibi", "hard_alibi"})
"""Words behind a layer's name that say it otherwise than `model.position`."""


class Position(Enum):
    """How a model knows where a token stands."""

    rope = "rope"
    """Queries and keys are rotated."""
    nope = "nope"
    """By the causal mask alone."""
    alibi = "alibi"
    """Scores fall with the distance, in each head at another slope."""
    hard_alibi = "hard_alibi"
    """Some heads see 1, 2, ... tokens, the others all (NoPE)."""
    coupled = "coupled"
    """Ids that the task gives its tokens are embedded; layers see no positions."""
    predicted = "predicted"
    """As coupled, and the model predicts the ids of what it writes."""

    def __str__(self) -> str:
        return self.value


@layer("attention", hows=frozenset({"local"}) | POSITIONS)
@dataclass(kw_only=True)
class WithAttention(ModelConfig):
    """Settings of attention, and of other mixers with heads of queries, keys and values."""

    tensor_free: ClassVar[frozenset[str]] = ModelConfig.tensor_free | {"position_weight"}

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
    position: Position = Position.rope
    """How layers that do not say otherwise tell positions: rope, nope, alibi, hard_alibi; or not they but ids that the
    task gives, coupled or predicted."""
    hard_heads: int | None = None
    """Heads of hard_alibi layers that see 1, 2, ... tokens; null: half of them."""
    max_position: int = 256
    """Largest id of coupled and predicted positions."""
    position_weight: float = 1.0
    """What the loss of predicted ids counts beside that of the tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("model.max_position", self.max_position)
        if self.position_weight < 0:
            raise ConfigError(f"model.position_weight={self.position_weight} must be at least 0")

    def check_attention(self) -> None:
        self.check_heads()
        if self.n_kv_heads is not None:
            check_divides("model.n_kv_heads", self.n_kv_heads, "model.n_heads", self.n_heads)
        if self.window is not None:
            check_positive("model.window", self.window)
        local = any("local" in each.hows for each in self.pattern())
        if self.window is None and local:
            raise ConfigError(
                "model.layers has .local layers; say how many tokens they attend, such as model.window=64"
            )
        if self.window is not None and not local:
            raise ConfigError(
                f"model.window={self.window} is what .local layers attend, and there are none; name some, as in "
                "model.layers=[attention.local*3,attention]"
            )
        hard = any(self.position_of(each) is Position.hard_alibi for each in self.pattern())
        if self.hard_heads is not None and not hard:
            raise ConfigError(
                f"model.hard_heads={self.hard_heads} is for hard_alibi layers, and there are none; take "
                "model.position=hard_alibi, or leave it out"
            )
        self.check_positions("attention")

    def check_positions(self, mixer: str, *, known: frozenset[str] = POSITIONS) -> None:
        """Compare the positions of a mixer's layers with those that it can have, besides rope.

        Raises:
            ConfigError: it cannot have one, a layer has two, or `hard_heads` are none or more than there are.
        """
        for each in self.pattern():
            words = sorted(each.hows & POSITIONS)
            if each.token != mixer:
                continue
            if len(words) > 1:
                raise ConfigError(f"model.layers has {each.name}: it can be one of {', '.join(words)}")
            if (position := self.position_of(each)) not in (*(Position[name] for name in known), Position.rope):
                raise ConfigError(
                    f"model.position={position} is not for {mixer} layers; take {', '.join(sorted(known))} or rope"
                )
            if position is Position.hard_alibi and not 1 <= self.hard_head_count() <= self.n_heads:
                raise ConfigError(
                    f"model.hard_heads={self.hard_head_count()} must be 1 to model.n_heads={self.n_heads}"
                )

    def read(self) -> set[str]:
        ids = {"position", "max_position", "position_weight"} if self.couples() else set()
        return super().read() | ids  # ids are embedded whatever the layers are

    def position_of(self, layer: Layer) -> Position:
        """How a layer knows positions: rope, nope, alibi or hard_alibi."""
        for name in POSITIONS & layer.hows:
            return Position[name]
        return Position.nope if self.couples() else self.position

    def couples(self) -> bool:
        """True when the task's ids are embedded."""
        return self.position in (Position.coupled, Position.predicted)

    def hard_head_count(self) -> int:
        """How many heads of a hard_alibi layer see 1, 2, ... tokens."""
        return self.n_heads // 2 if self.hard_heads is None else self.hard_heads

    def places(self) -> Places | None:
        most = self.largest_place()
        if most is None:
            return None
        predicted = self.position is Position.predicted
        return Places(most, d_model=self.d_model, predicted=predicted, weight=self.position_weight)

    def largest_place(self) -> int | None:
        return self.max_position if self.couples() else None

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
        position = self.position_of(layer)
        return Attention(
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            head_dim=self.head_width(),
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            rope_theta=self.rope_theta if position is Position.rope else None,
            window=self.window if "local" in layer.hows else None,
            mup=self.mup is Mup.full,
            with_alibi=position is Position.alibi,
            hard_heads=self.hard_head_count() if position is Position.hard_alibi else 0,
        )
