"""Methods whose result is another model than its parents, carried out on models that are built."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlx.merges.base import Architecture, Given, MergeConfig
from rlx.models.base import ModelConfig
from rlx.models.folder import FORMAT, config_of, load_weights, weights_of
from rlx.nn.decoder import Decoder
from rlx.options import option_of, plain_value

VOCABULARY = 23
TOKENS = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Model:
    """A model and its config."""

    config: ModelConfig
    decoder: Decoder

    @property
    def weights(self) -> dict[str, Tensor]:
        return weights_of(self.decoder)


def made(config: ModelConfig, seed: int = 0) -> Model:
    """A model whose weights matter everywhere."""
    torch.manual_seed(seed)
    decoder = config.build(VOCABULARY)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return Model(config, decoder)


def architecture(config: ModelConfig, where: str = "runs/a") -> Architecture:
    return Architecture(option_of(config).name, plain_value(config), where=where, plain=type(config).plain)


def merged(merge: MergeConfig, *models: Model, usage: Sequence[dict[str, Tensor]] | None = None) -> Model:
    """The result, built by the architecture that the method says; `usage` by parent and tensor."""
    found = merge.architecture([architecture(model.config) for model in models])
    description: dict[str, Any] = {"format": FORMAT, "model": found.option, "vocab_size": VOCABULARY}
    config, _ = config_of({**description, "fields": dict(found.fields)}, "the result")
    method, weights = merge.build(), [model.weights for model in models]
    tensors: dict[str, Tensor] = {}
    for output in method.plan([{name: tuple(t.shape) for name, t in each.items()} for each in weights]):
        given = Given(
            tensors=[weights[place.parent][place.name] for place in output.sources],
            statistics=[usage[place.parent].get(place.name) for place in output.sources] if usage else (),
            generator=torch.Generator().manual_seed(len(tensors)),
        )
        tensors[output.name] = method.tensor(output, given)
        assert tuple(tensors[output.name].shape) == output.shape
    result = Model(config, config.build(VOCABULARY))
    assert list(tensors) == list(result.weights), "in the order of the model's own"
    load_weights(result.decoder, tensors, "the result")
    return result


@torch.no_grad()
def logits(model: Model) -> Tensor:
    places = TOKENS % 9 if model.decoder.places is not None else None
    return model.decoder.logits(model.decoder(TOKENS, places=places)[0])
