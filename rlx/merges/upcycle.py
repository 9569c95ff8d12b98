"""`merge=upcycle`: a mixture of experts from dense models, whose feed-forwards become the experts.

One model: every expert is a copy of its feed-forward (sparse upcycling, Komatsuzaki et al., arXiv 2212.05055). Several:
each gives its own to as many experts, in the order of the models, and everything else is their weighted mean
(Branch-Train-MiX, arXiv 2403.07816, section 3.2). The result is model=moe with the dense model's settings.

1. With one model and no noise the function stays, as the gates of a token's experts sum to 1 (`model.renormalise`, on
   where there are several; for vision the first paper found this best). With top_k=1 the gate is the router's
   probability, and it does not stay.
2. Routers begin normal with a standard deviation of 0.02 as in the first paper; at 0 every token takes the lowest
   experts until the router has learned, of several models then the first one's. mergekit 0.1.5's `random` is normal
   with 1, and its routers from prompts are not here: continue by sft.
3. `merge.noise` is relative to each tensor's own standard deviation; mergekit's `noise_scale` is that of the noise
   itself, `merge.noise_is=absolute`. Noise is drawn for each expert, and gate_up and down both get it, as there.
4. The optimizer begins anew; the first paper takes the dense model's along for vision and not for language.
5. All feed-forwards become experts. The first paper's models have experts in every other layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import (
    Architecture,
    Given,
    MergeConfig,
    Output,
    Place,
    Shapes,
    alike,
    normalised,
    same_shapes,
    weighted_sum,
)
from rlx.merges.layers import layer_names, with_layers
from rlx.options import option

_FROM, _TO = "+mlp", "+experts"
_STACKS = _GATE_UP, _DOWN = (".channel.gate_up", ".channel.down")
_ROUTER, _BIAS, _NORM = ".channel.router", ".channel.bias", ".channel_norm.weight"


class Start(Enum):
    """How the routers begin."""

    normal = "normal"
    """With normal numbers."""
    zero = "zero"
    """At 0: all experts are as good."""


class NoiseIs(Enum):
    """Of what `merge.noise` is the standard deviation."""

    relative = "relative"
    """Of the noise over that of the tensor that it is added to."""
    absolute = "absolute"
    """Of the noise itself."""


@option("merge", "upcycle")
@dataclass(kw_only=True, slots=True)
class UpcycleConfig(MergeConfig):
    """Experts from feed-forwards."""

    draws: ClassVar[bool] = True
    makes: ClassVar[str] = "moe"
    least: ClassVar[int] = 1

    n_experts: int = 8
    """Experts of a layer; a multiple of how many models there are."""
    top_k: int = 2
    """Experts of a token."""
    router: Start = Start.normal
    """How the routers begin: normal, zero."""
    router_std: float = 0.02
    """Standard deviation of router=normal."""
    noise: float = 0.0
    """Standard deviation of what is added to each expert's weights."""
    noise_is: NoiseIs = NoiseIs.relative
    """Of what it is that: relative (of the weights' own), absolute."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        if not 1 <= self.top_k <= self.n_experts:
            raise ConfigError(f"merge.top_k={self.top_k} must be from 1 to merge.n_experts={self.n_experts}")
        if self.router_std < 0 or self.noise < 0:
            raise ConfigError(f"merge.router_std={self.router_std} and noise={self.noise} must be at least 0")
        normalised(self.shares(len(self.models) or 1))
        if self.models:
            self.copies(len(self.models))

    def copies(self, count: int) -> int:
        """Experts that each of `count` models becomes.

        Raises:
            ConfigError: not all the same.
        """
        if self.n_experts % count:
            raise ConfigError(
                f"merge.n_experts={self.n_experts} must be a multiple of the {count} models, each of which becomes as "
                f"many experts; try {max(1, round(self.n_experts / count)) * count}"
            )
        return self.n_experts // count

    def architecture(self, parents: Sequence[Architecture]) -> Architecture:
        model = alike(parents)
        names = layer_names(model)
        if model.option != "dense" or not any(name.endswith(_FROM) for name in names):
            kinds = ",".join(dict.fromkeys(names))
            raise ConfigError(
                f"merge=upcycle makes experts of the feed-forwards of model=dense; {model.where} is "
                f"model={model.option} with layers {kinds}"
            )
        more = {"n_experts": self.n_experts, "top_k": self.top_k, "d_expert": feed_forward_width(model)}
        model = replace(model, option=self.makes, plain=model.plain.replace(_FROM, _TO))
        fields = with_layers(model, [name.replace(_FROM, _TO) for name in names])
        return replace(model, fields={**fields, **more})

    def build(self) -> "Upcycled":
        return Upcycled(self)


def feed_forward_width(model: Architecture) -> int:
    """The width of a dense model's feed-forward: as it is set, or what the model makes of null."""
    return model.fields["d_ff"] or -(-(model.fields["d_model"] * 8 // 3) // 32) * 32


class Upcycled:
    """Feed-forwards [O, I] to stacks of experts [E, O, I], beside a router; means of everything else."""

    def __init__(self, config: UpcycleConfig) -> None:
        self.config = config

    def plan(self, parents: Sequence[Shapes]) -> Iterator[Output]:
        self.config.copies(len(parents))
        for output in same_shapes(parents):
            name, count = output.name.removesuffix(".weight"), self.config.n_experts
            if not name.endswith(_STACKS):
                yield output
                continue
            layer = name.partition(".channel.")[0]
            norm = (Place(0, layer + _NORM),)  # says in which dtype what has no source is stored
            if name.endswith(_GATE_UP):
                yield Output(layer + _ROUTER, (count, output.shape[1]), norm)
            yield replace(output, name=name, shape=(count, *output.shape))
            if name.endswith(_DOWN):
                yield Output(layer + _BIAS, (count,), norm)

    def tensor(self, output: Output, given: Given) -> Tensor:
        if output.name.endswith(_STACKS):
            return torch.stack(list(self._experts(given)))
        if not output.name.endswith((_ROUTER, _BIAS)):
            return weighted_sum(given.tensors, normalised(self.config.shares(len(given.tensors))))
        like = given.tensors[0]
        if output.name.endswith(_BIAS) or self.config.router is Start.zero:
            return like.new_zeros(output.shape)
        return self.config.router_std * torch.randn(output.shape, generator=given.generator, dtype=like.dtype)

    def _experts(self, given: Given) -> Iterator[Tensor]:
        for tensor in given.tensors:
            for _ in range(self.config.copies(len(given.tensors))):
                yield self._noisy(tensor, given.generator) if self.config.noise else tensor

    def _noisy(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        std = tensor.std() if self.config.noise_is is NoiseIs.relative else 1.0
        return tensor + self.config.noise * std * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
