import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlx.errors import CheckpointError, RunError
from rlx.runs.model_directory import load_model_directory, open_tensors, save_model_directory, stream_model_directory
from rlx.runs.tensor_files import Spec, open_files


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


def specs_of(tensors: dict[str, torch.Tensor]) -> list[Spec]:
    return [Spec(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]


KINDS = {f"of {kind}": torch.ones(3, dtype=getattr(torch, kind)) for kind in ("float64", "float16", "int32", "bool")}


@pytest.mark.parametrize("shard_bytes", [None, 1, 60, 10**9], ids=["one file", "a tensor each", "some", "all in one"])
def test_a_streamed_directory_holds_what_a_saved_one_does(tmp_path, shard_bytes):
    """Files are read by safetensors' own reader."""
    tensors = {**model_tensors(), **KINDS}
    sums = stream_model_directory(
        tmp_path / "m", specs_of(tensors), iter(tensors.values()), {"a": 1}, "{}", shard_bytes=shard_bytes
    )
    files = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    whole = shard_bytes is None or shard_bytes > 1000
    assert (files == ["model.safetensors"]) == whole
    found = {name: tensor for file in files for name, tensor in load_file(tmp_path / "m" / file).items()}
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor.detach()), name
    assert sums == {file: hashlib.sha256((tmp_path / "m" / file).read_bytes()).hexdigest() for file in files}
    read, config, text = load_model_directory(tmp_path / "m")
    assert read.keys() == tensors.keys() and (config, text) == ({"a": 1}, "{}")
    if not whole:
        index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
        assert index["weight_map"].keys() == tensors.keys() and set(index["weight_map"].values()) == set(files)
        for file in files:
            held = load_file(tmp_path / "m" / file)
            assert sum(t.numel() * t.element_size() for t in held.values()) <= max(shard_bytes, 48)
    if shard_bytes == 1:
        assert all(sum(t.numel() > 0 for t in load_file(tmp_path / "m" / file).values()) <= 1 for file in files)
        assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"


def test_streamed_tensors_are_taken_one_by_one(tmp_path):
    """Nothing is asked for before the tensor before it is written."""
    tensors, path = model_tensors(), tmp_path / "model.safetensors"
    sizes = []

    def made():
        for tensor in tensors.values():
            sizes.append(path.stat().st_size)
            yield tensor

    stream_model_directory(tmp_path, specs_of(tensors), made(), {}, None)
    assert sizes == sorted(sizes) and sizes[1] - sizes[0] == 48 and sizes[2] - sizes[1] == 48


def test_a_streamed_tensor_that_is_not_as_told_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"w is \(2,\) torch.float32, expected \(3,\)"):
        stream_model_directory(tmp_path, [Spec("w", (3,), torch.float32)], iter([torch.ones(2)]), {}, None)


def test_stored_tensors_are_in_memory_of_their_own(tmp_path):
    save_model_directory(tmp_path, model_tensors(), {}, None)
    with open_tensors(tmp_path) as stored:
        first = stored.tensor("a")
        first.zero_()
        assert torch.equal(stored.tensor("a"), model_tensors()["a"])
        assert stored.spec("c") == Spec("c", (2,), torch.bfloat16) and stored.spec("c").nbytes == 4
        assert stored.shape("none") == (0, 3)
    with open_files(tmp_path / "model.safetensors") as stored:
        assert set(stored.names) == set(model_tensors())


def test_a_file_that_is_cut_while_it_is_open_is_told(tmp_path):
    save_model_directory(tmp_path, {"a": torch.ones(1000), "b": torch.ones(1000)}, {}, None)
    path = tmp_path / "model.safetensors"
    with open_tensors(tmp_path) as stored:
        path.write_bytes(path.read_bytes()[:-8])
        last = stored.names[-1]
        with pytest.raises(CheckpointError, match=f"ends inside {last}"):
            stored.tensor(last)


def test_a_dtype_that_models_are_not_made_of_is_named(tmp_path):
    save_file({"w": torch.ones(4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="w is F8_E4M3; rlx reads F64"), open_tensors(tmp_path):
        pass
