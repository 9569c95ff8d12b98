"""Folders that transformers saved, read as `model=dense`: the same logits, and one line for what rlx cannot hold."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlx.errors import CheckpointError, ConfigError
from rlx.models.dense import DenseConfig
from rlx.models.folder import config_of, exported, weights_of
from rlx.models.layouts.dense import LAYOUT
from rlx.runs.identity import content_hash
from rlx.stages.start import load_start, read_model
from tests.models.foreign import ROWS, SIZES, saved

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "grouped heads, tied": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "theta, eps": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rms_norm_eps": 1e-3}),
    "wide heads": ("llama", {"head_dim": 20, "num_key_value_heads": 1}),
    "qwen3, wide heads": ("qwen3", {"head_dim": 32, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3, narrow heads, untied": ("qwen3", {"head_dim": 6, "num_key_value_heads": 4, "num_attention_heads": 8}),
    "qwen3, windows not in use": (
        "qwen3", {"head_dim": 12, "num_key_value_heads": 4, "use_sliding_window": True, "max_window_layers": 3}
    ),
    "several files": ("llama", {"shards": True}),
    "bfloat16, several files": ("qwen3", {"head_dim": 12, "num_key_value_heads": 2, "half": True, "shards": True}),
}  # fmt: skip


def edit(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """Change fields of a JSON file; `...` takes one out."""
    values = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_model(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@torch.no_grad()
def same_logits(folder: Path, theirs: Any) -> DenseConfig:
    """Compare the folder's model with theirs; returns its config."""
    start = load_start(folder)
    tokens = torch.randint(ROWS, (3, 33), generator=torch.Generator().manual_seed(2))
    expected = theirs(tokens).logits
    assert expected.std() > 0.5
    assert all(parameter.dtype is torch.float32 for parameter in start.model.parameters())
    torch.testing.assert_close(start.model.logits(start.model(tokens)[0]), expected, atol=1e-4, rtol=0)
    assert isinstance(start.model_config, DenseConfig)
    return start.model_config


@pytest.mark.parametrize(("kind", "sizes"), SETTINGS.values(), ids=SETTINGS)
def test_a_saved_folder_has_the_logits_of_transformers(tmp_path: Path, kind: str, sizes: dict[str, Any]) -> None:
    theirs = saved(tmp_path, kind, **sizes)
    assert (tmp_path / "model.safetensors.index.json").is_file() == ("shards" in sizes)
    same_logits(tmp_path, theirs)


def test_configs_of_older_versions_are_read(tmp_path: Path) -> None:
    """transformers 4: `rope_theta` a field of its own, and fields left out where they have their class's default."""
    theirs = saved(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 700.0})
    edit(tmp_path, rope_parameters=..., rope_theta=700.0, rope_scaling=None, head_dim=..., num_key_value_heads=...,
         tie_word_embeddings=..., attention_bias=..., mlp_bias=..., dtype=..., torch_dtype="float32")  # fmt: skip
    config = same_logits(tmp_path, theirs)
    assert (config.rope_theta, config.norm_eps, config.tie_embeddings) == (700.0, 1e-6, False)
    edit(tmp_path, rope_scaling={"type": "default"}, rms_norm_eps=..., initializer_range=...)
    assert same_logits(tmp_path, theirs) == config and config.init_std == 0.02


def test_widths_that_follow_are_not_repeated(tmp_path: Path) -> None:
    """So the config equals that of a run with the defaults of rlx."""
    saved(tmp_path, intermediate_size=128)
    _, config, _ = read_model(tmp_path)
    expected = DenseConfig(d_model=48, n_layers=3, n_heads=4, norm_eps=1e-6, tie_embeddings=False)
    assert config == expected
    edit(tmp_path, head_dim=20, num_key_value_heads=2, intermediate_size=96)
    config, rows = config_of(json.loads((tmp_path / "config.json").read_text()), tmp_path)
    assert isinstance(config, DenseConfig)
    assert (config.head_dim, config.n_kv_heads, config.d_ff, rows) == (20, 2, 96, ROWS)


def test_the_base_of_newer_versions_has_the_last_word() -> None:
    both = {"rope_theta": 700.0, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    config, _ = config_of({"model_type": "llama", "vocab_size": ROWS, **SIZES, **both}, "here")
    assert isinstance(config, DenseConfig) and config.rope_theta == 5e5


def test_fields_that_are_null_say_nothing() -> None:
    nulls = dict.fromkeys(("hidden_act", "attention_bias", "mlp_bias", "partial_rotary_factor", "auto_map"))
    theirs = {"model_type": "llama", "vocab_size": ROWS, **SIZES}
    assert config_of({**theirs, **nulls}, "here") == config_of(theirs, "here")


REFUSED: dict[str, dict[str, Any]] = {
    "model_type=gpt2": {"model_type": "gpt2"},
    "rope_parameters=.*llama3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
    "rope_scaling=.*linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "rope_parameters=.*full_attention": {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
    "rope_parameters.partial_rotary_factor=0.5": {"rope_parameters": {"partial_rotary_factor": 0.5}},
    "partial_rotary_factor=0.25": {"partial_rotary_factor": 0.25},
    "attention_bias=True": {"attention_bias": True},
    "mlp_bias=True": {"mlp_bias": True},
    "hidden_act='gelu'": {"hidden_act": "gelu"},
    "quantization_config=": {"quantization_config": {"bits": 4}},
    "auto_map=": {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}},
    "sliding window.*layer_types": {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "sliding window": {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2},
    "no hidden_size": {"hidden_size": ...},
    "no vocab_size": {"vocab_size": ...},
    "d_model='48'": {"hidden_size": "48"},
    "rope_theta=None": {"rope_parameters": None, "rope_theta": None},
    "n_heads=4": {"num_key_value_heads": 3},
    "rope_parameters='default'": {"rope_parameters": "default"},
}


@pytest.mark.parametrize(("says", "changes"), REFUSED.items(), ids=REFUSED)
def test_what_rlx_cannot_hold_is_one_line(says: str, changes: dict[str, Any]) -> None:
    theirs = {"model_type": "llama", "vocab_size": ROWS, **SIZES, **changes}
    with pytest.raises(CheckpointError, match=rf"some/folder: config\.json is not a model .*{says}") as error:
        config_of({key: value for key, value in theirs.items() if value is not ...}, "some/folder")
    assert "\n" not in str(error.value)


def test_qwen3_needs_its_heads() -> None:
    """Its defaults are those of one large model."""
    theirs = {"model_type": "qwen3", "vocab_size": ROWS, **SIZES, "num_key_value_heads": 2}
    with pytest.raises(CheckpointError, match="no head_dim"):
        config_of(theirs, "here")
    config, _ = config_of({**theirs, "head_dim": 32}, "here")
    assert isinstance(config, DenseConfig) and config.qk_norm and config.head_width() == 32


def test_a_window_in_the_config_that_no_layer_uses_is_fine() -> None:
    theirs = {"model_type": "llama", "vocab_size": ROWS, **SIZES}
    for unused in (
        {"sliding_window": 64},
        {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3},
        {"use_sliding_window": True, "sliding_window": 64},  # their default is 28 layers without
        {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["full_attention"] * 3},
    ):
        config_of({**theirs, **unused}, "here")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    saved(tmp_path, tie_word_embeddings=True)
    edit(tmp_path, tie_word_embeddings=False)
    assert f"{tmp_path}: the weights lack lm_head.weight" in refusal(tmp_path)
    edit(tmp_path, num_hidden_layers=2)
    assert "lm_head" in refusal(tmp_path)
    edit(tmp_path, tie_word_embeddings=True)
    assert "have model.layers.2." in refusal(tmp_path)


def test_a_tied_model_may_repeat_its_embedding_but_not_have_a_head(tmp_path: Path) -> None:
    config = DenseConfig(d_model=16, n_layers=1, n_heads=2)
    ours = weights_of(config.build(ROWS))
    theirs = LAYOUT.to_theirs(ours, config)
    embedding = theirs["model.embed_tokens.weight"]
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}  # in folders of early versions
    found = LAYOUT.from_theirs({**theirs, **rotary, "lm_head.weight": embedding.clone()}, config)
    assert all(torch.equal(found[name], tensor) for name, tensor in ours.items())
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings is true, but lm_head\.weight"):
        LAYOUT.from_theirs({**theirs, "lm_head.weight": embedding + 1}, config)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    theirs = saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    assert "pickled weights are not loaded" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", 3])
def test_an_index_names_files_beside_it(tmp_path: Path, name: Any) -> None:
    folder = tmp_path / "folder"
    saved(folder)
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "weight_map" in refusal(folder)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    saved(tmp_path, shards=True)
    part = sorted(tmp_path.glob("model-00002-of-*.safetensors"))[0]
    part.unlink()
    assert f"{part} is missing" in refusal(tmp_path)


def test_a_folder_without_tokenizer_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refusal(tmp_path)


def test_the_hash_of_a_folder_is_that_of_all_that_decides(tmp_path: Path) -> None:
    """Every part of the weights and every file that says what the tokenizer's tokens are for."""
    saved(tmp_path, shards=True)
    reference, seen = f"hf:{tmp_path}", set()
    seen.add(content_hash(reference))
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data + b" ")
        seen.add(content_hash(reference))
        path.write_bytes(data)
    assert len(seen) == 1 + len(list(tmp_path.iterdir())) and len(seen) > 6
    before = content_hash(reference)
    (tmp_path / "README.md").write_text("other text")
    assert content_hash(reference) == before
    (tmp_path / "special_tokens_map.json").write_text("{}")
    assert content_hash(reference) != before


@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
def test_a_config_comes_back_as_it_was(qk_norm: bool) -> None:
    for config in (
        DenseConfig(d_model=48, n_heads=4, n_layers=2, qk_norm=qk_norm),
        DenseConfig(d_model=48, n_heads=4, n_layers=2, qk_norm=qk_norm, n_kv_heads=2, d_ff=40, head_dim=32,
                    rope_theta=5e5, norm_eps=1e-6, init_std=0.1, tie_embeddings=False),
    ):  # fmt: skip
        description, _ = exported(config, ROWS, weights_of(config.build(ROWS)))
        assert config_of(json.loads(json.dumps(description)), "here") == (config, ROWS)


def test_a_model_without_a_layout_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlx.models.folder.option_of", lambda config: SimpleNamespace(name="other"))
    with pytest.raises(ConfigError, match=r"model=other has no layout to be exported in"):
        exported(DenseConfig(), ROWS, {})


def test_what_their_layouts_cannot_hold_is_one_line() -> None:
    config = DenseConfig(d_model=50, n_heads=4, head_dim=12, n_layers=1)
    tensors = weights_of(config.build(ROWS))
    with pytest.raises(ConfigError, match=r"model\.n_heads=4 does not divide model\.d_model=50.*Llama") as error:
        exported(config, ROWS, tensors)
    assert "\n" not in str(error.value)
    config.qk_norm = True
    exported(config, ROWS, weights_of(config.build(ROWS)))
    with pytest.raises(CheckpointError, match=r"blocks\.0\.mixer\.gate has no place"):
        exported(config, ROWS, {**tensors, "blocks.0.mixer.gate": torch.ones(1)})


def test_the_hash_of_a_folder_sees_what_keeps_its_size(tmp_path: Path) -> None:
    """Another byte in a file of the same length, in the same process, and zeros at an end that no whole block has."""
    saved(tmp_path)
    reference, path, seen = f"hf:{tmp_path}", tmp_path / "special_tokens_map.json", set()
    for text in (b'{"a": 1}', b'{"a": 2}', b'{"a": 2}\0', b'{"a": 2}\0\0'):
        path.write_bytes(text)
        os.utime(path, ns=(len(seen), len(seen)))
        seen.add(content_hash(reference))
    assert len(seen) == 4


def test_what_lies_beside_the_weights_decides_too(tmp_path: Path) -> None:
    saved(tmp_path)
    before = content_hash(f"hf:{tmp_path}")
    (tmp_path / "vocab.txt").write_text("a")
    assert content_hash(f"hf:{tmp_path}") != before


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)

    def refused(*given: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rlx.runs.identity._sum", refused)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        content_hash(f"hf:{tmp_path}")


def test_a_config_without_end_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "config.json").write_text("[" * 200_000)
    assert "config.json cannot be read" in refusal(tmp_path)
