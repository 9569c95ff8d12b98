"""What rules on differences from a base share: which entries are kept, whose sign counts, and what is divided by.

A delta is a parent's tensor minus the base's, flat.

1. Signs are elected over the sum of the weighted deltas (mergekit 0.1.5), of the deltas without their weights (PEFT
   0.21, `total`), or by counting their signs (PEFT, `frequency`; TIES, arXiv 2306.01708, has no weights, so that the
   first two are its rule). A sum of 0 counts as plus (both). What is 0 has no sign and agrees with nobody.
2. The sum of the entries that agree is divided by the sum of their weights (mergekit), by their number (PEFT and, where
   all weights are 1, the paper), or by nothing. A weight below 0 turns its delta round before the vote in mergekit and
   is divided by as well, which turns it back where it stands alone; `divide=none` keeps it turned.
3. Random numbers are drawn in float32 whatever the tensors are, one parent after the other in the order of
   `merge.models`: a parent's mask depends on its place, on `merge/seed` and on the tensor's name, and on no weights.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import BLOCK, Given, MergeConfig, SameShapes, normalised, weighted_sum


class Elect(Enum):
    """What signs are elected over."""

    weighted = "weighted"
    """The sum of the weighted deltas."""
    unweighted = "unweighted"
    """The sum of the deltas."""
    count = "count"
    """How many deltas are above 0 and how many below."""


class Divide(Enum):
    """What a sum of deltas is divided by."""

    weights = "weights"
    """The sum of the weights of those that entered."""
    count = "count"
    """How many entered."""
    none = "none"
    """Nothing."""


class Consensus(Enum):
    """How deltas become one."""

    linear = "linear"
    """They are summed by their weights."""
    ties = "ties"
    """Those that have the elected sign are."""


class Rescale(Enum):
    """What makes up for entries that were dropped at random."""

    inverse = "inverse"
    """Entries are divided by the probability with which they were kept."""
    l1 = "l1"
    """The delta is multiplied so that the sum of its magnitudes is as before."""
    none = "none"
    """Nothing."""


@dataclass(kw_only=True, slots=True)
class DeltaConfig(MergeConfig):
    """W0 + scale times what the deltas become."""

    needs_base: ClassVar[bool] = True
    least: ClassVar[int] = 1

    scale: float = 1.0
    """Factor of what is added to the base."""

    def build(self) -> SameShapes:
        return SameShapes(self.moved)

    def moved(self, given: Given) -> Tensor:
        """The base and what is added to it."""
        assert given.base is not None, "the stage gives a base to rules that need one"
        return torch.add(given.base, self.change(given).view(given.base.shape), alpha=self.scale)

    def change(self, given: Given) -> Tensor:
        """What the deltas become, flat."""
        raise NotImplementedError


@dataclass(kw_only=True, slots=True)
class AgreeConfig(DeltaConfig):
    """Deltas, thinned out, become one by their signs."""

    density: float = 1.0
    """Share of each delta's entries that is kept."""
    elect: Elect = Elect.weighted
    """What signs are elected over: weighted, unweighted (the sum of deltas), count (of their signs)."""
    divide: Divide | None = None
    """What a sum is divided by: weights, count (of the entries in it), none; null: weights with signs elected, else
    none."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        if not 0 < self.density <= 1:
            raise ConfigError(f"merge.density={self.density} must be above 0 and at most 1; it is the share kept")
        if self.linear and self.divide is Divide.weights:
            self.portions(len(self.models) or 1)

    @property
    def linear(self) -> bool:
        """No signs are elected."""
        return False

    def portions(self, count: int) -> list[float]:
        """The weights, divided by their sum."""
        return normalised(self.shares(count), instead="merge.divide=none")

    def change(self, given: Given) -> Tensor:
        deltas, count = (self.thinned(delta, given) for delta in flat(given)), len(given.tensors)
        weights = self.shares(count)
        if not self.linear:
            return agreed(list(deltas), weights, self.elect, self.divide or Divide.weights)
        if self.divide is Divide.weights:
            return weighted_sum(deltas, self.portions(count))
        return weighted_sum(deltas, [weight / count for weight in weights] if self.divide is Divide.count else weights)

    def thinned(self, delta: Tensor, given: Given) -> Tensor:
        """A delta with what is dropped set to 0; it may be changed in place."""
        raise NotImplementedError


@dataclass(kw_only=True, slots=True)
class EitherConfig(AgreeConfig):
    """Deltas, thinned out, become one by their sum or by their signs."""

    consensus: Consensus = Consensus.linear
    """How deltas become one: linear (their weighted sum), ties (those that have the elected sign)."""

    @property
    def linear(self) -> bool:
        """No signs are elected."""
        return self.consensus is Consensus.linear


def flat(given: Given) -> Iterator[Tensor]:
    """The deltas, one after the other."""
    for delta in given.deltas():
        yield delta.reshape(-1)


def blocks(count: int) -> Iterator[slice]:
    """Where the blocks of that many entries lie."""
    for start in range(0, count, BLOCK):
        yield slice(start, start + BLOCK)


def agreed(deltas: Sequence[Tensor], weights: Sequence[float], elect: Elect, divide: Divide) -> Tensor:
    """What the deltas that have the elected sign come to, entry by entry."""
    total = torch.empty_like(deltas[0])
    for place in blocks(total.numel()):
        total[place] = _agreed([delta[place] for delta in deltas], weights, elect, divide)
    return total


def _agreed(deltas: Sequence[Tensor], weights: Sequence[float], elect: Elect, divide: Divide) -> Tensor:
    voters, factors = deltas, weights
    if elect is Elect.weighted:
        voters = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
        factors = [1.0] * len(voters)
    vote = weighted_sum((voter.sign() if elect is Elect.count else voter for voter in voters), [1.0] * len(voters))
    sign = torch.where(vote >= 0, 1.0, -1.0).to(vote.dtype)
    total, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
    for voter, factor, weight in zip(voters, factors, weights, strict=True):
        agrees = (voter * sign).clamp_(min=0)
        total.add_(agrees, alpha=factor)
        if divide is not Divide.none:
            divisor.add_(agrees.sign_(), alpha=weight if divide is Divide.weights else 1.0)
    total.mul_(sign)
    return total if divide is Divide.none else total.div_(divisor.masked_fill_(divisor == 0, 1.0))


def kept(density: float, count: int) -> int:
    """How many of that many entries a density keeps: rounded down, and at least one (mergekit 0.1.5)."""
    return max(1, int(density * count))


def smallest(magnitudes: Tensor, rank: int) -> float:
    """The magnitude that comes at a rank, from 1, in ascending order."""
    return magnitudes.kthvalue(rank).values.item()


def keep_largest(delta: Tensor, density: float) -> Tensor:
    """Set all but that share of the largest entries to 0, in place; entries equal to the last kept are kept too."""
    count = delta.numel()
    if density >= 1 or count == 0:
        return delta
    least = smallest(delta.abs(), count - kept(density, count) + 1)
    for place in blocks(count):
        part = delta[place]
        part.mul_(part.abs() >= least)
    return delta


def drop(
    delta: Tensor, chances: Iterable[tuple[slice, Tensor | float]], rescale: Rescale, generator: torch.Generator
) -> Tensor:
    """Keep each entry with its probability, in place.

    Args:
        chances: the delta's blocks in order, each with its entries' probabilities.
    """
    before = after = 0.0
    for place, chance in chances:
        part = delta[place]
        before += part.abs().sum().item() if rescale is Rescale.l1 else 0.0
        part.mul_(torch.rand(part.shape, generator=generator) < chance)
        if rescale is Rescale.inverse:
            part.div_(chance)
        after += part.abs().sum().item() if rescale is Rescale.l1 else 0.0
    return delta.mul_(before / after) if after > 0 else delta
