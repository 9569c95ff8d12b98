"""One run's directory, held by its lease: made or taken up again, and ended with a status."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from rlx.errors import RlxError, RunError, Stopped
from rlx.runs.files import (
    CONFIG,
    LOGS,
    METRICS,
    OVERRIDES,
    RUN,
    SAMPLES,
    attempt_log,
    explained,
    next_attempt,
    remove_stale,
    write_json,
    write_text,
)
from rlx.runs.lease import Lease
from rlx.runs.ledger import Ledger, lineage
from rlx.runs.loggers.base import LoggerConfig
from rlx.runs.metrics import MetricsLog
from rlx.runs.provenance import git_state, hardware, versions
from rlx.runs.status import State, write_status


class Run:
    """A run directory that this process may write.

    Attributes:
        path: the directory.
        attempt: 1 for the first process that works on it, 2 for the one that takes it up again, ...
        ledger: what the run has spent so far; a stage that resumes restores it.
        config: what config.yaml says.
        record: what run.json says; `save_record` writes it. It goes on from the file of earlier attempts, whose
            code and machine stay under `earlier` where they differ.
    """

    def __init__(self, path: Path, lease: Lease, config: Mapping[str, Any], record: dict[str, Any]) -> None:
        self.path, self.lease, self.config, self.record = path, lease, config, record
        self.ledger = Ledger()
        self.attempt = next_attempt(path)
        self.began = time.time()
        self.wall_before = 0.0
        with explained(path):
            (path / LOGS).mkdir(exist_ok=True)
        self.metrics = MetricsLog(path / METRICS)
        self.samples = MetricsLog(path / SAMPLES)
        with explained(path):
            self._log = open(attempt_log(path, self.attempt), "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)

    def say(self, line: str) -> None:
        """One line on the screen and in the attempt's log."""
        with suppress(OSError):  # a screen that is gone, or a file of it on a full disk, ends no run
            print(line + "\n", end="", flush=True)  # one write: a mirror's thread may speak at the same time
        with explained(self._log.name):
            self._log.write(line + "\n")
            self._log.flush()

    @property
    def wall(self) -> float:
        """Seconds worked on this run, earlier attempts up to the resumed checkpoint included."""
        return self.wall_before + time.time() - self.began

    def save_record(self, **more: Any) -> None:
        """Write run.json: what is known, the ledger, and `more`.

        Raises:
            RunError: the lease is another's now.
        """
        self.lease.ensure_held()
        self.record.update(more)
        parents = [parent["record"] for parent in self.record["parents"] if parent.get("record")]
        self.record["lineage"] = lineage(self.ledger.total, str(self.path), parents)
        flops = {name.removeprefix("flops/"): value for name, value in self.ledger.row().items()}
        self.record["flops"] = {**flops, "lineage": sum(self.record["lineage"].values())}
        self.record["wall_s"] = round(self.wall, 3)
        shown = [{k: v for k, v in parent.items() if k != "record"} for parent in self.record["parents"]]
        write_json(self.path / RUN, {**self.record, "parents": shown})

    def remember(self, **more: Any) -> None:
        """Add to run.json at once; what it says already stays, totals too, which a resume knows only later.

        Raises:
            RunError: the lease is another's now.
        """
        found = read_record(self.path)
        if found is None:
            self.save_record(**more)
            return
        self.lease.ensure_held()
        self.record.update(more)
        write_json(self.path / RUN, {**found, **more})

    def close(self) -> None:
        self.metrics.close()
        self.samples.close()
        with suppress(OSError):  # a full disk has been told of already
            self._log.close()


@contextmanager
def open_run(
    path: Path,
    *,
    config: Mapping[str, Any],
    command: str,
    record: Mapping[str, Any],
    logger: LoggerConfig | None = None,
) -> Iterator[Run]:
    """Take the lease of a run directory and work on it; the status follows how the block ends, and `logger` mirrors it.

    Nothing that is there is overwritten: config.yaml and overrides.txt stay those of the first attempt.

    Raises:
        BusyError: another process works on it.
        RunError: the folder cannot be written.
    """
    with Lease.acquire(path) as lease:
        remove_stale(path)
        resolved = yaml.safe_dump(dict(config), sort_keys=False)
        for name, text in ((CONFIG, resolved), (OVERRIDES, command + "\n")):
            if not (path / name).exists():
                write_text(path / name, text)
        known = {**_earlier(path), "run": str(path), "command": command, **_made_with(), **record}
        with closing(Run(path, lease, config, known)) as run:
            write_status(path, State.running, attempt=run.attempt)
            with (logger or LoggerConfig()).mirror(run):
                try:
                    yield run
                    lease.ensure_held()
                except BaseException as error:
                    if lease.is_ours():  # else the status is that of who took it over
                        with suppress(RunError):  # of a full disk the error itself tells
                            write_status(path, *_ending(error), attempt=run.attempt)
                    raise
                write_status(path, State.finished, attempt=run.attempt)


def read_record(path: str | Path) -> dict[str, Any] | None:
    """run.json of a run directory, or None."""
    try:
        return json.loads((Path(path) / RUN).read_text())
    except (OSError, ValueError):
        return None


def read_config(path: str | Path) -> dict[str, Any]:
    """config.yaml of a run directory; empty where there is none."""
    try:
        text = (Path(path) / CONFIG).read_text(encoding="utf-8")
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # in C: a seventh of the time
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _earlier(path: Path) -> dict[str, Any]:
    """run.json of earlier attempts, with the code and machine of the last of them put aside where they differ."""
    found = read_record(path) or {}
    made = _made_with()
    if found and any(found.get(name) != value for name, value in made.items()):
        found["earlier"] = [*found.get("earlier", []), {name: found.get(name) for name in made}]
    return found


def _made_with() -> dict[str, Any]:
    return {"versions": versions(), "git": git_state(), "hardware": hardware()}


def _ending(error: BaseException) -> tuple[State, str]:
    if isinstance(error, Stopped | KeyboardInterrupt):
        return State.stopped, "stopped on request; give the same command again to go on"
    if isinstance(error, RlxError):
        return State.failed, str(error)
    return State.failed, f"{type(error).__name__}: {error}".splitlines()[0]
