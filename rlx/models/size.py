"""What a model costs: parameters, and floating point operations of a pass.

A multiply-add is two operations. Counted are matrix products and what token mixers compute between them; norms,
activations and the embedding look-up are not (under 2 % at the widths used here). Training costs three forward passes.
"""

import torch
from torch import nn

from rlx.nn.decoder import Decoder

TRAINING_PASSES = 3
"""A backward pass costs two forward passes."""


def parameter_count(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def matrix_numel(model: nn.Module) -> int:
    """Weights that every token is multiplied with: all linear layers, the head included, and of modules that hold
    matrices otherwise (`active_numel`) those that a token meets."""
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    return linear + sum(getattr(module, "active_numel", 0) for module in model.modules())


def forward_flops(model: Decoder, tokens: int, context: int, *, cached: bool = False) -> float:
    """Operations of a forward pass over `tokens` tokens that attend `context` positions in sum."""
    if not tokens:
        return 0.0
    mean = torch.tensor([context / tokens], dtype=torch.float64)
    mixers = sum(float(block.mixer.flops(mean, cached=cached)) for block in model.blocks)
    return (2.0 * matrix_numel(model) + mixers) * tokens


def training_flops(model: Decoder, tokens: int, context: int) -> float:
    """Operations of a forward and a backward pass."""
    return TRAINING_PASSES * forward_flops(model, tokens, context)
