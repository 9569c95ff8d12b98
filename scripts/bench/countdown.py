"""Countdown: instances made and answers verified per second of one core, in each trace.

python scripts/bench/countdown.py
"""

import time
from statistics import mean, median
from typing import Any

import _results

from rlx.tasks.countdown import SEARCHES, Countdown, CountdownConfig
from rlx.tasks.countdown_search import draw_block
from rlx.tasks.countdown_traces import Trace
from rlx.types import Example, Split

REPEATS = 5
COUNT = 2000
"""Examples a repeat; of searches, which are long, a tenth."""


def made_per_second(task: Countdown, repeat: int) -> tuple[float, list[Example]]:
    """Rate of fresh training examples in order, their problems drawn anew, and the examples."""
    count = COUNT // 10 if task.config.trace in SEARCHES else COUNT
    draw_block.cache_clear()
    began = time.process_time()
    examples = [task.example(Split.train, repeat * COUNT + index) for index in range(count)]
    return count / (time.process_time() - began), examples


def verified_per_second(task: Countdown, examples: list[Example]) -> float:
    """Rate of verifying correct solutions."""
    began = time.process_time()
    for example in examples:
        assert task.verify(example, example.solution).correct
    return len(examples) / (time.process_time() - began)


def main() -> None:
    tasks = [CountdownConfig(numbers=numbers, trace=trace).build() for numbers in (3, 4) for trace in Trace]
    made: list[list[float]] = [[] for _ in tasks]
    verified: list[list[float]] = [[] for _ in tasks]
    length = [0.0 for _ in tasks]
    for repeat in range(REPEATS):
        for number, task in enumerate(tasks):
            rate, examples = made_per_second(task, repeat)
            made[number].append(rate)
            verified[number].append(verified_per_second(task, examples))
            length[number] = mean(len(example.solution) for example in examples)
    rows: list[dict[str, Any]] = [
        {
            "numbers": task.config.numbers,
            "trace": task.config.trace.name,
            "instances/s": median(made[number]),
            "verifications/s": median(verified[number]),
            "characters": length[number],
        }
        for number, task in enumerate(tasks)
    ]
    print(_results.table(rows))
    _results.append("countdown", rows, repeats=REPEATS, count=COUNT)


if __name__ == "__main__":
    main()
