import json

import pytest
import torch

from rlx.errors import CheckpointError, RunError
from rlx.runs.model_directory import load_model_directory, save_model_directory


def model_tensors() -> dict[str, torch.Tensor]:
    return {
        "a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "b": torch.arange(6).reshape(2, 3).t(),
        "c": torch.ones(2, dtype=torch.bfloat16),
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(2.0, requires_grad=True),
    }


@pytest.mark.parametrize("tokenizer", [None, '{"model": "é"}'])
def test_a_model_directory_comes_back(tmp_path, tokenizer):
    config = {"d_model": 64, "limit": [0.0, float("inf")], "name": "é"}
    save_model_directory(tmp_path / "m", model_tensors(), config, tokenizer)
    tensors, read, text = load_model_directory(tmp_path / "m")
    assert read == config and text == tokenizer
    assert set(tensors) == set(model_tensors())
    for name, tensor in model_tensors().items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


def test_tensors_that_share_memory_are_refused_and_slices_are_not(tmp_path):
    weight = torch.randn(4, 4)
    with pytest.raises(ValueError, match="embed and head share memory"):
        save_model_directory(tmp_path, {"embed": weight, "head": weight}, {}, None)
    with pytest.raises(ValueError, match="share memory"):
        save_model_directory(tmp_path, {"embed": weight, "head": weight[1:2]}, {}, None)
    with pytest.raises(ValueError, match="meta"):
        save_model_directory(tmp_path, {"embed": weight.to("meta")}, {}, None)
    save_model_directory(tmp_path, {"q": weight[:2], "k": weight[2:]}, {}, None)
    assert torch.equal(load_model_directory(tmp_path)[0]["k"], weight[2:])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    save_model_directory(tmp_path, model_tensors(), {}, None)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_model_directory(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99], ids=["empty", "half", "nearly whole"])
def test_a_truncated_file_is_one_line_with_its_name(tmp_path, name, share):
    save_model_directory(tmp_path, model_tensors(), {"a": 1}, '{"b": 1}')
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data.rstrip()[: int(share * len(data.rstrip()))])
    with pytest.raises(CheckpointError, match=name) as error:
        load_model_directory(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("other", "advice"), [("pytorch_model.bin", "pickled"), ("model.safetensors.index.json", "weight_map")]
)
def test_weights_in_another_form_are_explained(tmp_path, other, advice):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / other).write_text("{}")
    with pytest.raises(CheckpointError, match=advice):
        load_model_directory(tmp_path)


def test_weights_in_one_file_go_before_an_index_of_several(tmp_path):
    save_model_directory(tmp_path, model_tensors(), {}, None)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    assert set(load_model_directory(tmp_path)[0]) == set(model_tensors())


def test_a_full_disk_while_saving_the_weights_is_one_line(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(RunError, match=r"model\.safetensors: the disk is full"):
        save_model_directory(tmp_path, model_tensors(), {}, None)


def test_config_json_is_written_for_people(tmp_path):
    save_model_directory(tmp_path, {}, {"a": 1}, None)
    assert (tmp_path / "config.json").read_text() == json.dumps({"a": 1}, indent=2) + "\n"
