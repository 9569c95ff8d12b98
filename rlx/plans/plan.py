"""A plan: runs in an order in which parents come first, each known by its directory before anything runs.

The folder of a plan has `manifest.jsonl`, one row a run; runs themselves lie where any run lies, so two plans share
what they have in common.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlx.errors import BusyError, ConfigError
from rlx.runs.files import MANIFEST, write_text
from rlx.runs.lease import Lease
from rlx.runs.references import format_reference

PATIENCE_S = 60.0
"""Seconds to wait for another process that writes the same plan's folder."""
_PLACE = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


@dataclass(slots=True, kw_only=True)
class PlannedRun:
    """One row of the manifest."""

    name: str
    """What the plan calls it."""
    label: str
    """What tables call it."""
    seed: int
    run: str
    """Its directory."""
    stage: str
    command: str
    parents: list[str] = field(default_factory=list)
    """Directories of the plan's runs that it needs."""
    level: int = 0
    """0 without parents, else one more than the highest parent's."""
    of: str | None = None
    """For an evaluation: the name of what it evaluates."""


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
