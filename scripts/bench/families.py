"""Every task as a small model learns it: pretrained from nothing, evaluated held out, beside chance and short cut.

python scripts/bench/families.py [--only graph,sudoku] [--steps 1500]

The commands are printed as they run: `rlx stage=pretrain scale=cpu` with the defaults of each setting, then
`rlx stage=eval` on 200 problems of `test`. A task that stays at its baseline shows as such.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _results

SETTINGS = [
    "task=countdown task.numbers=3 task.max_number=30 task.trace=operations",
    "task=sudoku",
    "task=graph",
    "task=paths",
    "task=navigation",
    "task=arithmetic",
    "task=math",
]


def rlx(*arguments: str) -> Path:
    """Run a command to its end and return the run directory that it names."""
    print("rlx", shlex.join(arguments), flush=True)
    done = subprocess.run([sys.executable, "-m", "rlx.cli", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return Path(next(line.split()[-1] for line in done.stdout.splitlines() if "/seed" in line))


def measured(setting: str, steps: int, runs: str) -> dict[str, Any]:
    """Accuracy of one model on held-out problems, what no model gets, and what it took."""
    task = [*setting.split(), f"runs_dir={runs}"]
    run = rlx("stage=pretrain", *task, "scale=cpu", f"stage.steps={steps}", "stage.val_every=0")
    evaluated = rlx("stage=eval", *task, "scale=cpu", f"init_from={run}", "stage.problems=200", "stage.samples=8")
    found = json.loads((evaluated / "eval.json").read_text())
    record = json.loads((run / "run.json").read_text())
    own = {name.split("/", 2)[2]: value for name, value in found["metrics"].items()}
    percent = {f"{name}, %": 100 * own[name] for name in ("greedy", "pass@1", "pass@8", "chance", "baseline")}
    return {"setting": setting, **percent, "baseline": found["baseline"], "minutes": record["wall"] / 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="tasks, separated by commas; all by default")
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else None
    chosen = [s for s in SETTINGS if names is None or s.split()[0].removeprefix("task=") in names]
    with tempfile.TemporaryDirectory() as runs:
        rows = [measured(setting, arguments.steps, runs) for setting in chosen]
    print(_results.table(rows))
    _results.append("families", rows, steps=arguments.steps)


if __name__ == "__main__":
    main()
