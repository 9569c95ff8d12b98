"""Run directories made by hand, as small as they can be."""

import json
from pathlib import Path
from typing import Any

from rlx.runs.checkpoints import checkpoint_path
from rlx.runs.status import State, write_status


def make(
    place: str,
    *,
    state: State = State.finished,
    steps: tuple[int, ...] = (),
    best: int | None = None,
    parents: tuple[str, ...] = (),
    config: str = "seed: 0\n",
    rows: tuple[dict[str, Any], ...] = (),
    command: str = "rlx",
    **record: Any,
) -> Path:
    """A run below `runs`: place is `<task>-<model>-<stage>-<hash>/seed<n>`, a parent `<place>@<step>`."""
    run = Path("runs") / place
    (run / "logs").mkdir(parents=True)
    for step in steps:
        checkpoint = checkpoint_path(run, step)
        (checkpoint / "trainer").mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "trainer/state.pt"):
            (checkpoint / name).write_text("{}")
    if best is not None:
        (run / "best.json").write_text(json.dumps({"step": best, "metric": "val/loss", "value": 1.0}))
    split = [parent.partition("@") for parent in parents]
    found = [{"reference": f"runs/{name}@{at}", "run": f"runs/{name}", "step": int(at)} for name, _, at in split]
    (run / "run.json").write_text(json.dumps({"parents": found, **record}))
    (run / "config.yaml").write_text(config)
    (run / "overrides.txt").write_text(command + "\n")
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_status(run, state)
    return run


def kept(run: Path) -> list[int]:
    """Steps of a run's checkpoint folders."""
    return sorted(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*"))
