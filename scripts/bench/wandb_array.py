"""A job array whose tasks all start W&B at the same moment: python scripts/bench/wandb_array.py [tasks].

Each task is a process with a run directory, a W&B mirror and a few rows; instead of training it waits until the mirror
has started. Once all are offline, once all are online and the server refuses them (20 s of their start are then
`logger.init_timeout`). What is told: how many runs did not finish, how many mirrors did not send every row, and how
long a mirror took to start, on these cores, which the tasks of a real array do not share.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _results import append, table

REFUSING = "http://127.0.0.1:9"
ROWS = 20
PATIENCE_S = 600.0
"""Seconds that a run would take."""


def task(folder: str, asked: str) -> None:
    """One task of the array; prints its seconds as JSON."""
    import rlx.runs.loggers.wandb as mirror
    from rlx.runs.run import open_run

    taken: list[float] = []
    mirrors: list[mirror.Mirror] = []
    start = mirror.Mirror._start

    def timed(self: mirror.Mirror, mode: mirror.Mode) -> None:
        mirrors[:] = [self]
        begin = time.monotonic()
        try:
            start(self, mode)
        finally:
            taken.append(time.monotonic() - begin)

    mirror.Mirror._start = timed
    logger = mirror.WandbConfig(mode=mirror.Mode[asked])
    with open_run(Path(folder), config={}, command="rlx", record={"parents": []}, logger=logger) as run:
        for step in range(ROWS):
            run.metrics.append({"step": step, "train/loss": 1 / (1 + step)})
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and not (mirrors and mirrors[0].out is not None):
            time.sleep(0.2)
    sent = mirrors[0]._last if mirrors else None
    print(json.dumps({"start": sum(taken), "sent": sent == ROWS - 1}))


def array(tasks: int, mode: str, place: str) -> dict[str, Any]:
    """Start all tasks at once and wait for them."""
    settings = {"WANDB_BASE_URL": REFUSING, "WANDB_API_KEY": "0" * 40, "WANDB_ERROR_REPORTING": "false", "HOME": place}
    begin, running = time.monotonic(), []
    for number in range(tasks):
        command = [sys.executable, __file__, "task", f"{place}/{mode}/seed{number}", mode]
        environment = {**os.environ, **settings, "SLURM_ARRAY_TASK_ID": str(number)}
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    ends = [process.communicate() for process in running]
    wall = time.monotonic() - begin
    failed = [out + err for process, (out, err) in zip(running, ends, strict=True) if process.returncode]
    for text in failed[:3]:
        print(text.decode(errors="replace"), file=sys.stderr)
    good = [out for process, (out, _) in zip(running, ends, strict=True) if not process.returncode]
    told = [json.loads(out.splitlines()[-1]) for out in good]
    states = [path.read_text() for path in Path(place).glob(f"{mode}/*/status")]
    row: dict[str, Any] = {
        "mode": mode if mode == "offline" else "online, refused",
        "tasks": tasks,
        "not finished": tasks - sum('"finished"' in state for state in states),
        "without all rows": tasks - sum(each["sent"] for each in told),
    }
    seconds = [each["start"] for each in told] or [float("nan")]
    return {**row, "start median s": statistics.median(seconds), "start max s": max(seconds), "all s": wall}


def main(tasks: int = 100) -> None:
    with tempfile.TemporaryDirectory() as place:
        rows = [array(tasks, mode, place) for mode in ("offline", "online")]
    print(table(rows))
    append("wandb_array", rows, cores=os.cpu_count())


if __name__ == "__main__":
    if sys.argv[1:2] == ["task"]:
        task(*sys.argv[2:])
    else:
        main(*map(int, sys.argv[1:]))
