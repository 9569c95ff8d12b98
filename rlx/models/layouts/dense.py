"""The dense model in transformers' Llama and Qwen3 layouts, there and back: config.json and the names of tensors.

1. Ours holds queries, keys and values in one matrix and gate and up in another; theirs are apart. Nothing is permuted:
   both rotate the halves of a head.
2. Qwen3 is Llama with queries and keys normed per head, `qk_norm`.
3. What the decoder cannot compute is refused by the name of its field. Dropout is not taken over: rlx has none.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

from rlx.errors import CheckpointError, ConfigError
from rlx.models.base import ModelConfig
from rlx.models.dense import DenseConfig
from rlx.models.layouts.base import Layout, Place

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

_QK_NORMS = ("q_norm", "k_norm")


class AttentionLayout(Layout):
    """What the layouts share whose layers begin with Llama's attention."""

    fields: ClassVar[Mapping[str, str]]
    """Their fields and ours."""
    defaults: ClassVar[Mapping[str, Any]]
    """What a field means that their config.json leaves out; the others must be there."""
    only: ClassVar[Mapping[str, Any]]
    """Fields that may have one value, or be null or left out."""
    widths: ClassVar[tuple[str, ...]]
    """Fields of ours whose null stands for a width that follows from the others."""

    def checked(self, theirs: dict[str, Any], needed: tuple[str, ...] = ()) -> dict[str, Any]:
        """Fields of ours, where they have the same meaning in theirs.

        Raises:
            CheckpointError: as `fields_of`.
        """
        for name, only in self.only.items():
            if theirs.get(name) not in (None, only):
                raise CheckpointError(f"{name}={theirs[name]!r}; rlx has {name}={only!r} only")
        if _slides(theirs):
            raise CheckpointError(
                "a sliding window is in use (use_sliding_window, layer_types); rlx attends everything"
            )
        for name in (*(name for name in self.fields if name not in self.defaults), *needed, "vocab_size"):
            if name not in theirs:
                raise CheckpointError(f"it has no {name}")
        found = {ours: theirs.get(name, self.defaults.get(name)) for name, ours in self.fields.items()}
        return {**found, "rope_theta": _rope_theta(theirs)}

    def shortened(self, config: Any) -> ModelConfig:
        for name in self.widths:
            try:
                shorter = replace(config, **{name: None})
            except ConfigError:
                continue
            if self.written(shorter) == self.written(config):
                config = shorter
        return config

    def written(self, config: Any) -> tuple[int, ...]:
        """Values of `widths` where they are written out."""
        raise NotImplementedError

    def whole(self, config: Any, *known: str) -> dict[str, Any]:
        """Their fields from ours.

        Raises:
            ConfigError: a field, besides the `known` ones, that their layout cannot express.
        """
        plain = type(config)()
        for field in fields(config):
            value = getattr(config, field.name)
            expressed = field.name in (*self.fields.values(), "rope_theta", "z_loss", *known)
            if not expressed and value != getattr(plain, field.name):
                raise ConfigError(f"model.{field.name}={value} has no place in the {self.name} layouts")
        whole = replace(config, **dict(zip(self.widths, self.written(config), strict=True)))
        return {
            **{theirs: getattr(whole, ours) for theirs, ours in self.fields.items()},
            "rope_theta": config.rope_theta,  # read by every version; newer ones move it into rope_parameters
            "hidden_act": "silu",
            "attention_bias": False,
            "torch_dtype": "float32",
        }

    def attention_places(self, config: Any, number: int) -> dict[str, Place]:
        """Places of a layer's norms and of its attention."""
        ours, theirs = f"blocks.{number}", f"model.layers.{number}"
        width, kv_heads = config.head_width(), config.n_kv_heads or config.n_heads
        rows = tuple(count * width for count in (config.n_heads, kv_heads, kv_heads))
        projections = tuple(f"{theirs}.self_attn.{part}_proj.weight" for part in "qkv")
        norms = {
            f"{ours}.mixer.{norm}.weight": Place((f"{theirs}.self_attn.{norm}.weight",))
            for norm in (_QK_NORMS if config.qk_norm else ())
        }
        return {
            f"{ours}.mixer_norm.weight": Place((f"{theirs}.input_layernorm.weight",)),
            f"{ours}.mixer.qkv.weight": Place(projections, rows),
            **norms,
            f"{ours}.mixer.out.weight": Place((f"{theirs}.self_attn.o_proj.weight",)),
            f"{ours}.channel_norm.weight": Place((f"{theirs}.post_attention_layernorm.weight",)),
        }


class DenseLayout(AttentionLayout):
    """Llama's and Qwen3's."""

    option = "dense"
    classes: ClassVar[Mapping[str, str]] = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    fields = _FIELDS
    defaults = _DEFAULTS
    only = _ONLY
    widths = _WIDTHS

    def fields_of(self, theirs: dict[str, Any]) -> dict[str, Any]:
        qwen3 = theirs["model_type"] == "qwen3"
        return {**self.checked(theirs, _NEEDED_BY_QWEN3 if qwen3 else ()), "qk_norm": qwen3}

    def to_config(self, config: DenseConfig, vocab_size: int) -> dict[str, Any]:
        whole = self.whole(config, "qk_norm")
        kind = "qwen3" if config.qk_norm else "llama"
        if kind == "llama" and config.d_model % config.n_heads:
            raise ConfigError(
                f"model.n_heads={config.n_heads} does not divide model.d_model={config.d_model}, which the Llama "
                "layout asks for (Qwen3's, that of model.qk_norm=true, does not)"
            )
        return {"architectures": [self.classes[kind]], "model_type": kind, "vocab_size": vocab_size, **whole}

    def written(self, config: DenseConfig) -> tuple[int, ...]:
        return config.n_kv_heads or config.n_heads, config.head_width(), config.feed_forward_width()

    def places(self, config: DenseConfig) -> dict[str, Place]:
        found, width = self.outer(config, "model.norm.weight"), config.feed_forward_width()
        for number in range(config.n_layers):
            ours, theirs = f"blocks.{number}.channel", f"model.layers.{number}.mlp"
            gate_up = (f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight")
            found.update(self.attention_places(config, number))
            found[f"{ours}.gate_up.weight"] = Place(gate_up, (width, width))
            found[f"{ours}.down.weight"] = Place((f"{theirs}.down_proj.weight",))
        return found


LAYOUT = DenseLayout()


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
