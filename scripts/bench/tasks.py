"""Tasks: examples made and correct solutions verified per second of one core, against reasoning-gym where it has one.

python scripts/bench/tasks.py [--only countdown,sudoku] [--repeats 5]      (peers need: pip install reasoning-gym)

Every repeat makes new training examples in order, and verifies their solutions; where a peer has the family it makes
problems of equal parameters in turn with us, and scores its own answers. Medians over the repeats, of CPU time.
Searches and scratchpads verify whole traces; `operations` and `optimal` are final answers.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from statistics import mean, median
from typing import Any

import _results

from rlx.options import discover
from rlx.tasks.base import Task
from rlx.types import Split

SECONDS = 1.0
"""CPU time of one measurement, about."""
LEAST = 1024
"""Examples of ours in one measurement at least: whole blocks, where they are made in blocks."""
LEAST_OF_PEERS = 16


@dataclass(frozen=True)
class Setting:
    """What is measured, what of reasoning-gym equals it, and what design.md promises."""

    task: str
    fields: dict[str, Any]
    peer: tuple[str, dict[str, Any]] | None = None
    promise: str = ""

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.fields.items()) or "as it is"


def setting(task: str, *, peer: tuple[str, dict[str, Any]] | None = None, promise: str = "", **fields: Any) -> Setting:
    return Setting(task, fields, peer, promise)


COUNTDOWN = ("countdown", dict(min_numbers=4, max_numbers=4, min_value=1, max_value=99, min_target=10, max_target=100))
EMPTY_55 = dict(min_empty=55, max_empty=55)
SETTINGS = [
    setting("countdown", trace="operations", peer=COUNTDOWN, promise="verify 100,000/s; make 100x"),
    setting("countdown", trace="direct"),
    setting("countdown", trace="tinyzero"),
    setting("countdown", trace="dfs"),
    setting("countdown", trace="think"),
    setting("countdown", numbers=8, trace="operations"),
    setting("graph", depth=3, short=3, long=5, dead=3, trace="optimal", promise="verify 100,000/s (10 nodes)"),
    setting("graph"),
    setting("graph", depth=5, short=3, long=5, dead=3),
    setting("paths"),
    setting("paths", min_vertices=20, max_vertices=50),
    setting("paths", question="reachable"),
    setting("sudoku", size=9, empty="55", peer=("sudoku", EMPTY_55), promise="make 100/s and 20x"),
    setting("sudoku", size=9, empty="30-50", trace="search", peer=("sudoku", {}), promise="make 20x"),
    setting("sudoku", empty="8-12", peer=("mini_sudoku", {}), promise="make 20x"),
    setting("sudoku", size=6),
    setting("navigation"),
    setting("navigation", values=20, min_actions=5, max_actions=10, irrelevant=10),
    setting("arithmetic"),
    setting("arithmetic", operation="multiply", trace="icot", min_digits=4, max_digits=4),
    setting("arithmetic", trace="turing", min_digits=1, max_digits=50),
    setting("math"),
    setting("math", trace="code"),
]


def built(setting: Setting) -> Task:
    """The task of a setting, whose choices are given by name."""
    config: Any = discover("task")[setting.task].config
    choices: dict[str, Any] = {f.name: type(f.default) for f in fields(config) if isinstance(f.default, Enum)}
    values = {name: choices[name][value] if name in choices else value for name, value in setting.fields.items()}
    return config(**values).build()


def rate(work: Callable[[int], Any], least: int = LEAST) -> tuple[float, list[Any]]:
    """How often a second `work` is done, and what it gave: for `SECONDS`, and `least` times at least."""
    given: list[Any] = []
    began = time.process_time()
    while len(given) < least or time.process_time() - began < SECONDS:
        given.append(work(len(given)))
    return len(given) / (time.process_time() - began), given


def ours(task: Task, repeat: int) -> dict[str, float]:
    """Rates of making and verifying, and the mean length of a solution in characters."""
    made, examples = rate(lambda index: task.example(Split.train, 1_000_000 * repeat + index))

    def verify(index: int) -> bool:
        example = examples[index % len(examples)]
        return task.verify(example, example.solution).correct

    verified, verdicts = rate(verify)
    assert all(verdicts)
    return {"made": made, "verified": verified, "characters": mean(len(example.solution) for example in examples)}


def theirs(name: str, parameters: dict[str, Any], repeat: int) -> dict[str, float]:
    """The same of a reasoning-gym generator."""
    import reasoning_gym  # type: ignore[reportMissingImports]

    data = reasoning_gym.create_dataset(name, size=1_000_000, seed=1_000_000 * repeat, **parameters)
    made, entries = rate(lambda index: data[index], LEAST_OF_PEERS)

    def score(index: int) -> float:
        entry = entries[index % len(entries)]
        return data.score_answer(entry["answer"], entry)

    scored, scores = rate(score, LEAST_OF_PEERS)
    assert all(score == 1 for score in scores)
    return {"made": made, "verified": scored}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="tasks, separated by commas; all by default")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    chosen = [s for s in SETTINGS if not arguments.only or s.task in arguments.only.split(",")]
    peers = importlib.util.find_spec("reasoning_gym") is not None
    if not peers:
        print("reasoning-gym is not installed: no ratios (pip install reasoning-gym)")
    tasks = [built(setting) for setting in chosen]
    own: list[list[dict[str, float]]] = [[] for _ in chosen]
    other: list[list[dict[str, float]]] = [[] for _ in chosen]
    for repeat in range(1, arguments.repeats + 1):
        for number, setting in enumerate(chosen):
            own[number].append(ours(tasks[number], repeat))
            if peers and setting.peer:
                other[number].append(theirs(*setting.peer, repeat))
    rows = [row(*each) for each in zip(chosen, own, other, strict=True)]
    print(_results.table(rows))
    _results.append("tasks", rows, repeats=arguments.repeats, seconds=SECONDS)


def row(setting: Setting, own: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of both sides and their ratios."""
    middle = {name: median(each[name] for each in own) for name in own[0]}
    found: dict[str, Any] = {
        "task": setting.task,
        "setting": setting.label,
        "examples/s": middle["made"],
        "verifications/s": middle["verified"],
        "characters": middle["characters"],
    }
    if other:
        peer = {name: median(each[name] for each in other) for name in other[0]}
        found["peer examples/s"], found["peer scores/s"] = peer["made"], peer["verified"]
        found["made, ratio"] = median(a["made"] / b["made"] for a, b in zip(own, other, strict=True))
        found["verified, ratio"] = median(a["verified"] / b["verified"] for a, b in zip(own, other, strict=True))
    return found | ({"promise": setting.promise} if setting.promise else {})


if __name__ == "__main__":
    main()
