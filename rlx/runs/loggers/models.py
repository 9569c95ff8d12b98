"""`logger.artifacts`: checkpoints of a run as W&B artifacts, each a model directory without the trainer's state.

1. An artifact is named after its run; its aliases are step-000100, and last and best where the checkpoint is that.
   Downloaded, it is a folder for `init_from=`.
2. A checkpoint is linked into `<run>/wandb/models` when it is seen and sent from there, so that it may be pruned while
   it waits. A link takes no space as long as the checkpoint stays. It goes when the server has the artifact; offline
   it stays for `wandb sync`. W&B would copy each file into the home folder instead.
3. `best` and `last` are known when the run ends, and sent then; a run that was asked to stop has not ended.
4. What the server has is listed in `<run>/wandb/models/uploaded.json`; later attempts do not send it again. What a kill
   left in doubt is sent again, and W&B makes no new version of what is its latest already.
5. A thread waits for each upload: wandb cancels an upload when a wait for it times out, so it cannot be polled.
"""

import json
import os
import re
import shutil
import threading
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from rlx.errors import CheckpointError, RlxError
from rlx.runs.checkpoints import best_step, checkpoint_name, checkpoint_path, list_checkpoints, step_of
from rlx.runs.files import MODEL_CONFIG, StrPath, atomic_directory, write_json
from rlx.runs.model_directory import is_model_directory, model_files, weight_files
from rlx.runs.references import format_reference

NAME_LENGTH = 128
"""Characters that the name of an artifact may have."""
ANSWER_S = 2.0
"""Seconds that the server has to confirm artifacts once the W&B run has ended, which waits for their files."""


class Artifacts(str, Enum):
    """Which checkpoints are sent."""

    none = "none"
    best = "best"
    last = "last"
    all = "all"


class Models:
    """The checkpoints of a run on their way to one W&B run."""

    def __init__(self, run: Path, folder: Path, which: Artifacts, *, online: bool) -> None:
        """
        Args:
            folder: of the run directory, for wandb's files.
        """
        self.run, self.which, self.online = run, which, online
        self.folder = folder / "models"
        self._list = self.folder / "uploaded.json"
        for left in self.folder.glob(".tmp-*"):  # by an attempt that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._uploaded = _read(self._list)
        self._linked: dict[int, tuple[int, int]] = {}
        """Weights of the checkpoints that were linked by this attempt: size and time."""
        self._seen: set[int] = set()
        """Steps that were there at the last look, so that by now best.json knows of them."""
        self._logged: set[int] = set()
        self._uploads: list[Upload] = []
        """What the server has not yet confirmed."""

    def send(self, out: Any, *, last: bool, ended: bool) -> None:
        """Log what is due to a wandb.Run; `last`: nothing comes after this, `ended`: nor in a later attempt.

        Raises:
            ValueError: the server did not take an artifact.
            RunError: the disk is full or cannot be written.
        """
        self.settle()
        for step in self._all(last) if self.which is Artifacts.all else self._one(ended):
            if step not in self._logged:
                self._logged.add(step)
                self._log(out, step)

    def settle(self, seconds: float = 0.0) -> None:
        """Note what the server has confirmed since the last look, or does so in some seconds.

        Raises:
            ValueError: it did not take an artifact.
        """
        end = time.monotonic() + seconds
        for upload in self._uploads:
            upload.join(max(0.0, end - time.monotonic()))
        done = [upload for upload in self._uploads if not upload.is_alive()]
        self._uploads = [upload for upload in self._uploads if upload not in done]
        for upload in done:
            if upload.error is None:
                self._uploaded.append(upload.key)
                write_json(self._list, self._uploaded)
                shutil.rmtree(self._link(upload.step), ignore_errors=True)
        for upload in done:
            if upload.error is not None:
                raise upload.error

    def _one(self, ended: bool) -> list[int]:
        """The best or the last step, at the end; the last does for the best where nothing was measured."""
        there = [step for step, _ in list_checkpoints(self.run)] if ended else []
        best = self._best() if self.which is Artifacts.best else None
        step = best if best in there else max(there, default=None)
        return [step] if step is not None and self._take(step) else []

    def _all(self, last: bool) -> list[int]:
        for step, _ in list_checkpoints(self.run):
            self._take(step)
        names = os.listdir(self.folder) if self.folder.is_dir() else []  # also what earlier attempts left
        there = sorted(step for step in map(step_of, names) if step is not None)
        due = [step for step in there if last or step in self._seen]
        self._seen = set(there)
        return due

    def _take(self, step: int) -> bool:
        """Link a checkpoint's model, once; False when it was pruned meanwhile."""
        source, target = checkpoint_path(self.run, step), self._link(step)
        try:
            stamp = _stamp(source)
            if self._linked.get(step) == stamp:
                return True
            if not target.is_dir() or _stamp(target) != stamp:
                self.folder.mkdir(parents=True, exist_ok=True)
                with atomic_directory(target, replace=True) as made:
                    for file in model_files(source):
                        _link(file, made / file.name)
        except (RlxError, OSError):
            if is_model_directory(source):
                raise
            return False
        self._linked[step] = stamp
        self._logged.discard(step)
        return True

    def _log(self, out: Any, step: int) -> None:
        import wandb

        name = checkpoint_name(step)
        steps = [other for other, _ in list_checkpoints(self.run)]
        aliases = [name]
        aliases += ["last"] if step == max(steps, default=step) else []
        aliases += ["best"] if step == self._best() else []
        metadata = {"step": step, "checkpoint": format_reference(self.run, step)}
        artifact = wandb.Artifact(artifact_name(self.run), type="model", metadata=metadata)
        for file in sorted(self._link(step).iterdir()):
            artifact.add_file(str(file.resolve()), name=file.name, policy="immutable", skip_cache=True)
        key = f"{name} {artifact.digest}"
        if self.online and key in self._uploaded:
            shutil.rmtree(self._link(step), ignore_errors=True)
            return
        out.log_artifact(artifact, aliases=aliases)
        if self.online:
            self._uploads.append(Upload(step, key, artifact))

    def _best(self) -> int | None:
        with suppress(CheckpointError):
            return best_step(self.run)
        return None

    def _link(self, step: int) -> Path:
        return self.folder / checkpoint_name(step)


class Upload(threading.Thread):
    """Waits until the server has an artifact."""

    def __init__(self, step: int, key: str, artifact: Any) -> None:
        super().__init__(name=f"rlx-wandb-{step}", daemon=True)
        self.step, self.key, self._artifact = step, key, artifact
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._artifact.wait()
        except Exception as error:
            self.error = error


def artifact_name(run: StrPath) -> str:
    """The run's name with only what W&B takes in the name of an artifact."""
    path = Path(run)
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{path.parent.name}-{path.name}")[-NAME_LENGTH:]


def _stamp(folder: Path) -> tuple[int, int]:
    """What differs between two writings of a model and not between a file and its link or copy."""
    if not (folder / MODEL_CONFIG).is_file():
        raise CheckpointError(f"{folder} is no model folder")
    found = weight_files(folder)[0].stat()
    return found.st_size, found.st_mtime_ns


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # a file system without hard links
        shutil.copy2(file, target)


def _read(path: Path) -> list[str]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []
