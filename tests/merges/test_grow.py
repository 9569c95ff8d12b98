"""merge=grow: which layer is whose, bit by bit, and what init.grow makes of the same model."""

from typing import Any

import pytest
import torch

from rlx.errors import ConfigError
from rlx.merges import layers
from rlx.merges.grow import GrowConfig, How
from rlx.models.base import Grow
from rlx.models.dense import DenseConfig
from rlx.models.folder import weights_of
from rlx.models.growth import grown_config, grown_tensors
from rlx.models.hybrid import HybridConfig
from rlx.models.layers.attention import Position
from rlx.models.moe import MoeConfig
from rlx.models.size import parameter_count
from rlx.nn import decoder
from tests.merges.whole import architecture, logits, made, merged

ORDERS = {How.stack: [0, 1, 2, 0, 1, 2], How.interleave: [0, 0, 1, 1, 2, 2], How.zero: [0, 1, 2, 0, 1, 2]}
SIZE: dict[str, Any] = {"d_model": 32, "n_layers": 3}
MODELS = {
    "dense": DenseConfig(**SIZE, tie_embeddings=False, qk_norm=True),
    "tied": DenseConfig(**SIZE, n_kv_heads=2, layers=["attention.nope", "attention", "attention.alibi"]),
    "moe": MoeConfig(**SIZE, n_experts=4, n_shared_experts=1, layers=["attention+mlp", "attention", "attention"]),
    "hybrid": HybridConfig(**SIZE, layers=["gssm", "attention+experts", "lstm+none"]),
    "places": DenseConfig(**SIZE, tie_embeddings=False, position=Position.predicted, max_position=9),
}


@pytest.mark.parametrize("how", How, ids=lambda how: how.name)
@pytest.mark.parametrize("name", MODELS)
def test_layers_are_copied_bit_by_bit(how: How, name: str) -> None:
    small = made(MODELS[name])
    large = merged(GrowConfig(how=how), small)
    theirs = small.weights
    for key, tensor in large.weights.items():
        number = key.split(".")[1]
        source = key
        if key.startswith("blocks."):
            source = key.replace(f"blocks.{number}.", f"blocks.{ORDERS[how][int(number)]}.")
        if how is How.zero and key.startswith("blocks.") and int(number) > 2 and decoder.into_residual(key):
            assert not tensor.any() and not tensor.signbit().any(), key
        else:
            assert torch.equal(tensor, theirs[source]), key
    names = [each.name for each in small.config.pattern()]
    assert [each.name for each in large.config.pattern()] == [names[n] for n in ORDERS[how]]
    in_layers = sum(parameter.numel() for parameter in small.decoder.blocks.parameters())  # pyright: ignore
    assert parameter_count(large.decoder) == parameter_count(small.decoder) + in_layers
    assert logits(large).isfinite().all()
    assert torch.equal(logits(large), logits(small)) == (how is How.zero)


@pytest.mark.parametrize("how", [How.stack, How.interleave], ids=lambda how: how.name)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_what_init_grow_begins_with(how: How, name: str) -> None:
    small = made(MODELS[name])
    large = merged(GrowConfig(how=how, factor=3), small)
    config = grown_config(small.config, 9, Grow[how.name])
    assert large.config == config
    fresh = weights_of(config.build(23))
    expected = grown_tensors(small.weights, fresh, Grow[how.name], 3, 9)
    found = large.weights
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())


def test_what_zero_adds_learns() -> None:
    large = merged(GrowConfig(how=How.zero), made(MODELS["dense"]))
    large.decoder.logits(large.decoder(torch.arange(12)[None])[0]).square().sum().backward()
    for block in list(large.decoder.blocks)[3:]:
        assert block.mixer.out.weight.grad.abs().max() > 0  # pyright: ignore


def test_what_writes_into_the_residual_stream_is_what_models_say() -> None:
    for config in MODELS.values():
        for name in made(config).weights:
            assert layers.into_residual(name) == decoder.into_residual(name), name


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"factor": 1}, "merge.factor=1 adds no layer"),
        ({"models": ["a", "b"], "weights": [1.0, 2.0]}, "merge.weights says nothing to merge=grow"),
    ],
    ids=["factor", "weights"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        GrowConfig(**values)
    assert "\n" not in str(error.value)


def test_a_model_that_rlx_has_not_is_one_line() -> None:
    unknown = layers.Architecture("", {"n_layer": 3}, where="hf:folder")
    with pytest.raises(ConfigError, match="hf:folder is a model that rlx has not"):
        GrowConfig().architecture([unknown])
    with pytest.raises(ConfigError, match=r"has no layers blocks\.<n>"):
        GrowConfig().build().plan([{"model.layers.0.up.weight": (2, 2)}])


def test_layers_left_as_the_models_own_are_written_as_null() -> None:
    found = GrowConfig().architecture([architecture(DenseConfig(**SIZE))])
    assert (found.fields["n_layers"], found.fields["layers"]) == (6, None)
