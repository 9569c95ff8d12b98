"""`SHA256SUMS` of a checkpoint: what its files held when they were written.

A disk that lost or turned a byte is found before anything is computed with it. The form is that of coreutils, so
`sha256sum -c SHA256SUMS` in the checkpoint's folder checks it too.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from rlx.errors import CheckpointError
from rlx.runs.files import CHECKSUMS, TRAINER_STATE, StrPath, explained

_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


def write_checksums(folder: StrPath, known: Mapping[str, str] | None = None) -> None:
    """Write the sums of all files that a folder has now.

    Args:
        known: by path in the folder, sums that were taken while files were written; these are not read again.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    with explained(folder):
        sums = {path.relative_to(folder).as_posix(): path for path in files}
        lines = [f"{(known or {}).get(name) or _sum(path)}  {name}\n" for name, path in sums.items()]
        (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_whole(folder: StrPath, *, trainer: bool = True) -> None:
    """Compare a folder with its sums; one without them passes. `trainer=False` looks at the model's files alone.

    Raises:
        CheckpointError: a file is missing or holds something else than was written.
    """
    folder = Path(folder)
    if not (folder / CHECKSUMS).is_file():
        return
    for name, expected in _read(folder / CHECKSUMS).items():
        path = folder / name
        if name == TRAINER_STATE and not trainer:
            continue
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if _sum(path) != expected:
            raise CheckpointError(f"{path} is not what was written ({CHECKSUMS}): truncated, damaged or edited")


def sums_of(folder: StrPath) -> dict[str, str]:
    """The sums that were written with a folder's files, by their names; {} where none were.

    Raises:
        CheckpointError: they are damaged.
    """
    path = Path(folder) / CHECKSUMS
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> dict[str, str]:
    try:
        lines = [_LINE.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read") from error
    sums = {match[2]: match[1] for match in lines if match}
    if not sums or len(sums) != len(lines):
        raise CheckpointError(f"{path} is damaged")
    return sums


def _sum(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
