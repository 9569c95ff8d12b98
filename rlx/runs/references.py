"""What may stand after `init_from=`, and the folder it means.

`<run>` (its last checkpoint), `<run>@<step>`, `<run>@last`, `<run>@best`, a checkpoint or model folder itself,
`hf:<folder or hub id>` (with `@<revision>` if wished), `random`.

1. `<run>/checkpoints/step-000100` is read as `<run>@100`: the two are one reference.
2. `@last`, `@best` and a plain run are settled only when the run is finished; a named step may be used before.
3. A hub id is looked up in the local cache only; nothing is downloaded here.
"""

import difflib
import os
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rlx.errors import CheckpointError
from rlx.runs.checkpoints import best_step, checkpoint_path, list_checkpoints, step_of
from rlx.runs.files import BEST, CHECKPOINTS, CONFIG, EVAL, MODEL_CONFIG, StrPath
from rlx.runs.model_directory import is_model_directory
from rlx.runs.status import State, state_of

_PASTEABLE = re.compile(r"[A-Za-z0-9_/.:@%+-]+")
"""What neither Hydra's grammar nor a shell gives a meaning to."""


class Kind(Enum):
    """The three sorts of reference."""

    run = "run"
    """A run directory, or a checkpoint or model folder."""
    hf = "hf"
    random = "random"


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference; nothing on the disk has been looked at."""

    kind: Kind
    text: str
    """As written."""
    run: str = ""
    """The folder before `@`, or what follows `hf:`."""
    at: int | str | None = None
    """A step, "last", "best", or None where the text names no checkpoint (a run then means its last)."""

    @property
    def step(self) -> int | None:
        """The step, where one is named."""
        return self.at if isinstance(self.at, int) else None


def parse_reference(text: str) -> Reference:
    """Read what stands after `init_from=`.

    Raises:
        CheckpointError: nothing there, or something else than a step, last or best after `@`.
    """
    text = text.strip()
    if text == "random":
        return Reference(Kind.random, text)
    if text.startswith("hf:"):
        return Reference(Kind.hf, text, _named(text, text[3:]))
    folder, mark, point = text.rpartition("@")
    if not mark or "/" in point:  # an @ further up is part of a folder's name
        return _of_folder(text)
    return Reference(Kind.run, text, _named(text, folder.rstrip("/")), _point(text, point))


def resolve(reference: Reference) -> Path:
    """The model folder that a reference means.

    Raises:
        CheckpointError: it is not there, is not a model, or its run is not finished; the line says what to name.
    """
    if reference.kind is Kind.random:
        raise CheckpointError("random means fresh weights; a run, checkpoint or hf: folder is needed here")
    if reference.kind is Kind.hf:
        return _resolve_hf(reference)
    folder = Path(reference.run).expanduser()
    if reference.at is None and is_model_directory(folder):
        return folder
    if reference.step is not None and is_model_directory(checkpoint_path(folder, reference.step)):
        return checkpoint_path(folder, reference.step)
    _check_is_run(folder, reference)
    if reference.step is not None:
        raise CheckpointError(f"{reference.run} has no whole checkpoint at step {reference.step}; {_steps(reference)}")
    state = state_of(folder)
    if state is not State.finished:
        advice = f"wait for its end or name a step; {_steps(reference)}"
        raise CheckpointError(f"{reference.run} is {_told(state)}: {advice}")
    return _best(folder, reference) if reference.at == "best" else _last(folder, reference)


def format_reference(run: StrPath, at: int | str | None = None) -> str:
    """The text to print for a run's checkpoint: relative to the current folder when below it, so that it pastes."""
    path = os.path.abspath(run)
    here = os.path.relpath(path)
    return (path if here.startswith("..") else here) + ("" if at is None else f"@{at}")


def is_pasteable(text: str) -> bool:
    """True when a path or reference can stand after `init_from=` unquoted, in a shell and for Hydra."""
    return _PASTEABLE.fullmatch(text) is not None


def _of_folder(text: str) -> Reference:
    path = text.rstrip("/") or text
    parent, name = os.path.split(path)
    step = step_of(name)
    if step is not None and os.path.basename(parent) == CHECKPOINTS:
        return Reference(Kind.run, text, os.path.dirname(parent) or ".", step)
    return Reference(Kind.run, text, _named(text, path))


def _named(text: str, folder: str) -> str:
    if not folder:
        raise CheckpointError(f"init_from={text} names no folder; expected <run>, <run>@<step>, hf:<folder> or random")
    return folder


def _point(text: str, point: str) -> int | str:
    match = re.fullmatch(r"(?:step-)?([0-9]+)", point)
    if match:
        return int(match[1])
    if point in ("last", "best"):
        return point
    near = difflib.get_close_matches(point, ["last", "best"], n=1)
    hint = f"; did you mean @{near[0]}?" if near else ""
    raise CheckpointError(f"init_from={text}: expected @<step>, @last or @best, got @{point}{hint}")


def _check_is_run(folder: Path, reference: Reference) -> None:
    """Raise the CheckpointError of a folder that is not a run."""
    if folder.is_file():
        raise CheckpointError(f"{reference.run} is a file; expected a run directory or a model folder")
    if not folder.is_dir():
        raise CheckpointError(f"{reference.run} is not there; {_nearest(folder)}")
    if is_model_directory(folder):
        raise CheckpointError(f"{reference.run} is a model folder, not a run; leave out @{reference.at}")
    if not _is_run(folder):
        inside = [str(Path(reference.run) / path.name) for path in _folders(folder) if _is_run(path)]
        hint = f"runs in it: {_few(inside)}" if inside else _nearest(folder)
        raise CheckpointError(f"{reference.run} is not a run (no {CONFIG}) nor a model folder; {hint}")


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / CHECKPOINTS).is_dir()


def _last(folder: Path, reference: Reference) -> Path:
    there = list_checkpoints(folder, partial=True)
    if not there:
        evaluated = (folder / EVAL).is_file()
        advice = "name the run that it evaluated" if evaluated else "run it again with rerun=<label>"
        raise CheckpointError(f"{reference.run} is finished but has no checkpoint; {advice}")
    newest = there[-1][1]
    if not is_model_directory(newest):
        raise CheckpointError(f"{newest} lacks a file, and it is the last checkpoint; {_steps(reference)}")
    return newest


def _best(folder: Path, reference: Reference) -> Path:
    step = best_step(folder)
    if step is None:
        raise CheckpointError(f"{reference.run} has no {BEST}: it chose no best checkpoint; {_steps(reference)}")
    if not is_model_directory(checkpoint_path(folder, step)):
        raise CheckpointError(f"{folder / BEST} names step {step}, which is not there; {_steps(reference)}")
    return checkpoint_path(folder, step)


def _told(state: State) -> str:
    return "not started" if state is State.absent else f"{state.value}, not finished"


def _steps(reference: Reference) -> str:
    """What there is, as references to paste; the newest at the end of a long list."""
    steps = [step for step, _ in list_checkpoints(Path(reference.run).expanduser())]
    if not steps:
        return "it has no checkpoint yet"
    shown = ", ".join(map(str, steps if len(steps) <= 12 else [*steps[:6], "...", *steps[-5:]]))
    return f"there are steps {shown} (as in {reference.run}@{steps[-1]})"


def _nearest(folder: Path) -> str:
    """Names in the deepest folder that exists, nearest to the part of the path that does not."""
    missing = Path(os.path.abspath(folder))
    while not missing.parent.is_dir():
        missing = missing.parent
    rest = Path(os.path.abspath(folder)).relative_to(missing)
    beside = {path.name: path for path in _folders(missing.parent) if path != missing}
    near = [beside[name] for name in difflib.get_close_matches(missing.name, beside, n=3, cutoff=0.5)]
    whole = [path / rest for path in near if (path / rest).is_dir()] or near
    if not whole:
        return f"nothing in {format_reference(missing.parent)} has a name like {missing.name}"
    return f"nearest: {', '.join(format_reference(path) for path in whole)}"


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _resolve_hf(reference: Reference) -> Path:
    folder = Path(reference.run).expanduser()
    if folder.is_dir():
        if not (folder / MODEL_CONFIG).is_file():
            raise CheckpointError(f"{reference.text}: the folder has no {MODEL_CONFIG}; expected a saved model")
        return folder
    cached = _cached(reference.run)
    if cached is None:
        name = reference.run.partition("@")[0]
        raise CheckpointError(
            f"{reference.text} is no folder and not in the hub's cache; run `hf download {name}` or name a folder"
        )
    return cached


def _cached(name: str) -> Path | None:
    """The snapshot of a hub id in the local cache (its folder's name is the revision), or None."""
    name, _, revision = name.partition("@")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    model = cache / ("models--" + name.replace("/", "--"))
    named = model / "refs" / (revision or "main")
    snapshot = model / "snapshots" / (named.read_text().strip() if named.is_file() else revision or "main")
    return snapshot if (snapshot / MODEL_CONFIG).is_file() else None
