"""Plans made by hand, with runs that stand as they are told to."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlx.plans.plan import Plan, PlannedRun, with_levels
from rlx.runs.lease import Lease

STEPS = 100


def planned(number: int, **more: Any) -> PlannedRun:
    """A run below `runs`, called after its number."""
    run = place(number)
    label = f"optim.lr={number}"
    told = {"name": Path(run).parent.name, "label": label, "seed": 0, "run": run, "stage": "pretrain"}
    return PlannedRun(**{**told, "command": f"rlx {label}", "arguments": [run], **more})


def place(number: int) -> str:
    return f"runs/countdown-dense-pretrain-h{number:04x}/seed0"


def write(run: PlannedRun, state: str, reason: str = "", *, step: int | None = None, **record: Any) -> None:
    """What a run leaves; flushed to no disk, since there may be thousands."""
    folder = Path(run.run)
    folder.mkdir(parents=True, exist_ok=True)
    step = STEPS if state == "finished" and step is None else step
    rows = [] if step is None else range(0, step + 1, 10)
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": at, "val/loss": 2 - at / STEPS, "wall": at / 2}) + "\n" for at in rows)
    )
    more = {"wall_s": STEPS / 2} if state == "finished" else {}
    (folder / "run.json").write_text(
        json.dumps({"planned_steps": STEPS, "options": {"model": "dense"}, "git": {"commit": "abc"}, **more, **record})
    )
    (folder / "config.yaml").write_text(f"seed: {run.seed}\noptim:\n  lr: {run.label.rpartition('=')[2]}\n")
    (folder / "status").write_text(json.dumps({"state": state, "reason": reason}))


def saved(runs: Sequence[PlannedRun], name: str = "made", **launcher: Any) -> Plan:
    """A plan of them, in `runs/plans`."""
    plan = Plan(folder=Path("runs/plans") / name, runs=with_levels(runs), command="rlx -m optim.lr=0,1")
    plan.save({"option": "sequential", **launcher})
    return plan


def of_all_states(stack: ExitStack) -> Plan:
    """One run for each state that a directory can show."""
    runs = [planned(number) for number in range(7)]
    write(runs[0], "finished")
    write(runs[1], "running", step=50)
    stack.enter_context(Lease.acquire(runs[1].run))
    write(runs[2], "failed", "RunError: the loss is nan at step 30", step=30)
    write(runs[3], "blocked", f"{runs[2].run} is failed, and this run begins from it")
    write(runs[4], "running", step=20)  # nobody holds it
    write(runs[5], "stopped", "stopped on request; give the same command again to go on", step=60)
    return saved(runs)


def of_many(count: int, running: int = 0) -> Plan:
    """Most of them finished; some say that they are running, and nobody holds them."""
    runs = [planned(number) for number in range(count)]
    for number, run in enumerate(runs):
        write(run, "running" if number < running else "finished", step=50 if number < running else None)
    return saved(runs)


def timed(action: Any) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
