"""Parents whose units stand in the order of the first's (`merge.align`), before anything else is done with them.

Units of a network may be permuted without changing what it computes (`rlx.models.symmetry`), so two that were trained
apart are compared unit by unit only after a matching. Per parent, against the first:

1. `weights` is the weight matching of Git Re-Basin (Ainsworth et al., arXiv 2209.04836, section 3.2, algorithm 1): for
   one group of units after the other, in an order drawn anew in each sweep, the permutation that makes the sum of all
   products of the two models' weights largest, the other groups being permuted as they are; until a sweep gains
   nothing, or `SWEEPS` have passed.
2. The paper begins with nothing permuted, from where a group's first matching is guided by tensors whose other sides
   are still in disorder. Here in the first sweep the residual stream comes first, by the rows of embedding and head
   (tokens are the same in both), and each group is matched by tensors whose other groups were matched before it, where
   it has such: a model whose units were only permuted is found again. What is found so and has no larger sum than the
   models as they were is not taken.
3. Units within units (query heads of a key/value head, hidden units of an expert) are matched for each pair of the
   units that they are in, so that both levels are best together.
4. `activations` (section 3.1) is the same with what units do in place of weights: their values at up to `TOKENS` real
   tokens of the held-out documents, of mean 0 and norm 1, so that the sum is of correlations. Of the residual stream
   it is the values behind each block, of a head what it puts into `out`, of an expert's hidden units their values at
   all tokens, whoever they are sent to. The paper takes products that are not normalised.
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlx.errors import ConfigError, Stopped
from rlx.merges.base import Align
from rlx.models.symmetry import INNER, RESIDUAL, Group, Order, Part, Symmetry, permuted, put, split, symmetry_of
from rlx.models.vocabulary import OF_VOCABULARY
from rlx.nn.attention import Attention
from rlx.nn.experts import Experts
from rlx.nn.mlp import SwiGLU
from rlx.progress import Progress
from rlx.signals import StopFlag
from rlx.stages.merging.parents import Parents, described
from rlx.stages.start import seed_for

if TYPE_CHECKING:
    from rlx.merges.base import MergeConfig
    from rlx.nn.decoder import Decoder
    from rlx.stages.merging.measuring import Meter

SWEEPS = 100
"""Times that all groups are matched, at most."""
TOKENS = 4096
"""Tokens that activations are compared at, at most."""
LEAST = 1e-7
"""Gain of a group's matching, as a share of the largest sum that there can be, that counts as one."""

Values = dict[str, Tensor]


def check_alignment(merge: "MergeConfig", parents: Parents, *, measured: bool) -> None:
    """Raise ConfigError where the parents cannot be aligned as `merge.align` says."""
    how = merge.align
    if how is Align.none:
        return
    if not parents.known:
        raise ConfigError(f"merge.align={how.name} is for models that rlx has; leave it out")
    if how is Align.activations and not measured:
        raise ConfigError("merge.align=activations looks at documents; give task= or corpus=text, or take weights")
    first, *others = parents.shapes()
    for number, shapes in enumerate(others, start=2):
        if shapes != first:
            raise ConfigError(f"merge.align={how.name} needs models of one shape; parent {number} has another than 1")


def align(
    parents: Parents, how: Align, seed: int, stop: StopFlag, meter: "Meter | None"
) -> tuple[list[dict[str, Any]], float]:
    """Set the order in which the units of each parent but the first are taken; what was found, and what it took in
    floating point operations.

    Raises:
        Stopped: the process was asked to stop.
    """
    symmetry = _symmetry(parents)

    def values(number: int) -> Values:
        if how is Align.weights:
            parent = parents.members[number]
            found = {name: parent.checked(name, parents.tensor(number, name)).float() for name in symmetry.parts}
            return {name: _of_all(parents, name, tensor) for name, tensor in found.items()}
        assert meter is not None
        return activations(meter, parents.start(number), symmetry)

    report, spent, first = [], 0.0, values(0)
    compared = symmetry
    if how is Align.activations:
        compared = Symmetry(symmetry.groups, {name: (_layout(name, symmetry, x),) for name, x in first.items()})
    for number in range(1, len(parents.members)):
        matching = Matching(compared, first, values(number), seed_for(seed, "merge", "align", number), stop)
        found = matching.run(f"align parent {number}")
        moves = {name: partial(permuted, parts=parts, orders=found.orders) for name, parts in symmetry.parts.items()}
        parents.members[number].moves = moves
        report.append({"parent": number, **found.told()})
        spent += matching.flops
    return report, spent


def _of_all(parents: Parents, name: str, tensor: Tensor) -> Tensor:
    """The tensor, rows of tokens that a parent lacks being 0: what stands for them says nothing of its units."""
    lacking = [parent.rows < 0 for parent in parents.members if parent.rows is not None]
    if lacking and name in OF_VOCABULARY:
        tensor = tensor.masked_fill(torch.stack(lacking).any(0)[:, None], 0.0)
    return tensor


def _symmetry(parents: Parents) -> Symmetry:
    from rlx.models.adapters import without_numbers
    from rlx.models.folder import config_of

    first = parents.members[0]
    assert parents.tokenizer is not None
    description = described(first.architecture(), parents.tokenizer)
    return symmetry_of(without_numbers(*config_of(description, first.folder)))


@dataclass(frozen=True, slots=True)
class Alignment:
    """What a matching found."""

    orders: dict[str, Order]
    before: float
    after: float
    """Sum of products over the product of the norms: the cosine of all that is compared."""
    sweeps: int

    def told(self) -> dict[str, Any]:
        """For the report: how many of each group's units came to another place."""
        moved = {
            name: int((order.units != torch.arange(len(order.units))).sum()) for name, order in self.orders.items()
        }
        return {"before": self.before, "after": self.after, "sweeps": self.sweeps, "moved": moved}


class Matching:
    """The search for the orders of a model's units that make the products with the first's largest."""

    def __init__(self, symmetry: Symmetry, first: Values, other: Values, seed: int, stop: StopFlag) -> None:
        self.symmetry, self.stop = symmetry, stop
        self.random = random.Random(seed)
        self.flops = 0.0
        self.orders = {name: _unmoved(group) for name, group in symmetry.groups.items()}
        self.pieces: dict[str, list[tuple[Part, Tensor, Tensor]]] = {name: [] for name in symmetry.groups}
        self.whole: list[tuple[Part, Tensor, Tensor]] = []
        for name, parts in symmetry.parts.items():
            pairs = split(first[name], parts), split(other[name], parts)
            for part, mine, theirs in zip(parts, *pairs, strict=True):
                self.whole.append((part, mine, theirs))
                for group in set(part.axes) & symmetry.groups.keys():
                    self.pieces[str(group)].append((part, mine, theirs))
        self.scale = max(_norm(first) * _norm(other), torch.finfo(torch.float32).tiny)

    def run(self, label: str) -> Alignment:
        """Match until nothing is gained.

        Raises:
            Stopped: the process was asked to stop.
        """
        names = sorted(self.symmetry.groups)
        before, unmoved = self.sum(), dict(self.orders)
        progress = Progress(f"{label:<24}", SWEEPS * len(names))
        for sweep in range(SWEEPS):
            self.random.shuffle(names)
            if sweep == 0:
                names.sort(key=lambda name: name != RESIDUAL)
            gained, known = False, set[str]()
            for done, name in enumerate(names, start=1):
                if self.stop():
                    raise Stopped
                gained |= self._first(name, known) if sweep == 0 else self._better(name)
                known.add(name)
                progress.update(sweep * len(names) + done)
            if not gained and sweep:
                break
        progress.close()
        after = self.sum()
        if after <= before:
            self.orders, after = unmoved, before
        return Alignment(self.orders, before / self.scale, after / self.scale, sweep + 1)

    def sum(self) -> float:
        """Of all products, the units being in their orders."""
        return sum(
            float((mine * put(theirs, part, self.orders)).sum(dtype=torch.float64)) for part, mine, theirs in self.whole
        )

    def _first(self, name: str, known: set[str]) -> bool:
        """Match a group by what is in order already, or by all where nothing is."""
        others = [set(map(_group, part.axes)) - {None, name} for part, _, _ in self.pieces[name]]
        usable = [piece for piece, groups in zip(self.pieces[name], others, strict=True) if groups <= known]
        self.orders[name] = self._best(name, usable or self.pieces[name])[0]
        return True

    def _better(self, name: str) -> bool:
        """Match a group anew; True where that gains something."""
        old = self.orders[name]
        found, gain = self._best(name, self.pieces[name], old)
        if gain <= LEAST * self.scale:
            return False
        self.orders[name] = found
        return True

    def _best(
        self, name: str, pieces: Sequence[tuple[Part, Tensor, Tensor]], old: Order | None = None
    ) -> tuple[Order, float]:
        """The order whose sum of products is largest, and how much larger it is than that of `old`."""
        group = self.symmetry.groups[name]
        gains, pairs = torch.zeros(group.units, group.units, dtype=torch.float64), []
        others = {key: order for key, order in self.orders.items() if key != name}
        for part, mine, theirs in pieces:
            theirs = put(theirs, part, others)
            axes = [part.axes.index(each) for each in (name, name + INNER) if each in part.axes]
            mine, theirs = _by_unit(mine, axes), _by_unit(theirs, axes)
            if len(axes) == 2:
                pairs.append((mine, theirs))
            else:
                gains += (mine @ theirs.T).double()
            self.flops += 2.0 * mine.numel() * (theirs.numel() // theirs.shape[-1])
        if not pairs:
            units = assigned(gains)
            places = torch.arange(group.units)
            lost = 0.0 if old is None else float(gains[places, old.units].sum())
            return Order(units, None if group.inner == 1 else _inner(group)), float(gains[places, units].sum()) - lost
        return self._nested(group, gains, pairs, old)

    def _nested(
        self, group: Group, gains: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], old: Order | None
    ) -> tuple[Order, float]:
        """The same where each pair of units has a matching of the units within them."""
        inner = torch.empty(group.units, group.units, group.inner, dtype=torch.int64)
        places, lost = torch.arange(group.inner), 0.0
        for one in range(group.units):
            for two in range(group.units):
                products = sum((mine[one] @ theirs[two].T).double() for mine, theirs in pairs)
                assert isinstance(products, Tensor)
                inner[one, two] = assigned(products)
                if old is not None and old.inner is not None and old.units[one] == two:
                    lost += float(gains[one, two] + products[places, old.inner[one]].sum())
                gains[one, two] += products[places, inner[one, two]].sum()
        units, rows = assigned(gains), torch.arange(group.units)
        return Order(units, inner[rows, units]), float(gains[rows, units].sum()) - lost


def assigned(gains: Tensor) -> Tensor:
    """[N] int64: for each row of gains [N, N] its column, each column once, so that the sum is largest."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(gains.numpy(), maximize=True)
    return torch.from_numpy(np.asarray(columns, dtype=np.int64))


def _by_unit(piece: Tensor, axes: list[int]) -> Tensor:
    """[U, R], or [U, V, R] of two axes: the numbers of each unit."""
    return piece.movedim(axes, list(range(len(axes))))[..., None].flatten(len(axes))


def _group(axis: str | None) -> str | None:
    return None if axis is None else axis.removesuffix(INNER)


def _unmoved(group: Group) -> Order:
    return Order(torch.arange(group.units), None if group.inner == 1 else _inner(group))


def _inner(group: Group) -> Tensor:
    return torch.arange(group.inner).expand(group.units, -1)


def _norm(values: Mapping[str, Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in values.values()) ** 0.5


def _layout(name: str, symmetry: Symmetry, tensor: Tensor) -> Part:
    """Of activations [U, N] or [U, V, N] of a group, or of the residual stream behind a block."""
    group = name if name in symmetry.groups else RESIDUAL
    inner = [group + INNER] if tensor.dim() > 2 else []
    return Part(tuple(tensor.shape), (group, *inner, None))


def activations(meter: "Meter", model: "Decoder", symmetry: Symmetry) -> Values:
    """By group (the residual stream by block): what each unit does at the first held-out tokens, on the CPU; [U, N] or
    [U, V, N], the numbers of a unit one after the other.

    Raises:
        Stopped: the process was asked to stop.
    """
    from rlx.models.size import Operations
    from rlx.stages.arithmetic import arithmetic, device_of
    from rlx.stages.merging.statistics import passed

    device, operations = device_of(meter.config.trainer), Operations(model)
    model.to(device).eval()
    found: dict[str, list[Tensor]] = {}
    seen = 0
    with torch.no_grad(), arithmetic(meter.config.trainer):
        for batch in (batch for part in meter.held_out for batch in part.batches):
            if meter.stop():
                raise Stopped
            batch = batch.to(device)
            real = batch.documents >= 0
            with ExitStack() as stack:
                for name, module, hear in _listeners(model, symmetry):
                    stack.callback(module.register_forward_hook(partial(_heard, found, name, hear, real)).remove)
                passed(model, batch)
            meter.flops += operations.forward(batch.extent())
            seen += int(real.sum())
            if seen >= TOKENS:
                break
    return {name: _standard(torch.cat(parts)[:TOKENS], symmetry.groups.get(name)) for name, parts in found.items()}


def _heard(
    found: dict[str, list[Tensor]], name: str, hear: Any, real: Tensor, module: Any, given: Any, out: Any
) -> None:
    found.setdefault(name, []).append(hear(module, given, out)[real].float().cpu())


def _listeners(model: "Decoder", symmetry: Symmetry) -> list[tuple[str, Any, Any]]:
    """Groups with the module that tells what their units do, and how it is read: [B, T, ...]."""
    found: list[tuple[str, Any, Any]] = []
    for number, block in enumerate(model.blocks):
        found.append((f"behind {number}", block, lambda module, given, out: out[0]))
    for name, module in model.named_modules():
        if name not in symmetry.groups:
            continue
        if isinstance(module, Attention):
            found.append((name, module.out, lambda module, given, out: given[0]))
        elif isinstance(module, SwiGLU):
            found.append((name, module.down, lambda module, given, out: given[0]))
        elif isinstance(module, Experts):
            found.append((name, module, _of_experts))
    return found


def _of_experts(module: Experts, given: Any, out: Any) -> Tensor:
    """[B, T, E I]: the hidden units of all experts at all tokens."""
    from rlx.stages.merging.statistics import hidden_of

    return torch.cat([hidden_of(module, number, given[0]) for number in range(module.n_experts)], -1)


def _standard(values: Tensor, group: Group | None) -> Tensor:
    """Activations [N, F] by unit, each number of mean 0 and norm 1 over the tokens; 0 where it is always the same."""
    centred = values - values.mean(0)
    scaled = (centred / centred.norm(dim=0).clamp_min(torch.finfo(torch.float32).tiny)).T  # [F, N]
    if group is None:
        return scaled
    if group.inner > 1:
        return scaled.reshape(group.units, group.inner, -1)
    return scaled.reshape(group.units, -1)
