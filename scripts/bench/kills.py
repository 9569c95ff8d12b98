"""Runs of every stage that are killed by SIGKILL at random, go on, and are compared with runs that were left alone.

python scripts/bench/kills.py [kills=100] [seed=0]

A run is killed two to five times before it is let end: mostly by itself at a random passing of a random place (see
`tests/stages/kills.py`), now and then from outside at a random time; some are asked to stop instead. Then everything it
left must equal, bit for bit, what a process of its own made undisturbed: weights and trainer state of every checkpoint
that stayed, all rows but their clocks, samples, eval.json, and run.json but for its provenance.
"""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _results

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rlx.progress import Progress
from tests.conftest import command, environment
from tests.stages.kills import Server, differences
from tests.stages.runs import PRETRAIN, evaluation, merge, place, rl, sft

OUTSIDE = "any time"
"""The place of a kill from outside."""
OUTSIDE_SHARE, STOP_SHARE = 0.2, 0.15
"""Of all attempts: killed from outside; asked to stop by SIGTERM in place of a kill."""


@dataclass
class Case:
    """A stage's command, what an unbroken run of it is like, and what came of the broken ones."""

    arguments: list[str]
    whole: Path
    seconds: float
    fresh: dict[str, int]
    """How often an unbroken run comes by each place."""
    resumed: dict[str, int]
    """How often a run comes by that was killed in the middle."""
    kills: Counter[str] = field(default_factory=Counter)
    stops: int = 0
    runs: int = 0
    equal: int = 0

    def row(self, stage: str) -> dict[str, Any]:
        different = self.runs - self.equal
        return {"stage": stage, "runs": self.runs, "kills": self.kills.total(), "places": len(self.kills),
                "stops": self.stops,                 "equal": self.equal, "different": different}  # fmt: skip


def commands(server: Server, folder: Path) -> dict[str, list[str]]:
    """The smallest run of every stage, with the runs that it starts from made."""
    start = place(server.run([*PRETRAIN, "stage.steps=4", "schedule=constant"], folder=folder).out)
    tuned = place(server.run(sft(start, "stage.steps=4"), folder=folder).out)
    return {
        "pretrain": [*PRETRAIN, "stage.micro_batches=2", "checkpoint.keep=last:1+log:4"],
        "sft": sft(start, "eval.every=4", "eval.problems=4", "eval.samples=2", "decode.max_tokens=8"),
        "continued": [*PRETRAIN, f"init_from={start}", "init.state=all", "schedule=constant"],
        "rl": rl(start, "algorithm.minibatches=2", "algorithm.epochs=2", "algorithm.kl_coefficient=0.01"),
        "merge": merge(start, tuned),
        "eval": evaluation(tuned),
    }


def prepare(server: Server, folder: Path, arguments: list[str]) -> Case:
    """An unbroken run in a process of its own, which one in a child of the server must equal."""
    done = subprocess.run(
        command(*arguments, "runs_dir=whole"), cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    whole = folder / place(done.stdout)
    began = time.monotonic()
    done, fresh = server.passings([*arguments, "runs_dir=forked"], folder)
    seconds = time.monotonic() - began
    found = differences(folder / place(done.out), whole)
    assert not found, f"a forked process differs from one of its own in {', '.join(found)}: {' '.join(arguments)}"
    arguments_twice, middle = [*arguments, "runs_dir=twice"], fresh["row written"] // 2 + 1
    server.run(arguments_twice, folder=folder, place="row written", count=middle)
    resumed = server.passings(arguments_twice, folder)[1]
    return Case(arguments, whole, seconds, fresh, resumed)


def break_once(server: Server, folder: Path, case: Case, chance: random.Random, name: str) -> str | None:
    """A run killed several times and let end: None when it equals the unbroken one, else what is wrong."""
    arguments, kills = [*case.arguments, f"runs_dir={name}"], []
    planned = chance.randint(2, 5)
    for number in range(1, planned + 1):
        passings = case.resumed if kills else case.fresh
        where = chance.choice(sorted(passings))
        most = passings[where] if number == planned else passings[where] // 2
        count, kind = chance.randint(1, max(1, most)), chance.random()
        if kind < OUTSIDE_SHARE:
            where, count = OUTSIDE, 0
            done = server.run(arguments, folder=folder, seconds=chance.uniform(0, case.seconds))
        elif kind < OUTSIDE_SHARE + STOP_SHARE:
            done = server.run(arguments, folder=folder, place=where, count=count, number=signal.SIGTERM)
        else:
            done = server.run(arguments, folder=folder, place=where, count=count)
        if done.code == 0:
            break
        kills.append((where, count, done.code))
        if done.code == 75:
            case.stops += 1
        elif done.code == -signal.SIGKILL:
            case.kills[where] += 1
        else:
            return f"exit code {done.code} after {kills}: {done.err}"
    done = server.run(arguments, folder=folder)
    if done.code != 0:
        return f"exit code {done.code} after {kills}: {done.err}"
    found = differences(folder / name / Path(*case.whole.parts[-2:]), case.whole)
    return f"{', '.join(found)} after {kills}" if found else None


def campaign(kills: int, seed: int, folder: Path) -> dict[str, Case]:
    """Kill runs of the stages in turn until so many kills have been made."""
    chance, made, run = random.Random(seed), 0, 0
    with Server() as server:
        cases = {name: prepare(server, folder, given) for name, given in commands(server, folder).items()}
        print("a process of its own and a forked one make the same bits in every stage", flush=True)
        progress = Progress("kills", kills)
        while made < kills:
            name = list(cases)[run % len(cases)]
            case, run = cases[name], run + 1
            wrong = break_once(server, folder, case, chance, f"broken-{run}")
            case.runs += 1
            case.equal += wrong is None
            if wrong is None:
                shutil.rmtree(folder / f"broken-{run}")
            else:
                print(f"different: {name}, {folder}/broken-{run}: {wrong}", flush=True)
            made = sum(case.kills.total() for case in cases.values())
            progress.update(made, f"{run} runs")
        progress.close()
    return cases


def main(kills: int = 100, seed: int = 0) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rlx-kills-"))
    cases = campaign(kills, seed, folder)
    places = dict.fromkeys(name for case in cases.values() for name in [*case.resumed, *case.fresh, OUTSIDE])
    print(_results.table([{"place": p, **{name: case.kills[p] for name, case in cases.items()}} for p in places]))
    rows = [case.row(name) for name, case in cases.items()]
    print("\n" + _results.table(rows))
    by_place = {name: dict(case.kills) for name, case in cases.items()}
    _results.append("kills", rows, kills=kills, seed=seed, by_place=by_place)
    if any(row["different"] for row in rows):
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
