"""Files of tensors: safetensors read and written tensor by tensor, and what is said of files that cannot be read."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rlx.errors import CheckpointError, RunError
from rlx.runs.files import MODEL_WEIGHTS, explained

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
def open_files(*paths: Path) -> Iterator[StoredTensors]:
    """Give the tensors of safetensors files.

    Raises:
        CheckpointError: one is missing, truncated or not what its name says.
    """
    with ExitStack() as stack:
        extents: dict[str, _Extent] = {}
        for path in paths:
            extents.update(_extents(existing(path), stack))
        yield StoredTensors(extents)


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


def save_tensors(path: Path, tensors: "dict[str, Tensor]", *, like: Path) -> None:
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


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """What to raise for a file that another library could not read, in one line."""
    return CheckpointError(f"{path} cannot be read (truncated or damaged?): {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
