"""Where measurements go: a line each in results.jsonl beside this file, with the machine and versions."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlx.runs.provenance import git_state, hardware, versions

RESULTS = Path(__file__).parent / "results.jsonl"


def append(benchmark: str, rows: Sequence[Mapping[str, Any]], **settings: Any) -> None:
    """Add one measurement (a table's rows, and the settings that all share) to the results file."""
    machine = hardware()
    del machine["host"]
    line = {
        "benchmark": benchmark,
        "date": time.strftime("%Y-%m-%d"),
        "settings": settings,
        "rows": list(rows),
        "hardware": machine,
        "versions": {**versions(), **_peers()},
        "git": git_state(),
    }
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text in columns; floats with three digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_text(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _peers() -> dict[str, str]:
    """Versions of the packages that only benchmarks compare with."""
    from importlib import metadata

    found = {}
    for name in ("transformers", "trl", "reasoning-gym", "mergekit"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
