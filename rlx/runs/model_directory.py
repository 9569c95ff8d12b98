"""Model directories: `config.json`, `model.safetensors` and perhaps `tokenizer.json`, ours or saved by others.

Beside a base's files an adapter may lie, `adapter_config.json` and `adapter_model.safetensors` as PEFT names them: the
model is then the base with the adapter.

In folders that others saved the weights may be in several files with an index, and what the tokenizer's tokens are for
is in files of its own. Only safetensors are read: nothing is ever loaded that could execute code.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rlx.errors import CheckpointError, RunError
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

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""What safetensors calls the dtypes of torch that models are made of."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of a tensor before it is there."""

    name: str
    shape: tuple[int, ...]
    dtype: "torch.dtype"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


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


def carry(folder: StrPath, to: StrPath) -> None:
    """Copy what lies beside a foreign folder's weights: its tokenizer, in whatever files, and what its tokens are for.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    with explained(to):
        Path(to).mkdir(parents=True, exist_ok=True)
        for name in BESIDE:
            if (Path(folder) / name).is_file():
                shutil.copyfile(Path(folder) / name, Path(to) / name)


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


@dataclass(frozen=True, slots=True)
class _Extent:
    """Where a tensor's bytes are."""

    file: IO[bytes]
    start: int
    spec: Spec


class StoredTensors:
    """The tensors of a model folder, each read when it is asked for.

    They are read, not mapped: of a mapped file all pages that were ever looked at would count as the process' memory.
    """

    def __init__(self, extents: dict[str, _Extent]) -> None:
        self._extents = extents

    @property
    def names(self) -> list[str]:
        return list(self._extents)

    def spec(self, name: str) -> Spec:
        """Shape and dtype."""
        return self._extents[name].spec

    def shape(self, name: str) -> tuple[int, ...]:
        return self._extents[name].spec.shape

    def tensor(self, name: str) -> "Tensor":
        """The tensor, in memory of its own.

        Raises:
            CheckpointError: the file was cut off since it was opened.
        """
        import torch

        spec = self._extents[name].spec
        return self.read(name, torch.empty(spec.shape, dtype=spec.dtype))

    def read(self, name: str, tensor: "Tensor") -> "Tensor":
        """Fill a contiguous tensor of the same shape and dtype; it is returned.

        Raises:
            CheckpointError: as `tensor`.
        """
        import torch

        extent = self._extents[name]
        spec = extent.spec
        if not spec.nbytes:
            return tensor
        bytes_of: Any = tensor.view(-1).view(torch.uint8).numpy()
        buffer = memoryview(bytes_of)
        extent.file.seek(extent.start)
        done = 0
        while done < spec.nbytes:  # a read may end early: Linux gives 2 GiB at most
            read = extent.file.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not read:
                raise CheckpointError(f"{extent.file.name} ends inside {name}: truncated since it was opened")
            done += read
        return tensor


@contextmanager
def open_tensors(folder: StrPath) -> Iterator[StoredTensors]:
    """Give the tensors of a model folder, of one file or of several.

    Raises:
        CheckpointError: a file is missing, truncated or not what its name says.
    """
    with ExitStack() as stack:
        extents: dict[str, _Extent] = {}
        for path in weight_files(folder):
            extents.update(_extents(path, stack))
        yield StoredTensors(extents)


@contextmanager
def open_file(path: Path) -> Iterator[StoredTensors]:
    """Give the tensors of one safetensors file.

    Raises:
        CheckpointError: it is missing, truncated or not what its name says.
    """
    with ExitStack() as stack:
        yield StoredTensors(_extents(existing(path), stack))


def _extents(path: Path, stack: ExitStack) -> dict[str, _Extent]:
    """Where the tensors of a file are; its header is checked by safetensors' own reader.

    Raises:
        CheckpointError: the file is damaged, or has a dtype that models are not made of.
    """
    import torch

    names = list(_opened(path, stack).keys())
    file = stack.enter_context(path.open("rb", buffering=0))
    length = int.from_bytes(file.read(8), "little")
    header, found = json.loads(file.read(length)), {}
    for name in names:
        entry = header[name]
        kind = DTYPES.get(entry["dtype"])
        if kind is None:
            raise CheckpointError(f"{path}: {name} is {entry['dtype']}; rlx reads {', '.join(DTYPES)}")
        spec = Spec(name, tuple(entry["shape"]), getattr(torch, kind))
        found[name] = _Extent(file, 8 + length + entry["data_offsets"][0], spec)
    return found


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


def stream_file(path: Path, specs: Sequence[Spec], tensors: "Iterator[Tensor]") -> str:
    """Write one safetensors file, taking as many tensors as there are specs; returns its SHA-256.

    Raises:
        ValueError: a tensor is not what its spec says.
        RunError: the disk is full or cannot be written.
    """
    import torch

    names = {getattr(torch, kind): name for name, kind in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": names[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [end, end + spec.nbytes],
        }
        end += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8, as the format has it
    digest = hashlib.sha256()
    with explained(path), open(path, "wb", buffering=0) as file, ThreadPoolExecutor(max_workers=1) as beside:

        def write(data: Any) -> None:
            summed = beside.submit(digest.update, data)
            _write_all(file, data)
            summed.result()

        write(len(text).to_bytes(8, "little") + text)
        for spec in specs:
            tensor = next(tensors)
            if (tuple(tensor.shape), tensor.dtype) != (spec.shape, spec.dtype):
                raise ValueError(
                    f"{spec.name} is {tuple(tensor.shape)} {tensor.dtype}, expected {spec.shape} {spec.dtype}"
                )
            if spec.nbytes:
                write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
            del tensor
    return digest.hexdigest()


def _write_all(file: Any, data: Any) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


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
