"""The moe model in transformers' Mixtral and Qwen3-MoE layouts, there and back.

1. transformers writes one matrix an expert and projection, as it always did (in memory it has them stacked); ours are
   stacked, gate above up. Attention is laid out as in `rlx/models/layouts/dense.py`.
2. Qwen3-MoE is Mixtral with queries and keys normed per head (`qk_norm`), other names, and gates that are renormalised
   or not; Mixtral's always are.
3. What trains the router (losses, balancing rate) is no part of a layout: a model that is read has the defaults. A
   selection bias that is not zero, shared experts, sigmoid routers and mixed layers are refused by name.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlx.errors import CheckpointError, ConfigError
from rlx.models.base import ModelConfig
from rlx.models.layouts.base import Place
from rlx.models.layouts.dense import AttentionLayout
from rlx.models.moe import MoeConfig

_FIELDS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "moe_intermediate_size": "d_expert",
    "num_experts": "n_experts",
    "num_experts_per_tok": "top_k",
    "tie_word_embeddings": "tie_embeddings",
    "rms_norm_eps": "norm_eps",
    "initializer_range": "init_std",
}
"""By Qwen3-MoE's names; `_MIXTRAL` has those that are Mixtral's own."""
_MIXTRAL = {"moe_intermediate_size": "intermediate_size", "num_experts": "num_local_experts"}
_NEEDED_BY_QWEN3 = ("num_key_value_heads", "head_dim", "norm_topk_prob")
_TRAINING = ("balance_loss", "router_z_loss", "balance_rate", "renormalise", "qk_norm", "d_ff")
"""Fields of ours that a layout says otherwise, or need not say."""


class MoeLayout(AttentionLayout):
    """Mixtral's and Qwen3-MoE's."""

    option = "moe"
    classes: ClassVar[Mapping[str, str]] = {"mixtral": "MixtralForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
    fields = _FIELDS
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": None,
        "head_dim": None,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
    }
    only: ClassVar[Mapping[str, Any]] = {
        "hidden_act": "silu",
        "attention_bias": False,
        "partial_rotary_factor": 1.0,
        "quantization_config": None,
        "auto_map": None,
        "router_jitter_noise": 0.0,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    widths = ("n_kv_heads", "head_dim", "d_expert")

    def fields_of(self, theirs: dict[str, Any]) -> dict[str, Any]:
        mixtral = theirs["model_type"] == "mixtral"
        slides = mixtral or theirs.get("use_sliding_window")  # in all layers, whatever max_window_layers says
        if slides and theirs.get("sliding_window") is not None:
            raise CheckpointError(f"sliding_window={theirs['sliding_window']}; rlx attends everything")
        if mixtral:
            theirs = {"rms_norm_eps": 1e-5, "rope_theta": 1e6, **theirs}
            theirs.update({ours: theirs[name] for ours, name in _MIXTRAL.items() if name in theirs})
        elif "num_local_experts" in theirs:  # newer versions write it for num_experts
            theirs = {"num_experts": theirs["num_local_experts"], **theirs}
        found = self.checked(theirs, () if mixtral else _NEEDED_BY_QWEN3)
        gates = True if mixtral else theirs["norm_topk_prob"]
        return {**found, "qk_norm": not mixtral, "renormalise": gates}

    def shortened(self, config: MoeConfig) -> ModelConfig:
        if config.renormalise == (config.top_k > 1):
            config.renormalise = None
        return super().shortened(config)

    def to_config(self, config: MoeConfig, vocab_size: int) -> dict[str, Any]:
        whole = self.whole(config, *_TRAINING)
        renormalises = config.top_k > 1 if config.renormalise is None else config.renormalise
        if config.qk_norm:
            kind = "qwen3_moe"
            more = {"norm_topk_prob": renormalises, "decoder_sparse_step": 1, "mlp_only_layers": []}
            more["intermediate_size"] = config.feed_forward_width()  # of layers without experts: there are none
        else:
            kind, more = "mixtral", {}
            if not renormalises:
                raise ConfigError(
                    f"the Mixtral layout renormalises gates, this model (model.top_k={config.top_k}, "
                    f"renormalise={str(config.renormalise).lower()}) does not; Qwen3-MoE's, that of "
                    "model.qk_norm=true, can say so"
                )
            whole = {_MIXTRAL.get(name, name): value for name, value in whole.items()}
        names = {"architectures": [self.classes[kind]], "model_type": kind, "vocab_size": vocab_size}
        return {**names, **whole, **more}

    def written(self, config: MoeConfig) -> tuple[int, ...]:
        return config.n_kv_heads or config.n_heads, config.head_width(), config.expert_width()

    def places(self, config: MoeConfig) -> dict[str, Place]:
        found, width, count = self.outer(config, "model.norm.weight"), config.expert_width(), config.n_experts
        block, gate, down, up = ("mlp", "gate_proj", "down_proj", "up_proj")
        if not config.qk_norm:
            block, gate, down, up = ("block_sparse_moe", "w1", "w2", "w3")
        for number in range(config.n_layers):
            ours, theirs = f"blocks.{number}.channel", f"model.layers.{number}.{block}"
            experts = [f"{theirs}.experts.{expert}" for expert in range(count)]
            found.update(self.attention_places(config, number))
            found[f"{ours}.router"] = Place((f"{theirs}.gate.weight",))
            found[f"{ours}.gate_up"] = Place(
                tuple(f"{expert}.{part}.weight" for expert in experts for part in (gate, up)),
                (width,) * (2 * count),
                (count, 2 * width, config.d_model),
            )
            found[f"{ours}.down"] = Place(
                tuple(f"{expert}.{down}.weight" for expert in experts),
                (config.d_model,) * count,
                (count, config.d_model, width),
            )
            found[f"{ours}.bias"] = Place((), shape=(count,))
        return found

    def stacks(self, config: MoeConfig) -> dict[str, str]:
        return {
            f"blocks.{number}.channel.{ours}": f"model.layers.{number}.mlp.experts.{theirs}"
            for number in range(config.n_layers)
            for ours, theirs in (("gate_up", "gate_up_proj"), ("down", "down_proj"))
        }

    def to_theirs(self, tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        for name, tensor in tensors.items():
            if name.endswith(".channel.bias") and torch.any(tensor != 0):
                raise ConfigError(
                    f"{name} is not zero: a bias that balances experts (model.balance_rate) has no place in the "
                    f"{self.name} layouts"
                )
        return super().to_theirs(tensors, config)


LAYOUT = MoeLayout()
