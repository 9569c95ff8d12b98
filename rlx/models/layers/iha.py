"""`iha`: interleaved-head attention, P pseudo-heads a head that attend each other's positions.

The paper's schedule of equal compute is four layers within a window of N / (2 P^2) tokens to one of plain attention:
`model=iha model.layers=[iha.local*4,attention] model.n_layers=5 model.matched_context=<N>`. Its cost of 3/5 of plain
attention counts N^2 pairs for the global layer, as if it were not causal. Counted as a causal row is computed, N^2 / 2,
a local layer costs about as much as a global one and the schedule about as much as plain attention: (1 - 1 / (4 P^2))
of it in the local layers, 0.95 in all for P = 2. `flops` counts so.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.models.base import Layer, check_positive, layer
from rlx.models.layers.attention import Position, WithAttention
from rlx.nn.iha import InterleavedAttention


class IhaMask(Enum):
    """Which pseudo-heads of its own token a pseudo-head sees."""

    flat = "flat"
    """Those up to itself: plain causal attention over the longer row, the paper's."""
    token = "token"
    """All."""


class IhaRotary(Enum):
    """By which position pseudo-heads are turned."""

    virtual = "virtual"
    """Their own in the longer row, the paper's."""
    token = "token"
    """Their token's."""


class IhaCollapse(Enum):
    """What a head is made of after attending."""

    full = "full"
    """The pseudo-heads of all heads: H^2 P weights, what the paper defines."""
    per_head = "per_head"
    """Its own pseudo-heads: H P weights."""


@layer("iha", hows=frozenset({"local", "nope"}))
@dataclass(kw_only=True)
class WithIha(WithAttention):
    """Settings of interleaved-head attention, besides attention's."""

    tensor_free: ClassVar[frozenset[str]] = WithAttention.tensor_free | {"iha_mask", "iha_rotary"}

    pseudo_heads: int = 2
    """Pseudo-heads a head (P): attention costs P^2 times plain attention's, its cache P times; 1 is plain attention
    whose heads are mixed."""
    iha_mask: IhaMask = IhaMask.flat
    """flat: a pseudo-head sees those of its token up to itself; token: all of its token."""
    iha_rotary: IhaRotary = IhaRotary.virtual
    """virtual: every pseudo-head has a position of its own; token: its token's."""
    iha_collapse: IhaCollapse = IhaCollapse.full
    """full: a head is made of all heads' pseudo-heads; per_head: of its own."""
    iha_noise: float = 0.02
    """Standard deviation of the noise on fresh mixtures, which are the head itself; with 0, iha_mask=token and
    iha_rotary=token the pseudo-heads of a head stay equal."""
    matched_context: int | None = None
    """Row length in tokens (N) that sets window to N / (2 P^2), at least 1: the paper's local layers; null: window as
    given."""

    def __post_init__(self) -> None:
        self.spell_out_depth()
        if self.matched_context is not None:
            self._match()
        super().__post_init__()

    def _match(self) -> None:
        """Say `matched_context` as a window: one way to write equal models."""
        check_positive("model.matched_context", self.matched_context or 0)
        check_positive("model.pseudo_heads", self.pseudo_heads)
        window = max(1, (self.matched_context or 0) // (2 * self.pseudo_heads**2))
        if self.window is not None:
            raise ConfigError(
                f"model.window={self.window} and model.matched_context={self.matched_context} both say how far .local "
                f"layers see; leave model.window out (it would be {window}), or the other"
            )
        if not any(each.token == "iha" and "local" in each.hows for each in self.pattern()):
            raise ConfigError(
                f"model.matched_context={self.matched_context} is the window of iha.local layers, and there are none; "
                "take model.layers=[iha.local*4,attention]"
            )
        self.window, self.matched_context = window, None

    def check_iha(self) -> None:
        self.check_attention()
        self.check_positions("iha", known=frozenset({"nope"}))
        check_positive("model.pseudo_heads", self.pseudo_heads)
        if self.n_kv_heads not in (None, self.n_heads):
            raise ConfigError(
                f"model.n_kv_heads={self.n_kv_heads} but iha mixes queries, keys and values of as many heads, "
                f"model.n_heads={self.n_heads}; leave model.n_kv_heads out"
            )
        if self.iha_noise < 0:
            raise ConfigError(f"model.iha_noise={self.iha_noise} must be at least 0")

    def build_iha(self, layer: Layer) -> InterleavedAttention:
        return InterleavedAttention(
            d_model=self.d_model,
            n_heads=self.n_heads,
            head_dim=self.head_width(),
            pseudo=self.pseudo_heads,
            flat=self.iha_mask is IhaMask.flat,
            shared_rotary=self.iha_rotary is IhaRotary.token,
            full_collapse=self.iha_collapse is IhaCollapse.full,
            noise=self.iha_noise,
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            rope_theta=self.rope_theta if self.position_of(layer) is Position.rope else None,
            window=self.window if "local" in layer.hows else None,
        )
