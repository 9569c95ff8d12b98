"""Seconds until `rlx --help` and an answer to Tab, beside `import torch`: python scripts/bench/startup.py [repeats]."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _results import append, table

RLX = [sys.executable, "-m", "rlx.cli"]
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "rlx --help": [*RLX, "--help"],
    "rlx stage=rl algorithm=grpo --help": [*RLX, "stage=rl", "algorithm=grpo", "--help"],
    "Tab after `rlx stage=rl optim.`": [*RLX, "-sc", "query=bash"],
    "rlx stage=pretrain task=countdown --cfg job": [*RLX, "stage=pretrain", "task=countdown", "--cfg", "job"],
    "python -m rlx.runs": [sys.executable, "-m", "rlx.runs", "--runs-dir", str(Path(__file__).parent)],
}


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    line = {"COMP_LINE": "rlx stage=rl optim."}
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **line})
    return time.perf_counter() - begin


def main(repeats: int = 9) -> None:
    """Every command in turn, `repeats` times; medians."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(repeats + 1):
        for name, command in COMMANDS.items():
            spent = seconds(command)
            if turn:  # the first turn fills the disk's cache
                taken[name].append(spent)
    medians = {name: statistics.median(found) for name, found in taken.items()}
    torch = medians["import torch"]
    rows = [{"command": name, "seconds": s, "more than import torch": s - torch} for name, s in medians.items()]
    print(table(rows))
    append("startup", rows, repeats=repeats)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
