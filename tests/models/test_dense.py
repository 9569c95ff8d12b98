"""The dense model against transformers' Llama and Qwen3 on the same weights, both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlx.errors import CheckpointError, ConfigError
from rlx.models.dense import DenseConfig
from rlx.models.folder import load_weights, weights_of
from rlx.models.layers.attention import Position
from rlx.models.layouts.dense import LAYOUT
from rlx.nn.aux import NONE
from rlx.runs.model_directory import load_model_directory, save_model_directory

VARIANTS: list[dict[str, Any]] = [
    {"n_heads": 4, "n_kv_heads": 2},
    {"qk_norm": True, "tie_embeddings": False},
    {"position": Position.nope},
    {"position": Position.alibi, "n_kv_heads": 2},
    {"position": Position.hard_alibi, "n_kv_heads": 2},
    {"position": Position.coupled, "max_position": 5},
    {"position": Position.predicted, "max_position": 5},
]
"""Settings that the contract of mixers is tested with."""
VOCAB = 61
SETTINGS = {
    "one head": {"n_heads": 1},
    "heads": {"n_heads": 4},
    "grouped heads": {"n_heads": 4, "n_kv_heads": 2},
    "one shared head": {"n_heads": 4, "n_kv_heads": 1},
    "heads of their own width": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 20},
    "other theta, eps and width": {"n_heads": 2, "rope_theta": 500.0, "norm_eps": 1e-3, "d_ff": 72},
}


def config_of(**changes: Any) -> DenseConfig:
    return DenseConfig(**{"d_model": 48, "n_layers": 3, "init_std": 0.3, **changes})


def theirs_of(config: DenseConfig) -> Any:
    """A transformers model of the same sizes, with random weights, norms included."""
    pytest.importorskip("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": config.d_model,
        "intermediate_size": config.feed_forward_width(),
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads or config.n_heads,
        "head_dim": config.head_width(),
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": 128,
        "attention_bias": False,
    }
    if config.qk_norm:
        theirs: Any = Qwen3ForCausalLM(Qwen3Config(**sizes))
    else:
        theirs = LlamaForCausalLM(LlamaConfig(**sizes))
    return randomised(theirs.eval())


def randomised(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.dim() == 1 else 0.2 * noise)
    return model


def their_weights(theirs: Any, config: DenseConfig) -> dict[str, torch.Tensor]:
    tensors = dict(theirs.state_dict())
    if config.tie_embeddings:
        del tensors["lm_head.weight"]
    return tensors


@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@torch.no_grad()
def test_logits_are_those_of_transformers(setting: dict[str, Any], tied: bool, qk_norm: bool) -> None:
    config = config_of(tie_embeddings=tied, qk_norm=qk_norm, **setting)
    theirs = theirs_of(config)
    tokens = torch.randint(VOCAB, (3, 33), generator=torch.Generator().manual_seed(2))
    expected = theirs(tokens).logits

    ours = config.build(VOCAB)
    load_weights(ours, LAYOUT.from_theirs(their_weights(theirs, config), config), "llama")
    hidden, aux = ours(tokens)
    assert aux == NONE
    assert expected.std() > 0.5
    torch.testing.assert_close(ours.logits(hidden), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@torch.no_grad()
def test_our_weights_in_their_model(tied: bool, qk_norm: bool) -> None:
    config = config_of(tie_embeddings=tied, qk_norm=qk_norm, n_heads=4, n_kv_heads=2)
    ours, theirs = randomised(config.build(VOCAB)), theirs_of(config)
    missing, unexpected = theirs.load_state_dict(LAYOUT.to_theirs(weights_of(ours), config), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if tied else [], [])
    tokens = torch.randint(VOCAB, (2, 20), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours.logits(ours(tokens)[0]), theirs(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_round_trips_are_bit_equal(tied: bool, qk_norm: bool) -> None:
    config = config_of(tie_embeddings=tied, qk_norm=qk_norm, n_heads=4, n_kv_heads=2)
    ours = weights_of(randomised(config.build(VOCAB)))
    same(LAYOUT.from_theirs(LAYOUT.to_theirs(ours, config), config), ours)
    theirs = their_weights(theirs_of(config), config)
    same(LAYOUT.to_theirs(LAYOUT.from_theirs(theirs, config), config), theirs)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_llama_layout_can_be_saved(tmp_path: Path) -> None:
    config = config_of(n_heads=4)
    tensors = LAYOUT.to_theirs(weights_of(config.build(VOCAB)), config)
    save_model_directory(tmp_path, tensors, {}, None)
    same(load_model_directory(tmp_path)[0], tensors)


def test_left_over_and_missing_llama_tensors_are_named() -> None:
    config = config_of(n_heads=4)
    tensors = LAYOUT.to_theirs(weights_of(config.build(VOCAB)), config)
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.self_attn\.q_proj\.bias"):
        LAYOUT.from_theirs({**tensors, "model.layers.0.self_attn.q_proj.bias": torch.zeros(48)}, config)
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.input_layernorm\.weight"):
        LAYOUT.from_theirs(
            {name: t for name, t in tensors.items() if name != "model.layers.2.input_layernorm.weight"}, config
        )
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.self_attn\.q_norm\.weight"):
        LAYOUT.from_theirs(tensors, config_of(n_heads=4, qk_norm=True))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        LAYOUT.from_theirs(tensors, config_of(n_heads=4, tie_embeddings=False))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"n_heads": 5}, r"model\.n_heads=5 does not divide model\.d_model=48; try 4 or 6"),
        ({"n_heads": 0}, r"model\.n_heads=0 does not divide model\.d_model=48; try 1 or 2"),
        ({"n_heads": 4, "n_kv_heads": 3}, r"model\.n_kv_heads=3 does not divide model\.n_heads=4; try"),
        ({"n_heads": 16}, r"model\.n_heads=16 makes heads of odd width 3; .* multiple of 32"),
        ({"head_dim": 7}, r"model\.head_dim=7 must be even"),
        ({"head_dim": 0}, r"model\.head_dim=0 must be even"),
        ({"head_dim": 8, "n_heads": 0}, r"model\.n_heads=0 must be at least 1"),
        ({"d_model": 0}, r"model\.d_model=0 must be at least 1"),
        ({"n_layers": 0}, r"model\.n_layers=0 must be at least 1"),
        ({"n_layers": 10**8}, r"model\.n_layers=100000000 must be at most 4096"),
        ({"d_ff": -8}, r"model\.d_ff=-8 must be at least 1"),
        ({"d_ff": 0}, r"model\.d_ff=0 must be at least 1"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_wrong_sizes_are_one_line(values: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        config_of(**values)
    assert "\n" not in str(error.value)


def test_heads_may_be_wider_than_the_model() -> None:
    model = config_of(n_heads=5, head_dim=16).build(VOCAB)
    assert model.blocks[0].mixer.out.weight.shape == (48, 80)


def test_default_feed_forward_is_a_multiple_of_32() -> None:
    assert config_of(d_model=128).feed_forward_width() == 352  # 341.3 rounded up
    assert config_of(d_model=48).feed_forward_width() == 128
    assert config_of(d_ff=100).feed_forward_width() == 100


def test_fresh_weights_have_the_spread_they_are_said_to_have() -> None:
    torch.manual_seed(0)
    model = DenseConfig(d_model=128, n_layers=8, init_std=0.02).build(112)
    for name, tensor in weights_of(model).items():
        if tensor.dim() == 1:
            assert torch.equal(tensor, torch.ones_like(tensor)), name
            continue
        scaled = name.endswith(("mixer.out.weight", "channel.down.weight"))
        expected = 0.02 / 4 if scaled else 0.02
        assert tensor.std().item() == pytest.approx(expected, rel=0.05), name
