"""Models as folders: config.json says which option with which fields; weights are named as in the decoder."""

from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from rlx.errors import CheckpointError, RlxError
from rlx.models.base import ModelConfig, check_positive
from rlx.nn.decoder import Decoder
from rlx.options import discover, option_of, plain_value

FORMAT = 1
"""Raised when the meaning of config.json or of a tensor's name changes."""
TIED = "head.weight"
"""Left out of a folder when the head is the embedding."""


def describe(config: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """What config.json says of a model."""
    return {
        "format": FORMAT,
        "model": option_of(config).name,
        "vocab_size": vocab_size,
        "fields": plain_value(config),
    }


def config_of(description: dict[str, Any], where: Path | str) -> tuple[ModelConfig, int]:
    """Model config and vocabulary size from config.json.

    Raises:
        CheckpointError: not a folder of ours, or of an unknown model or field.
    """
    try:
        name, values = description["model"], dict(description["fields"])
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']!r}, expected {FORMAT}")
        cls, vocab_size = discover("model")[name].config, int(description["vocab_size"])
        check_positive("vocab_size", vocab_size)
        kinds = get_type_hints(cls)
        return cls(**{key: _field_value(key, value, kinds[key]) for key, value in values.items()}), vocab_size
    except (KeyError, TypeError, ValueError, RlxError) as error:
        raise CheckpointError(f"{where}: config.json is not an rlx model of this version ({error})") from error


def weights_of(model: Decoder) -> dict[str, Tensor]:
    """The decoder's tensors as a folder holds them."""
    return {name: tensor for name, tensor in model.state_dict().items() if not (model.tied and name == TIED)}


def load_weights(model: Decoder, tensors: dict[str, Tensor], where: Path | str) -> None:
    """Put a folder's tensors into the decoder.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape, named; the decoder is as it was.
    """
    own = weights_of(model)
    for name in sorted(own.keys() ^ tensors.keys()):
        what = "lacks" if name in own else "has an unknown tensor"
        raise CheckpointError(f"{where}: model.safetensors {what} {name}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(
                f"{where}: {name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)} by config.json"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _field_value(name: str, value: Any, kind: Any) -> Any:
    """A field of config.json as the config class annotates it: enums by name, whole numbers where floats stand.

    Raises:
        ValueError: a value of another type.
    """
    for choice in get_args(kind) if isinstance(kind, UnionType) else (kind,):
        plain = get_origin(choice) or choice
        if issubclass(plain, Enum) and isinstance(value, str) and value in plain.__members__:
            return plain[value]
        if type(value) is plain or (plain is float and type(value) is int):
            return plain(value) if plain is float else value
    raise ValueError(f"{name}={value!r} is not {getattr(kind, '__name__', kind)}")
