"""The dense decoder's weights in transformers' Llama layout (with `qk_norm`: Qwen3's), there and back.

Ours holds queries, keys and values in one matrix and gate and up in another; theirs are apart. Nothing is permuted:
both rotate the halves of a head.
"""

import torch
from torch import Tensor

from rlx.errors import CheckpointError
from rlx.models.dense import DenseConfig
from rlx.models.folder import TIED

_PLAIN = {
    "mixer_norm.weight": "input_layernorm.weight",
    "channel_norm.weight": "post_attention_layernorm.weight",
    "mixer.out.weight": "self_attn.o_proj.weight",
    "mixer.q_norm.weight": "self_attn.q_norm.weight",
    "mixer.k_norm.weight": "self_attn.k_norm.weight",
    "channel.down.weight": "mlp.down_proj.weight",
}
_QK_NORMS = ("mixer.q_norm.weight", "mixer.k_norm.weight")
_SPLIT = {
    "mixer.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "channel.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
}
_OUTER = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


def to_llama(tensors: dict[str, Tensor], config: DenseConfig) -> dict[str, Tensor]:
    """Names and tensors of `LlamaForCausalLM` (or `Qwen3ForCausalLM`) from ours."""
    out = {}
    for name, tensor in tensors.items():
        prefix, inner = _layer(name, "blocks.", "model.layers.")
        if name in _OUTER:
            out[_OUTER[name]] = tensor
        elif inner in _PLAIN:
            out[prefix + _PLAIN[inner]] = tensor
        else:
            parts = tensor.split(_sizes(inner, config))
            out.update(zip((prefix + part for part in _SPLIT[inner]), parts, strict=True))
    return out


def from_llama(tensors: dict[str, Tensor], config: DenseConfig) -> dict[str, Tensor]:
    """Our names and tensors from `LlamaForCausalLM`'s (or `Qwen3ForCausalLM`'s).

    Raises:
        CheckpointError: a tensor that the config calls for is missing, or one is left over (such as a bias), named.
    """
    left = dict(tensors)

    def take(name: str) -> Tensor:
        if name not in left:
            raise CheckpointError(f"the Llama weights lack {name}, which the model's config calls for")
        return left.pop(name)

    out = {ours: take(theirs) for ours, theirs in _OUTER.items() if not (config.tie_embeddings and ours == TIED)}
    if config.tie_embeddings:
        left.pop(_OUTER[TIED], None)
    for number in range(config.n_layers):
        ours, theirs = f"blocks.{number}.", f"model.layers.{number}."
        for name, other in _PLAIN.items():
            if config.qk_norm or name not in _QK_NORMS:
                out[ours + name] = take(theirs + other)
        for name, parts in _SPLIT.items():
            out[ours + name] = torch.cat([take(theirs + part) for part in parts])
    for name in left:
        raise CheckpointError(f"the Llama weights have {name}, which has no place in the dense model of this config")
    return out


def _layer(name: str, ours: str, theirs: str) -> tuple[str, str]:
    """`blocks.3.mixer.out.weight` to (`model.layers.3.`, `mixer.out.weight`)."""
    if not name.startswith(ours):
        return "", name
    number, inner = name.removeprefix(ours).split(".", 1)
    return f"{theirs}{number}.", inner


def _sizes(inner: str, config: DenseConfig) -> list[int]:
    """Rows of the parts of a fused matrix."""
    if inner == "channel.gate_up.weight":
        return [config.feed_forward_width()] * 2
    heads, kv_heads = config.n_heads, config.n_kv_heads or config.n_heads
    return [count * config.rotary_dim() for count in (heads, kv_heads, kv_heads)]
