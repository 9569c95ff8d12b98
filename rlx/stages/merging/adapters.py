"""Adapters of one base become one adapter beside it.

1. The parents' bases must hold the same numbers, tensor by tensor; the first one's files are copied.
2. `sum_error` is how far the result is from the exact sum with the same weights: the norm of what is between the two,
   over that of the sum, all matrices together.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from rlx.errors import ConfigError, Stopped
from rlx.merges.adapters import AdapterMergeConfig, Learning, concatenated
from rlx.merges.base import Factors, MergeConfig
from rlx.models.adapters import Product, module_names, products_to_peft
from rlx.runs.checksums import sums_of
from rlx.runs.model_directory import copy_base, save_adapter, weight_files
from rlx.signals import StopFlag
from rlx.stages.merging.learning import Learner, Matrix, learnt, searched
from rlx.stages.merging.parents import Parent, Parents
from rlx.stages.merging.tensors import Merged
from rlx.stages.start import seed_for

if TYPE_CHECKING:
    from rlx.stages.merging.statistics import Gathered


class MergedAdapters:
    """What a method makes of the parents' adapters.

    Raises:
        ConfigError: a parent has none, has another base, or does not fit the method.
    """

    def __init__(self, config: AdapterMergeConfig, parents: Parents, *, seed: int) -> None:
        self.config, self.parents, self.seed = config, parents, seed
        config.architecture([each.architecture() for each in parents.members])
        for parent in parents.members:
            if not parent.products:
                raise ConfigError(f"{parent.folder} has no adapter to be merged; merge=linear merges whole weights")
        for parent in parents.members[1:]:
            check_same_base(parents.members[0], parent)
        self.matrices = matrices_of(parents)
        for matrix in self.matrices:
            try:
                config.check(list(matrix.factors.values()))
            except ConfigError as error:
                raise ConfigError(f"{matrix.name}: {error}") from error
        self.model = parents.members[0].config
        self.statistics: Gathered | None = None
        """No method asks for any."""
        self.method = config.build()
        shares = config.shares(len(parents.members))
        self.weights: dict[str, list[float]] = {matrix.name: list(shares) for matrix in self.matrices}
        """By matrix: one a parent."""
        self.tried: list[tuple[list[float], float]] = []
        """Weights that a search tried, with what it made small."""

    def seeds(self) -> dict[str, int]:
        """By tensor: nothing, since no method draws random numbers."""
        return {}

    def find(self, learner: Learner) -> dict[str, Any]:
        """Learn or search the weights, where they are not told; gives what the last row of metrics says of it.

        Raises:
            Stopped: the process was asked to stop.
        """
        found, seed = self.config.found_by(), seed_for(self.seed, "merge weights")
        if isinstance(found, Learning):
            self.weights, row = learnt(self.parents, self.matrices, found, learner, seed)
            return row
        if found is not None:
            self.tried = searched(self.parents, self.added, found, learner, seed)
            best, _ = min(self.tried, key=lambda point: point[1] if point[1] == point[1] else float("inf"))
            self.weights = {matrix.name: best for matrix in self.matrices}
        return {}

    def added(self, weights: Sequence[float]) -> list[Product]:
        """The result's adapter with one weight a parent."""
        return self.products({matrix.name: weights for matrix in self.matrices})

    def products(self, weights: Mapping[str, Sequence[float]]) -> list[Product]:
        """The result's adapter with these weights, by matrix."""
        found = []
        for matrix in self.matrices:
            own = [weights[matrix.name][parent] for parent in matrix.factors]
            made = self.method.combine(list(matrix.factors.values()), own)
            found.append(Product(matrix.tensor, matrix.rows, made.a, made.b, made.scale))
        return found

    def write(self, folder: Path, stop: StopFlag) -> dict[str, str]:
        """Write the model directory: the first parent's base, and the adapter; returns no sums.

        Raises:
            Stopped: the process was asked to stop.
            RunError: the disk is full or cannot be written.
        """
        first, tokenizer = self.parents.members[0], self.parents.tokenizer
        assert first.config is not None and tokenizer is not None
        if stop():
            raise Stopped
        copy_base(first.folder, folder)
        described, tensors = products_to_peft(self.products(self.weights), first.config, tokenizer.vocab_size)
        dtype = torch.float32 if self.config.dtype is None else getattr(torch, self.config.dtype.value)
        save_adapter(folder, {name: tensor.to(dtype) for name, tensor in tensors.items()}, described)
        return {}

    def told(self) -> str:
        """Mean weights and ranks, in a line."""
        table = list(self.weights.values())
        means = ", ".join(f"{fmean(column):.3g}" for column in zip(*table, strict=True))
        ranks = sorted({product.a.shape[-2] for product in self.products(self.weights)})
        spread = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        return f"{len(table)} matrices of rank {spread}, mean weights {means}"

    def report(self) -> dict[str, Any]:
        """What merge.json says of the adapter."""
        products = self.products(self.weights)
        found: dict[str, Any] = {
            "weights": self.weights,
            "ranks": {m.name: each.a.shape[-2] for m, each in zip(self.matrices, products, strict=True)},
            "sum_error": sum_error(self.matrices, self.weights, products),
        }
        if self.tried:
            found["tried"] = [{"weights": weights, "value": value} for weights, value in self.tried]
        return found


def matrices_of(parents: Parents) -> list[Matrix]:
    """Every matrix that a parent adapts, in the order of the first that adapts it."""
    first = parents.members[0]
    assert first.config is not None and parents.tokenizer is not None
    found: dict[tuple[str, int | None], dict[int, Product]] = {}
    for number, parent in enumerate(parents.members):
        for product in parent.products:
            found.setdefault((product.tensor, product.rows.start), {})[number] = product
    products = [next(iter(each.values())) for each in found.values()]
    names = module_names(products, first.config, parents.tokenizer.vocab_size)
    return [
        Matrix(name, one.tensor, one.rows, {number: Factors(p.a, p.b, p.scale) for number, p in each.items()})
        for name, one, each in zip(names, products, found.values(), strict=True)
    ]


def check_same_base(first: Parent, other: Parent) -> None:
    """Raise ConfigError unless the bases of two parents hold the same numbers."""
    mine, theirs = (_weight_sums(parent.folder) for parent in (first, other))
    if mine and mine == theirs:
        return
    told = f"{other.folder} has another base than {first.folder}"
    if first.places.keys() != other.places.keys():
        name, *_ = sorted(first.places.keys() ^ other.places.keys())
        raise ConfigError(f"{told}: {name} is in one alone; adapters are merged beside the base that they were made on")
    for name in first.places:
        if not torch.equal(first.bare(name), other.bare(name)):
            raise ConfigError(f"{told}: {name} differs; merge=linear merges whole weights, adapters added to them")


def _weight_sums(folder: Path) -> list[str]:
    """Sums of a folder's weights, as they were written with it; [] where they were not, or not of all."""
    known, names = sums_of(folder), [path.name for path in weight_files(folder)]
    return [known[name] for name in names] if all(name in known for name in names) else []


def sum_error(matrices: Sequence[Matrix], weights: Mapping[str, Sequence[float]], products: Sequence[Product]) -> float:
    """Norm of what lies between the products and the exact sums, over that of the sums; 0 where both are 0."""
    between = whole = 0.0
    for matrix, product in zip(matrices, products, strict=True):
        own = [weights[matrix.name][parent] for parent in matrix.factors]
        exact = concatenated(list(matrix.factors.values()), own)
        wanted = (exact.b @ exact.a).double()
        between += (product.scale * (product.b @ product.a).double() - wanted).square().sum().item()
        whole += wanted.square().sum().item()
    return (between / whole) ** 0.5 if whole else float(between > 0)


def finds_weights(merge: MergeConfig) -> bool:
    """True where the weights are not told, but found on documents."""
    return isinstance(merge, AdapterMergeConfig) and merge.found_by() is not None


def merged_of(merge: MergeConfig, parents: Parents, seed: int) -> Merged | MergedAdapters:
    """What the method makes of the parents.

    Raises:
        ConfigError: they do not fit it.
    """
    if isinstance(merge, AdapterMergeConfig):
        return MergedAdapters(merge, parents, seed=seed)
    return Merged(merge, parents, seed=seed)
