"""Checkpoints: model directories named `checkpoints/step-000100`, which to keep, and reading them without executing.

A model directory is `config.json`, `model.safetensors` and perhaps `tokenizer.json`; a checkpoint adds
`trainer/state.pt`. In folders that others saved the weights may be in several files with an index, and what the
tokenizer's tokens are for is in files of its own. Nothing is ever loaded that could execute code: weights are
safetensors, and state.pt is read with `weights_only=True`. What that would refuse is refused when it is saved, by name,
and not after a long run.
"""

import json
import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.errors import CheckpointError, ConfigError, RunError
from rlx.runs.checksums import check_whole, write_checksums
from rlx.runs.files import (
    BEST,
    CHECKPOINTS,
    GENERATION_CONFIG,
    MODEL_CONFIG,
    MODEL_INDEX,
    MODEL_TOKENIZER,
    MODEL_WEIGHTS,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    TRAINER_STATE,
    StrPath,
    atomic_directory,
    attempt_log,
    explained,
    remove_directory,
    sync_folder,
    write_json,
)

if TYPE_CHECKING:
    from torch import Tensor

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


def is_model_directory(folder: StrPath) -> bool:
    """True when a folder has a model's config and weights (in one file, or the index of several)."""
    folder = Path(folder)
    return (folder / MODEL_CONFIG).is_file() and any((folder / n).is_file() for n in (MODEL_WEIGHTS, MODEL_INDEX))


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
def new_checkpoint(run: StrPath, step: int, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes the checkpoint of a step, with the sums of its files.

    A whole one that is there stays, unless it is to be replaced; an incomplete one (a partial copy) is removed.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    target = checkpoint_path(run, step)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not is_model_directory(target):
        remove_directory(target)
    with atomic_directory(target) as folder:
        yield folder
        write_checksums(folder)
        if replace and target.is_dir():
            remove_directory(target, beside=target.with_name(f"{target.name}-replaced"))


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
    step = _read_json(path).get("step")
    if not isinstance(step, int):
        raise CheckpointError(f'{path} names no step; expected {{"step": 100, "metric": ..., "value": ...}}')
    return step


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
    _save_tensors(folder / MODEL_WEIGHTS, tensors)
    # safetensors lets the owner alone read what it writes; a group shares its models as it shares other files
    (folder / MODEL_WEIGHTS).chmod((folder / MODEL_CONFIG).stat().st_mode)


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
    _read_json(tokenizer)
    return tensors, config, tokenizer.read_text(encoding="utf-8")


def read_model_config(folder: StrPath) -> dict[str, Any]:
    """config.json of a model directory.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    return _read_json(Path(folder) / MODEL_CONFIG)


def read_token_settings(folder: StrPath) -> list[dict[str, Any]]:
    """What the files of a foreign folder say about its tokens, the tokenizer's own first; [] without any.

    Raises:
        CheckpointError: one of them is damaged.
    """
    names = (TOKENIZER_CONFIG, SPECIAL_TOKENS, GENERATION_CONFIG, MODEL_CONFIG)
    return [_read_json(Path(folder) / name) for name in names if (Path(folder) / name).is_file()]


def weight_files(folder: StrPath) -> list[Path]:
    """The files that hold a folder's tensors: model.safetensors, or those that its index names.

    Raises:
        CheckpointError: one is missing, or the index is damaged or names a file elsewhere.
    """
    folder = Path(folder)
    index = folder / MODEL_INDEX
    if (folder / MODEL_WEIGHTS).is_file() or not index.is_file():
        return [_existing(folder / MODEL_WEIGHTS)]
    named = _read_json(index).get("weight_map")
    names = sorted(set(named.values())) if isinstance(named, dict) and all(map(_is_plain, named.values())) else []
    if not names:
        raise CheckpointError(f'{index} has no usable weight_map; expected {{"<tensor>": "<file beside it>", ...}}')
    return [_existing(folder / name) for name in names]


def model_files(folder: StrPath) -> list[Path]:
    """All files that decide what a model folder is: config, weights, tokenizer, and what its tokens are for.

    Raises:
        CheckpointError: as `weight_files`.
    """
    folder, weights = Path(folder), weight_files(folder)
    several = [folder / MODEL_INDEX] if weights[0].name != MODEL_WEIGHTS else []
    settings = [folder / name for name in (MODEL_TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, GENERATION_CONFIG)]
    return [path for path in (folder / MODEL_CONFIG, *several, *weights, *settings) if path.is_file()]


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
    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        holders: dict[str, Any] = {}
        for path in weight_files(folder):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError, ValueError) as error:
                raise _unreadable(path, error) from error
            holders.update(dict.fromkeys(file.keys(), file))
        yield StoredTensors(holders)


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

    path = _existing(Path(folder) / TRAINER_STATE)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own text is long, and tells how to load it unsafely
        raise CheckpointError(f"{path} cannot be read: damaged, or it holds more than plain values") from error
    except Exception as error:  # damaged bytes lead torch's unpickler to any error at all
        raise _unreadable(path, error) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}; expected the dict of a trainer's state")
    return state


def _save_tensors(path: Path, tensors: "dict[str, Tensor]") -> None:
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


def _is_plain(name: Any) -> bool:
    """True for the name of a file in the same folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and os.path.basename(name) == name


def _disk_error(error: BaseException) -> OSError | None:
    """The OSError on the way to an error, if there was one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    if path.name == MODEL_WEIGHTS and any(path.parent.glob("*.bin")):
        raise CheckpointError(f"{path} is missing: pickled weights are not loaded; save the model as safetensors")
    raise CheckpointError(f"{path} is missing; expected a whole checkpoint or model folder")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(_existing(path).read_bytes())
    except (ValueError, OSError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(read, dict):
        raise CheckpointError(f"{path} holds a {type(read).__name__}; expected a JSON object")
    return read


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read (truncated or damaged?): {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
