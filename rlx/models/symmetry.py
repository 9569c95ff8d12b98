"""Units of a model that may stand in any order: permute them in all tensors that have them, and the function stays.

1. The residual stream: the columns of embeddings and head, the weights of all norms of that width, and that side of
   every matrix that reads from the stream or writes into it.
2. Hidden units of a SwiGLU: a row of gate, one of up, a column of down.
3. Heads of attention: keys and values of a group with its query heads, and query heads within their group. Weights of
   qk-norm are one for all heads, and inside a head nothing moves (it is made of the planes that positions turn). Heads
   that ALiBi or windows tell apart stay.
4. Experts of a layer: router row, bias and matrices; and hidden units within each expert.

Of the other mixers (iha, gssm, delta, lstm) the sides to the residual stream take part, and what is inside stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rlx.models.base import TIED
from rlx.nn.attention import Attention
from rlx.nn.decoder import Decoder
from rlx.nn.experts import Experts
from rlx.nn.mlp import SwiGLU

RESIDUAL = "residual"
INNER = "/inner"
"""Behind a group's name: the axis of units within each of its units."""


@dataclass(frozen=True, slots=True)
class Group:
    """Units that may stand in any order."""

    units: int
    inner: int = 1
    """Units within each unit that may stand in any order there; 1: none."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a tensor, reshaped so that an axis is the units of one group, or nothing's."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """Which unit comes at each place."""

    units: Tensor
    """[U] int64."""
    inner: Tensor | None = None
    """[U, V] int64, by place: which of the units within that unit."""


@dataclass(slots=True)
class Symmetry:
    """A model's groups, and for each tensor its parts, one above the other."""

    groups: dict[str, Group]
    parts: dict[str, tuple[Part, ...]]


def symmetry_of(model: Decoder) -> Symmetry:
    """The groups of a decoder, which may be without numbers."""
    width = model.embed.embedding_dim
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not (model.tied and name == TIED)}
    found = Symmetry({RESIDUAL: Group(width)}, {})
    for name, tensor in tensors.items():
        found.parts[name] = (Part((-1, *tensor.shape[1:]), _to_residual(name, tensor.dim())),)
    for number, block in enumerate(model.blocks):
        for name, module in (("mixer", block.mixer), ("channel", block.channel)):
            place = f"blocks.{number}.{name}"
            if isinstance(module, Attention) and module.heads_alike:
                _attention(found, place, module, width)
            elif isinstance(module, SwiGLU):
                _swiglu(found, place, module.down.in_features, width)
            elif isinstance(module, Experts):
                _experts(found, place, module, width)
    return found


def _to_residual(name: str, dims: int) -> tuple[str | None, ...]:
    """Which axis of a tensor is the residual stream, inside a mixer by its name there."""
    if not name.startswith("blocks.") or ".mixer." not in name:
        return (*[None] * (dims - 1), RESIDUAL)
    own = name.partition(".mixer.")[2]
    if own == "out.weight":
        return RESIDUAL, None
    return (None, RESIDUAL) if own in ("qkv.weight", "proj.weight") else (None,) * dims


def _attention(found: Symmetry, place: str, module: Attention, width: int) -> None:
    shared, each, size = module.n_kv_heads, module.n_heads // module.n_kv_heads, module.head_dim
    inner = place + INNER if each > 1 else None
    found.groups[place] = Group(shared, each)
    keys = Part((shared, size, width), (place, None, RESIDUAL))
    queries = Part((shared, each, size, width), (place, inner, None, RESIDUAL))
    found.parts[f"{place}.qkv.weight"] = (queries, keys, keys)
    found.parts[f"{place}.out.weight"] = (Part((width, shared, each, size), (RESIDUAL, place, inner, None)),)


def _swiglu(found: Symmetry, place: str, hidden: int, width: int) -> None:
    found.groups[place] = Group(hidden)
    found.parts[f"{place}.gate_up.weight"] = (Part((2, hidden, width), (None, place, RESIDUAL)),)
    found.parts[f"{place}.down.weight"] = (Part((width, hidden), (RESIDUAL, place)),)


def _experts(found: Symmetry, place: str, module: Experts, width: int) -> None:
    count, hidden = module.n_experts, module.width
    inner = place + INNER if hidden > 1 else None
    found.groups[place] = Group(count, hidden)
    found.parts[f"{place}.router"] = (Part((count, width), (place, RESIDUAL)),)
    found.parts[f"{place}.bias"] = (Part((count,), (place,)),)
    found.parts[f"{place}.gate_up"] = (Part((count, 2, hidden, width), (place, None, inner, RESIDUAL)),)
    found.parts[f"{place}.down"] = (Part((count, width, hidden), (place, RESIDUAL, inner)),)
    if module.shared is not None:
        _swiglu(found, f"{place}.shared", module.shared.down.in_features, width)


def split(tensor: Tensor, parts: tuple[Part, ...]) -> list[Tensor]:
    """The parts of a tensor, each in its shape."""
    if len(parts) == 1:
        return [tensor.reshape(parts[0].shape)]
    across = prod(tensor.shape[1:])
    rows = tensor.split([prod(part.shape) // across for part in parts])
    return [piece.reshape(part.shape) for piece, part in zip(rows, parts, strict=True)]


def put(piece: Tensor, part: Part, orders: Mapping[str, Order]) -> Tensor:
    """A part of a tensor with the units of these groups in their orders."""
    for name, order in orders.items():
        if name not in part.axes:
            continue
        outer = part.axes.index(name)
        piece = piece.index_select(outer, order.units)
        if order.inner is not None and name + INNER in part.axes:
            axes = outer, part.axes.index(name + INNER)
            places = torch.arange(len(order.units), device=piece.device)[:, None]
            piece = piece.movedim(axes, (0, 1))[places, order.inner].movedim((0, 1), axes)
    return piece


def permuted(tensor: Tensor, parts: tuple[Part, ...], orders: Mapping[str, Order]) -> Tensor:
    """A tensor with the units of these groups in their orders, in the shape that it has."""
    pieces = [put(piece, part, orders) for piece, part in zip(split(tensor, parts), parts, strict=True)]
    return torch.cat([piece.reshape(-1, *tensor.shape[1:]) for piece in pieces])
