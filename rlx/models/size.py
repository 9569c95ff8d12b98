"""What a model costs: parameters, floating point operations of a pass, and what it keeps of a sequence.

1. A multiply-add is two operations. Counted are matrix products and what token mixers compute between them; norms,
   activations and the embedding look-up are not (under 2 % at the widths used here).
2. A token mixer is counted by what its definition asks for: a causal row half of the square that a masked product
   computes, a window what is inside it.
3. Training is a forward pass, gradients of what goes into every matrix (as much again), and of the matrices that are
   trained: three forward passes where all are. Of what mixers compute without matrices both sides get gradients.
4. An adapter beside a linear layer is two more matrices. That of a stack of experts is added to the stack once a pass,
   however many its tokens, which is not counted; its gradient comes from the whole stack's, which is.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rlx.batches import Extent
from rlx.nn.decoder import Decoder
from rlx.nn.lora import StackedLora, adapted_stacks


def parameter_count(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameter_counts(model: Decoder) -> dict[str, int]:
    """All parameters; of these active: all but those of parts that a token is not sent to; and embedding: the
    vocabulary's matrices, which are the embedding and the head (one where they are tied)."""
    total = parameter_count(model)
    idle = sum(max(0, _held(module) - module.active_numel) for module in _holders(model))
    vocabulary = {id(weight): weight.numel() for weight in (model.embed.weight, model.head.weight)}
    return {"total": total, "active": total - idle, "embedding": sum(vocabulary.values())}


def matrix_numel(model: nn.Module, *, trained: bool = False) -> int:
    """Weights that every token is multiplied with: all linear layers, the head included, and of modules that hold
    matrices otherwise (`active_numel`) those that a token meets; or only those of these that gradients are made of."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    found = sum(module.weight.numel() for module in linear if not trained or module.weight.requires_grad)
    for module in _holders(model):
        if isinstance(module, StackedLora):
            continue
        share = _with_gradient(module) / max(1, _held(module)) if trained else 1.0
        found += round(share * module.active_numel)
    return found


def _holders(model: nn.Module) -> list[Any]:
    """Modules that hold matrices which are no linear layer's."""
    return [module for module in model.modules() if hasattr(module, "active_numel")]


def _matrices(module: nn.Module) -> Iterable[nn.Parameter]:
    """A module's own matrices, besides a linear layer's weight."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() >= 2 and not (isinstance(module, nn.Linear) and name == "weight"):
            yield parameter
    yield from adapted_stacks(module).values()


def _held(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in _matrices(module))


def _with_gradient(module: nn.Module) -> int:
    """Numbers of `_matrices` whose gradients are worked out."""
    adapted = sum(stack.numel() for stack in adapted_stacks(module).values())
    return adapted + sum(parameter.numel() for parameter in _matrices(module) if parameter.requires_grad)


class Operations:
    """Counts a decoder's floating point operations; it is looked at once, with what of it is trained then."""

    def __init__(self, model: Decoder) -> None:
        self.matrices, self.trained = matrix_numel(model), matrix_numel(model, trained=True)
        self._mixers = [block.mixer for block in model.blocks]
        self._tables: dict[bool, Tensor] = {}

    def forward(self, extent: Extent, *, cached: bool = False) -> float:
        """Of a forward pass over whole rows (or prompts), or (cached) of steps of decoding."""
        return 2.0 * self.matrices * extent.tokens + self._mixed(extent, cached)

    def training(self, extent: Extent) -> float:
        """Of a forward and a backward pass."""
        matrices = 2.0 * (2 * self.matrices + self.trained) * extent.tokens
        return matrices + 3 * self._mixed(extent, cached=False)

    def _mixed(self, extent: Extent, cached: bool) -> float:
        """What the token mixers compute between matrices."""
        size, table = len(extent.counts), self._tables.get(cached)
        if table is None or len(table) < size:  # grown in doubles: decoding asks for a few more each time
            attended = torch.arange(1, max(256, 2 * size) + 1, dtype=torch.float64)
            table = sum((mixer.flops(attended, cached=cached) for mixer in self._mixers), torch.zeros_like(attended))
            self._tables[cached] = table
        return float(table[:size] @ extent.counts)


def state_bytes(model: Decoder, length: int, dtype: torch.dtype) -> int:
    """Bytes kept per sequence when decoding at `length` tokens, with keys, values and their like in `dtype`.

    A cache is made to see; of a decoder on the meta device it has no numbers.
    """
    layers = model.new_cache(1, length, dtype).layers
    kept = [value for layer in layers for value in vars(layer).values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in kept)
