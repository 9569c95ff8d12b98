"""What a model's config promises: its layers, and the decoder they make.

`model.layers` is a list of layers that is repeated until there are `model.n_layers`, each written

    token[.how][+channel][*count]        attention, gssm+experts, iha.local*4, attention.nope, experts

A token mixer alone gets the channel mixer of the model's own layers, a channel mixer alone the token mixer of those,
and `+none` leaves the channel mixer out. What there is to be named: `rlx/models/layers/`, found by folder.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from typing import ClassVar, TypeVar

from torch import nn

from rlx.errors import ConfigError, nearest
from rlx.nn.block import Block
from rlx.nn.decoder import Decoder
from rlx.nn.places import Places

TIED = "head.weight"
"""Left out of a folder when the head is the embedding."""
NO_CHANNEL = "none"
"""In place of a channel mixer: the layer has a token mixer alone."""
_ROOM = "rlx.models.layers"
_LAYER = re.compile(r"(\w+)((?:\.\w+)*)(?:\+(\w+))?(?:\*([1-9]\d*))?")


@dataclass(frozen=True, slots=True)
class Kind:
    """A mixer that layers are made of."""

    name: str
    channel: bool
    """It mixes channels, not tokens."""
    fields: type["ModelConfig"]
    """The settings that it reads: models that can have it are of this class."""
    hows: frozenset[str]
    """What may stand after its name, behind a dot."""
    routed: bool
    """It sends each token to some of its parts (`Rows.routing`)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a model, as `model.layers` says it."""

    token: str
    channel: str
    hows: frozenset[str]
    """Words behind the token mixer's name."""
    number: int
    """Its place in the model, from 0."""
    routed: int
    """How many layers before it are routed."""

    @property
    def name(self) -> str:
        """As `model.layers` writes it."""
        return ".".join([self.token, *sorted(self.hows)]) + f"+{self.channel}"


C = TypeVar("C", bound=type["ModelConfig"])
_kinds: dict[str, Kind] = {}


def layer(
    name: str, *, channel: bool = False, hows: frozenset[str] = frozenset(), routed: bool = False
) -> Callable[[C], C]:
    """Register the decorated settings as those of the mixer `name`.

    They say with `check_<name>()` whether they fit (raising ConfigError) and make the mixer with
    `build_<name>(layer)`.
    """

    def register(cls: C) -> C:
        _kinds[name] = Kind(name, channel, cls, hows, routed)
        return cls

    return register


@cache
def kinds() -> dict[str, Kind]:
    """All mixers by name."""
    room = importlib.import_module(_ROOM)
    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{_ROOM}.{module.name}")
    return dict(sorted(_kinds.items()))


class Mup(Enum):
    """How learning rates and first weights go with the width (Yang et al., arXiv 2203.03466, in the two forms of
    Wortsman et al., arXiv 2309.14322, section 3.2.5)."""

    none = "none"
    """Not at all."""
    simple = "simple"
    """A matrix moves by mup_base / d_model of the rate, and begins with the root of that of init_std."""
    full = "full"
    """And the head begins with mup_base / d_model of init_std, attention divides scores by the heads' width in place
    of its root, and queries begin at 0."""


class Grow(Enum):
    """How a deeper model begins from one with fewer layers (`rlx/models/growth.py`)."""

    stack = "stack"
    """All layers again, above themselves."""
    interleave = "interleave"
    """Each layer again, right above itself."""
    zero = "zero"
    """Fresh layers on top that add nothing at first: the function stays."""
    random = "random"
    """Fresh layers on top."""


MOST_LAYERS = 4096
"""No model has more; a config that says so is damaged or hostile."""
WIDTH_A_LAYER = 64
"""d_model over n_layers where `depth` says both, which is the width of a head too (nanochat's aspect ratio)."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Fields that every model has."""

    tensor_free: ClassVar[frozenset[str]] = frozenset({"rope_theta", "norm_eps", "z_loss", "logit_cap"})
    """Fields that may change with the weights kept."""
    plain: ClassVar[str] = "attention+mlp"
    """The layer that the model has where `layers` does not say otherwise."""

    depth: int | None = None
    """One dial in place of three: n_layers = depth, d_model = 64 depth, and heads 64 wide, so n_heads = depth."""
    d_model: int = 128
    """Width of the residual stream."""
    n_layers: int = 4
    """Number of blocks."""
    layers: list[str] | None = None
    """Which layers, repeated until there are n_layers, such as [attention,gssm] or [iha.local*4,attention]; null: the
    model's own everywhere."""
    tie_embeddings: bool = True
    """The head is the embedding's transpose."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-5
    """Added to the mean square in norms."""
    init_std: float = 0.02
    """Standard deviation of fresh weights; projections into the residual stream get it over sqrt(2 n_layers)."""
    logit_cap: float | None = None
    """Bound of the logits, cap * tanh(logits / cap); null: none."""
    z_loss: float = 0.0
    """Weight in pretrain and sft of the mean of (log Z)^2 over the tokens that count, Z being the softmax's sum; 1e-4
    is usual."""
    mup: Mup = Mup.none
    """How rates and first weights go with the width: none, simple, full. Then a rate that is best at d_model = mup_base
    is about the best at any."""
    mup_base: int = 256
    """The width at which mup=simple changes nothing."""

    def __init_subclass__(cls) -> None:
        """A model of several mixers has the `tensor_free` of all of them."""
        cls.tensor_free = frozenset().union(*(vars(each).get("tensor_free", ()) for each in cls.__mro__))

    def __post_init__(self) -> None:
        self.spell_out_depth()
        check_positive("model.d_model", self.d_model)
        check_positive("model.n_layers", self.n_layers)
        if self.n_layers > MOST_LAYERS:
            raise ConfigError(f"model.n_layers={self.n_layers} must be at most {MOST_LAYERS}")
        if self.norm_eps < 0 or self.init_std < 0 or self.rope_theta <= 0:
            raise ConfigError(
                f"model.norm_eps={self.norm_eps} and init_std={self.init_std} must be at least 0, "
                f"rope_theta={self.rope_theta} above 0"
            )
        self._check_scales()
        pattern = self.pattern()
        names = [each.name for each in pattern]
        period = next(size for size in range(1, len(names) + 1) if names == (names[:size] * len(names))[: len(names)])
        self.layers = None if names[:period] == [self.plain] else names[:period]  # one way to write equal models
        for name in self._mixers():
            getattr(self, f"check_{name}")()
        self._check_read()

    def spell_out_depth(self) -> None:
        """Say `depth` by the fields that it stands for: one way to write equal models."""
        if self.depth is None:
            return
        check_positive("model.depth", self.depth)
        self.n_layers = self.depth  # it decides which layers there are, and they whether there are heads
        for name, value in of_depth(self.depth).items():
            if name in self.read():
                setattr(self, name, value)
        self.depth = None

    def _mixers(self) -> list[str]:
        """Names of the mixers that layers have."""
        return sorted({name for each in self.pattern() for name in (each.token, each.channel)} - {NO_CHANNEL})

    def read(self) -> set[str]:
        """Names of the settings that the layers' mixers read, or that every model reads."""
        return {field.name for name in self._mixers() for field in fields(kinds()[name].fields)}

    def _check_read(self) -> None:
        """
        Raises:
            ConfigError: a setting of mixers that no layer has was given: it would change nothing but the run's name.
        """
        read = self.read()
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in read and value != field.default:
                names = ",".join(dict.fromkeys(each.name for each in self.pattern()))
                shown = value.name if isinstance(value, Enum) else value
                raise ConfigError(
                    f"model.{field.name}={shown} is for none of the layers, which are {names}; leave it out, or name "
                    "others by model.layers"
                )

    @property
    def is_routed(self) -> bool:
        """True when a layer sends tokens to some of its parts."""
        return any(kinds()[name].routed for name in self._mixers())

    def _check_scales(self) -> None:
        check_positive("model.mup_base", self.mup_base)
        if self.z_loss < 0:
            raise ConfigError(f"model.z_loss={self.z_loss} must be at least 0; 1e-4 is usual")
        if self.logit_cap is not None and not self.logit_cap > 0:
            raise ConfigError(f"model.logit_cap={self.logit_cap} must be above 0, such as 30; null: no cap")
        if self.mup is not Mup.none and self.tie_embeddings:
            raise ConfigError(
                f"model.mup={self.mup.name} gives embedding and head different rates; set model.tie_embeddings=false"
            )
        others = {each.token for each in self.pattern()} - {"attention"}
        if self.mup is Mup.full and others:
            raise ConfigError(
                f"model.mup=full is known for attention, and model.layers has {min(others)}; take model.mup=simple"
            )

    def pattern(self) -> list[Layer]:
        """The layers from first to last.

        Raises:
            ConfigError: `layers` names what there is not, or more than n_layers.
        """
        token, _, channel = self.plain.partition("+")
        written = [self.plain] if self.layers is None else self.layers
        if not written:
            raise ConfigError("model.layers is empty; name a layer, such as [attention], or leave it out")
        parts: list[tuple[str, str, frozenset[str]]] = []
        for text in written:
            parts += self._parts(text, token, channel)
        if len(parts) > self.n_layers:
            raise ConfigError(
                f"model.layers names {len(parts)} layers, model.n_layers={self.n_layers}; "
                f"set model.n_layers={len(parts)} or a multiple of it"
            )
        found: list[Layer] = []
        for number in range(self.n_layers):
            one, other, hows = parts[number % len(parts)]
            routed = sum(each.channel != NO_CHANNEL and kinds()[each.channel].routed for each in found)
            found.append(Layer(one, other, hows, number, routed))
        return found

    def _parts(self, text: str, token: str, channel: str) -> list[tuple[str, str, frozenset[str]]]:
        """The layers that one entry of `layers` means."""
        match = _LAYER.fullmatch(text.replace(" ", ""))
        if match is None:
            raise ConfigError(
                f"model.layers has {text!r}; expected <mixer>, <mixer>+<channel mixer> or <mixer>*<count>, as in "
                "model.layers=[attention*3,gssm+experts]"
            )
        name, hows, other, count = match[1], frozenset(match[2].split(".")[1:]), match[3], int(match[4] or 1)
        first = self._kind(name, channel=None if other is None and not hows else False)
        if first.channel:
            return [(token, name, frozenset())] * count
        for how in sorted(hows - first.hows):
            known = sorted(first.hows)
            raise ConfigError(f"model.layers has {text!r}: {name} has no .{how}{nearest(how, known)}")
        if other not in (None, NO_CHANNEL):
            self._kind(other, channel=True)
        return [(name, other or channel, hows)] * count

    def _kind(self, name: str, *, channel: bool | None) -> Kind:
        """The mixer of that name, which mixes channels or tokens as asked (None: either)."""
        fitting = {key: kind for key, kind in kinds().items() if channel in (None, kind.channel)}
        if name not in fitting:
            what = {None: "mixer", False: "token mixer", True: "channel mixer"}[channel]
            raise ConfigError(f"model.layers names {name}, which is no {what}{nearest(name, list(fitting))}")
        kind = fitting[name]
        if not isinstance(self, kind.fields):
            raise ConfigError(f"model.layers names {name}, whose settings this model has not; take model=hybrid")
        return kind

    def blocks(self) -> list[Block]:
        """The layers, with fresh weights."""
        return [self._block(each) for each in self.pattern()]

    def _block(self, each: Layer) -> Block:
        def made(name: str) -> nn.Module:
            return getattr(self, f"build_{name}")(each)

        mixer, channel = made(each.token), None if each.channel == NO_CHANNEL else made(each.channel)
        return Block(mixer=mixer, channel=channel, d_model=self.d_model, norm_eps=self.norm_eps)

    def build(self, vocab_size: int) -> Decoder:
        """The decoder, with fresh weights from torch's global generator."""
        return Decoder(
            self.blocks(),
            vocab_size=vocab_size,
            d_model=self.d_model,
            norm_eps=self.norm_eps,
            tie_embeddings=self.tie_embeddings,
            init_std=self.init_std,
            logit_cap=self.logit_cap,
            rate_scale=1.0 if self.mup is Mup.none else self.mup_base / self.d_model,
            small_head=self.mup is Mup.full,
            places=self.places(),
        )

    def places(self) -> Places | None:
        """Embeddings of ids that the task gives its tokens; None where positions are the layers' own matter."""
        return None

    def largest_place(self) -> int | None:
        """The largest of those ids."""
        return None

    def uses(self, *names: str) -> bool:
        """True when a layer has one of these mixers."""
        return any(name in (each.token, each.channel) for each in self.pattern() for name in names)


def of_depth(depth: int) -> dict[str, int]:
    """The fields that `depth` stands for."""
    return {"n_layers": depth, "d_model": WIDTH_A_LAYER * depth, "n_heads": depth}


def check_positive(name: str, value: int) -> None:
    """One line when `value` is not a count.

    Raises:
        ConfigError: value < 1.
    """
    if value < 1:
        raise ConfigError(f"{name}={value} must be at least 1")


def check_divides(name: str, part: int, whole_name: str, whole: int) -> None:
    """One line when `part` does not divide `whole`.

    Raises:
        ConfigError: part < 1, or it does not divide.
    """
    if part < 1 or whole % part:
        near = [n for n in range(1, whole + 1) if whole % n == 0]
        near = sorted(sorted(near, key=lambda n: abs(n - part))[:2])
        tries = " or ".join(str(n) for n in near)
        raise ConfigError(f"{name}={part} does not divide {whole_name}={whole}; try {tries}")


def heads_of(width: int, head: int, least: int) -> int:
    """Heads of about `head` channels, but at least `least`, that divide the width."""
    wanted = max(least, width // head)
    return next(count for count in range(min(wanted, width), 0, -1) if width % count == 0)
