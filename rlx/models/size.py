"""What a model costs: parameters, and floating point operations of a pass.

A multiply-add is two operations. Counted are matrix products and attention; norms, activations and the embedding
look-up are not (under 2 % at the widths used here). A token that attends c positions costs
2 * (matrix parameters) + (mixers' cost per attended position) * c; training costs three forward passes.
"""

from torch import nn

from rlx.nn.decoder import Decoder

TRAINING_PASSES = 3
"""A backward pass costs two forward passes."""


def parameter_count(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def matrix_numel(model: nn.Module) -> int:
    """Weights that every token is multiplied with: all linear layers, the head included."""
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))


def forward_flops(model: Decoder, tokens: int, context: int) -> float:
    """Operations of a forward pass over `tokens` tokens that attend `context` positions in sum."""
    per_position = sum(block.mixer.flops_per_position for block in model.blocks)
    return 2.0 * matrix_numel(model) * tokens + float(per_position) * context


def training_flops(model: Decoder, tokens: int, context: int) -> float:
    """Operations of a forward and a backward pass."""
    return TRAINING_PASSES * forward_flops(model, tokens, context)
