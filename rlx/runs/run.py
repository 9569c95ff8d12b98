"""One run's directory, held by its lease: made or taken up again, and ended with a status."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from rlx.errors import RlxError, Stopped
from rlx.runs.files import (
    CONFIG,
    LOGS,
    METRICS,
    OVERRIDES,
    RUN,
    SAMPLES,
    attempt_log,
    next_attempt,
    remove_stale,
    write_json,
    write_text,
)
from rlx.runs.lease import Lease
from rlx.runs.ledger import Ledger, lineage
from rlx.runs.metrics import MetricsLog
from rlx.runs.provenance import git_state, hardware, versions
from rlx.runs.status import State, write_status


class Run:
    """A run directory that this process may write.

    Attributes:
        path: the directory.
        attempt: 1 for the first process that works on it, 2 for the one that takes it up again, ...
        ledger: what the run has spent so far; a stage that resumes restores it.
        record: what run.json says; `save_record` writes it. It goes on from the file of earlier attempts, whose
            code and machine stay under `earlier` where they differ.
    """

    def __init__(self, path: Path, lease: Lease, record: dict[str, Any]) -> None:
        self.path, self.lease, self.record = path, lease, record
        self.ledger = Ledger()
        self.attempt = next_attempt(path)
        self.began = time.time()
        self.wall_before = 0.0
        (path / LOGS).mkdir(exist_ok=True)
        self._log = open(attempt_log(path, self.attempt), "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self.metrics = MetricsLog(path / METRICS)
        self.samples = MetricsLog(path / SAMPLES)

    def say(self, line: str) -> None:
        """One line on the screen and in the attempt's log."""
        print(line, flush=True)
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

    def close(self) -> None:
        self.metrics.close()
        self.samples.close()
        self._log.close()


@contextmanager
def open_run(path: Path, *, config: Mapping[str, Any], command: str, record: Mapping[str, Any]) -> Iterator[Run]:
    """Take the lease of a run directory and work on it; the status follows how the block ends.

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
        run = Run(path, lease, {**_earlier(path), "run": str(path), "command": command, **_made_with(), **record})
        write_status(path, State.running, attempt=run.attempt)
        try:
            yield run
            lease.ensure_held()
        except BaseException as error:
            if lease.is_ours():  # else the status is that of who took it over
                write_status(path, *_ending(error), attempt=run.attempt)
            raise
        finally:
            run.close()
        write_status(path, State.finished, attempt=run.attempt)


def read_record(path: str | Path) -> dict[str, Any] | None:
    """run.json of a run directory, or None."""
    try:
        return json.loads((Path(path) / RUN).read_text())
    except (OSError, ValueError):
        return None


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
