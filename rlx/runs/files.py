"""File names of run and plan directories, and writing that is either whole or absent.

Everything is written under a temporary name `.tmp-<name>-<pid>` in the same folder, flushed to the disk, and renamed.
A process killed at any instant leaves the old content or the new one, and perhaps a temporary that `remove_stale`
takes away. One process writes a run directory at a time (`rlx.runs.lease`), and one thread a path.
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from rlx.errors import RunError
from rlx.runs.processes import is_alive

CONFIG = "config.yaml"
OVERRIDES = "overrides.txt"
RUN = "run.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
EVAL = "eval.json"
MERGE = "merge.json"
STATISTICS = "statistics"
EVAL_PARTIAL = "eval.partial.jsonl"
STATUS = "status"
LEASE = "lease.json"
BEST = "best.json"
MANIFEST = "manifest.jsonl"
PLAN = "plan.json"
SUBMISSIONS = "submissions"
JOBS = "jobs.json"
COLLECTED = "collected"
DRIVERS = "drivers"
TO_COME = "to_come.txt"
CLAIMS = "claims.json"
TABLE = "table.md"
REPORT = "report.html"
DIVERGED_STEP = "step.json"
DIVERGED_BATCH = "batch.pt"
DIVERGED_ROLLOUTS = "rollouts.jsonl"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"
MODEL_TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
GENERATION_CONFIG = "generation_config.json"
BESIDE = (
    MODEL_TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, GENERATION_CONFIG, "vocab.json", "vocab.txt", "merges.txt",
    "added_tokens.json", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""What others save beside a model's config and weights."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRAINER_STATE = "trainer/state.pt"
CHECKSUMS = "SHA256SUMS"

StrPath = str | os.PathLike[str]

_TEMPORARY = re.compile(r"\.tmp-.+-(\d+)")
_ATTEMPT = re.compile(r"attempt-(\d+)\..*")
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and give the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and give the same command again",
    errno.EIO: "the disk reports an error (EIO); look at its log, and give the same command again",
    errno.EFBIG: "the file grew past the size allowed here; raise `ulimit -f` and give the same command again",
    errno.EROFS: "the file system is read-only; choose another place with runs_dir=",
    errno.ENOTDIR: "a part of the path is a file; choose another place with runs_dir=",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one with runs_dir= or rerun=",
    errno.ENOENT: "the folder is gone or cannot be made; choose another place with runs_dir=",
    errno.EACCES: "permission denied; ask the folder's owner, or choose another place with runs_dir=",
    errno.EPERM: "permission denied; ask the folder's owner, or choose another place with runs_dir=",
}
_being_written: set[str] = set()


@contextmanager
def explained(path: StrPath) -> Iterator[None]:
    """Turn an OSError of the disk (full, quota, read-only, no permission) into a RunError of one line.

    The line names the error's own file, or `path` where the error has none. Other errors pass.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        raise RunError(f"cannot write {error.filename or os.fspath(path)}: {advice}") from error


def temporary_path(path: StrPath) -> Path:
    """The name beside `path` under which this process writes it."""
    path = Path(path)
    return path.with_name(f".tmp-{path.name}-{os.getpid()}")


def sync_file(path: StrPath) -> None:
    """Flush a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: StrPath) -> None:
    """Flush a folder's names to the disk; does nothing on file systems that cannot."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


def write_bytes(path: StrPath, data: bytes) -> None:
    """Write a file so that it has its old content or all of `data`, whatever happens.

    Raises:
        RunError: the disk is full or cannot be written; the old content is still there.
    """
    path, temporary = Path(path), temporary_path(path)
    with _listed(temporary), explained(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def write_text(path: StrPath, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: StrPath, obj: Any) -> None:
    """`write_bytes` of indented JSON; values are made plain by `plain`, so NaN is the text "nan"."""
    write_text(path, json.dumps(plain(obj), indent=2, allow_nan=False) + "\n")


def plain(value: Any, name: str = "") -> Any:
    """The value as JSON can hold it.

    JSON has no NaN and no infinities: they become the texts "nan", "inf" and "-inf", which `float()` reads back.
    Numbers of other libraries (numpy scalars, fractions) become int and float, tuples lists, and keys text.

    Raises:
        TypeError: anything else, naming the key where it was found.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{name or 'the value'} is a {type(value).__name__}; expected text, numbers, lists, dicts")


@contextmanager
def atomic_directory(target: StrPath, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes `target` when the block ends without an error.

    All files and folders are flushed to the disk before the rename. An existing `target` is never touched: what was
    written is then thrown away; with `replace` it makes room between one rename and the next. On an error the
    temporary folder is removed and the error goes on.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    target, temporary = Path(target), temporary_path(target)
    with _listed(temporary), explained(target):
        shutil.rmtree(temporary, ignore_errors=True)  # of an earlier process with this number
        temporary.mkdir()
        try:
            yield temporary
            _sync_tree(temporary)
            if replace and os.path.lexists(target):
                remove_directory(target, beside=target.with_name(f"{target.name}-replaced"), then=temporary)
                sync_folder(target.parent)
            elif not os.path.lexists(target):
                os.rename(temporary, target)
                sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_directory(path: StrPath, *, beside: StrPath | None = None, then: StrPath | None = None) -> None:
    """Delete a folder so that its name is whole until it is gone: renamed first, then deleted.

    `beside` is where it waits: a path on the same disk, in a folder that `remove_stale` looks into. `then` is a folder
    that takes the name before anything is deleted.

    Raises:
        RunError: the folder cannot be changed.
    """
    path, temporary = Path(path), temporary_path(beside or path)
    with _listed(temporary), explained(path):
        shutil.rmtree(temporary, ignore_errors=True)
        os.rename(path, temporary)
        if then is not None:
            try:
                os.rename(then, path)
            except OSError:
                os.rename(temporary, path)
                raise
        shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(folder: StrPath) -> list[Path]:
    """Delete the temporaries that dead processes of this host left in a run directory, and return their names.

    Looks into the folder itself, its checkpoints and its logs. The caller holds the lease, so a temporary with this
    process's own number that it is not writing now is an earlier process's (numbers repeat in containers).
    """
    folder = Path(folder)
    places = (folder, folder / CHECKPOINTS, folder / LOGS)
    stale = [path for place in places for path in sorted(place.glob(".tmp-*")) if _is_stale(path)]
    for path in stale:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    return stale


def attempt_log(run: StrPath, attempt: int, suffix: str = "log") -> Path:
    """`<run>/logs/attempt-<attempt>.<suffix>`."""
    return Path(run) / LOGS / f"attempt-{attempt}.{suffix}"


def next_attempt(run: StrPath) -> int:
    """One more than the highest attempt that left a log; 1 in a new run directory."""
    found = [_ATTEMPT.fullmatch(path.name) for path in (Path(run) / LOGS).glob("attempt-*")]
    return 1 + max((int(match[1]) for match in found if match), default=0)


@contextmanager
def _listed(temporary: Path) -> Iterator[None]:
    name = os.path.abspath(temporary)
    _being_written.add(name)
    try:
        yield
    finally:
        _being_written.discard(name)


def _is_stale(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or os.path.abspath(path) in _being_written:
        return False
    return int(match[1]) == os.getpid() or not is_alive(int(match[1]))


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(os.path.join(root, name))
        sync_folder(root)
