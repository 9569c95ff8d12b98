"""Models as folders: what is saved is what is loaded, and what does not fit is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlx.errors import CheckpointError
from rlx.models.dense import DenseConfig
from rlx.models.folder import TIED, config_of, describe, load_weights, weights_of
from rlx.runs.model_directory import load_model_directory, save_model_directory

VOCAB = 19


@pytest.fixture
def config() -> DenseConfig:
    return DenseConfig(d_model=16, n_layers=2, n_heads=2)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_save_and_load_are_bit_equal(tmp_path: Path, tied: bool) -> None:
    config = DenseConfig(d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, qk_norm=True, tie_embeddings=tied)
    model = config.build(VOCAB)
    save_model_directory(tmp_path, weights_of(model), describe(config, VOCAB), None)

    tensors, description, tokenizer = load_model_directory(tmp_path)
    found, vocab_size = config_of(description, tmp_path)
    assert (found, vocab_size, tokenizer) == (config, VOCAB, None)
    assert (TIED in tensors) is not tied
    other = found.build(vocab_size)
    load_weights(other, tensors, tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert (other.head.weight is other.embed.weight) is tied


def test_bfloat16_weights_are_widened(config: DenseConfig) -> None:
    model = config.build(VOCAB)
    load_weights(model, {name: tensor.bfloat16() for name, tensor in weights_of(config.build(VOCAB)).items()}, "here")
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blocks.0.mixer.qkv.weight": None}, "lacks blocks.0.mixer.qkv.weight"),
        ({"blocks.9.mixer.qkv.weight": torch.zeros(1)}, "has an unknown tensor blocks.9.mixer.qkv.weight"),
        ({TIED: torch.zeros(VOCAB, 16)}, "has an unknown tensor head.weight"),
        ({"norm.weight": torch.zeros(17)}, r"norm.weight is \(17,\), expected \(16,\)"),
        ({"embed.weight": torch.zeros(16, VOCAB)}, r"embed.weight is \(16, 19\), expected \(19, 16\)"),
    ],
    ids=["missing", "unknown", "head of a tied model", "misshapen", "turned"],
)
def test_tensors_that_do_not_fit_are_named(config: DenseConfig, change: dict[str, Any], says: str) -> None:
    model = config.build(VOCAB)
    tensors = {name: tensor for name, tensor in {**weights_of(model), **change}.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=f"some/folder: .*{says}") as error:
        load_weights(model, tensors, "some/folder")
    assert "\n" not in str(error.value)


def test_nothing_is_loaded_from_tensors_that_do_not_fit(config: DenseConfig) -> None:
    model = config.build(VOCAB)
    before = {name: tensor.clone() for name, tensor in weights_of(model).items()}
    changed = {name: tensor + 1 for name, tensor in before.items()} | {"norm.weight": torch.zeros(17)}
    with pytest.raises(CheckpointError):
        load_weights(model, changed, "here")
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(model).items())


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"format": 0},
        {"model": "no_such_model"},
        {"model": ["dense"]},
        {"fields": {"widht": 3}},
        {"fields": {"d_model": 10, "n_heads": 4}},
        {"fields": {"d_model": "wide"}},
        {"fields": {"n_layers": "4"}},
        {"fields": {"n_layers": True}},
        {"fields": {"tie_embeddings": 1}},
        {"fields": {"rope_theta": None}},
        {"fields": 3},
        {"fields": None},
        {"vocab_size": "many"},
        {"vocab_size": -1},
        {"vocab_size": None},
    ],
    ids=lambda change: json.dumps(change),
)
def test_bad_config_is_one_line(config: DenseConfig, change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"some/folder: config\.json") as error:
        config_of({**describe(config, VOCAB), **change}, "some/folder")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("description", [{}, [], None, "dense"], ids=["empty", "list", "null", "text"])
def test_other_json_is_one_line(description: Any) -> None:
    with pytest.raises(CheckpointError, match=r"some/folder: config\.json"):
        config_of(description, "some/folder")


def test_widths_come_back_as_they_were_written() -> None:
    """Those that follow from others too: the config is part of what a run is."""
    config = DenseConfig(d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=8)
    assert config_of(describe(config, VOCAB), "here") == (config, VOCAB)


def test_numbers_may_be_written_either_way(config: DenseConfig) -> None:
    """JSON written by others may hold 10000 for 10000.0."""
    description = describe(config, VOCAB)
    found, _ = config_of({**description, "fields": {**description["fields"], "rope_theta": 10000}}, "here")
    assert found == config and isinstance(found, DenseConfig)
    assert isinstance(found.rope_theta, float)  # it is written back, and hashed, as 10000.0
