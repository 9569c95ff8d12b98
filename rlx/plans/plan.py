"""A plan: runs in an order in which parents come first, each known by its directory before anything runs.

Its folder `<runs_dir>/plans/<name>` has `manifest.jsonl`, one row a run, and `plan.json`, how it was launched; runs
themselves lie in the same folder of runs, where any run lies, so two plans share what they have in common.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from rlx.errors import BusyError, ConfigError
from rlx.runs.files import MANIFEST, PLAN, write_json, write_text
from rlx.runs.identity import RunName
from rlx.runs.lease import Lease
from rlx.runs.listing import is_number
from rlx.runs.metrics import as_row
from rlx.runs.references import format_reference

PATIENCE_S = 60.0
"""Seconds to wait for another process that writes the same plan's folder."""
SETTINGS = {"command": str, "directory": str, "launcher": dict, "conclusions": list[list[str]]}
"""What plan.json has."""
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
    def of_row(cls, row: Any, where: str = "a row") -> "PlannedRun":
        """A row of a manifest; what a later version added is left out.

        Args:
            where: file and line, for the error.

        Raises:
            ConfigError: it describes no run.
        """
        if not isinstance(row, dict):
            raise ConfigError(f"{where} is no JSON object that describes a run; restore the file from a copy")
        values = {key: row[key] for key in _hints(cls) if key in row}
        wrong = [key for key, value in values.items() if not fits(value, _hints(cls)[key])]
        wrong += [each.name for each in fields(cls) if each.name not in row and _is_required(each)]
        if not wrong and RunName.of(row["run"]) is None:
            wrong = ["run"]
        if wrong:
            raise ConfigError(f"{where} describes no run: see {', '.join(wrong)}; restore the file from a copy")
        return cls(**values)


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
        """Write manifest.jsonl and plan.json; runs and conclusions of an earlier plan in the folder stay in them.

        Raises:
            BusyError: another process holds the folder for a minute.
            ConfigError: as `rows` does; nothing is changed then.
        """

        def write() -> None:
            rows = self.rows()
            conclusions = [*read_settings(self.folder).get("conclusions", []), *self.conclusions]
            settings = {
                "command": self.command,
                "directory": os.getcwd(),
                "launcher": dict(launcher),
                "conclusions": [each for number, each in enumerate(conclusions) if each not in conclusions[:number]],
            }
            write_text(self.folder / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))
            write_json(self.folder / PLAN, settings)

        alone(self.folder, write)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the manifest with this plan's runs in it, in the order in which they are shown.

        Raises:
            ConfigError: two different runs would have one name and seed, or the manifest cannot be read.
        """
        rows = {key_of(row["run"]): row for row in read_manifest(self.folder)}
        rows.update({key_of(run.run): asdict(run) for run in self.runs})
        called: dict[tuple[str, int], dict[str, Any]] = {}
        for row in rows.values():
            other = called.setdefault((row["name"], row["seed"]), row)
            if other is not row:
                raise ConfigError(
                    f"{self.folder} would have two different runs called {row['name']} seed{row['seed']}: "
                    f"{other['run']} and {row['run']}; leave plan.name out, take another, or sweep one scale"
                )
        order = {run.name: number for number, run in enumerate(self.runs)}
        return sorted(rows.values(), key=lambda row: (order.get(row["name"], len(order)), row["seed"]))

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """The plan in a folder, its runs' directories where they are now.

        Raises:
            ConfigError: it is none, or it is damaged.
        """
        runs = [PlannedRun(**row) for row in read_manifest(folder)]
        if not runs:
            near = ", ".join(format_reference(path) for path in plans_near(folder)[:5])
            there = f"; there are {near}" if near else "; a plan is <runs_dir>/plans/<name>"
            raise ConfigError(f"{folder} is not a plan: it has no {MANIFEST}{there}")
        settings = read_settings(folder)
        for run in runs:
            run.run = here(run.run, folder)
            run.parents = [here(parent, folder) for parent in run.parents]
        return cls(
            folder=folder,
            runs=runs,
            command=settings.get("command", ""),
            conclusions=settings.get("conclusions", []),
        )


def key_of(run: str) -> str:
    """What a run is called in a folder of runs, from wherever that is looked at: `<name>/seed<n>`."""
    return "/".join(Path(run).parts[-2:])


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


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """Rows of a plan's folder, each with the fields of a PlannedRun; [] when it is new.

    Raises:
        ConfigError: a row describes no run; says which.
    """
    path = folder / MANIFEST
    lines = path.read_text(errors="replace").split("\n") if path.is_file() else []
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return [asdict(PlannedRun.of_row(as_row(line), f"{path}:{number}")) for number, line in numbered]


def read_settings(folder: Path) -> dict[str, Any]:
    """What of plan.json can be read in a plan's folder; {} when it has none."""
    try:
        read = as_row((folder / PLAN).read_bytes()) or {}
    except OSError:
        return {}
    return {key: value for key, value in read.items() if key in SETTINGS and fits(value, SETTINGS[key])}


def fits(value: Any, declared: Any) -> bool:
    """True for a value, as JSON has it, of the type that is declared for it."""
    if get_origin(declared) is list:
        return isinstance(value, list) and all(fits(each, get_args(declared)[0]) for each in value)
    if get_args(declared):
        return any(fits(value, each) for each in get_args(declared))
    if declared in (int, float):
        return is_number(value) and (declared is float or isinstance(value, int))
    return isinstance(value, declared)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_required(found: Field[Any]) -> bool:
    return found.default is MISSING and found.default_factory is MISSING


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
