"""What lies in run and plan folders, read as it is: a run that is missing, torn or unfinished is a run that says so.

A plan folder holds manifest.jsonl (one row a run, in display order) and perhaps claims.json; a run folder holds
run.json, status, metrics.jsonl and, when it evaluated something, eval.json. Paths in a manifest are relative to the
working directory; a tree that was moved is found from the plan folder, which is `<runs_dir>/plans/<name>`.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlx.errors import RlxError
from rlx.report.history import MOST_ROWS, History, as_number, read_history, share
from rlx.report.labels import folder_name, in_order, labelled
from rlx.report.places import find_places
from rlx.runs.files import CLAIMS, EVAL, MANIFEST, MERGE, METRICS, RUN, STATUS

_NAMED = re.compile(r"[^-]+-[^-]+-([^-]+)-h[0-9a-f]+")
FINISHED, NOT_STARTED = "finished", "not started"


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    shown: str  # the path as the plan writes it
    info: dict[str, Any] = field(default_factory=dict)
    state: str = NOT_STARTED
    reason: str = ""
    evaluation: dict[str, Any] | None = None
    most_rows: int = MOST_ROWS  # of metrics.jsonl that figures and tables are made of

    @cached_property
    def history(self) -> History:
        """What it logged, thinned where that is much."""
        return read_history(self.path / METRICS, self.most_rows)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl that are whole, with every metric in them."""
        return [row for _, row in _json_lines(self.path / METRICS) if isinstance(row, dict)]

    @cached_property
    def merge(self) -> dict[str, Any]:
        """What a merge says of its parents and its result; empty where it says nothing."""
        return as_dict(_json(self.path / MERGE))

    def last(self, key: str) -> float | None:
        """The newest value of a metric, if it was ever logged."""
        return self.history.last(key)

    def _total(self, name: str, metric: str) -> float | None:
        value = as_number(self.info.get(name))
        return self.last(metric) if value is None else value

    @property
    def steps(self) -> float | None:
        """Optimizer steps taken."""
        return self._total("steps", "step")

    @property
    def tokens(self) -> float | None:
        """Tokens that this run itself used."""
        return self._total("tokens", "tokens")

    @property
    def wall(self) -> float | None:
        """Seconds this run itself took."""
        return self._total("wall_s", "wall")

    @property
    def flops(self) -> float | None:
        """FLOPs this run itself spent: training, rollouts, verification and evaluation."""
        value = as_number(as_dict(self.info.get("flops")).get("total"))
        return self.last("flops/total") if value is None else value

    @property
    def lineage(self) -> float | None:
        """FLOPs of this run and all its ancestors; None while the run has not ended."""
        return as_number(as_dict(self.info.get("flops")).get("lineage"))

    @property
    def commit(self) -> str:
        """The short commit of the code, with a + where the tree had changes."""
        git = as_dict(self.info.get("git"))
        return str(git.get("commit") or "")[:8] + ("+" if git.get("dirty") else "")


@dataclass(frozen=True)
class Entry:
    """A row of a plan: a run, and what the plan says about it."""

    name: str
    label: str
    seed: int
    stage: str
    command: str
    run: Run
    of: str = ""  # the name of the run that an evaluation is of
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Runs in display order, and the claims made of them."""

    name: str
    folder: Path
    entries: list[Entry]
    claims: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def groups(self) -> dict[str, list[Entry]]:
        """Entries by name: the seeds of each run."""
        groups: dict[str, list[Entry]] = {}
        for entry in self.entries:
            groups.setdefault(entry.name, []).append(entry)
        return groups


def read_plan(folder: Path | str) -> Plan:
    """The plan in `folder`. Raises RlxError when it has no manifest, no runs, or a row that names no run."""
    folder = Path(folder)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise RlxError(f"{folder} is not a plan: it has no {MANIFEST}; a plan is <runs_dir>/plans/<name>")
    rows = list(_json_lines(manifest, strict=True))
    if not rows:
        raise RlxError(f"{manifest} names no runs; submit the plan first")
    entries = [_entry(row, f"{manifest}:{line}", folder, share(len(rows))) for line, row in rows]
    return Plan(folder.resolve().name, folder, labelled(entries), _claims(folder / CLAIMS))


def read_runs(given: Iterable[Path | str], name: str = "runs") -> Plan:
    """A plan made of run directories alone, each counted once; `rlx.report.places` says what stands for which.

    Raises RlxError where one is none.
    """
    places = find_places(given)
    if not places:
        raise RlxError("a report needs at least one run directory; none were given")
    most = share(len(places))
    entries = [own_entry(read_run(str(path), Path(), most)) for path in places]
    return Plan(name, Path(), in_order(labelled(entries)))


def read_run(shown: str, near: Path, most_rows: int = MOST_ROWS) -> Run:
    """The run at `shown`, as a plan or a run in the folder `near` writes it. Never raises on what is in it."""
    path = _locate(shown, near)
    if not os.path.isdir(path):
        return Run(path, shown)
    status = as_dict(_json(path / STATUS))
    evaluation = _json(path / EVAL)
    return Run(
        path,
        shown,
        info=as_dict(_json(path / RUN)),
        state=str(status.get("state") or "unknown"),
        reason=str(status.get("reason") or ""),
        evaluation=evaluation if isinstance(evaluation, dict) else None,
        most_rows=most_rows,
    )


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def parent_paths(run: Run) -> list[str]:
    """The paths of the runs that this one says it started from."""
    parents = run.info.get("parents")
    rows = parents if isinstance(parents, list) else []
    return [str(row.get("run") if isinstance(row, dict) else row).rstrip("/") for row in rows]


def _entry(row: Any, where: str, folder: Path, most_rows: int) -> Entry:
    if not isinstance(row, dict) or not isinstance(row.get("run"), str) or not row["run"]:
        raise RlxError(f'{where} names no run; expected {{"name": ..., "seed": ..., "run": <directory>, ...}}')
    run = read_run(row["run"], folder, most_rows)
    name = str(row.get("name") or folder_name(run.path))
    parents = row.get("parents")
    return Entry(
        name=name,
        label=str(row.get("label") or name),
        seed=_seed(row.get("seed"), run),
        stage=str(row.get("stage") or _stage(run)),
        command=str(run.info.get("command") or row.get("command") or ""),  # first what was really given
        run=run,
        of=str(row.get("of") or ""),
        parents=tuple(str(parent) for parent in parents) if isinstance(parents, list) else (),
    )


def own_entry(run: Run) -> Entry:
    """What a run says about itself, where no plan does. An evaluation is of its first parent."""
    name, parents, stage = folder_name(run.path), tuple(parent_paths(run)), _stage(run)
    of = Path(parents[0]).parent.name if stage == "eval" and parents else ""
    return Entry(name, name, _seed(None, run), stage, str(run.info.get("command") or ""), run, of, parents)


def _stage(run: Run) -> str:
    """What run.json says, or the name of a run that never began."""
    named = _NAMED.fullmatch(folder_name(run.path))
    return str(run.info.get("stage") or (named[1] if named else ""))


def _seed(value: Any, run: Run) -> int:
    for candidate in (value, run.info.get("seed"), run.path.name.removeprefix("seed")):
        if isinstance(candidate, int) or (isinstance(candidate, str) and candidate.isdecimal()):
            return int(candidate)
    return 0


def _locate(shown: str, near: Path) -> Path:
    bases: Sequence[Path] = (Path(), *near.resolve().parents[2:3], near)
    found = (base / shown for base in bases)
    return next((path for path in found if os.path.exists(path)), Path(shown))  # False of names no file can have


def _claims(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    claims = _json(path)
    if not isinstance(claims, list) or not all(isinstance(claim, dict) for claim in claims):
        raise RlxError(f"{path} must be a JSON list of claims, each an object")
    return claims


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _json_lines(path: Path, strict: bool = False) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line. A line that is not JSON is left out, or raises RlxError when `strict`."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            if strict:
                raise RlxError(f"{path}:{number} is not JSON: {line[:60]!r}") from None
