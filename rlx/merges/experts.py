"""`merge=experts`: the weighted mean of models with experts, each expert with the one that it is most like.

The order of a layer's experts is arbitrary. Each model's are first put in the order of the first model's: the
assignment that makes the sum of the inner products of paired experts largest, which also makes the squared distance
between the models smallest (Git Re-Basin, arXiv 2209.04836, section 3.2, with whole experts for units). An expert takes
its row of the router and its bias along. Everything outside of the layers of experts is the weighted mean.

With `by=usage` a model counts for an expert by `merge.weights` times the share of choices that fall on it there, as
experts of one layer are averaged by how often they are used in MC-SMoE (arXiv 2310.01334, section 3.2); router row and
bias have the expert's weights. Where no model uses an expert, `merge.weights` alone count.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.assignment import best_assignment
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
from rlx.merges.layers import layer_names
from rlx.options import option

_OF_EXPERTS = re.compile(r"(.*\.channel)\.(router|gate_up|down|bias)")
"""Tensors of a layer of experts that have a slice for each."""


class Match(Enum):
    """How the other models' experts are paired with the first's."""

    none = "none"
    """By their numbers."""
    weights = "weights"
    """By their weights."""


class By(Enum):
    """What models count for an expert."""

    weights = "weights"
    """By `merge.weights`."""
    usage = "usage"
    """And by how often each one's router takes it."""


@option("merge", "experts")
@dataclass(kw_only=True, slots=True)
class ExpertsConfig(MergeConfig):
    """Mean of models with experts."""

    match: Match = Match.weights
    """How experts are paired with the first model's: none (by number), weights."""
    by: By = By.weights
    """What models count for an expert: weights, usage (times how often their router takes it)."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        normalised(self.shares(len(self.models) or 1))

    def gathers(self) -> str:
        return "usage" if self.by is By.usage else ""

    def architecture(self, parents: Sequence[Architecture]) -> Architecture:
        model = alike(parents)
        names = layer_names(model)
        if not any(name.endswith("+experts") for name in names):
            kinds = ",".join(dict.fromkeys(names))
            raise ConfigError(
                f"merge=experts is for layers of experts, and {model.where} has {kinds}; try merge=linear"
            )
        return model

    def build(self) -> "MatchedExperts":
        return MatchedExperts(self)


class MatchedExperts:
    """Experts in the first model's order, averaged one by one."""

    def __init__(self, config: ExpertsConfig) -> None:
        self.config = config

    def plan(self, parents: Sequence[Shapes]) -> Iterator[Output]:
        for output in same_shapes(parents):
            read = self._read(output.name)
            yield replace(output, sources=tuple(Place(n, name) for n in range(len(parents)) for name in read))

    def _read(self, name: str) -> list[str]:
        """What is read of each parent for a tensor: itself, and what its layer's experts are matched by."""
        match = _OF_EXPERTS.fullmatch(name)
        if match is None or self.config.match is Match.none:
            return [name]
        return list(dict.fromkeys([name, f"{match[1]}.gate_up", f"{match[1]}.down"]))

    def tensor(self, output: Output, given: Given) -> Tensor:
        read = self._read(output.name)
        numbers = range(0, len(given.tensors), len(read))  # where each parent's sources begin
        weights = normalised(self.config.shares(len(numbers)))
        if not _OF_EXPERTS.fullmatch(output.name):
            return weighted_sum(given.tensors, weights)
        orders = self._orders(output.shape[0], read, numbers, given.tensors)
        shares = self._shares(weights, orders, numbers, given)  # [P, E]
        total = given.tensors[0].new_zeros(output.shape)
        for number, order, share in zip(numbers, orders, shares, strict=True):
            total += given.tensors[number][order] * share.view(-1, *[1] * (total.dim() - 1)).to(total.dtype)
        return total

    def _orders(self, count: int, read: list[str], numbers: range, tensors: Sequence[Tensor]) -> list[list[int]]:
        """For each parent which of its experts is each of the first's."""
        own = list(range(count))
        if self.config.match is Match.none:
            return [own for _ in numbers]
        places = [read.index(name) for name in sorted(read) if name.endswith((".gate_up", ".down"))]
        first = [tensors[place].flatten(1) for place in places]  # [E, ...] each
        found = [own]
        for number in numbers[1:]:
            gains = first[0].new_zeros(count, count)
            for mine, place in zip(first, places, strict=True):
                gains += mine @ tensors[number + place].flatten(1).T
            found.append(best_assignment(gains))
        return found

    def _shares(self, weights: list[float], orders: list[list[int]], numbers: range, given: Given) -> Tensor:
        """[P, E] float64, what each parent counts for each of the first's experts; they sum to 1 for each expert."""
        plain = torch.tensor(weights, dtype=torch.float64)[:, None].expand(-1, len(orders[0]))
        if self.config.by is By.weights:
            return plain
        rows: list[Tensor] = []
        for number, order in zip(numbers, orders, strict=True):
            usage = given.statistics[number]
            assert usage is not None, "the stage counts what routers take"
            usage = usage.double().flatten()
            rows.append((usage / usage.sum().clamp_min(1))[order])
        used = plain * torch.stack(rows)
        total = used.sum(0)
        return torch.where(total == 0, plain, used / torch.where(total == 0, 1.0, total))
