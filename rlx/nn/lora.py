"""Low-rank adapters beside frozen matrices (LoRA: Hu et al., arXiv 2106.09685, section 4.1): W x + scale B A x.

1. A begins uniform within 1 / sqrt(inputs), B at 0 (PEFT's start; the paper draws A from a normal distribution), so the
   first step begins with the base's outputs.
2. A linear layer that holds several projections one above the other says so with `parts()`, and gets an adapter for
   each: what queries learn is then no business of keys, as in models that keep them apart.
3. A stack of matrices, one an expert (`stacks`), is adapted as a whole: an A and a B for each expert, and W + scale
   B A is worked out anew where the module reads its parameter (as PEFT's `target_parameters` does): once a pass. Of it
   the pass back works out the whole gradient, and from that those of A and B.
4. The names of a model's own tensors stay what they are; `base_tensors` has those alone.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from rlx.nn.decoder import Decoder

_ADAPTERS = ".adapters."
"""Between a linear layer's name and that of its adapter's part, in the names of tensors."""
_STACKED = ".parametrizations."
"""Between a module's name and that of its adapted stack."""
_ORIGINAL = ".original"


@runtime_checkable
class Fused(Protocol):
    """A module whose linear layers hold several projections one above the other."""

    def parts(self) -> Mapping[str, Mapping[str, int]]:
        """By the linear layer's name: the projections from above, with the rows of each."""
        ...


@dataclass(frozen=True, slots=True)
class Strength:
    """How strong an adapter is."""

    rank: int
    alpha: float
    rslora: bool = False
    """alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski, arXiv 2312.03732)."""

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class Lora(nn.Module):
    """What is added to a projection: [..., I] to [..., O]."""

    def __init__(self, inputs: int, outputs: int, strength: Strength, like: Tensor) -> None:
        super().__init__()
        self.strength = strength
        self.a = nn.Linear(inputs, strength.rank, bias=False, device=like.device, dtype=like.dtype)
        self.b = nn.Linear(strength.rank, outputs, bias=False, device=like.device, dtype=like.dtype)
        nn.init.kaiming_uniform_(self.a.weight, a=math.sqrt(5))  # within 1 / sqrt(inputs)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.strength.scale * self.b(self.a(x))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A [R, I] and B [O, R]."""
        return self.a.weight, self.b.weight


class LoraLinear(nn.Linear):
    """A linear layer, its weight under its own name, with adapters for some of its parts."""

    def __init__(self, plain: nn.Linear, parts: Mapping[str, int], adapted: Iterable[str], strength: Strength) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight = plain.weight
        self.register_parameter("bias", plain.bias)
        self.rows = dict(parts)
        wanted = set(adapted)
        self.adapters = nn.ModuleDict(
            {part: Lora(self.in_features, n, strength, self.weight) for part, n in parts.items() if part in wanted}
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        added = [
            self.adapters[part](x) if part in self.adapters else y.new_zeros(*y.shape[:-1], rows)
            for part, rows in self.rows.items()
        ]
        return y + (added[0] if len(added) == 1 else torch.cat(added, dim=-1))

    def whole(self) -> Tensor:
        """The weight [O, I] with the adapters added, and with their gradients."""
        added = []
        for part, rows in self.rows.items():
            if part in self.adapters:
                adapter = cast(Lora, self.adapters[part])
                added.append(adapter.strength.scale * (adapter.b.weight @ adapter.a.weight))
            else:
                added.append(self.weight.new_zeros(rows, self.in_features))
        return self.weight + torch.cat(added)


def whole_weight(linear: nn.Linear) -> Tensor:
    """The weight [O, I] of a linear layer, for who takes it in place of calling the layer: its adapters are in it."""
    return linear.whole() if isinstance(linear, LoraLinear) else linear.weight


class StackedLora(nn.Module):
    """W + scale B A for a stack of matrices [E, O, I]: a parametrization of torch."""

    stacks = ("a", "b")

    def __init__(self, weight: Tensor, strength: Strength, met: int) -> None:
        """`met`: how many of the matrices a token meets."""
        super().__init__()
        self.strength, self.met = strength, met
        experts, outputs, inputs = weight.shape
        self.a = nn.Parameter(weight.new_empty(experts, strength.rank, inputs))
        self.b = nn.Parameter(weight.new_zeros(experts, outputs, strength.rank))
        nn.init.uniform_(self.a, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.strength.scale * (self.b @ self.a)

    @property
    def active_numel(self) -> int:
        """Numbers of the adapters of experts that a token meets."""
        return self.met * (self.a[0].numel() + self.b[0].numel())

    def factors(self) -> tuple[Tensor, Tensor]:
        """A [E, R, I] and B [E, O, R]."""
        return self.a, self.b


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A matrix, or a stack of them, that can be adapted."""

    owner: str
    """Name of the module that has it; empty for the decoder itself."""
    name: str
    """What that module calls it."""
    parts: Mapping[str, int]
    """Its projections and their rows; itself where it is one."""
    stacked: bool = False

    @property
    def path(self) -> str:
        return f"{self.owner}.{self.name}".lstrip(".")

    @property
    def tensor(self) -> str:
        """Name of its tensor in a folder."""
        return self.path if self.stacked else f"{self.path}.weight"


def sites(model: nn.Module) -> list[Site]:
    """What of a model without adapters can be adapted, in its order."""
    found = []
    for owner, module in model.named_modules():
        children = dict(module.named_children())
        fused = module.parts() if isinstance(module, Fused) else {}
        for name, child in children.items():
            if isinstance(child, nn.Linear):
                found.append(Site(owner, name, fused.get(name, {name: child.out_features})))
        for name in getattr(module, "stacks", ()):
            found.append(Site(owner, name, {name: getattr(module, name).shape[1]}, stacked=True))
    return found


def attach(model: nn.Module, chosen: Iterable[tuple[Site, Iterable[str]]], strength: Strength) -> None:
    """Freeze a model and put fresh adapters beside parts of the sites chosen, in torch's global random order."""
    model.requires_grad_(False)
    for site, parts in chosen:
        owner = model.get_submodule(site.owner)
        if site.stacked:
            stack: Tensor = getattr(owner, site.name)
            adapter = StackedLora(stack, strength, getattr(owner, "top_k", len(stack)))
            parametrize.register_parametrization(owner, site.name, adapter)
        else:
            setattr(owner, site.name, LoraLinear(getattr(owner, site.name), site.parts, parts, strength))


@dataclass(frozen=True, slots=True)
class Attached:
    """An adapter in its place."""

    tensor: str
    """Name of the adapted tensor in a folder."""
    part: str
    rows: slice
    """Its rows of that tensor (of each expert's, where it is a stack)."""
    adapter: Lora | StackedLora


def attached(model: nn.Module) -> Iterator[Attached]:
    """The adapters of a model."""
    for path, module in model.named_modules():
        if isinstance(module, LoraLinear):
            first = 0
            for part, rows in module.rows.items():
                if part in module.adapters:
                    adapter: Any = module.adapters[part]
                    where = slice(first, first + rows) if len(module.rows) > 1 else slice(None)
                    yield Attached(f"{path}.weight", part, where, adapter)
                first += rows
        elif isinstance(module, StackedLora):
            owner, _, name = path.rpartition(".")[0].rpartition(_STACKED)
            yield Attached(f"{owner}.{name}", name, slice(None), module)


def adapted_stacks(module: nn.Module) -> dict[str, nn.Parameter]:
    """The stacks of a module that have adapters, as they are without."""
    if not parametrize.is_parametrized(module):
        return {}
    found: Any = module.parametrizations
    return {name: chain.original for name, chain in found.items()}


def is_adapted(model: nn.Module) -> bool:
    """True for a model with adapters."""
    return next(attached(model), None) is not None


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a model but those of adapters, under the names that they have without."""
    found = {}
    for name, tensor in model.state_dict().items():
        if _ADAPTERS in name:
            continue
        if _STACKED in name:
            if not name.endswith(_ORIGINAL):
                continue
            name = name.removesuffix(_ORIGINAL).replace(_STACKED, ".")
        found[name] = tensor
    return found


def add_product(weight: Tensor, rows: slice, a: Tensor, b: Tensor, scale: float) -> None:
    """Add scale B A to rows of a matrix (or of each in a stack), in place."""
    weight[..., rows, :] += scale * (b @ a)


@torch.no_grad()
def folded(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors with the adapters added, one by one, under the names that they have without; what is adapted
    is new."""
    adapted: dict[str, list[Attached]] = {}
    for each in attached(model):
        adapted.setdefault(each.tensor, []).append(each)
    for name, tensor in base_tensors(model).items():
        whole = tensor.clone() if name in adapted else tensor
        for each in adapted.get(name, ()):
            add_product(whole, each.rows, *each.adapter.factors(), each.adapter.strength.scale)
        yield name, whole


def folded_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All that `folded` gives."""
    return dict(folded(model))


def without_adapters(model: Decoder) -> Decoder:
    """A copy of the decoder with its base's weights alone."""
    made = copy.deepcopy(model)
    for owner in list(made.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, LoraLinear):
                plain = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None, device="meta")
                plain.weight, plain.bias = child.weight, child.bias
                setattr(owner, name, plain)
        stacks = adapted_stacks(owner)
        if stacks:  # by hand: torch's remove_parametrizations changes the class, which is that of the model copied too
            owner.__class__ = type(owner).__bases__[0]
            del owner.parametrizations
            for name, stack in stacks.items():
                owner.register_parameter(name, stack)
    return made
