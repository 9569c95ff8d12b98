"""How likely a problem of Countdown is solved by operations drawn at random."""

from collections.abc import Sequence
from functools import lru_cache
from random import Random

import numpy as np

from rlx.tasks.base import stable_hash
from rlx.tasks.countdown_search import Floats, expand, hits_of, moves_of, paths
from rlx.tasks.countdown_traces import calculate

COUNTED = 5
"""Numbers from which every sequence of operations is counted."""
WAYS = 60
"""Ways down to `COUNTED` numbers that are taken: all there are from 6."""


@lru_cache(maxsize=4096)
def chance(target: int, inputs: tuple[int, ...]) -> float:
    """Share of the sequences of operations on `inputs` that end at the target.

    Each step takes two of the numbers that are left, by place, and one of the four signs, the larger number first:
    with n numbers prod(4 * k * (k - 1) / 2 for k in 2..n) sequences, 1,152 with 4. A division that is not exact makes
    its sequence a miss. Up to 6 numbers all are counted. With 7 and 8 it is the mean over `WAYS` ways down to 5
    numbers, drawn evenly and fixed by the problem, below each of which all are counted.
    """
    states = np.array(_states(target, tuple(sorted(inputs))), dtype=np.float64)
    if not len(states):
        return 0.0
    nodes: Floats = states.T[:, None]  # [numbers, L, ways]
    while len(nodes) > 2:
        # Exact where it counts: what a float64 rounds (2**53 and more) has 6 numbers up to 1000 in it at least, and two
        # others do not bring it down to a target.
        nodes = expand(nodes)
    ways = min(WAYS, paths(len(inputs), min(len(inputs), COUNTED)))
    return float(hits_of(nodes, np.full(len(states), target, np.float64)).sum()) / (ways * paths(states.shape[1]))


def _states(target: int, inputs: tuple[int, ...]) -> list[list[int]]:
    """What the ways down to `COUNTED` numbers leave; those with an illegal operation leave nothing."""
    if len(inputs) <= COUNTED:
        return [list(inputs)]
    every = paths(len(inputs), COUNTED)
    random = Random(stable_hash("countdown chance", target, *inputs))
    ways = range(every) if every <= WAYS else [int(random.random() * every) for _ in range(WAYS)]
    found = [_carried_out(inputs, moves_of(way, len(inputs), COUNTED)) for way in ways]
    return [state for state in found if state is not None]


def _carried_out(inputs: Sequence[int], moves: Sequence[tuple[int, int, str]]) -> list[int] | None:
    """The numbers that the moves leave; None where one is illegal."""
    numbers = list(inputs)
    for i, j, sign in moves:
        high, low = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
        result = calculate(high, sign, low)
        if result is None:
            return None
        numbers = [number for place, number in enumerate(numbers) if place not in (i, j)] + [result]
    return numbers
