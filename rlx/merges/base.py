"""What a merge method is: a plan of the result's tensors, made of names and shapes, and a rule for each of them.

The stage reads the parents' tensors one at a time, widens them to float32 (float64 stays), and writes what the rule
returns in the dtype asked for; so a rule computes in the dtype that it is given, and never sees a file. Tensors that
hold no floating point numbers are copied, and must be equal in all parents.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.options import recorded

Shapes = Mapping[str, tuple[int, ...]]
"""Names and shapes of a model's tensors: what is known before any is read."""
BLOCK = 2**17
"""Entries that a rule works on at a time, so that what lies between two operations stays in the processor's cache."""


class Dtype(Enum):
    """In what the result is stored."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Tokens(Enum):
    """What the result's vocabulary is, where parents have different ones; tokens are the same where their text is."""

    same = "same"
    """Parents must have the same tokenizer."""
    first = "first"
    """The first parent's: rows of tokens that another parent lacks count as the first parent's own there."""
    union = "union"
    """The first parent's, then what the others have besides; a parent that lacks a token counts as the mean of those
    that have it."""


class Tied(Enum):
    """What is done where some parents use the embedding as head and others do not."""

    same = "same"
    """It is an error."""
    untie = "untie"
    """The embedding of a tied parent counts as its head too, and the result is untied."""


class Align(Enum):
    """How units of the other parents are put in the order of the first's before anything is merged."""

    none = "none"
    """Not at all."""
    weights = "weights"
    """By their weights (Ainsworth et al., Git Re-Basin, arXiv 2209.04836, section 3.2)."""
    activations = "activations"
    """By what they do on the corpus (same paper, section 3.1)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of one parent."""

    parent: int
    """From 0, in the order of `merge.models`."""
    name: str


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of the result, and the parents' tensors that it is made of."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[Place, ...]


@dataclass(kw_only=True, slots=True)
class Given:
    """What a rule makes a tensor of."""

    tensors: Sequence[Tensor]
    """The output's sources, in order, all float32 or float64; each is read when it is asked for and not kept, so a rule
    that goes through them once holds one."""
    base: Tensor | None = None
    """The base's tensor of the output's name, for methods that need a base."""
    statistics: Sequence[Tensor | None] = ()
    """What was gathered for each source, for methods that ask for statistics; None for tensors that have none."""
    norms: Sequence[float] = ()
    """For each source the L2 norm of all that was gathered of its parent."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """Seeded for this tensor alone (`merge/seed` and its name)."""

    def deltas(self) -> Iterator[Tensor]:
        """Each source minus the base, one after the other."""
        assert self.base is not None
        for tensor in self.tensors:
            yield tensor - self.base


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's config, as config.json has it."""

    option: str
    """Name of the model= option; empty for a model that rlx has not, whose tensors are merged by their names."""
    fields: Mapping[str, Any]
    """Its settings; all of config.json where rlx has no such model."""
    free: frozenset[str] = frozenset()
    """Settings that change nothing of what the weights compute, in which parents may differ."""
    where: str = ""
    """The folder, for messages."""
    plain: str = ""
    """The layer that it has where its setting `layers` is null."""


def alike(parents: Sequence[Architecture], *, but: Iterable[str] = ()) -> Architecture:
    """The first parent's model, which the others must be too, besides the settings named in `but`.

    Raises:
        ConfigError: they are not, and in what.
    """
    first = parents[0]
    for other in parents[1:]:
        if other.option != first.option:
            mine, theirs = (each.option or "a model that rlx has not" for each in (first, other))
            raise ConfigError(f"merge.models differ in their model: {mine} in {first.where}, {theirs} in {other.where}")
        if not first.option:  # what else of their config.json counts is not known; names and shapes are compared
            mine, theirs = (each.fields.get("model_type") for each in (first, other))
            if mine != theirs:
                raise ConfigError(
                    f"merge.models differ in model_type: {mine} in {first.where}, {theirs} in {other.where}"
                )
            continue
        for name in sorted((first.fields.keys() | other.fields.keys()) - first.free - set(but)):
            mine, theirs = first.fields.get(name), other.fields.get(name)
            if mine != theirs:
                raise ConfigError(
                    f"merge.models differ in model.{name}: {mine} in {first.where}, {theirs} in {other.where}"
                )
    return first


def without(config: "MergeConfig", method: str, names: Iterable[str]) -> None:
    """
    Raises:
        ConfigError: one of the settings `names`, that all merges have, is given to a method that does not read it.
    """
    defaults = MergeConfig()
    for name in names:
        if getattr(config, name) != getattr(defaults, name):
            raise ConfigError(f"merge.{name} says nothing to merge={method}; leave it out")


class MergeMethod(Protocol):
    """Names and shapes first, then one output tensor at a time."""

    def plan(self, parents: Sequence[Shapes]) -> Iterable[Output]:
        """The tensors of the result."""
        ...

    def tensor(self, output: Output, given: Given) -> Tensor:
        """One tensor of the result, of the output's shape, in the dtype of what is given."""
        ...


@dataclass(kw_only=True, slots=True)
class MergeConfig:
    """Fields that every merge has."""

    needs_base: ClassVar[bool] = False
    """The rule is about differences from a base."""
    draws: ClassVar[bool] = False
    """The rule takes random numbers, so that each tensor's seed is recorded."""
    least: ClassVar[int] = 2
    """Parents needed."""
    most: ClassVar[int | None] = None
    """Parents that there may be; None: any number."""
    statistics: ClassVar[str] = ""
    """What the stage gathers of each parent beforehand (a name of `rlx.stages.merging.statistics`); empty: nothing."""
    makes: ClassVar[str] = ""
    """The model= option of the result, by which its run is called; empty: as the first parent."""
    of_adapters: ClassVar[bool] = False
    """It merges the parents' adapters, beside the base that they share, and not whole weights."""

    models: list[str] = field(default_factory=list[str])
    """References of the parents."""
    weights: list[float] | None = None
    """One weight a parent; null: equal."""
    weight: float | None = None
    """Between two parents in place of weights: that of the second, the first has 1 minus it; to be swept over."""
    base: str | None = recorded(None)
    """The model that differences are taken from; null: the nearest ancestor that all parents share."""
    dtype: Dtype | None = None
    """In what the result is stored: float32, bfloat16, float16; null: as the parents', in the widest of theirs."""
    tokens: Tokens = Tokens.same
    """Of parents with different vocabularies: same (an error), first, union."""
    tied: Tied = Tied.same
    """Where some parents are tied (the embedding is the head) and others not: same (an error), untie."""
    align: Align = Align.none
    """Permute the other parents' units to fit the first's: none, weights, activations."""
    sources: list[str] | None = None
    """Where statistics are gathered: for each parent the source of corpus=mixture whose documents it is measured on;
    null: all parents on the run's corpus."""
    stat_tokens: int = 65536
    """Tokens of documents that statistics are gathered on."""
    shard_bytes: int | None = recorded(None)
    """Most bytes of a weights file of the result; null: one file."""

    def __post_init__(self) -> None:
        if self.weight is not None and self.weights is not None:
            raise ConfigError("merge.weight and merge.weights are both given; leave one out")
        if self.shard_bytes is not None and self.shard_bytes < 1:
            raise ConfigError(f"merge.shard_bytes={self.shard_bytes} must be at least 1")
        if self.stat_tokens < 1:
            raise ConfigError(f"merge.stat_tokens={self.stat_tokens} must be at least 1")
        if self.sources is not None and not self.gathers():
            raise ConfigError(
                "merge.sources says what statistics are gathered on, and this merge has none; leave it out"
            )
        if self.align is not Align.none and (self.needs_base or self.base is not None):
            raise ConfigError(
                f"merge.align={self.align.name} puts units in another order than the base's; leave it out where "
                "differences from a base are merged, and merge.base out where not"
            )
        if not self.models:
            return  # how many there are is the stage's to ask
        count = len(self.models)
        if self.weight is not None and count != 2:
            raise ConfigError(f"merge.weight is between two models, and there are {count}; give merge.weights=[...]")
        if self.weights is not None and len(self.weights) != count:
            raise ConfigError(f"merge.weights has {len(self.weights)} numbers for {count} models; give one a model")
        if self.sources is not None and len(self.sources) != count:
            raise ConfigError(f"merge.sources has {len(self.sources)} names for {count} models; give one a model")

    def gathers(self) -> str:
        """What the stage gathers, with the settings as they are."""
        return self.statistics

    def shares(self, count: int) -> list[float]:
        """The parents' weights: as given, 1 - weight and weight, or 1 each."""
        if self.weight is not None:
            return [1 - self.weight, self.weight]
        return list(self.weights) if self.weights is not None else [1.0] * count

    def count(self) -> int:
        """How many models are merged."""
        return len(self.models)

    def spelled(self, there: Sequence[int]) -> "MergeConfig":
        """The merge that is carried out where `models` names one run that stands for several of its checkpoints.

        Args:
            there: steps of the run's checkpoints, in order.

        Raises:
            ConfigError: a step that is asked for is not there.
        """
        return self

    def architecture(self, parents: Sequence[Architecture]) -> Architecture:
        """The result's model, from those of the parents.

        Raises:
            ConfigError: there is none.
        """
        return alike(parents)

    def build(self) -> MergeMethod:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to a matrix: scale B A."""

    a: Tensor
    """[R, I], or [E, R, I] of a stack of E matrices."""
    b: Tensor
    """[O, R], or [E, O, R]."""
    scale: float


class AdapterMethod(Protocol):
    """Adapters of one base become one adapter, a matrix at a time."""

    def combine(self, factors: Sequence[Factors], weights: Sequence[float]) -> Factors:
        """One adapter of a matrix from those of the parents that adapt it, with a weight each."""
        ...


def same_shapes(parents: Sequence[Shapes]) -> list[Output]:
    """One output for every tensor, which all parents must have in the same shape.

    Raises:
        ConfigError: a tensor that one parent lacks or has in another shape, named.
    """
    first = parents[0]
    for number, parent in enumerate(parents[1:], start=2):
        for name in sorted(first.keys() ^ parent.keys()):
            who = number if name in first else 1
            raise ConfigError(f"parent {who} of the merge has no tensor {name}; merge models of one architecture")
        for name, shape in first.items():
            if tuple(parent[name]) != tuple(shape):
                raise ConfigError(
                    f"tensor {name} is {tuple(shape)} in parent 1 and {tuple(parent[name])} in parent {number}; "
                    "merge models of one size and vocabulary"
                )
    numbers = range(len(parents))
    return [Output(name, tuple(shape), tuple(Place(n, name) for n in numbers)) for name, shape in first.items()]


def weighted_sum(tensors: Iterable[Tensor], weights: Iterable[float]) -> Tensor:
    """sum w_i x_i in the dtype of the first; one of the tensors is held beside the sum."""
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        total = tensor * weight if total is None else total.add_(tensor, alpha=weight)
    assert total is not None, "a merge has parents"
    return total


def normalised(
    weights: Sequence[float], what: str = "merge.weights", *, instead: str = "merge.normalize=false"
) -> list[float]:
    """The weights divided by their sum.

    Args:
        instead: the setting that leaves the division out; empty where there is none.

    Raises:
        ConfigError: they sum to 0.
    """
    total = sum(weights)
    if abs(total) < 1e-12:
        way = f", or set {instead}" if instead else ""
        raise ConfigError(f"{what}={list(weights)} sum to 0; change them{way}")
    return [weight / total for weight in weights]


def refuse_weights(config: MergeConfig, why: str) -> None:
    """Raise ConfigError if the parents have weights, which the rule does not use."""
    if config.weights is not None or config.weight is not None:
        name = "merge.weights" if config.weights is not None else "merge.weight"
        raise ConfigError(f"{name} is not used: {why}; leave it out")


def refuse_negative(weights: Sequence[float]) -> None:
    """Raise ConfigError if a parent's weight is below 0 or none is above it, of a rule that divides by their sum."""
    if min(weights) < 0 or not any(weights):
        raise ConfigError(f"merge.weights={list(weights)} must be at least 0, and one of them above it")


class SameShapes:
    """A method whose result has the tensors of the first parent; `rule` says what each is."""

    def __init__(self, rule: Callable[[Given], Tensor]) -> None:
        self.rule = rule

    def plan(self, parents: Sequence[Shapes]) -> Iterable[Output]:
        return same_shapes(parents)

    def tensor(self, output: Output, given: Given) -> Tensor:
        return self.rule(given)
