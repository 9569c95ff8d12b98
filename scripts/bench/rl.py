"""What RL gains on Countdown with three numbers, in minutes on two cores: grpo, ppo, expert_iteration and others.

python scripts/bench/rl.py [--algorithms grpo,ppo,expert_iteration] [--seeds 0,1,2] [--runs-dir runs]

Each seed has a lineage of its own: pretraining and SFT as in the quickstart, then RL from the same SFT model with each
algorithm, and an evaluation of both on the same 400 problems of held-out targets, 8 samples each at temperature 1. The
gain in pass@1 has a 95 % interval, bootstrapped over problems and seeds. `sft_fall` is how much SFT's held-out loss
still fell over the last fifth of its steps, in per cent, the worst seed's: its plateau. Minutes are those of the RL
run's steps, validations included. Runs that are there are found and not made again; a run that was stopped goes on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import _results
import numpy as np
from numpy.typing import NDArray

from rlx.statistics import bootstrap, paired_difference, pass_at_k
from rlx.studies.quickstart import fall

TASK = ("task=countdown", "task.numbers=3", "task.trace=operations", "task.max_number=30", "task.solution=random",
        "scale=cpu")  # fmt: skip
PRETRAIN = ("stage=pretrain", "optim=muon", "stage.steps=4000", "stage.batch_tokens=512", "stage.row_tokens=128",
            "optim.lr=1e-2", "schedule.floor=0.02", "stage.val_every=300")  # fmt: skip
SFT = ("stage=sft", "optim=muon", "stage.steps=1000", "stage.batch_tokens=1024", "stage.row_tokens=128",
       "optim.lr=1.2e-3", "optim.adamw_lr=4e-4", "schedule.floor=0", "stage.val_every=50",
       "stage.val_tokens=16384")  # fmt: skip
RL = ("stage=rl", "optim=muon", "optim.weight_decay=0", "schedule=cosine", "schedule.floor=0", "decode.max_tokens=24",
      "stage.prompts=192", "algorithm.group_size=8", "optim.lr=8e-4", "optim.adamw_lr=6e-3", "stage.steps=220",
      "stage.val_every=40")  # fmt: skip
OWN: dict[str, tuple[str, ...]] = {
    "ppo": ("stage.prompts=512", "algorithm.group_size=1"),
    "expert_iteration": (
        "algorithm.train_from=latest",
        "algorithm.round_iterations=40",
        "stage.prompts=160",
        "stage.steps=280",
    ),
}
"""What an algorithm asks for besides."""
EVAL = ("stage=eval", "decode.max_tokens=24", "stage.problems=400", "stage.samples=8")


def made(runs_dir: str, *arguments: str) -> Path:
    """The directory of a run, made or found."""
    command = [sys.executable, "-m", "rlx.cli", *TASK, *arguments, f"runs_dir={runs_dir}"]
    print("  rlx " + " ".join(command[3:]), flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    line = next(line for line in done.stdout.splitlines() if f": {runs_dir}" in line)
    return Path(line.split(": ", 1)[1].split(" (")[0].strip())


def pass_1(run: Path) -> NDArray[np.float64]:
    """[N]: pass@1 of each problem of an evaluation."""
    problems = json.loads((run / "eval.json").read_text())["problems"]
    return pass_at_k([each["correct"] for each in problems], [each["n"] for each in problems], 1)


def series(run: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values of a metric."""
    rows = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row[name]) for row in rows if name in row]


def measure(runs_dir: str, algorithms: list[str], seeds: list[int], more: list[str]) -> list[dict[str, Any]]:
    before: list[NDArray[np.float64]] = []
    after: dict[str, list[NDArray[np.float64]]] = {name: [] for name in algorithms}
    minutes: dict[str, list[float]] = {name: [] for name in algorithms}
    falls: list[float] = []
    for seed in seeds:
        own = f"seed={seed}"
        first = made(runs_dir, *PRETRAIN, own)
        tuned = made(runs_dir, *SFT, f"init_from={first}", own)
        falls.append(100 * fall(series(tuned, "val/loss")))
        before.append(pass_1(made(runs_dir, *EVAL, f"init_from={tuned}", own)))
        for name in algorithms:
            run = made(runs_dir, *RL, f"algorithm={name}", *OWN.get(name, ()), *more, f"init_from={tuned}", own)
            after[name].append(pass_1(made(runs_dir, *EVAL, f"init_from={run}", own)))
            minutes[name].append(series(run, "wall")[-1][1] / 60)
    found = []
    for name in algorithms:
        gain = paired_difference(np.array(after[name]), np.array(before))
        each = [round(float((a - b).mean()), 3) for a, b in zip(after[name], before, strict=True)]
        found.append(
            {
                "algorithm": name, "seeds": len(seeds), "sft_pass_1": bootstrap(np.array(before)).value,
                "rl_pass_1": bootstrap(np.array(after[name])).value, "gain": gain.value, "low": gain.low,
                "high": gain.high, "each": each, "minutes": mean(minutes[name]), "most_minutes": max(minutes[name]),
                "sft_fall": max(falls),
            }
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", default="grpo,ppo,expert_iteration")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--more", default="", help="overrides for every RL run, space-separated")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    more = arguments.more.split()
    rows = measure(arguments.runs_dir, arguments.algorithms.split(","), seeds, more)
    print(_results.table(rows))
    _results.append("rl", rows, seeds=seeds, more=more)


if __name__ == "__main__":
    main()
