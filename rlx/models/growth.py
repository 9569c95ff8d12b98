"""Depth growth: a deeper model that begins with the weights of one with fewer layers.

`stack` is G_stack of Du et al. (arXiv 2405.15319, section 3), the best of their operators although it does not keep the
function; `zero` and `random` are what they compare it with, `interleave` repeats each layer in place (Gong et al. 2019,
"Efficient Training of BERT by Progressively Stacking", name the other order). Embedding, last norm and head are copied.
The optimizer begins anew, as in the authors' code.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from rlx.errors import ConfigError
from rlx.models.base import Grow, ModelConfig
from rlx.nn.decoder import into_residual

_BLOCKS = "blocks."
MOST = 0.5
"""Share of the planned tokens above which the timing law says nothing: it was fitted to models of 400M and more."""


def sources(how: Grow, before: int, after: int) -> list[int]:
    """The layer whose kind each of `after` layers has, and but for fresh ones its weights.

    Raises:
        ConfigError: there are no more layers than `before`, or they are no multiple where each is copied as often.
    """
    if after <= before:
        raise ConfigError(f"init.grow={how.name} needs model.n_layers above the parent's {before}, got {after}")
    if how in (Grow.stack, Grow.interleave) and after % before:
        near = max(2, after // before) * before
        raise ConfigError(
            f"init.grow={how.name} copies each of the parent's {before} layers as often: model.n_layers={after} must "
            f"be a multiple; try {near}"
        )
    return [number * before // after if how is Grow.interleave else number % before for number in range(after)]


def grown_config(own: ModelConfig, n_layers: int, how: Grow) -> ModelConfig:
    """The config with `n_layers` layers, each of the kind of the layer that it comes from.

    Raises:
        ConfigError: as `sources`.
    """
    names = [each.name for each in own.pattern()]
    return replace(own, n_layers=n_layers, layers=[names[n] for n in sources(how, len(names), n_layers)])


def grown_tensors(
    tensors: Mapping[str, Tensor], fresh: Mapping[str, Tensor], how: Grow, before: int, after: int
) -> dict[str, Tensor]:
    """Weights of the deeper model, from those of the other one (`before` layers) and its own fresh ones."""
    found, source = {}, sources(how, before, after)
    for name, own in fresh.items():
        number, _, rest = name.removeprefix(_BLOCKS).partition(".")
        if not name.startswith(_BLOCKS):
            if name in tensors:  # a tensor that is missing is named by who loads them
                found[name] = tensors[name]
        elif how in (Grow.zero, Grow.random) and int(number) >= before:
            found[name] = own.new_zeros(own.shape) if how is Grow.zero and into_residual(name) else own
        elif (theirs := f"{_BLOCKS}{source[int(number)]}.{rest}") in tensors:
            found[name] = tensors[theirs]
    return found


def timing(parameters: float, tokens: float) -> float:
    """Tokens after which a model is best grown, by the law of Du et al. (section 4.2):
    log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74, C = 6 N D.

    Args:
        parameters: N, of the grown model.
        tokens: D, that are planned in all.
    """
    from math import log10

    return 10 ** (0.88 * log10(parameters) + 163.27 / log10(6 * parameters * tokens) - 5.74)


def advice(parameters: float, tokens: float, spent: float) -> str:
    """What the timing law says of a model that was grown after `spent` of `tokens` tokens."""
    best = timing(parameters, tokens)
    was = f"grown after {spent / tokens:.0%} of {tokens:.3g} tokens"
    if best > MOST * tokens:
        return f"{was}; the timing law of arXiv 2405.15319 says nothing at this size, so try 2, 5, 10 and 20 %"
    return f"{was}; by the timing law of arXiv 2405.15319 {best / tokens:.0%} is best"
