"""merge=passthrough: each layer of the result is the one that its slice says, and mergekit makes the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlx.errors import ConfigError
from rlx.merges.passthrough import PassthroughConfig
from rlx.models.dense import DenseConfig
from rlx.models.folder import exported
from rlx.models.hybrid import HybridConfig
from rlx.models.layers.attention import Position
from rlx.nn.decoder import into_residual
from tests.merges.whole import VOCABULARY, Model, logits, made, merged

SIZE: dict[str, Any] = {"d_model": 32, "n_heads": 4}


def pair(**settings: Any) -> list[Model]:
    """Models of four and six layers."""
    return [made(DenseConfig(**SIZE, n_layers=count, **settings), seed=count) for count in (4, 6)]


def of_layer(model: Model, number: int) -> dict[str, torch.Tensor]:
    start = f"blocks.{number}."
    return {name.removeprefix(start): tensor for name, tensor in model.weights.items() if name.startswith(start)}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_each_layer_is_that_of_its_slice(tied: bool) -> None:
    models = pair(tie_embeddings=tied)
    result = merged(PassthroughConfig(slices=["0:1-4", "1:2-4", "0:0-1", "1:5-6"]), *models)
    for number, (parent, source) in enumerate([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (0, 0), (1, 5)]):
        expected, found = of_layer(models[parent], source), of_layer(result, number)
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items()), number
    assert result.config.n_layers == 7
    assert torch.equal(result.weights["embed.weight"], models[0].weights["embed.weight"])
    assert torch.equal(result.weights["norm.weight"], models[1].weights["norm.weight"])
    assert ("head.weight" in result.weights) != tied
    if not tied:
        assert torch.equal(result.weights["head.weight"], models[1].weights["head.weight"])


def test_positions_are_embedded_as_in_the_first_and_told_as_in_the_last() -> None:
    models = pair(position=Position.predicted, max_position=9)
    result = merged(PassthroughConfig(slices=["0:0-2", "1:0-2"]), *models).weights
    assert torch.equal(result["places.embed.weight"], models[0].weights["places.embed.weight"])
    assert torch.equal(result["places.head.weight"], models[1].weights["places.head.weight"])


def test_all_layers_of_a_model_are_the_model() -> None:
    (model,) = [made(HybridConfig(**SIZE, n_layers=3, layers=["gssm", "attention+experts", "iha+none"]))]
    result = merged(PassthroughConfig(slices=["0:0-2", "0:2-3"]), model)
    assert result.config == model.config and torch.equal(logits(result), logits(model))


def test_layers_keep_their_kind() -> None:
    first = made(HybridConfig(**SIZE, n_layers=4, layers=["gssm", "attention.nope"]))
    second = made(HybridConfig(**SIZE, n_layers=3, layers=["attention+experts", "gssm+none", "attention"]), seed=1)
    result = merged(PassthroughConfig(slices=["0:0-2", "1:0-3", "0:3-4"]), first, second)
    names = ["gssm+mlp", "attention.nope+mlp", "attention+experts", "gssm+none", "attention+mlp", "attention.nope+mlp"]
    assert [each.name for each in result.config.pattern()] == names
    assert torch.equal(result.weights["blocks.2.channel.router"], second.weights["blocks.0.channel.router"])


def test_a_pattern_that_is_the_models_own_is_null() -> None:
    mixed = made(DenseConfig(**SIZE, n_layers=4, layers=["attention.nope", "attention"]))
    plain = made(DenseConfig(**SIZE, n_layers=2), seed=1)
    assert merged(PassthroughConfig(slices=["0:1-2", "1:0-2"]), mixed, plain).config.layers is None
    both = merged(PassthroughConfig(slices=["1:0-1", "0:0-1"]), mixed, plain)
    assert both.config.layers == ["attention+mlp", "attention.nope+mlp"]


def test_scales_are_of_what_a_slice_writes() -> None:
    models = pair()
    slices = ["0:0-4", "1:4-6", "1:0-1"]
    plain = merged(PassthroughConfig(slices=slices), *models).weights
    scaled = merged(PassthroughConfig(slices=slices, scales=[1.0, 0.5, -2.0]), *models).weights
    for name, tensor in plain.items():
        number = int(name.split(".")[1]) if name.startswith("blocks.") else 0
        factor = (1.0 if number < 4 else 0.5 if number < 6 else -2.0) if into_residual(name) else 1.0
        assert torch.equal(scaled[name], factor * tensor), name


def test_layers_that_write_nothing_keep_the_function() -> None:
    model = pair()[0]
    result = merged(PassthroughConfig(slices=["0:0-4", "0:1-3"], scales=[1.0, 0.0]), model)
    assert torch.equal(logits(result), logits(model))


def saved(model: Model, folder: Path) -> Path:
    """As transformers keeps it."""
    config, tensors = exported(model.config, VOCABULARY, model.weights)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.filterwarnings("ignore")
def test_mergekit_makes_the_same_model(tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    models = pair(tie_embeddings=False)
    folders = [str(saved(model, tmp_path / f"parent{n}")) for n, model in enumerate(models)]
    ranges, factors = [(0, 0, 3), (1, 1, 4), (0, 2, 4)], [1.0, 0.5, 1.0]
    sources = [
        {
            "model": folders[parent],
            "layer_range": [first, end],
            "parameters": {
                "scale": [{"filter": "o_proj", "value": factor}, {"filter": "down_proj", "value": factor}, {"value": 1}]
            },
        }
        for (parent, first, end), factor in zip(ranges, factors, strict=True)
    ]
    told = {"merge_method": "passthrough", "slices": [{"sources": [source]} for source in sources]}
    out = tmp_path / "theirs"
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate({**told, "dtype": "float32"}), str(out), options)

    slices = [f"{parent}:{first}-{end}" for parent, first, end in ranges]
    result = merged(PassthroughConfig(slices=slices, scales=factors), *models)
    config, ours = exported(result.config, VOCABULARY, result.weights)
    theirs = {name: tensor for path in out.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == config["num_hidden_layers"] == 8


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, r"needs merge.slices, such as merge.slices=\[0:0-4,1:2-6\]"),
        ({"slices": ["0:0"]}, "merge.slices has '0:0'; expected <model>:<first>-<end>"),
        ({"slices": ["0:2-2"]}, "0:2-2, which is no layer"),
        ({"slices": ["2:0-1"], "models": ["a", "b"]}, "has 2:0-1, and merge.models has 2"),
        ({"slices": ["1:0-1"], "models": ["a", "b"]}, "takes no layer of model 0, a; leave it out"),
        ({"slices": ["0:0-1"], "scales": [1.0, 2.0]}, "merge.scales has 2 numbers for 1 slices"),
        ({"slices": ["0:0-1"], "weight": 0.5, "models": ["a", "b"]}, "merge.weight says nothing to merge=passthrough"),
    ],
    ids=["none", "grammar", "empty", "unknown", "unused", "scales", "weight"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        PassthroughConfig(**values)
    assert "\n" not in str(error.value)


def test_layers_that_are_not_there_are_one_line() -> None:
    models = pair()
    with pytest.raises(ConfigError, match="has 0:2-5, and model 0 has 4 layers"):
        merged(PassthroughConfig(slices=["0:2-5", "1:0-6"]), *models)
    with pytest.raises(ConfigError, match="and model 2 is not there"):
        merged(PassthroughConfig(slices=["0:0-1", "2:0-1"]), *models)
    wide = made(DenseConfig(d_model=48, n_layers=4))
    with pytest.raises(ConfigError, match=r"differ in model\.d_model"):
        merged(PassthroughConfig(slices=["0:0-1", "1:0-1"]), models[0], wide)
