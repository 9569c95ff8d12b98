"""Mixtral and Qwen3-MoE folders, read as `model=moe` and written from it: the same logits, and what has no place."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlx.errors import CheckpointError, ConfigError
from rlx.models.folder import config_of, exported, weights_of
from rlx.models.layouts.moe import LAYOUT
from rlx.models.moe import MoeConfig
from rlx.nn.experts import Router
from rlx.stages.start import load_start
from tests.models.foreign import ROWS, SIZES, randomised, saved

MIXTRAL = {"num_local_experts": 5, "num_experts_per_tok": 2, "num_key_value_heads": 2}
QWEN3 = {"num_experts": 6, "num_experts_per_tok": 3, "num_key_value_heads": 2, "moe_intermediate_size": 28,
         "head_dim": 16, "mlp_only_layers": []}  # fmt: skip
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", MIXTRAL),
    "mixtral, all experts, tied": ("mixtral", {**MIXTRAL, "num_experts_per_tok": 5, "tie_word_embeddings": True}),
    "mixtral, several files, bfloat16": ("mixtral", {**MIXTRAL, "shards": True, "half": True}),
    "qwen3_moe": ("qwen3_moe", QWEN3),
    "qwen3_moe, renormalised, theta": (
        "qwen3_moe", {**QWEN3, "norm_topk_prob": True, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    ),
    "qwen3_moe, one expert a token": ("qwen3_moe", {**QWEN3, "num_experts_per_tok": 1}),
}  # fmt: skip


def some_tokens() -> torch.Tensor:
    return torch.randint(ROWS, (3, 33), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("kind", "sizes"), SETTINGS.values(), ids=SETTINGS)
@torch.no_grad()
def test_a_saved_folder_has_the_logits_of_transformers(tmp_path: Path, kind: str, sizes: dict[str, Any]) -> None:
    theirs = saved(tmp_path, kind, **sizes)
    start = load_start(tmp_path)
    expected = theirs(some_tokens()).logits
    assert expected.std() > 0.5 and isinstance(start.model_config, MoeConfig)
    torch.testing.assert_close(start.model.logits(start.model(some_tokens())[0]), expected, atol=1e-4, rtol=0)
    chosen = torch.cat([each.chosen.flatten() for each in start.model(some_tokens())[1].routing])
    assert len(chosen.unique()) == start.model_config.n_experts, "every expert has a part in it"


@pytest.mark.parametrize("qk_norm", [False, True], ids=["mixtral", "qwen3_moe"])
@torch.no_grad()
def test_an_export_opens_in_transformers_and_comes_back(tmp_path: Path, qk_norm: bool) -> None:
    """Through the files: config.json and tensors as a folder of theirs."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    config = MoeConfig(d_model=48, n_layers=2, n_experts=5, qk_norm=qk_norm, tie_embeddings=False)
    ours = randomised(config.build(ROWS))
    tensors = weights_of(ours)
    description, files = exported(config, ROWS, tensors)
    (tmp_path / "config.json").write_text(json.dumps(description))
    save_file({name: t.contiguous() for name, t in files.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert type(theirs).__name__ == LAYOUT.classes["qwen3_moe" if qk_norm else "mixtral"]
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = theirs.eval()(some_tokens()).logits
    torch.testing.assert_close(ours.logits(ours(some_tokens())[0]), expected, atol=1e-4, rtol=0)
    theirs.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    found, rows = config_of(json.loads((tmp_path / "again" / "config.json").read_text()), "again")
    assert (found, rows) == (config, ROWS)
    back = LAYOUT.from_theirs(again, config)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("qk_norm", [False, True], ids=["mixtral", "qwen3_moe"])
def test_a_config_comes_back_as_it_was(qk_norm: bool) -> None:
    for more in (
        {},
        {"n_kv_heads": 2, "d_expert": 44, "head_dim": 32, "top_k": 3, "rope_theta": 5e5, "norm_eps": 1e-6},
    ):
        config = MoeConfig(d_model=48, n_layers=2, n_experts=4, qk_norm=qk_norm, **more)
        description, _ = exported(config, ROWS, weights_of(config.build(ROWS)))
        assert config_of(json.loads(json.dumps(description)), "here") == (config, ROWS)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding_window=64": ("mixtral", {"sliding_window": 64}),
    "router_jitter_noise=0.1": ("mixtral", {"router_jitter_noise": 0.1}),
    "no num_local_experts|no num_experts": ("mixtral", {"num_local_experts": ...}),
    "sliding window": ("qwen3_moe", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
    "sliding_window=32": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 28}),
    "every gate 1": ("mixtral", {"num_experts_per_tok": 1}),
    "decoder_sparse_step=2": ("qwen3_moe", {"decoder_sparse_step": 2}),
    r"mlp_only_layers=\[1\]": ("qwen3_moe", {"mlp_only_layers": [1]}),
    "attention_bias=True": ("qwen3_moe", {"attention_bias": True}),
    "no norm_topk_prob": ("qwen3_moe", {"norm_topk_prob": ...}),
    "model.top_k=9 is more than model.n_experts=6": ("qwen3_moe", {"num_experts_per_tok": 9}),
}


@pytest.mark.parametrize(("says", "change"), REFUSED.items(), ids=REFUSED)
def test_what_rlx_cannot_hold_is_one_line(says: str, change: tuple[str, dict[str, Any]]) -> None:
    kind, changes = change
    plain = {"model_type": kind, "vocab_size": ROWS, **SIZES, **(MIXTRAL if kind == "mixtral" else QWEN3)}
    plain.setdefault("norm_topk_prob", True)
    config_of(plain, "here")
    theirs = {key: value for key, value in {**plain, **changes}.items() if value is not ...}
    with pytest.raises(CheckpointError, match=says) as error:
        config_of(theirs, "here")
    assert "\n" not in str(error.value)


def test_the_names_of_older_and_newer_configs_are_read() -> None:
    """Qwen3-MoE has num_experts up to transformers 4, num_local_experts since; Mixtral's base is a million."""
    older = {"model_type": "qwen3_moe", "vocab_size": ROWS, **SIZES, **QWEN3, "norm_topk_prob": False}
    newer = {("num_local_experts" if key == "num_experts" else key): value for key, value in older.items()}
    assert config_of(older, "here") == config_of(newer, "here")
    config, _ = config_of({"model_type": "mixtral", "vocab_size": ROWS, **SIZES, **MIXTRAL}, "here")
    assert isinstance(config, MoeConfig) and (config.rope_theta, config.norm_eps) == (1e6, 1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_shared_experts": 1}, "model.n_shared_experts=1 has no place"),
        ({"router": Router.sigmoid}, r"model.router=.*sigmoid has no place"),
        ({"top_k": 1}, "the Mixtral layout renormalises gates"),
        ({"renormalise": False}, "renormalise=false"),
        ({"layers": ["attention+mlp", "attention+experts"]}, "model.layers=.* has no place"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_what_their_layouts_cannot_hold_is_one_line(settings: dict[str, Any], says: str) -> None:
    config = MoeConfig(d_model=32, n_layers=2, **settings)
    with pytest.raises(ConfigError, match=says) as error:
        exported(config, ROWS, weights_of(config.build(ROWS)))
    assert "\n" not in str(error.value)


def test_a_bias_that_balances_has_no_place() -> None:
    config = MoeConfig(d_model=32, n_layers=2)
    tensors = weights_of(config.build(ROWS))
    assert not any(name.endswith("bias") for name in exported(config, ROWS, tensors)[1])
    tensors["blocks.1.channel.bias"][3] = 0.01
    with pytest.raises(ConfigError, match=r"blocks\.1\.channel\.bias is not zero"):
        exported(config, ROWS, tensors)
