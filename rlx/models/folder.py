"""Models as folders: config.json says which option with which fields; weights are named as in the decoder.

A folder saved by transformers is read too, where a layout of ours (`rlx/models/layouts`) has its `model_type`: its
config is translated first, and its tensors as they are read.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from rlx.errors import CheckpointError, ConfigError, RlxError
from rlx.models.base import TIED, ModelConfig, check_positive
from rlx.models.layouts.base import Layout, Place, layout_of, layouts
from rlx.nn.decoder import Decoder
from rlx.nn.lora import base_tensors
from rlx.options import discover, field_value, option_of, plain_value

FORMAT = 1
"""Raised when the meaning of config.json or of a tensor's name changes."""


def describe(config: ModelConfig, vocab_size: int, tokens: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What config.json says of a model, and of the tokens that pad, begin and end its documents."""
    return {
        "format": FORMAT,
        "model": option_of(config).name,
        "vocab_size": vocab_size,
        "fields": plain_value(config),
        **({} if tokens is None else {"tokens": dict(tokens)}),
    }


def is_foreign(description: dict[str, Any]) -> bool:
    """True for the config.json of a folder that transformers saved."""
    return "model_type" in description


def config_of(description: dict[str, Any], where: Path | str) -> tuple[ModelConfig, int]:
    """Model config and vocabulary size from config.json, ours or theirs.

    Raises:
        CheckpointError: of an unknown model or field, or of a model that rlx has not.
    """
    told = "an rlx model of this version"
    try:
        theirs, foreign = description, is_foreign(description)
        if foreign:
            told = "a model that rlx can hold"
            description = _translated(theirs)
        name, values = description["model"], dict(description["fields"])
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']!r}, expected {FORMAT}")
        cls, vocab_size = discover("model")[name].config, int(description["vocab_size"])
        check_positive("vocab_size", vocab_size)
        kinds = get_type_hints(cls)
        config = cls(**{key: field_value(key, value, kinds[key]) for key, value in values.items()})
        return (_layout(theirs).shortened(config) if foreign else config), vocab_size
    except (AttributeError, KeyError, TypeError, ValueError, RlxError) as error:
        raise CheckpointError(f"{where}: config.json is not {told} ({error})") from error


def _layout(theirs: dict[str, Any]) -> Layout:
    """The layout of a config.json of theirs.

    Raises:
        CheckpointError: there is none.
    """
    found = layout_of(theirs["model_type"])
    if found is None:
        known = sorted(kind for layout in layouts() for kind in layout.classes)
        raise CheckpointError(f"model_type={theirs['model_type']}; rlx reads {', '.join(known)}")
    return found


def _translated(theirs: dict[str, Any]) -> dict[str, Any]:
    """A config.json of ours from theirs."""
    layout = _layout(theirs)
    return {
        "format": FORMAT,
        "model": layout.option,
        "vocab_size": theirs.get("vocab_size"),
        "fields": layout.fields_of(theirs),
    }


def read_tensors(
    description: dict[str, Any], config: ModelConfig, tensors: dict[str, Tensor], where: Path | str
) -> dict[str, Tensor]:
    """Our names and tensors from those of a folder.

    Raises:
        CheckpointError: a tensor of a foreign folder that is missing or left over, named.
    """
    if not is_foreign(description):
        return tensors
    try:
        return _layout(description).from_theirs(tensors, config)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error


def places_of(description: dict[str, Any], config: ModelConfig, names: Iterable[str]) -> dict[str, Place]:
    """Our tensors' names, each with its place in the folder, whose own names are `names`."""
    if not is_foreign(description):
        return {name: Place((name,)) for name in names}
    return _layout(description).places(config)


def exported(
    config: ModelConfig, vocab_size: int, tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A config.json and tensors that transformers reads.

    Raises:
        ConfigError: no layout of transformers that rlx writes can express the model.
    """
    name = option_of(config).name
    for layout in layouts():
        if layout.option == name:
            return layout.to_config(config, vocab_size), layout.to_theirs(tensors, config)
    known = "; ".join(f"model={layout.option} has that of {layout.name}" for layout in layouts())
    raise ConfigError(f"model={name} has no layout to be exported in; {known}")


def weights_of(model: Decoder) -> dict[str, Tensor]:
    """The decoder's tensors as a folder holds them, without those of adapters."""
    return {name: tensor for name, tensor in base_tensors(model).items() if not (model.tied and name == TIED)}


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
