"""A plan of 1,000 runs: expanded, typed, hashed, costed, shown, and submitted as job arrays.

    python scripts/bench/plan.py [--runs 1000] [--compare 40] [--no-save]

1. Twenty combinations of group options (task, optimizer, schedule), in two shapes: `seeds` is 40 arms of 25 seeds,
   `values` is 1,000 learning rates, each alone.
2. The clock starts after the imports, which a plan of one run makes, in a process of its own for each measurement.
   Each phase has its own clock; `total` is the whole command. Medians of `--repeat` processes.
3. sbatch, squeue and scontrol are stand-ins that answer at once: what is measured is what rlx does.
4. `hydra` is the time that Hydra's own composition takes a command, over `--compare` of them, typed and compared with
   what the plan had; a difference ends the benchmark.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from _results import append, table

GROUPS = ["task=countdown,sudoku,graph,arithmetic,paths", "optim=adamw,muon", "schedule=cosine,constant"]
COMBINATIONS = 20
FIXED = ["stage=pretrain", "hydra/launcher=slurm_array", "hydra.launcher.max_parallel=50"]
STANDINS = {
    "sbatch": "#!/bin/sh\necho $$\n",
    "squeue": "#!/bin/sh\n",
    "scontrol": "#!/bin/sh\necho 'MaxArraySize = 1001'\n",
}
PHASES = ("expand", "type", "hash", "cost", "show", "submit")


def arguments(shape: str, runs: int) -> list[str]:
    """The command of one shape."""
    each = runs // COMBINATIONS
    if shape == "seeds":
        return ["-m", *FIXED, *GROUPS, "optim.lr=1e-3,3e-4", f"seed=range({each // 2})"]
    rates = ",".join(f"{1e-5 * (1 + number):.6g}" for number in range(each))
    return ["-m", *FIXED, *GROUPS, f"optim.lr={rates}"]


class Clocks:
    """Wall and CPU seconds by phase."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def measure(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to the phase."""

        def timed(*args: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), cpu_seconds()
            try:
                return function(*args, **named)
            finally:
                self.wall[phase] = self.wall.get(phase, 0.0) + time.perf_counter() - wall
                self.cpu[phase] = self.cpu.get(phase, 0.0) + cpu_seconds() - cpu

        return timed


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measured(shape: str, runs: int, compare: int) -> dict[str, Any]:
    """One measurement, in this process and this folder."""
    from rlx import cli, composer, plugins, sweep
    from rlx.plans.launchers.slurm_array import SlurmArrayConfig
    from rlx.stages import planning

    for name, text in STANDINS.items():
        path = Path("bin", name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    os.environ["PATH"] = f"{Path('bin').resolve()}:{os.environ['PATH']}"
    clocks, kept = Clocks(), []
    plugins.expand = clocks.measure("expand", plugins.expand)
    sweep.Sweep.entered = clocks.measure("type", sweep.Sweep.entered)  # type: ignore[method-assign]
    sweep.Sweep.jobs = keep(kept, clocks.measure("hash", sweep.Sweep.jobs))  # type: ignore[method-assign]
    planning.expect = clocks.measure("cost", planning.expect)
    sweep.tree = clocks.measure("show", sweep.tree)
    sweep.Plan.save = clocks.measure("submit", sweep.Plan.save)  # type: ignore[method-assign]
    SlurmArrayConfig.carry_out = clocks.measure("submit", SlurmArrayConfig.carry_out)  # type: ignore[method-assign]
    total = clocks.measure("total", cli.run)
    with open("printed.txt", "w") as file, redirect_stdout(file):
        assert cli.run(["-m", "stage=pretrain", "task=navigation", "plan.dry=true"]) == 0
        for record in (clocks.wall, clocks.cpu, kept):
            record.clear()
        composer.parse.cache_clear()
        assert total(arguments(shape, runs)) == 0
    assert len({job.planned.run for job in kept}) == runs
    row = {"shape": shape, "runs": runs, **{phase: round(clocks.wall[phase], 3) for phase in (*PHASES, "total")}}
    row["total_cpu"] = round(clocks.cpu["total"], 3)
    took = by_hydra(kept[:: max(1, runs // compare)][:compare]) if compare else 0.0
    return {**row, "hydra": round(took, 4), "compared": compare}


def keep(found: list[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with what it returns added to a list."""

    def kept(*args: Any, **named: Any) -> Any:
        made = function(*args, **named)
        found.extend(made)
        return made

    return kept


def by_hydra(jobs: list[Any]) -> float:
    """Seconds that Hydra takes a command, whose configs must be those of the jobs."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    taken = []
    with hydra.initialize_config_module("rlx.conf", version_base="1.3"):
        for job in jobs:
            began = time.perf_counter()
            config = OmegaConf.to_object(hydra.compose("config", job.planned.arguments))
            taken.append(time.perf_counter() - began)
            assert config == job.config, f"Hydra composes something else: rlx {' '.join(job.planned.arguments)}"
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--compare", type=int, default=40, help="commands composed by Hydra too")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--once", choices=("seeds", "values"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.once:
        print(json.dumps(measured(asked.once, asked.runs, asked.compare)))
        return
    rows = []
    for shape in ("seeds", "values"):
        made = [once(shape, asked) for _ in range(asked.repeat)]
        numbers = [name for name, value in made[0].items() if isinstance(value, int | float)]
        rows.append({"shape": shape, **{name: statistics.median(each[name] for each in made) for name in numbers}})
    print(table(rows))
    if not asked.no_save:
        append("plan", rows, repeat=asked.repeat)


def once(shape: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in a process and a folder of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--once", shape]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--runs", str(asked.runs), "--compare", str(asked.compare)],
            cwd=folder, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
