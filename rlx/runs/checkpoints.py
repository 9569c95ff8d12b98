"""Checkpoints: model directories named `checkpoints/step-000100`, and which of them to keep.

A checkpoint adds `trainer/state.pt` to a model directory. It is read with `weights_only=True`; what that would refuse
is refused when it is saved, by name, and not after a long run.
"""

import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.errors import CheckpointError, ConfigError
from rlx.runs.checksums import check_whole, write_checksums
from rlx.runs.files import (
    BEST,
    CHECKPOINTS,
    TRAINER_STATE,
    StrPath,
    atomic_directory,
    attempt_log,
    explained,
    remove_directory,
    sync_folder,
    write_json,
)
from rlx.runs.model_directory import is_model_directory, read_object
from rlx.runs.tensor_files import existing, unreadable

_NAME = re.compile(r"step-(\d{6,})")
_KEEP = "expected last:<n>, log:<n>, all, or two joined as last:1+log:15"


def checkpoint_name(step: int) -> str:
    """`step-000100`: six digits, more when needed."""
    return f"step-{step:06d}"


def checkpoint_path(run: StrPath, step: int) -> Path:
    """Where the checkpoint of a step lies, there or not."""
    return Path(run) / CHECKPOINTS / checkpoint_name(step)


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder name; None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match and checkpoint_name(int(match[1])) == name else None


def list_checkpoints(run: StrPath, *, partial: bool = False) -> list[tuple[int, Path]]:
    """Steps and folders of a run's checkpoints, oldest first; of those that lack a file only with `partial`."""
    folder = Path(run) / CHECKPOINTS
    names = os.listdir(folder) if folder.is_dir() else []
    steps = sorted(step for step in map(step_of, names) if step is not None)
    found = [(step, checkpoint_path(run, step)) for step in steps]
    return [(step, path) for step, path in found if partial or is_model_directory(path)]


def nearest_whole(run: StrPath, step: int, *, trainer: bool) -> int | None:
    """The step nearest to `step` whose checkpoint is what was written (`check_whole`), or None."""
    for other, folder in sorted(list_checkpoints(run), key=lambda found: (abs(found[0] - step), found[0])):
        try:
            check_whole(folder, trainer=trainer)
        except CheckpointError:
            continue
        if not trainer or (folder / TRAINER_STATE).is_file():
            return other
    return None


@contextmanager
def new_checkpoint(
    run: StrPath, step: int, *, replace: bool = False, sums: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes the checkpoint of a step, with the sums of its files.

    A whole one that is there stays, unless it is to be replaced; an incomplete one (a partial copy) is removed.

    Args:
        sums: as `write_checksums` takes them, looked at when the folder is full.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    target = checkpoint_path(run, step)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not is_model_directory(target):
        remove_directory(target)
    with atomic_directory(target, replace=replace) as folder:
        yield folder
        write_checksums(folder, sums)


def set_aside(run: StrPath, step: int, attempt: int) -> Path:
    """Move a checkpoint that cannot be used to `logs/attempt-<attempt>.dropped-step-000100`; returns that place.

    Raises:
        RunError: a folder cannot be changed.
    """
    path = checkpoint_path(run, step)
    kept = attempt_log(run, attempt, f"dropped-{path.name}")
    with explained(path):
        os.rename(path, kept)
        sync_folder(kept.parent)
        sync_folder(path.parent)
    return kept


@dataclass(frozen=True, slots=True)
class Keep:
    """Which checkpoints stay: the union of the newest `last` and of the `log` planned ones; or all."""

    last: int = 0
    log: int = 0
    all: bool = False

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Read `last:2`, `log:15`, `all`, or a combination `last:1,log:15`.

        `+` does for the comma, which Hydra takes for a sweep unless it is quoted.

        Raises:
            ConfigError: anything else.
        """
        found: dict[str, int] = {}
        for part in re.split(r"[,+]", text.replace(" ", "")):
            match = re.fullmatch(r"(last|log):(\d+)|(all)", part)
            name = match[1] or match[3] if match else ""
            if match is None or name in found or match[2] == "0":
                raise ConfigError(f"checkpoint.keep={text} is not understood at {part!r}; {_KEEP}")
            found[name] = int(match[2] or 1)
        return cls(found.get("last", 0), found.get("log", 0), "all" in found)

    def planned(self, total: int) -> set[int]:
        """Steps known before the run to be kept for good; `total` is the run's length in steps."""
        return set(log_steps(total, self.log))


def log_steps(total: int, n: int) -> list[int]:
    """`n` steps from 1 to `total`, evenly spaced in their logarithm: a pure function of its arguments.

    Early steps that would fall together move up by one, so there are always min(n, total), `total` among them.
    """
    n = min(n, total)
    if n <= 1:
        return [total] * n
    steps = [1]
    for i in range(1, n - 1):
        steps.append(max(steps[-1] + 1, round(math.exp(math.log(total) * i / (n - 1)))))
    return [*steps, total]


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """Which steps of a run make a checkpoint, and which of them stay."""

    every: int
    """Steps between checkpoints."""
    keep: Keep
    planned: frozenset[int]
    """Log-spaced steps, which stay for good."""

    @classmethod
    def of(cls, every: int, keep: str, total: int, *, first: int = 0) -> "CheckpointPlan":
        """The plan of a run of `total` steps, of which another run has made the `first`."""
        parsed = Keep.parse(keep)
        return cls(every, parsed, frozenset(first + step for step in parsed.planned(total - first)))

    def makes(self, step: int) -> bool:
        """True when the plan makes a checkpoint at this step."""
        return step > 0 and (step % self.every == 0 or step in self.planned)


def prune(run: StrPath, plan: CheckpointPlan, *, ended: bool = False) -> list[int]:
    """Delete what a run need not keep on its way and return the steps; `ended`: the newest is the run's last.

    Of the checkpoints that the plan makes, `keep` says which stay. The others come from stops and from measurements
    that were the best of their time: of them only the newest stays, as long as nothing newer is there, and the one that
    best.json names. So what is left at the end of a run does not depend on where it was stopped.

    Raises:
        RunError: a folder cannot be changed.
    """
    steps = [step for step, _ in list_checkpoints(run)]
    made = [step for step in steps if plan.makes(step) or (ended and step == steps[-1])]
    first = 0 if plan.keep.all else max(0, len(made) - plan.keep.last)
    staying = {*plan.planned, best_step(run), *steps[-1:], *made[first:]}
    gone = [step for step in steps if step not in staying]
    for step in gone:
        remove_directory(checkpoint_path(run, step))
    return gone


def write_best(run: StrPath, best: dict[str, Any] | None) -> None:
    """Name the checkpoint that `@best` means, {"step", "metric", "value"}; None: none so far.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    path = Path(run) / BEST
    if best is None:
        with explained(path):
            path.unlink(missing_ok=True)
    else:
        write_json(path, best)


def best_step(run: StrPath) -> int | None:
    """The step that `best.json` names; None without the file.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(run) / BEST
    if not path.is_file():
        return None
    step = read_object(path).get("step")
    if not isinstance(step, int):
        raise CheckpointError(f'{path} names no step; expected {{"step": 100, "metric": ..., "value": ...}}')
    return step


def save_trainer_state(folder: StrPath, state: dict[str, Any]) -> None:
    """Write `trainer/state.pt` into a checkpoint's folder.

    Raises:
        TypeError: something other than tensors, dict, list, tuple, set, OrderedDict, numbers, text, bytes and None;
            the message has the path of keys to it. Subclasses (numpy scalars, enums, defaultdict) count as other.
        RunError: the disk is full or cannot be written.
    """
    import torch

    for where, value in _refused(state, "state", (torch.Tensor, torch.nn.Parameter)):
        raise TypeError(f"{where} is a {type(value).__name__}, which weights_only loading refuses; store plain values")
    path = Path(folder) / TRAINER_STATE
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:  # torch's archive writer fails while the disk's own error goes up through it
            raise _disk_error(error) or error from error


def load_trainer_state(folder: StrPath) -> dict[str, Any]:
    """The state saved in a checkpoint's folder, its tensors on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated, or holds what `weights_only=True` refuses.
    """
    import torch

    path = existing(Path(folder) / TRAINER_STATE)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own text is long, and tells how to load it unsafely
        raise CheckpointError(f"{path} cannot be read: damaged, or it holds more than plain values") from error
    except Exception as error:  # damaged bytes lead torch's unpickler to any error at all
        raise unreadable(path, error) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}; expected the dict of a trainer's state")
    return state


def _refused(value: Any, where: str, tensor_types: tuple[type, ...]) -> Iterator[tuple[str, Any]]:
    """Names and values inside `value` that weights_only loading would refuse; types are compared exactly."""
    kind = type(value)
    if value is None or kind in (int, float, bool, str, bytes) or kind in tensor_types:
        return
    if kind in (dict, OrderedDict):
        for key, item in value.items():
            yield from _refused(key, f"{where}: key {key!r}", ())
            yield from _refused(item, f"{where}[{key!r}]", tensor_types)
    elif kind in (list, tuple, set):
        for i, item in enumerate(value):
            yield from _refused(item, f"{where}[{i}]", tensor_types)
    else:
        yield where, value


def _disk_error(error: BaseException) -> OSError | None:
    """The OSError on the way to an error, if there was one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen
