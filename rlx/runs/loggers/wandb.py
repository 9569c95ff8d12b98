"""`logger=wandb`: a Weights & Biases run that follows the files of the run directory.

It is a mirror, never the truth, and nothing of the run waits for it or depends on it.

1. All calls of wandb are made by one thread of their own (others wait for artifacts). It reads the rows of
   metrics.jsonl as they are written and sends each under its own step, so that W&B's axis is the run's.
2. A later attempt goes on in the same W&B run: its id is in run.json. Online, the rows that the server has are
   skipped; a resume makes those that it dropped again with the same bits, so what was sent stays right.
3. Offline, every attempt makes a folder of its own, and a kill loses the end of it. So each attempt sends all rows
   again, and marks the folders of earlier ones as synced once they are not needed: `wandb sync` uploads a row once.
4. A server that is not there, a missing key, a service that dies: one line on the screen, and on it goes offline. A
   server that is lost later delays the end of the run by `WAIT_S` at most (`STOP_WAIT_S` when it was asked to stop).
5. Reading starts with the first row of the attempt: before that, a resume may still cut the file.
6. W&B's own x axis stays the step. Every row has step, tokens, wall and flops/total, and any column can be chosen as
   the x axis of a panel, so nothing is declared with `define_metric`: `step_metric` would move the axis of all panels,
   and a summary of "min" turns the number of the last row, by which tables sort, into an object.
"""

import json
import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.errors import ConfigError, Stopped
from rlx.options import option, recorded
from rlx.runs.files import METRICS, SAMPLES
from rlx.runs.identity import RunName
from rlx.runs.loggers.base import LoggerConfig
from rlx.runs.loggers.models import ANSWER_S, Artifacts, Models
from rlx.runs.loggers.summary import facts
from rlx.runs.metrics import MetricsLog, with_numbers
from rlx.runs.status import State

if TYPE_CHECKING:
    from rlx.runs.run import Run

FOLDER = "wandb"
"""The folder of a run directory in which wandb puts its own."""
PERIOD_S = 5.0
"""Seconds between two looks at metrics.jsonl, and between two flushes of W&B's own file."""
FINISH_S = 20.0
"""Seconds that the server has to take what is left at the end; W&B keeps the rest on the disk."""
WAIT_S = 60.0
"""Seconds that a run's end waits for the mirror, whatever it is doing."""
STOP_WAIT_S = 10.0
"""The same for a run that was asked to stop: Slurm kills what takes longer than half a minute."""
STAGGER_S = 5.0
"""The first and the last task of a job array call the server up to so many seconds apart."""
TABLE_ROWS = 10_000
"""Rows of the table of samples; W&B shows no more."""


class Mode(str, Enum):
    """Whether W&B's server is called, or W&B at all."""

    online = "online"
    offline = "offline"
    off = "off"


@option("logger", "wandb")
@dataclass(kw_only=True, slots=True)
class WandbConfig(LoggerConfig):
    """Weights & Biases. WANDB_MODE=offline or disabled in the environment has the last word."""

    mode: Mode = recorded(Mode.online)  # noqa: RUF009 (it is dataclasses.field)
    """online; offline: written to <run>/wandb, uploaded later by `wandb sync`; or off, which is logger=local (in a YAML
    file "off", in quotes)."""
    project: str | None = recorded(None)
    """W&B project; null: WANDB_PROJECT, else rlx."""
    entity: str | None = recorded(None)
    """W&B user or team; null: WANDB_ENTITY, else the account's own."""
    tags: list[str] = recorded([])  # noqa: RUF009
    """Tags besides the names of task, model, stage, algorithm, merge, scale and experiment."""
    group: str | None = recorded(None)
    """W&B group; null: the name of the run's folder without its seed, so that the seeds of a config share one."""
    job_type: str | None = recorded(None)
    """W&B job type; null: the stage."""
    notes: str | None = recorded(None)
    """Text beside the run in W&B."""
    artifacts: Artifacts = recorded(Artifacts.none)  # noqa: RUF009
    """Checkpoints sent as artifacts: none, best or last (at the end), or all (models pruned later stay in <run>/wandb
    until they are uploaded)."""
    init_timeout: float = recorded(20.0)
    """Seconds that the server has to answer at the start; after them the run goes on offline."""

    def __post_init__(self) -> None:
        if not 0 < self.init_timeout < math.inf:
            raise ConfigError(f"logger.init_timeout={self.init_timeout:g} must be above 0 s, and finite")

    def mirror(self, run: "Run") -> AbstractContextManager[None]:
        asked = os.environ.get("WANDB_MODE", "").lower()
        if asked == "disabled" or self.mode is Mode.off:
            return nullcontext()
        return mirrored(run, self, Mode.offline if asked in ("offline", "dryrun") else self.mode)


@contextmanager
def mirrored(run: "Run", config: WandbConfig, mode: Mode) -> Iterator[None]:
    """Follow a run's files while the block works; how the block ends is how the W&B run ends."""
    mirror = Mirror(run, config, mode)
    ending: BaseException | None = None
    try:
        yield
    except BaseException as error:
        ending = error
        raise
    finally:
        mirror.close(ending)


class Mirror:
    """The thread that feeds one W&B run, started at once."""

    def __init__(self, run: "Run", config: WandbConfig, mode: Mode) -> None:
        self.run, self.config = run, config
        self.folder = run.path / FOLDER
        self.id = _identify(run)
        self.out: Any = None
        """The wandb.Run, while there is one."""
        self._offset = 0
        """Bytes of metrics.jsonl that were read."""
        self._known = 0
        """Rows below this step are on the server."""
        self._last: int | None = None
        """Step of the newest row that was sent."""
        self._sampled: float = 0
        """Size of samples.jsonl in bytes when its table was sent."""
        self._models: Models | None = None
        """The artifacts of this W&B run, until one fails."""
        self._code: int = 0
        self._end = threading.Event()
        self._abandoned = threading.Event()
        modes = [Mode.online, Mode.offline] if mode is Mode.online else [Mode.offline]
        self._thread = threading.Thread(target=self._work, args=(modes,), name="rlx-wandb", daemon=True)
        try:
            import wandb  # noqa: F401 (here, since two threads that import at once can meet half a module)
        except Exception as error:
            self._warn(f"{_first_line(error)}; the run goes on without it")
        else:
            self._thread.start()

    def close(self, ending: BaseException | None) -> None:
        """Send what is left, end the W&B run with the exit code of `ending`, and return in bounded time."""
        self._code = 0 if ending is None else getattr(ending, "exit_code", 1)
        if isinstance(ending, KeyboardInterrupt) or not self.run.lease.is_ours():  # another process's run by now
            self._abandon()
            return
        self._end.set()
        if not self._thread.ident:
            return
        try:
            self._thread.join(STOP_WAIT_S if isinstance(ending, Stopped) else WAIT_S)
        except KeyboardInterrupt:
            self._abandon()
            raise
        if self._thread.is_alive():
            self._abandon()
            self._warn(f"took too long to end; upload the rest with: {self._upload()}")

    def _work(self, modes: list[Mode]) -> None:
        self._end.wait(_stagger())
        for mode in modes:
            try:
                self._follow(mode)
                return
            except BaseException as error:  # wandb's teardown raises SystemExit
                if self._abandoned.is_set():
                    return
                instead = "the run goes on without it"
                if mode is not modes[-1]:
                    instead = f"going on offline, upload with: wandb sync {self.folder}/offline-run-*"
                self._warn(f"{_first_line(error)}; {instead}")
            finally:
                self._leave()

    def _follow(self, mode: Mode) -> None:
        """Start a W&B run, send rows until the end, and finish it."""
        self._start(mode)
        complete_since, marked = math.inf, mode is Mode.online
        while not self._end.wait(PERIOD_S):
            if not self.run.metrics.appended:
                continue
            self._send()
            complete_since = min(complete_since, time.monotonic())
            if not marked and time.monotonic() - complete_since > 2 * PERIOD_S:  # it is on the disk by now
                self._mark_earlier()
                marked = True
        self._check()
        self._send(last=True)
        if self._last is not None:
            self.out.log({}, commit=True)  # else the last row, which wandb holds open, would undo the summary
        self.out.summary.update(facts(self.run.path))
        if self._code == Stopped.exit_code:
            self.out.mark_preempting()
        try:
            self.out.finish(exit_code=self._code)
            self._settle_models()
            self._mark_earlier()
        except TimeoutError:
            self._warn(f"the server took not everything in {FINISH_S:.0f} s; upload the rest with: {self._upload()}")

    def _check(self) -> None:
        if self._abandoned.is_set():
            raise RuntimeError("the run ended without waiting for its mirror")

    def _start(self, mode: Mode) -> None:
        import wandb

        self._check()
        os.environ.pop("WANDB_SERVICE", None)  # that of the process that started this one, perhaps gone
        self._offset = self._known = self._sampled = 0
        self.out = self._last = None
        self._models = None
        if self.config.artifacts is not Artifacts.none:
            self._models = Models(self.run.path, self.folder, self.config.artifacts, online=mode is Mode.online)
        settings = _settings(self.config.init_timeout)
        exits = sys.exit, sys.excepthook
        try:
            wandb.setup(settings=settings)  # silent from here on: without a key it raises, and does not ask for one
        finally:
            sys.exit, sys.excepthook = exits  # wandb hooks them to learn the exit code, which it is told
        self._check()
        record, name = self.run.record, RunName.of(self.run.path)
        self.out = wandb.init(
            id=self.id,
            mode="online" if mode is Mode.online else "offline",
            resume="allow" if mode is Mode.online else None,
            project=self.config.project or os.environ.get("WANDB_PROJECT") or "rlx",
            entity=self.config.entity,
            name=f"{self.run.path.parent.name}-{self.run.path.name}",
            group=self.config.group or self.run.path.parent.name,
            job_type=self.config.job_type or (name.stage if name else None),
            notes=self.config.notes,
            tags=_tags(record.get("options", {}), self.config.tags),
            config={**self.run.config, **{key: record.get(key) for key in ("run", "options", "git")}},
            allow_val_change=True,
            dir=str(self.run.path.resolve()),
            reinit="create_new",
            save_code=False,
            settings=settings,
        )
        self.out.summary["state"] = State.running.value
        if mode is Mode.online:
            self._known = self.out.starting_step
            record["wandb"] = {"id": self.id, "url": self.out.url}
            self.run.say(f"  W&B: {self.out.url}")

    def _send(self, *, last: bool = False) -> None:
        """Send new rows and checkpoints, and the table of samples when it has doubled or this is the `last` time."""
        with open(self.run.path / METRICS, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                row = json.loads(line)
                if row["step"] >= self._known:
                    self._last = row["step"]
                    self.out.log(with_numbers(row), step=self._last)
        path = self.run.path / SAMPLES
        size = path.stat().st_size
        if size > self._sampled and (last or size >= 2 * self._sampled):
            self._sampled = size
            try:
                self._send_samples(MetricsLog.read(path))
            except Exception as error:  # a server may take rows and no tables
                self._sampled = math.inf
                self._warn(f"{_first_line(error)}; the rows go on without the table of samples")
        self._send_models(last)

    def _send_samples(self, samples: list[dict[str, Any]]) -> None:
        """One table of the samples of all steps, as a part of the newest row."""
        import wandb

        if not samples:
            return
        samples = _arranged(samples)
        columns: list[Any] = list(dict.fromkeys(key for sample in samples for key in sample))
        data: list[Any] = [[sample.get(column) for column in columns] for sample in samples]
        table = wandb.Table(columns=columns, data=data, allow_mixed_types=True)
        if self._last is None:
            self.out.summary["samples"] = table
        else:
            self.out.log({"samples": table}, step=self._last)

    def _send_models(self, last: bool) -> None:
        if self._models is None:
            return
        try:
            self._models.send(self.out, last=last, ended=last and self._code != Stopped.exit_code)
        except Exception as error:
            self._models = None
            self._warn(f"{_first_line(error)}; the rows go on without artifacts")

    def _settle_models(self) -> None:
        """Note which artifacts arrived with the last of the run."""
        try:
            if self._models is not None:
                self._models.settle(ANSWER_S)
        except Exception as error:
            self._warn(f"{_first_line(error)}; an artifact is missing")

    def _mark_earlier(self) -> None:
        """Tell `wandb sync` to pass over the folders of earlier attempts: the newest has all that they have."""
        for file in self.folder.glob("*/*.wandb"):
            if file.parent.name != Path(self.out.dir).parent.name:
                file.with_name(f"{file.name}.synced").touch()

    def _upload(self) -> str:
        newest = max(self.folder.glob("*run-*"), key=lambda folder: folder.stat().st_mtime, default=self.folder)
        return f"wandb sync --include-online {newest}"

    def _leave(self) -> None:
        """End the W&B run, where it did not end well, and wandb's service process."""
        import wandb

        with suppress(BaseException):
            if self.out is not None:
                self.out.finish(exit_code=self._code if self._end.is_set() else 1)
        if self._abandoned.is_set():
            return
        service = _service()
        with suppress(BaseException):  # it may be dead, and then it ends with SystemExit
            wandb.teardown(exit_code=self._code)
        _kill(service)

    def _abandon(self) -> None:
        """Kill wandb's service process: what waits for it wakes up, and nothing waits for it at exit."""
        self._abandoned.set()
        _kill(_service())
        with suppress(KeyError):  # the next run of this process starts another
            sys.modules["wandb.sdk.wandb_setup"].__dict__["_singleton"] = None
        self._end.set()
        if self._thread.ident:
            self._thread.join(1)

    def _warn(self, text: str) -> None:
        self.run.say(f"  W&B: {text}")


def _identify(run: "Run") -> str:
    """The id of the W&B run, kept in run.json: equal in all attempts, and no other directory's."""
    known = run.record.get("wandb")
    if known is None:
        name = RunName.of(run.path)
        known = {"id": f"{name.hash if name else run.path.parent.name}-{run.path.name}-{uuid.uuid4().hex[:8]}"}
        run.remember(wandb=known)
    return known["id"]


def _settings(init_timeout: float) -> Any:
    """wandb's settings: quiet, bounded in time, nothing taken from the user's code. Each version knows some of them."""
    import wandb

    wanted = {
        "silent": True,
        "console": "off",
        "init_timeout": init_timeout,
        "finish_timeout": FINISH_S,
        "finish_timeout_raises": True,
        "disable_code": True,
        "disable_git": True,
        "label_disable": True,
        "symlink": False,
        "x_transaction_log_flush_interval": PERIOD_S,
    }
    known = wandb.Settings.model_fields
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def _service() -> Any:
    """wandb's connection to its service process, or None; there is no public way to it."""
    return getattr(getattr(sys.modules.get("wandb.sdk.wandb_setup"), "_singleton", None), "_connection", None)


def _kill(service: Any) -> None:
    with suppress(AttributeError, TypeError, OSError, subprocess.TimeoutExpired):
        service._cleanup()  # else wandb waits for it when Python ends
        service._proc._process.kill()
        service._proc._process.wait(1)


def _arranged(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples as the table has them: first the problems that an rl run follows, each through its steps, then the others
    in their order; of more than the table takes, these are thinned, evenly and with the newest kept."""
    followed = [sample for sample in samples if sample.get("kind") == "followed"]
    order = list(dict.fromkeys(sample.get("id") for sample in followed))
    followed = sorted(followed, key=lambda sample: order.index(sample.get("id")))[:TABLE_ROWS]
    others, room = [sample for sample in samples if sample.get("kind") != "followed"], TABLE_ROWS - len(followed)
    every = max(1, -(-len(others) // max(room, 1)))
    return [*followed, *others[(len(others) - 1) % every :: every][: max(room, 0)]]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "").rstrip(". ") or type(error).__name__


def _stagger() -> float:
    """Seconds that a task of a Slurm array waits, so that they do not all call the server at once."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return int(task) % 20 / 19 * STAGGER_S if task.isdecimal() else 0.0


def _tags(options: Mapping[str, str], more: list[str]) -> list[str]:
    named = [options.get(group) for group in ("task", "model", "stage", "algorithm", "merge", "scale", "experiment")]
    return list(dict.fromkeys(tag[:64] for tag in [*named, *more] if tag))
