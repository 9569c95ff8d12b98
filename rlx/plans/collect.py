"""One tidy table of a plan: a row a run, with its config and what it measured last, as parquet and CSV."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlx.plans.standing import Standing
from rlx.runs.files import COLLECTED, METRICS, write_bytes
from rlx.runs.listing import is_number
from rlx.runs.metrics import MetricsLog, with_numbers

FIRST = ("name", "label", "seed", "state", "stage", "task", "model", "run", "commit", "parents", "wall_s")
"""Columns that stand before the config's and the metrics'."""
GREATEST = 2**63
"""Whole numbers from here up do not fit a column of them."""


def collect(folder: Path, found: Sequence[Standing]) -> list[Path]:
    """Write the table into the plan's folder, over the one of the last time, and return its files."""
    rows = [row_of(standing) for standing in found]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = {key: _column([row.get(key) for row in rows]) for key in keys}
    paths = [folder / f"{COLLECTED}.parquet", folder / f"{COLLECTED}.csv"]
    write_bytes(paths[0], _parquet(columns))
    write_bytes(paths[1], _csv(columns).encode())
    return paths


def row_of(standing: Standing) -> dict[str, Any]:
    """A run: how it is called, where it stands, `config.<key>`, `option.<group>`, and each metric's last value."""
    run, planned = standing.listed, standing.planned
    fixed = dict(
        zip(
            FIRST,
            (
                planned.name, planned.label, planned.seed, standing.state, planned.stage, run.name.task, run.name.model,
                planned.run, run.part("git").get("commit"), " ".join(planned.parents), run.record.get("wall_s"),
            ),
            strict=True,
        )
    )  # fmt: skip
    config = {f"config.{key}": value for key, value in run.config.items()}
    options = {f"option.{key}": value for key, value in run.part("options").items()}
    return {**fixed, **options, **config, **last_values(Path(planned.run))}


def last_values(run: Path) -> dict[str, Any]:
    """The newest value of each metric of a run: not all are measured at its last step.

    Raises:
        CheckpointError: its metrics.jsonl is damaged.
    """
    found: dict[str, Any] = {}
    for row in MetricsLog.read(run / METRICS):
        found.update({key: value for key, value in with_numbers(row).items() if is_number(value)})
    return found


def _column(values: list[Any]) -> list[Any]:
    """Values of one kind: numbers, truths, or else text."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known) or all(isinstance(value, str) for value in known):
        return values
    if all(is_number(value) for value in known):
        whole = all(isinstance(value, int) and -GREATEST <= value < GREATEST for value in known)
        return values if whole else [None if value is None else float(value) for value in values]
    return [None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]


def _csv(columns: dict[str, list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({key: pyarrow.array(values) for key, values in columns.items()}), out)
    return out.getvalue()
