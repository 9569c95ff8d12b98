"""What a W&B run's summary says besides the last row: the ledger, and what run.json, status and eval.json found."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlx.runs.files import BEST, EVAL
from rlx.runs.run import read_record
from rlx.runs.status import read_status


def facts(path: Path) -> dict[str, Any]:
    """Entries of the summary, from the files of a run directory; what is not known yet is left out.

    flops/train, rollout, verify, eval, total and lineage (operations), tokens, wall (seconds), parameters/total,
    state and reason, alarms, conclusion, best/step, best/metric and best/value, and eval.json's metrics.
    """
    record, status, best = read_record(path) or {}, read_status(path), _read(path / BEST)
    found: dict[str, Any] = {
        **{f"parameters/{name}": value for name, value in record.get("parameters", {}).items()},
        **{f"flops/{name}": value for name, value in record.get("flops", {}).items()},
        **{f"best/{name}": best.get(name) for name in ("step", "metric", "value")},
        "tokens": record.get("tokens"),
        "wall": record.get("wall_s"),
        "state": status.state.value,
        "reason": status.reason,
        "alarms": "; ".join(record.get("alarms", [])),
        "conclusion": record.get("conclusion"),
        **_read(path / EVAL).get("metrics", {}),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        read = json.loads(path.read_text(encoding="utf-8"))
        return read if isinstance(read, dict) else {}
    return {}
