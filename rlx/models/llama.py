"""The dense model in transformers' Llama and Qwen3 layouts, there and back: config.json and the names of tensors.

1. Ours holds queries, keys and values in one matrix and gate and up in another; theirs are apart. Nothing is permuted:
   both rotate the halves of a head.
2. Qwen3 is Llama with queries and keys normed per head, `qk_norm`.
3. What the decoder cannot compute is refused by the name of its field. Dropout is not taken over: rlx has none.
"""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from rlx.errors import CheckpointError, ConfigError
from rlx.models.base import TIED
from rlx.models.dense import DenseConfig

CLASSES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Their `model_type` and class."""
_FIELDS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "d_ff",
    "tie_word_embeddings": "tie_embeddings",
    "rms_norm_eps": "norm_eps",
    "initializer_range": "init_std",
}
_DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
}
"""What a field means that their config.json leaves out; the sizes must be there, for Qwen3 those of heads too."""
_NEEDED_BY_QWEN3 = ("num_key_value_heads", "head_dim")
_ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
    "auto_map": None,
}
"""Fields that may have one value, or be null or left out."""
_THETA = 10000.0
_WIDTHS = ("n_kv_heads", "head_dim", "d_ff")
"""Fields of ours whose null stands for a width that follows from the others."""

_OUTER = {"embed.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", TIED: "lm_head.weight"}
_INNER = {
    "mixer_norm.weight": ("input_layernorm.weight",),
    "mixer.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "mixer.q_norm.weight": ("self_attn.q_norm.weight",),
    "mixer.k_norm.weight": ("self_attn.k_norm.weight",),
    "mixer.out.weight": ("self_attn.o_proj.weight",),
    "channel_norm.weight": ("post_attention_layernorm.weight",),
    "channel.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "channel.down.weight": ("mlp.down_proj.weight",),
}
"""Tensors of a layer; several of theirs stand one above the other in ours."""
_QK_NORMS = ("mixer.q_norm.weight", "mixer.k_norm.weight")
_NO_WEIGHT = ".rotary_emb.inv_freq"
"""End of a name that old folders hold and that says nothing."""


def fields_of(theirs: dict[str, Any]) -> dict[str, Any]:
    """Fields of `DenseConfig` from their config.json; types are not looked at.

    Raises:
        CheckpointError: a field that is missing, or whose value our decoder cannot represent.
    """
    for name, only in _ONLY.items():
        if theirs.get(name) not in (None, only):
            raise CheckpointError(f"{name}={theirs[name]!r}; rlx has {name}={only!r} only")
    if _slides(theirs):
        raise CheckpointError("a sliding window is in use (use_sliding_window, layer_types); rlx attends everything")
    qwen3 = theirs["model_type"] == "qwen3"
    needed = [name for name in _FIELDS if name not in _DEFAULTS or (qwen3 and name in _NEEDED_BY_QWEN3)]
    for name in (*needed, "vocab_size"):
        if name not in theirs:
            raise CheckpointError(f"it has no {name}")
    found = {ours: theirs.get(name, _DEFAULTS.get(name)) for name, ours in _FIELDS.items()}
    return {**found, "rope_theta": _rope_theta(theirs), "qk_norm": qwen3}


def without_repetition(config: DenseConfig) -> DenseConfig:
    """The config with its widths null where they follow from the others, as rlx writes its own."""
    for name in _WIDTHS:
        try:
            shorter = replace(config, **{name: None})
        except ConfigError:
            continue
        if _widths(shorter) == _widths(config):
            config = shorter
    return config


def to_config(config: DenseConfig, vocab_size: int) -> dict[str, Any]:
    """Their config.json, without token ids and lengths.

    Raises:
        ConfigError: a field that their layouts cannot express.
    """
    known = {*_FIELDS.values(), "rope_theta", "qk_norm"}
    plain = DenseConfig()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in known and value != getattr(plain, field.name):
            raise ConfigError(f"model.{field.name}={value} has no place in the Llama and Qwen3 layouts")
    kind = "qwen3" if config.qk_norm else "llama"
    if kind == "llama" and config.d_model % config.n_heads:
        raise ConfigError(
            f"model.n_heads={config.n_heads} does not divide model.d_model={config.d_model}, which the Llama layout "
            "asks for (Qwen3's, that of model.qk_norm=true, does not)"
        )
    whole = replace(config, **dict(zip(_WIDTHS, _widths(config), strict=True)))
    return {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": vocab_size,
        **{theirs: getattr(whole, ours) for theirs, ours in _FIELDS.items()},
        "rope_theta": config.rope_theta,  # read by every version; newer ones move it into rope_parameters
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": "float32",
    }


def places(config: DenseConfig) -> dict[str, tuple[str, ...]]:
    """Our tensors' names, each with the names of theirs that stand one above the other in it."""
    out: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in _OUTER.items()}
    if config.tie_embeddings:
        del out[TIED]
    inner = {ours: theirs for ours, theirs in _INNER.items() if config.qk_norm or ours not in _QK_NORMS}
    for n in range(config.n_layers):
        for ours, theirs in inner.items():
            out[f"blocks.{n}.{ours}"] = tuple(f"model.layers.{n}.{name}" for name in theirs)
    return out


def check_names(names: Iterable[str], config: DenseConfig) -> None:
    """Compare the names of a folder's tensors with those of the config.

    Raises:
        CheckpointError: a tensor that the config calls for is missing, or one is left over (such as a bias), named.
    """
    found = [name for name in names if not name.endswith(_NO_WEIGHT)]
    wanted = [name for parts in places(config).values() for name in parts]
    for name in wanted:
        if name not in found:
            raise CheckpointError(f"the weights lack {name}, which the model's config calls for")
    for name in found:
        if name not in wanted and not (config.tie_embeddings and name == _OUTER[TIED]):
            raise CheckpointError(f"the weights have {name}, which has no place in the dense model of this config")


def from_llama(tensors: dict[str, Tensor], config: DenseConfig) -> dict[str, Tensor]:
    """Our names and tensors, in float32, from theirs.

    Raises:
        CheckpointError: as `check_names`; or a tied model's head is not its embedding.
    """
    check_names(tensors, config)
    embedding, head = tensors[_OUTER["embed.weight"]], tensors.get(_OUTER[TIED])
    if config.tie_embeddings and head is not None and not torch.equal(head, embedding):
        raise CheckpointError("tie_word_embeddings is true, but lm_head.weight is not the embedding; set it to false")
    return {ours: joined([tensors[name] for name in theirs]) for ours, theirs in places(config).items()}


def joined(parts: list[Tensor]) -> Tensor:
    """Tensors one above the other; bfloat16 and float16 are widened to float32."""
    wide = [part.float() if part.is_floating_point() else part for part in parts]
    return wide[0] if len(wide) == 1 else torch.cat(wide)


def to_llama(tensors: dict[str, Tensor], config: DenseConfig) -> dict[str, Tensor]:
    """Names and tensors of `LlamaForCausalLM` (or `Qwen3ForCausalLM`) from ours.

    Raises:
        CheckpointError: a tensor of ours that their layouts have no place for, named.
    """
    known, out = places(config), {}
    for name, tensor in tensors.items():
        if name not in known:
            raise CheckpointError(f"{name} has no place in the Llama and Qwen3 layouts")
        parts = tensor.split(_sizes(name, config)) if len(known[name]) > 1 else (tensor,)
        out.update(zip(known[name], parts, strict=True))
    return out


def _sizes(name: str, config: DenseConfig) -> list[int]:
    """Rows of the parts of a fused matrix."""
    kv_heads, head_dim, d_ff = _widths(config)
    if name.endswith("gate_up.weight"):
        return [d_ff, d_ff]
    return [count * head_dim for count in (config.n_heads, kv_heads, kv_heads)]


def _widths(config: DenseConfig) -> tuple[int, int, int]:
    """Values of `_WIDTHS` where they are written out."""
    return config.n_kv_heads or config.n_heads, config.rotary_dim(), config.feed_forward_width()


def _slides(theirs: dict[str, Any]) -> bool:
    """True when a layer attends a window only; configs that do without hold the window's fields too."""
    if theirs.get("layer_types") is not None:
        return any(kind != "full_attention" for kind in theirs["layer_types"])
    used = theirs.get("use_sliding_window") and theirs.get("sliding_window") is not None
    return bool(used) and theirs.get("max_window_layers", 28) < theirs.get("num_hidden_layers", 0)


def _rope_theta(theirs: dict[str, Any]) -> Any:
    """Base of the rotary frequencies: in `rope_parameters` since transformers 5, before that a field of its own."""
    for name in ("rope_scaling", "rope_parameters"):
        part = theirs.get(name) or {}
        plain = isinstance(part, dict) and not any(isinstance(value, dict) for value in part.values())
        if not plain or part.get("rope_type", part.get("type", "default")) != "default":
            raise CheckpointError(f"{name}={part!r}; rlx has plain rotary positions only")
        if part.get("partial_rotary_factor") not in (None, 1.0):
            raise CheckpointError(
                f"{name}.partial_rotary_factor={part['partial_rotary_factor']}; rlx turns whole heads"
            )
    parameters = theirs.get("rope_parameters") or {}
    return parameters.get("rope_theta", theirs.get("rope_theta", _THETA))
