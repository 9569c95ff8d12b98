"""Model directories: `config.json`, `model.safetensors` and perhaps `tokenizer.json`, ours or saved by others.

Beside a base's files an adapter may lie, `adapter_config.json` and `adapter_model.safetensors` as PEFT names them: the
model is then the base with the adapter.

In folders that others saved the weights may be in several files with an index, and what the tokenizer's tokens are for
is in files of its own. Only safetensors are read: nothing is ever loaded that could execute code.
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.errors import CheckpointError
from rlx.runs.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BESIDE,
    GENERATION_CONFIG,
    MODEL_CONFIG,
    MODEL_INDEX,
    MODEL_TOKENIZER,
    MODEL_WEIGHTS,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    StrPath,
    explained,
)
from rlx.runs.tensor_files import Spec, StoredTensors, existing, open_files, save_tensors, stream_file, unreadable

if TYPE_CHECKING:
    from torch import Tensor


def is_model_directory(folder: StrPath) -> bool:
    """True when a folder has a model's config and weights (in one file, or the index of several)."""
    folder = Path(folder)
    there = os.path.isfile  # which takes a folder that cannot be looked into for one without the file
    return there(folder / MODEL_CONFIG) and any(there(folder / name) for name in (MODEL_WEIGHTS, MODEL_INDEX))


def save_model_directory(
    folder: StrPath, tensors: "dict[str, Tensor]", config: dict[str, Any], tokenizer_json: str | None
) -> None:
    """Write a model directory into a folder, made if it is not there; wrap it in `atomic_directory`.

    Args:
        tensors: any device and dtype; written contiguous, from the CPU.
        config: JSON values; infinities are kept (`Infinity`, as transformers writes them), tuples become lists.
        tokenizer_json: the text of tokenizer.json, or None.

    Raises:
        ValueError: two tensors share memory (drop the duplicate of a tied tensor and tie it again after loading), or
            one has no data.
        RunError: the disk is full or cannot be written.
    """
    _refuse_shared(tensors)
    folder = Path(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if tokenizer_json is not None:
            (folder / MODEL_TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
    save_tensors(folder / MODEL_WEIGHTS, tensors, like=folder / MODEL_CONFIG)


def save_adapter(folder: StrPath, tensors: "dict[str, Tensor]", config: dict[str, Any]) -> None:
    """Write an adapter beside its base's files.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    path = Path(folder) / ADAPTER_CONFIG
    with explained(path):
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_tensors(path.with_name(ADAPTER_WEIGHTS), tensors, like=path)


def load_adapter(folder: StrPath) -> "tuple[dict[str, Tensor], dict[str, Any]] | None":
    """Tensors (on the CPU) and config of the adapter in a model directory; None without one.

    Raises:
        CheckpointError: a file is missing, truncated or not what its name says.
    """
    folder = Path(folder)
    if not adapter_files(folder):
        return None
    config = read_object(folder / ADAPTER_CONFIG)
    with open_files(folder / ADAPTER_WEIGHTS) as stored:
        return {name: stored.tensor(name) for name in stored.names}, config


def adapter_files(folder: StrPath) -> list[Path]:
    """The files of the adapter that are there."""
    return [path for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if (path := Path(folder) / name).is_file()]


def load_model_directory(folder: StrPath) -> "tuple[dict[str, Tensor], dict[str, Any], str | None]":
    """Tensors (on the CPU), config and text of tokenizer.json (None without one) of a model directory.

    Raises:
        CheckpointError: a file is missing, truncated or not what its name says.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    with open_tensors(folder) as stored:
        tensors = {name: stored.tensor(name) for name in stored.names}
    tokenizer = folder / MODEL_TOKENIZER
    if not tokenizer.is_file():
        return tensors, config, None
    read_object(tokenizer)
    return tensors, config, tokenizer.read_text(encoding="utf-8")


def read_model_config(folder: StrPath) -> dict[str, Any]:
    """config.json of a model directory.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    return read_object(Path(folder) / MODEL_CONFIG)


def read_token_settings(folder: StrPath) -> list[dict[str, Any]]:
    """What the files of a foreign folder say about its tokens, the tokenizer's own first; [] without any.

    Raises:
        CheckpointError: one of them is damaged.
    """
    names = (TOKENIZER_CONFIG, SPECIAL_TOKENS, GENERATION_CONFIG, MODEL_CONFIG)
    return [read_object(Path(folder) / name) for name in names if (Path(folder) / name).is_file()]


def carry(folder: StrPath, to: StrPath) -> None:
    """Copy what lies beside a foreign folder's weights: its tokenizer, in whatever files, and what its tokens are for.

    Raises:
        CheckpointError: a file cannot be read.
        RunError: the disk is full or cannot be written.
    """
    for path in _beside(folder):
        try:
            held = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from error
        with explained(to):
            Path(to).mkdir(parents=True, exist_ok=True)
            (Path(to) / path.name).write_bytes(held)


def _beside(folder: StrPath) -> list[Path]:
    return [path for name in BESIDE if (path := Path(folder) / name).is_file()]


def weight_files(folder: StrPath) -> list[Path]:
    """The files that hold a folder's tensors: model.safetensors, or those that its index names.

    Raises:
        CheckpointError: one is missing, or the index is damaged or names a file elsewhere.
    """
    folder = Path(folder)
    index = folder / MODEL_INDEX
    if (folder / MODEL_WEIGHTS).is_file() or not index.is_file():
        return [existing(folder / MODEL_WEIGHTS)]
    named = read_object(index).get("weight_map")
    names = sorted(set(named.values())) if isinstance(named, dict) and all(map(_is_plain, named.values())) else []
    if not names:
        raise CheckpointError(f'{index} has no usable weight_map; expected {{"<tensor>": "<file beside it>", ...}}')
    return [existing(folder / name) for name in names]


def model_files(folder: StrPath) -> list[Path]:
    """All files that decide what a model folder is: config, weights, tokenizer (in whatever files), adapter.

    Raises:
        CheckpointError: as `weight_files`.
    """
    folder, weights = Path(folder), weight_files(folder)
    several = [folder / MODEL_INDEX] if weights[0].name != MODEL_WEIGHTS else []
    found = [path for path in (folder / MODEL_CONFIG, *several, *weights) if path.is_file()]
    return [*found, *_beside(folder), *adapter_files(folder)]


def copy_base(source: StrPath, target: StrPath) -> None:
    """Copy the files of a model folder as they are, but for an adapter's.

    Raises:
        CheckpointError: as `weight_files`.
        RunError: the disk is full or cannot be written.
    """
    left = adapter_files(source)
    with explained(target):
        for path in model_files(source):
            if path not in left:
                shutil.copyfile(path, Path(target) / path.name)


def open_tensors(folder: StrPath) -> AbstractContextManager[StoredTensors]:
    """Give the tensors of a model folder, of one file or of several.

    Raises:
        CheckpointError: a file is missing, truncated or not what its name says.
    """
    return open_files(*weight_files(folder))


def stream_model_directory(
    folder: StrPath,
    specs: Sequence[Spec],
    tensors: "Iterable[Tensor]",
    config: dict[str, Any],
    tokenizer_json: str | None,
    *,
    shard_bytes: int | None = None,
) -> dict[str, str]:
    """As `save_model_directory`, where tensors are made one after the other: no more than one is held.

    Args:
        specs: of all tensors, in the order in which `tensors` gives them.
        shard_bytes: a file holds no more than this, or one tensor; an index then names the files. None: one file.

    Returns:
        SHA-256 of the files of weights, by their names.

    Raises:
        ValueError: a tensor is not what its spec says.
        RunError: the disk is full or cannot be written.
    """
    folder = Path(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if tokenizer_json is not None:
            (folder / MODEL_TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
    shards, given = _shards(specs, shard_bytes), iter(tensors)
    names = [MODEL_WEIGHTS]
    if len(shards) > 1:
        stem, end = MODEL_WEIGHTS.split(".")
        names = [f"{stem}-{number:05d}-of-{len(shards):05d}.{end}" for number in range(1, len(shards) + 1)]
        index = {
            "metadata": {"total_size": sum(spec.nbytes for spec in specs)},
            "weight_map": {spec.name: name for name, shard in zip(names, shards, strict=True) for spec in shard},
        }
        with explained(folder):
            (folder / MODEL_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return {name: stream_file(folder / name, shard, given) for name, shard in zip(names, shards, strict=True)}


def _shards(specs: Sequence[Spec], most: int | None) -> list[list[Spec]]:
    """The specs in the files that they are written to."""
    shards, held = [[]], 0
    for spec in specs:
        if shards[-1] and most is not None and held + spec.nbytes > most:
            shards.append([])
            held = 0
        shards[-1].append(spec)
        held += spec.nbytes
    return shards


def _refuse_shared(tensors: "dict[str, Tensor]") -> None:
    """Raise ValueError for tensors without data, or two whose bytes overlap."""
    spans = []
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(f"{name} has no data (it is on the meta device)")
        if tensor.numel():
            extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            start = tensor.data_ptr()
            spans.append((str(tensor.device), start, start + extent * tensor.element_size(), name))
    spans.sort()
    for (device, _, end, name), (next_device, start, _, next_name) in pairwise(spans):
        if device == next_device and start < end:
            raise ValueError(
                f"{name} and {next_name} share memory; drop one before saving and tie it again after loading"
            )


def _is_plain(name: Any) -> bool:
    """True for the name of a file in the same folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and os.path.basename(name) == name


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    try:
        read = json.loads(existing(path).read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise unreadable(path, error) from error
    if not isinstance(read, dict):
        raise CheckpointError(f"{path} holds a {type(read).__name__}; expected a JSON object")
    return read
