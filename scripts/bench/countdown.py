"""Countdown: instances made and answers verified per second, on one core.

python scripts/bench/countdown.py
"""

import time
from statistics import median

from rlx.tasks.countdown import Countdown, CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.types import Example, Split

COUNT = 2000
REPEATS = 3


def made_per_second(task: Countdown) -> tuple[float, list[Example]]:
    """Median rate of fresh training examples in order, and the last ones made."""
    rates, examples = [], []
    for repeat in range(REPEATS):
        began = time.perf_counter()
        examples = [task.example(Split.train, repeat * COUNT + index) for index in range(COUNT)]
        rates.append(COUNT / (time.perf_counter() - began))
    return median(rates), examples


def verified_per_second(task: Countdown, examples: list[Example]) -> float:
    """Median rate of verifying correct solutions."""
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for example in examples:
            assert task.verify(example, example.solution).correct
        rates.append(len(examples) / (time.perf_counter() - began))
    return median(rates)


def main() -> None:
    print("numbers  trace        instances/s  verifications/s")
    for numbers in (3, 4):
        for trace in Trace:
            task = CountdownConfig(numbers=numbers, trace=trace).build()
            made, examples = made_per_second(task)
            print(f"{numbers:7}  {trace.name:11} {made:12,.0f} {verified_per_second(task, examples):16,.0f}")


if __name__ == "__main__":
    main()
