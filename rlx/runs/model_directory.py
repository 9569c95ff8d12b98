"""Model directories: `config.json`, `model.safetensors` and perhaps `tokenizer.json`, ours or saved by others.

Beside a base's files an adapter may lie, `adapter_config.json` and `adapter_model.safetensors` as PEFT names them: the
model is then the base with the adapter.

In folders that others saved the weights may be in several files with an index, and what the tokenizer's tokens are for
is in files of its own. Only safetensors are read: nothing is ever loaded that could execute code.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.errors import CheckpointError, RunError
from rlx.runs.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
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

if TYPE_CHECKING:
    from torch import Tensor


def is_model_directory(folder: StrPath) -> bool:
    """True when a folder has a model's config and weights (in one file, or the index of several)."""
    folder = Path(folder)
    return (folder / MODEL_CONFIG).is_file() and any((folder / n).is_file() for n in (MODEL_WEIGHTS, MODEL_INDEX))


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
    _save_tensors(folder / MODEL_WEIGHTS, tensors, like=folder / MODEL_CONFIG)


def save_adapter(folder: StrPath, tensors: "dict[str, Tensor]", config: dict[str, Any]) -> None:
    """Write an adapter beside its base's files.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    path = Path(folder) / ADAPTER_CONFIG
    with explained(path):
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _save_tensors(path.with_name(ADAPTER_WEIGHTS), tensors, like=path)


def load_adapter(folder: StrPath) -> "tuple[dict[str, Tensor], dict[str, Any]] | None":
    """Tensors (on the CPU) and config of the adapter in a model directory; None without one.

    Raises:
        CheckpointError: a file is missing, truncated or not what its name says.
    """
    folder = Path(folder)
    if not adapter_files(folder):
        return None
    config, path = read_object(folder / ADAPTER_CONFIG), existing(folder / ADAPTER_WEIGHTS)
    with ExitStack() as stack:
        file = _opened(path, stack)
        return {name: file.get_tensor(name) for name in file.keys()}, config  # noqa: SIM118 (no mapping)


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
    """All files that decide what a model folder is: config, weights, tokenizer, and what its tokens are for.

    Raises:
        CheckpointError: as `weight_files`.
    """
    folder, weights = Path(folder), weight_files(folder)
    several = [folder / MODEL_INDEX] if weights[0].name != MODEL_WEIGHTS else []
    settings = [folder / name for name in (MODEL_TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, GENERATION_CONFIG)]
    found = [path for path in (folder / MODEL_CONFIG, *several, *weights, *settings) if path.is_file()]
    return [*found, *adapter_files(folder)]


class StoredTensors:
    """The tensors of a model folder, each read when it is asked for."""

    def __init__(self, holders: dict[str, Any]) -> None:
        self._holders = holders

    @property
    def names(self) -> list[str]:
        return list(self._holders)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._holders[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> "Tensor":
        return self._holders[name].get_tensor(name)


@contextmanager
def open_tensors(folder: StrPath) -> Iterator[StoredTensors]:
    """Give the tensors of a model folder, of one file or of several.

    Raises:
        CheckpointError: a file is missing, truncated or not what its name says.
    """
    with ExitStack() as stack:
        holders: dict[str, Any] = {}
        for path in weight_files(folder):
            file = _opened(path, stack)
            holders.update(dict.fromkeys(file.keys(), file))
        yield StoredTensors(holders)


def _opened(path: Path, stack: ExitStack) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(path, error) from error


def _save_tensors(path: Path, tensors: "dict[str, Tensor]", *, like: Path) -> None:
    """Write tensors into a file that the same people may read as another one."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with explained(path):
        try:
            save_file(ready, path, metadata={"format": "pt"})
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has no OSError, only its text
            if number:
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise RunError(f"cannot write {path}: {_first_line(error)}") from error
        path.chmod(like.stat().st_mode)  # safetensors lets the owner alone read what it writes


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


def existing(path: Path) -> Path:
    """The path of a file that is there.

    Raises:
        CheckpointError: it is not.
    """
    if path.is_file():
        return path
    if path.name == MODEL_WEIGHTS and any(path.parent.glob("*.bin")):
        raise CheckpointError(f"{path} is missing: pickled weights are not loaded; save the model as safetensors")
    raise CheckpointError(f"{path} is missing; expected a whole checkpoint or model folder")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    try:
        read = json.loads(existing(path).read_bytes())
    except (ValueError, OSError) as error:
        raise unreadable(path, error) from error
    if not isinstance(read, dict):
        raise CheckpointError(f"{path} holds a {type(read).__name__}; expected a JSON object")
    return read


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """What to raise for a file that another library could not read, in one line."""
    return CheckpointError(f"{path} cannot be read (truncated or damaged?): {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
