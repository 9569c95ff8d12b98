"""Documents on the disk: made once, read in place by every run that wants them.

A store is a folder in the cache (`RLX_CACHE`, else `~/.cache/rlx`), named by a hash of what its documents are made of.
It is written under another name and renamed when it is whole, so that a killed process leaves no half of one, and two
that make the same store do not meet. Its files are plain numbers, read through the page cache: `ids.u16` or `ids.u32`
(all tokens, document after document), `ends.npy` ([N + 1] int64, where documents begin and end), `given.npy` ([N]
int32), and `places.npy` ([tokens] int32) where the documents have coupled positions.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from rlx.data.documents import Document
from rlx.errors import RunError

CACHE = "RLX_CACHE"
"""Environment variable that names the cache's folder."""
FLUSH = 1 << 20
"""Tokens that are held in memory while a store is written."""


def cache_folder(kind: str) -> Path:
    """The folder of the cache for one kind of thing."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "rlx").expanduser() / kind


class Store:
    """Documents by number, [N].

    Raises:
        RunError: the folder is no store, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        try:
            (path,) = folder.glob("ids.u*")
            kind = np.dtype(path.suffix[1:].replace("u", "uint"))
            self._ends = np.load(folder / "ends.npy")
            self._given = np.load(folder / "given.npy")
            places = folder / "places.npy"
            self._places = np.load(places, mmap_mode="r").view(np.ndarray) if places.is_file() else None
            size = path.stat().st_size // kind.itemsize
            self._ids = np.memmap(path, dtype=kind, mode="r").view(np.ndarray) if size else np.zeros(0, kind)
        except (OSError, ValueError) as error:
            raise RunError(f"{folder} is damaged ({error}); remove it, and it is made again") from error
        if len(self._given) + 1 != len(self._ends) or self._ends[-1] != len(self._ids):
            raise RunError(f"{folder} is damaged: it is shorter than it says; remove it, and it is made again")

    def __len__(self) -> int:
        return len(self._given)

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return len(self._ids)

    def __getitem__(self, number: int) -> Document:
        start, end = self._ends[number], self._ends[number + 1]
        places = None if self._places is None else tuple(self._places[start:end].tolist())
        return Document(self._ids[start:end].tolist(), int(self._given[number]), places)


def stored(folder: Path, documents: Iterable[Document], *, vocab_size: int) -> Store:
    """The store at `folder`; where it is not there yet it is made of `documents`, which are read only then.

    Args:
        vocab_size: one more than the largest id, which decides how many bytes a token takes.
    """
    if folder.is_dir():
        return Store(folder)
    half = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        half = folder.with_name(f".{folder.name}.{uuid4().hex}")
        half.mkdir()
        _write(half, documents, f"u{8 * token_bytes(vocab_size)}")
        try:
            half.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same documents
                raise
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}; set {CACHE} to a folder with room") from error
    finally:
        if half is not None:
            shutil.rmtree(half, ignore_errors=True)
    return Store(folder)


def token_bytes(vocab_size: int) -> int:
    """Bytes of a token in a store."""
    return 2 if vocab_size <= 1 << 16 else 4


def _write(folder: Path, documents: Iterable[Document], kind: str) -> None:
    ids: list[int] = []
    ends, given, places = [0], [], []
    with open(folder / f"ids.{kind}", "wb") as file:

        def flush() -> None:
            np.array(ids, dtype=kind.replace("u", "uint")).tofile(file)
            ids.clear()

        for document in documents:
            ids += document.ids
            ends.append(ends[-1] + len(document.ids))
            given.append(document.given)
            places += document.places or ()
            if len(ids) >= FLUSH:
                flush()
        flush()
        file.flush()
        os.fsync(file.fileno())
    if places and len(places) != ends[-1]:
        raise ValueError("some documents have coupled positions and some have none")
    _save(folder / "ends.npy", np.array(ends, dtype=np.int64))
    _save(folder / "given.npy", np.array(given, dtype=np.int32))
    if places:
        _save(folder / "places.npy", np.array(places, dtype=np.int32))


def _save(path: Path, values: NDArray[np.int32] | NDArray[np.int64]) -> None:
    with open(path, "wb") as file:
        np.save(file, values)
        file.flush()
        os.fsync(file.fileno())
