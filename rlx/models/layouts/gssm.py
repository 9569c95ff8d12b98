"""The scan in transformers' Mamba-2 layout, there and back: `model=gssm` with `layers=[gssm+none]`.

1. Tensors are theirs as they are, under other names. The convolution has a bias, the projections have none.
2. `chunk_size` and `residual_in_fp32` change no number in float32, what draws fresh weights there (`time_step_min`,
   `time_step_max`, `time_step_floor`, `rescale_prenorm_residual`) none of a model that is trained: they are not taken
   over, and an export leaves them at their defaults.
3. Where `time_step_limit` binds, transformers 5.23 keeps to it over whole rows and not when it decodes one token
   (`mamba2_selective_state_update`); rlx does in both, so `generate` there may then go another way.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

from rlx.errors import CheckpointError, ConfigError
from rlx.models.base import NO_CHANNEL, ModelConfig
from rlx.models.gssm import GssmConfig
from rlx.models.layouts.base import Layout, Place

_FIELDS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "expand": "gssm_expand",
    "num_heads": "gssm_heads",
    "state_size": "gssm_state",
    "n_groups": "gssm_groups",
    "conv_kernel": "gssm_conv",
    "tie_word_embeddings": "tie_embeddings",
    "layer_norm_epsilon": "norm_eps",
    "initializer_range": "init_std",
}
_DEFAULTS = {
    "expand": 2,
    "n_groups": 8,
    "conv_kernel": 4,
    "tie_word_embeddings": False,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.1,
}
"""What a field means that their config.json leaves out; the sizes must be there."""
_ONLY = {
    "hidden_act": "silu",
    "use_bias": False,
    "use_conv_bias": True,
    "quantization_config": None,
    "auto_map": None,
}
"""Fields that may have one value, or be null or left out."""
_LIMITS = "time_step_limit"
_LAYERS = ["gssm+none"]
_INNER = {
    "mixer_norm.weight": "norm.weight",
    "mixer.proj.weight": "mixer.in_proj.weight",
    "mixer.conv.weight": "mixer.conv1d.weight",
    "mixer.conv.bias": "mixer.conv1d.bias",
    "mixer.dt_bias": "mixer.dt_bias",
    "mixer.A_log": "mixer.A_log",
    "mixer.D": "mixer.D",
    "mixer.norm.weight": "mixer.norm.weight",
    "mixer.out.weight": "mixer.out_proj.weight",
}
"""Tensors of a layer, ours and theirs."""


class GssmLayout(Layout):
    """Mamba-2's."""

    option = "gssm"
    classes: ClassVar[Mapping[str, str]] = {"mamba2": "Mamba2ForCausalLM"}
    embedding = "backbone.embeddings.weight"

    def fields_of(self, theirs: dict[str, Any]) -> dict[str, Any]:
        for name, only in _ONLY.items():
            if theirs.get(name) not in (None, only):
                raise CheckpointError(f"{name}={theirs[name]!r}; rlx has {name}={only!r} only")
        for name in (*(name for name in _FIELDS if name not in _DEFAULTS), "head_dim", "vocab_size"):
            if name not in theirs:
                raise CheckpointError(f"it has no {name}")
        found: dict[str, Any] = {ours: theirs.get(name, _DEFAULTS.get(name)) for name, ours in _FIELDS.items()}
        if theirs["num_heads"] * theirs["head_dim"] != found["gssm_expand"] * found["d_model"]:
            raise CheckpointError("num_heads x head_dim is not expand x hidden_size")
        least, most = _limits(theirs.get(_LIMITS))
        return {
            **found,
            "layers": list(_LAYERS),
            "gssm_dt_min": least,
            "gssm_dt_max": None if math.isinf(most) else most,
        }

    def shortened(self, config: Any) -> ModelConfig:
        for name, written in (("gssm_heads", config.scan_heads()), ("gssm_state", config.scan_state())):
            try:
                shorter = replace(config, **{name: None})
            except ConfigError:
                continue
            if (shorter.scan_heads() if name == "gssm_heads" else shorter.scan_state()) == written:
                config = shorter
        return config

    def to_config(self, config: GssmConfig, vocab_size: int) -> dict[str, Any]:
        for each in config.pattern():
            if (each.token, each.channel) != ("gssm", NO_CHANNEL):
                raise ConfigError(
                    f"a layer {each.name} has no place in the {self.name} layout, whose layers are gssm+none alone"
                )
        if config.couples():
            raise ConfigError(f"model.position={config.position} has no place in the {self.name} layout")
        known, plain = {*_FIELDS.values(), "layers", "rope_theta", "z_loss"}, GssmConfig()  # nothing turns
        for field in fields(ModelConfig):
            value = getattr(config, field.name)
            if field.name not in known and value != getattr(plain, field.name):
                raise ConfigError(f"model.{field.name}={value} has no place in the {self.name} layout")
        whole = replace(config, gssm_heads=config.scan_heads(), gssm_state=config.scan_state())
        most = config.gssm_dt_max
        limits = [config.gssm_dt_min, {"__float__": "Infinity"} if most is None else most]
        return {
            "architectures": list(self.classes.values()),
            "model_type": "mamba2",
            "vocab_size": vocab_size,
            **{theirs: getattr(whole, ours) for theirs, ours in _FIELDS.items()},
            "head_dim": config.scan_width() // config.scan_heads(),
            _LIMITS: limits,
            "use_bias": False,
            "use_conv_bias": True,
            "hidden_act": "silu",
            "torch_dtype": "float32",
        }

    def places(self, config: GssmConfig) -> dict[str, Place]:
        found = self.outer(config, "backbone.norm_f.weight")
        for number in range(config.n_layers):
            for ours, theirs in _INNER.items():
                found[f"blocks.{number}.{ours}"] = Place((f"backbone.layers.{number}.{theirs}",))
        return found


LAYOUT = GssmLayout()


def _limits(value: Any) -> tuple[float, float]:
    """Their limits of dt; infinity is written in three ways: a number, a text, {"__float__": "Infinity"}.

    Raises:
        CheckpointError: no two numbers.
    """
    if value is None:
        return 0.0, math.inf
    try:
        least, most = (float(part["__float__"] if isinstance(part, dict) else part) for part in value)
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{_LIMITS}={value!r}; expected two numbers") from None
    return least, most
