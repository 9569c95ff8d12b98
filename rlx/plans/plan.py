"""A plan: runs in an order in which parents come first, each known by its directory before anything runs.

Its folder `<runs_dir>/plans/<name>` has `manifest.jsonl`, one row a run, and `plan.json`, how it was launched; runs
themselves lie where any run lies, so two plans share what they have in common.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rlx.errors import BusyError, ConfigError
from rlx.runs.files import MANIFEST, PLAN, write_json, write_text
from rlx.runs.identity import RunName
from rlx.runs.lease import Lease
from rlx.runs.references import format_reference

PATIENCE_S = 60.0
"""Seconds to wait for another process that writes the same plan's folder."""
_PLACE = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


@dataclass(slots=True, kw_only=True)
class PlannedRun:
    """One row of the manifest."""

    name: str
    """What the plan calls it: equal for the seeds of one arm."""
    label: str
    """What tables call it."""
    seed: int
    run: str
    """Its directory."""
    stage: str
    command: str
    """The command that makes it, for a shell."""
    arguments: list[str] = field(default_factory=list)
    """The same, after `rlx`."""
    parents: list[str] = field(default_factory=list)
    """Directories of the runs that must be finished before it begins."""
    level: int = 0
    """0 without parents in the plan, else one more than the highest parent's."""
    of: str | None = None
    """For an evaluation: the name of what it evaluates."""
    gpu: bool = False
    """It computes on a GPU."""
    flops: float | None = None
    """Operations that it is expected to spend."""
    seconds: float | None = None
    """Time that it is expected to take, in a process that has started."""

    @property
    def title(self) -> str:
        """What progress lines call it: a study's name for it, or how a sweep's run differs from the others."""
        named = self.name if self.name.isidentifier() else self.label
        return f"{named} seed{self.seed}"

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "PlannedRun":
        """A row of a manifest; what a later version added is left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in row.items() if key in known})


@dataclass(slots=True, kw_only=True)
class Plan:
    """Runs that are carried out together."""

    folder: Path
    runs: list[PlannedRun]
    command: str = ""
    """The command that made the plan, for a shell."""
    conclusions: list[list[str]] = field(default_factory=list)
    """Arguments of `rlx` commands that end the plan: a study's claims and report."""

    @property
    def name(self) -> str:
        return self.folder.name

    def save(self, launcher: Mapping[str, Any]) -> None:
        """Write manifest.jsonl and plan.json; runs of an earlier plan in the folder stay in the manifest.

        Raises:
            BusyError: another process holds the folder for a minute.
        """
        save_manifest(self.folder, self.runs)
        earlier = read_settings(self.folder)
        conclusions = [*earlier.get("conclusions", []), *self.conclusions]
        settings = {
            "command": self.command,
            "directory": os.getcwd(),
            "launcher": dict(launcher),
            "conclusions": [each for number, each in enumerate(conclusions) if each not in conclusions[:number]],
        }
        alone(self.folder, lambda: write_json(self.folder / PLAN, settings))

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """The plan in a folder, its runs' directories where they are now.

        Raises:
            ConfigError: it is none.
        """
        rows = read_manifest(folder)
        if not rows:
            near = ", ".join(format_reference(path) for path in plans_near(folder)[:5])
            there = f"; there are {near}" if near else "; a plan is <runs_dir>/plans/<name>"
            raise ConfigError(f"{folder} is not a plan: it has no {MANIFEST}{there}")
        settings = read_settings(folder)
        runs = [PlannedRun.of_row(row) for row in rows]
        for run in runs:
            run.run = here(run.run, folder)
            run.parents = [here(parent, folder) for parent in run.parents]
        return cls(
            folder=folder,
            runs=runs,
            command=settings.get("command", ""),
            conclusions=settings.get("conclusions", []),
        )


def here(run: str, folder: Path) -> str:
    """A run's directory as it is found from the plan's folder, `<runs_dir>/plans/<name>`; as written, where it is not
    there.
    """
    name = RunName.of(run)
    place = None if name is None else name.path(folder.parent.parent)
    return format_reference(place) if place is not None and (place.is_dir() or not Path(run).is_dir()) else run


def plans_near(folder: Path) -> list[Path]:
    """Plans in a folder, in its `plans`, or beside it; the newest first."""
    places = {path for where in (folder, folder / "plans", folder.parent) for path in where.glob(f"*/{MANIFEST}")}
    return [path.parent for path in sorted(places, key=lambda path: -path.stat().st_mtime)]


def with_levels(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """The runs, each once, with their levels: in the order given, but for parents, which come first.

    Raises:
        ConfigError: runs that are each other's parents.
    """
    known: dict[str, PlannedRun] = {}
    for run in runs:
        known.setdefault(run.run, run)
    ordered: dict[str, PlannedRun] = {}

    def put(run: PlannedRun, below: tuple[str, ...] = ()) -> None:
        if run.run in below:
            raise ConfigError(f"{run.run} is its own ancestor")
        if run.run in ordered:
            return
        own = [known[parent] for parent in run.parents if parent in known]
        for parent in own:
            put(parent, (*below, run.run))
        run.level = 1 + max((parent.level for parent in own), default=-1)
        ordered[run.run] = run

    for run in known.values():
        put(run)
    return list(ordered.values())


def fill(override: str, places: Mapping[str, str]) -> tuple[str, list[str]]:
    """An override with `{name}` replaced by that run's directory, and the names.

    Raises:
        ConfigError: a name that no earlier run of the plan has.
    """
    names = _PLACE.findall(override)
    for name in names:
        if name not in places:
            raise ConfigError(f"{override!r} names {{{name}}}, which is no earlier run; there are {', '.join(places)}")
    return _PLACE.sub(lambda match: format_reference(places[match[1]]), override), names


def save_manifest(folder: Path, runs: Sequence[PlannedRun]) -> None:
    """Add runs to the folder's manifest; a run that is there already keeps its row's place."""

    def write() -> None:
        rows = {(row["name"], row["seed"]): row for row in read_manifest(folder)}
        rows.update({(run.name, run.seed): asdict(run) for run in runs})
        order = {run.name: number for number, run in enumerate(runs)}
        sorted_rows = sorted(rows.values(), key=lambda row: (order.get(row["name"], len(order)), row["seed"]))
        write_text(folder / MANIFEST, "".join(json.dumps(row) + "\n" for row in sorted_rows))

    alone(folder, write)


def read_manifest(folder: Path) -> list[dict]:
    """Rows of a plan's folder; [] when it is new."""
    path = folder / MANIFEST
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def read_settings(folder: Path) -> dict[str, Any]:
    """plan.json of a plan's folder; {} when it has none."""
    try:
        return json.loads((folder / PLAN).read_text())
    except (OSError, ValueError):
        return {}


def alone(folder: Path, action: Callable[[], None]) -> None:
    """Do something short while no other process writes the folder.

    Raises:
        BusyError: another process holds the folder for a minute.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with Lease.acquire(folder):
                action()
                return
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
