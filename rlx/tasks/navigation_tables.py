"""The fixed tables of navigation: hidden dynamics, the rule for actions, and the spurious cues of `train`.

The rules: `rlx/tasks/navigation.py`. Every number comes from raw bits, which are the same in every numpy version;
shares are rounded to 2^-32 before anything is drawn from them, so that the last digit of a logarithm moves no draw.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import cast

import numpy as np
from numpy.typing import NDArray

from rlx.tasks.base import stable_hash

Ints = NDArray[np.int64]
Rows = list[list[int]]

WHOLE = 2**32
"""What the thresholds of a distribution end at."""
CHUNK = 4096
"""Raw numbers read at once."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables of V values each way, as lists of V rows; V values are 0 to V - 1."""

    values: int
    state_next: Rows
    """The state that follows, by state and action: any, so two actions may lead to one state."""
    problem_next: Rows
    """The problem state that follows, by problem state and action: each row is a permutation."""
    action_of: Rows
    """The one action that leads from a problem state to another, by both."""
    action_logs: list[list[float]]
    """Logarithms of the shares of actions in biased draws, by state and action."""
    context_logs: list[list[float]]
    """Logarithms of the shares of contexts in biased draws, by action and context."""
    cue: Rows
    """The likeliest action in biased draws, by state and context."""
    usual_state: list[int]
    """The state that an action leads to from most states, by action; the least of several."""


@lru_cache(maxsize=32)
def make_tables(values: int, concentration: float, seed: int) -> Tables:
    """The tables of one seed; the dynamics do not depend on `concentration`."""
    state_next = _state_table(values, _raw("states", values, seed))
    problem_next = _permutations(values, _raw("problems", values, seed))
    action_logs = dirichlet_logs(values, concentration, _raw("actions", values, seed))
    context_logs = dirichlet_logs(values, concentration, _raw("contexts", values, seed))
    every = range(values)
    cue = [
        [max(every, key=lambda action: context_logs[action][context] + action_logs[state][action]) for context in every]
        for state in every
    ]
    reached = [[row[action] for row in state_next] for action in every]
    return Tables(
        values=values,
        state_next=state_next,
        problem_next=problem_next,
        action_of=[[row.index(after) for after in every] for row in problem_next],
        action_logs=action_logs,
        context_logs=context_logs,
        cue=cue,
        usual_state=[max(every, key=states.count) for states in reached],
    )


def _raw(name: str, values: int, seed: int) -> Iterator[int]:
    """An endless stream of 64-bit numbers of a table."""
    bits = np.random.PCG64(stable_hash("navigation", name, values, seed))
    while True:
        yield from cast(list[int], bits.random_raw(CHUNK).tolist())


def _state_table(values: int, raw: Iterator[int]) -> Rows:
    return [[next(raw) % values for _ in range(values)] for _ in range(values)]


def _permutations(values: int, raw: Iterator[int]) -> Rows:
    """One permutation a row (Fisher and Yates)."""
    rows = [list(range(values)) for _ in range(values)]
    for row in rows:
        for last in reversed(range(1, values)):
            place = next(raw) % (last + 1)
            row[last], row[place] = row[place], row[last]
    return rows


# Dirichlet draws


def dirichlet_logs(values: int, concentration: float, raw: Iterator[int]) -> list[list[float]]:
    """Logarithms of `values` draws of `values` shares from a symmetric Dirichlet distribution.

    Gamma variates over their sum; logarithms, since of many small shares none may be a number above 0.
    """
    rows: list[list[float]] = []
    for _ in range(values):
        logs = [log_gamma_variate(concentration, raw) for _ in range(values)]
        most = max(logs)
        total = most + math.log(math.fsum(math.exp(log - most) for log in logs))
        rows.append([log - total for log in logs])
    return rows


def log_gamma_variate(shape: float, raw: Iterator[int]) -> float:
    """The logarithm of a draw from the gamma distribution of this shape and scale 1.

    Marsaglia and Tsang, "A simple method for generating gamma variables" (ACM TOMS 26, 2000): a cubed normal variate
    accepted by its density; a shape below 1 is a draw of shape + 1 times a uniform one to the power 1 / shape.
    """
    if shape < 1:
        return log_gamma_variate(shape + 1, raw) + math.log(_unit(raw)) / shape
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        normal = math.sqrt(-2 * math.log(_unit(raw))) * math.cos(2 * math.pi * _unit(raw))  # Box and Muller
        v = (1 + c * normal) ** 3
        if v > 0 and math.log(_unit(raw)) < normal * normal / 2 + d - d * v + d * math.log(v):
            return math.log(d * v)


def _unit(raw: Iterator[int]) -> float:
    """Uniform between 0 and 1, never either: the middle of one of 2^52 parts."""
    return ((next(raw) >> 12) + 0.5) / 2**52


def thresholds(logs: list[list[float]]) -> Ints:
    """Cumulated shares of each row in parts of `WHOLE`, [V, V]: a number below it stands for the value drawn."""
    rows = [list(accumulate(math.exp(log) for log in row)) for row in logs]
    return np.array([[round(part / row[-1] * WHOLE) for part in row] for row in rows], dtype=np.int64)
