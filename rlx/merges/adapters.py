"""What merges of LoRA adapters share: an adapter of each parent becomes one beside the base that they all have.

1. A matrix that a parent does not adapt counts as 0 there, with the parent's weight all the same (PEFT 0.21,
   `add_weighted_adapter`, does so too).
2. `merge.normalize=true` divides the weights by their sum, as in `merge=linear`: equal weights give the mean, which is
   what LoRA Soups (arXiv 2410.13025) compares with. PEFT takes weights as they are: `merge.normalize=false`.
3. The base's files are copied as they are. `merge.dtype` is that of the adapter's numbers; null is float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch

from rlx.errors import ConfigError
from rlx.merges.base import AdapterMethod, Align, Factors, MergeConfig, Tied, Tokens, normalised


class Per(Enum):
    """What has a mixing weight of its own for each parent."""

    module = "module"
    """Every adapted matrix."""
    layer = "layer"
    """Every layer; what lies outside of layers has one too."""
    whole = "whole"
    """The whole adapter."""


@dataclass(frozen=True, slots=True)
class Learning:
    """How mixing weights are learned by gradients, everything else being frozen."""

    softmax: bool
    """The weights are a softmax, and sum to 1; else they are numbers that begin equal."""
    per: Per
    steps: int
    lr: float
    warmup: int
    """Steps in which the rate rises; it falls to 0 afterwards."""
    batch_tokens: int
    init_std: float
    """Of the normal distribution that the softmax is first taken of."""


@dataclass(frozen=True, slots=True)
class Search:
    """How one weight a parent is searched, without gradients."""

    evaluations: int
    batch_tokens: int
    penalty: float
    """Times the mean size of the weights, which is added to the loss."""
    bound: float
    """The weights are between this and minus this."""


@dataclass(kw_only=True, slots=True)
class AdapterMergeConfig(MergeConfig):
    """A merge of adapters."""

    of_adapters: ClassVar[bool] = True

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        plain = {"tokens": Tokens.same, "tied": Tied.same, "align": Align.none, "shard_bytes": None}
        for name, only in plain.items():
            if getattr(self, name) != only:
                raise ConfigError(
                    f"merge.{name} is for merges of whole weights; adapters of one base need none, leave it out"
                )

    def build(self) -> AdapterMethod:  # pyright: ignore[reportIncompatibleMethodOverride] (the stage asks of_adapters)
        raise NotImplementedError

    def check(self, factors: Sequence[Factors]) -> None:
        """Raise ConfigError where the adapters of a matrix cannot be combined."""

    def found_by(self) -> Learning | Search | None:
        """How the weights are found on documents; None: they are told."""
        return None


@dataclass(kw_only=True, slots=True)
class WeightedConfig(AdapterMergeConfig):
    """A merge of adapters with weights that are told."""

    normalize: bool = True
    """Divide the weights by their sum."""

    def __post_init__(self) -> None:
        AdapterMergeConfig.__post_init__(self)
        if self.normalize and self.models:
            self.shares(len(self.models))

    def shares(self, count: int) -> list[float]:
        """The parents' weights, divided by their sum where that is asked for."""
        weights = MergeConfig.shares(self, count)
        return normalised(weights) if self.normalize else weights


def concatenated(factors: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """sum w_i s_i B_i A_i, exactly: the A's, with weight and scale, above each other, and the B's side by side."""
    a = torch.cat([weight * each.scale * each.a for each, weight in zip(factors, weights, strict=True)], dim=-2)
    return Factors(a, torch.cat([each.b for each in factors], dim=-1), 1.0)


def check_ranks(factors: Sequence[Factors], instead: str) -> None:
    """Raise ConfigError where ranks differ, so that factors cannot be added."""
    ranks = [each.a.shape[-2] for each in factors]
    if len(set(ranks)) > 1:
        raise ConfigError(f"ranks {', '.join(map(str, ranks))} cannot be added factor by factor; {instead}")
