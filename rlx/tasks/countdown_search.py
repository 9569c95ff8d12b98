"""Which problems of Countdown there are, and the search for their solutions; the rules: `rlx/tasks/countdown.py`."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import Enum
from functools import lru_cache
from itertools import combinations, combinations_with_replacement
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlx.errors import ConfigError
from rlx.tasks.base import HELD_OUT_SHARE, split_of, stable_hash
from rlx.tasks.countdown_traces import Operation, Step, calculate
from rlx.types import Split

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SIGNS = "+*-/"
"""The four operations in successor order."""
PAIRS = {count: list(combinations(range(count), 2)) for count in range(2, 9)}
"""Places (i, j) of the operands in a list of `count` numbers, in successor order."""
EXHAUSTIVE = 4
"""From so many numbers on, every sequence of operations is tried."""
FIRST, SECOND = ([pair[side] for pair in PAIRS[4]] for side in range(2))
"""Operands of the pairs of 4 numbers; pair p and pair 5 - p have no number in common."""
ORDERS = [(pair, third) for pair in range(6) for third in range(4) if third not in PAIRS[4][pair]]
"""A pair of 4 numbers and a third one."""
PAIR_OF, THIRD_OF = ([order[part] for order in ORDERS] for part in range(2))
LAST_OF = [6 - sum(PAIRS[4][pair]) - third for pair, third in ORDERS]
"""Their columns, and the number that is left over."""
REDUCTIONS = 64
"""Ways down to `EXHAUSTIVE` numbers that are tried before inputs are redrawn."""
REDUCED_LIMIT = 9_740
"""Results above this are passed over on the way down: its fourth power is still exact in a float64."""
BLOCK = 128
"""Examples drawn together; reading one costs as much as reading all of its block."""
WIDTH = {3: 512, 4: 256, 5: 256, 6: 256, 7: 256, 8: 256}
"""Candidates drawn at once, by inputs."""
NARROW = 128
"""Instances whose first solution is searched at once; wider arrays leave the CPU's cache (2.5 times as slow)."""
SINGLE = 2**24
"""Whole numbers below this are exact in a float32."""
PATIENCE = 4_096
"""Candidates without a solution after which a target is given up for another one."""
MAX_TRIES = 1_000_000
"""Exhaustive searches per block after which a setting is refused: some seconds."""
ENUMERABLE = 20_000_000
"""Size of the search over all inputs up to which reachable targets are found exactly beforehand."""


class Choice(Enum):
    """Which solution is written where there are several."""

    first = "first"
    random = "random"


class Problem(NamedTuple):
    """Inputs in the order of the prompt, and the rank of the solution to write."""

    target: int
    inputs: tuple[int, ...]
    rank: int


@dataclass(frozen=True, slots=True)
class Space:
    """The settings that decide which problems there are."""

    numbers: int
    max_number: int
    min_target: int
    max_target: int
    held_out_targets: float


def instance_key(target: int, inputs: Sequence[int]) -> str:
    """Canonical name of an instance: equal for every order of the inputs."""
    return f"{target}:{','.join(map(str, sorted(inputs)))}"


def split_targets(space: Space, split: Split) -> list[int]:
    """The targets of a split: `test` has those that rank first by a fixed hash, `train` and `val` the others."""
    targets = range(space.min_target, space.max_target + 1)
    ranked = sorted(targets, key=lambda target: stable_hash("countdown target", target))
    held_out = max(1, int(space.held_out_targets * len(ranked)))
    return sorted(ranked[:held_out] if split is Split.test else ranked[held_out:])


def in_split(split: Split, target: int, inputs: Sequence[int]) -> bool:
    """True when an instance whose target is one of the split's belongs to the split."""
    return split is Split.test or (split_of(instance_key(target, inputs)) is Split.val) == (split is Split.val)


@lru_cache(maxsize=64)
def draw_block(space: Space, split: Split, seed: int, block: int, choice: Choice = Choice.first) -> tuple[Problem, ...]:
    """`BLOCK` problems, a pure function of the arguments; `choice` changes their solutions alone.

    Raises:
        ConfigError: no problem was found for some place in `MAX_TRIES` searches.
    """
    # Raw output of a bit generator is the same in every numpy version; methods of Generator need not be.
    bits = np.random.PCG64(stable_hash("countdown", *astuple(space), split.value, seed, block))
    choices = np.array(_reachable_targets(space, split), dtype=np.int64)
    if not len(choices):
        raise _no_problem(space, split)
    targets = choices[_uniform(bits, (BLOCK,), len(choices))]
    found: dict[int, tuple[int, list[int], int]] = {}
    # One instance in HELD_OUT_SHARE is in `val`: so many more are drawn, and few of them searched.
    share = HELD_OUT_SHARE if split is Split.val else 1
    tries = target_tries = 0
    while len(found) < BLOCK:
        open_slots = np.array([slot for slot in range(BLOCK) if slot not in found])
        each = max(1, WIDTH[space.numbers] // len(open_slots))
        if target_tries + each > PATIENCE:
            targets[open_slots] = choices[_uniform(bits, open_slots.shape, len(choices))]
            target_tries = 0
        slots = open_slots.repeat(each * share)
        inputs = 1 + _uniform(bits, (len(slots), space.numbers), space.max_number)
        _collect(found, split, slots, targets[slots], inputs)
        target_tries += each
        tries += each * len(open_slots) * _prefixes(space.numbers)
        if tries > MAX_TRIES:
            raise _no_problem(space, split)
    drawn, numbers, prefixes = (np.array([found[slot][part] for slot in range(BLOCK)]) for part in range(3))
    picks = _picks(drawn, numbers) if choice is Choice.random else None
    ranks = _ranks(drawn, numbers, prefixes, picks)
    return tuple(Problem(found[slot][0], tuple(found[slot][1]), int(ranks[slot])) for slot in range(BLOCK))


def _collect(
    found: dict[int, tuple[int, list[int], int]], split: Split, slots: Ints, targets: Ints, inputs: Ints
) -> None:
    """Put the first solvable candidate of the split into each open slot: target, inputs and the way down to 4."""
    if split is Split.val and inputs.shape[1] > 3:  # a search among 3 numbers costs less than the hash
        pairs = zip(targets.tolist(), inputs.tolist(), strict=True)
        kept = np.array([in_split(split, target, numbers) for target, numbers in pairs])
        slots, targets, inputs = slots[kept], targets[kept], inputs[kept]
    prefixes = _prefixes_that_reach(targets, inputs)
    for row in np.flatnonzero(prefixes >= 0).tolist():
        slot, target, numbers = int(slots[row]), int(targets[row]), inputs[row].tolist()
        if slot not in found and in_split(split, target, numbers):
            found[slot] = (target, numbers, int(prefixes[row]))


def _uniform(bits: np.random.PCG64, shape: tuple[int, ...], below: int) -> Ints:
    """Uniform integers from 0; the modulus is off by less than 1 in 10^14."""
    raw = np.asarray(bits.random_raw(math.prod(shape)), dtype=np.uint64)
    return (raw % np.uint64(below)).astype(np.int64).reshape(shape)


def _no_problem(space: Space, split: Split) -> ConfigError:
    return ConfigError(
        f"task=countdown expected inputs that reach targets of {split.value}, found (almost) none with "
        f"numbers={space.numbers} max_number={space.max_number} targets {space.min_target}..{space.max_target}; "
        "raise task.max_number or task.numbers, or lower task.max_target"
    )


@lru_cache(maxsize=16)
def _reachable_targets(space: Space, split: Split) -> list[int]:
    """The split's targets; in a small space only those that some instance of the split reaches."""
    targets = split_targets(space, split)
    count = math.comb(space.max_number + space.numbers - 1, space.numbers)
    if space.numbers > EXHAUSTIVE or count * max(paths(space.numbers), space.max_target) > ENUMERABLE:
        return targets
    reached = _reached_values(space)
    inputs = list(combinations_with_replacement(range(1, space.max_number + 1), space.numbers))

    def has_instance(target: int) -> bool:
        return any(in_split(split, target, inputs[row]) for row in np.flatnonzero(reached[:, target]).tolist())

    return [target for target in targets if has_instance(target)]


def _reached_values(space: Space) -> Bools:
    """Which values up to `max_target` each multiset of inputs reaches: [N, values], multisets in sorted order."""
    inputs = np.array(list(combinations_with_replacement(range(1, space.max_number + 1), space.numbers)))
    reached = np.zeros((len(inputs), space.max_target + 1), dtype=np.bool_)
    width = WIDTH[space.numbers]
    for start in range(0, len(inputs), width):
        state = inputs[start : start + width].T.astype(np.float64)[:, None]  # [numbers, 1, N]
        while len(state) > 1:
            state = expand(state)
        _, leaf, row = np.nonzero(state <= space.max_target)
        reached[start + row, state[0, leaf, row].astype(np.int64)] = True
    return reached


# The search, over many instances at once: N instances, L nodes of one depth in depth-first order


def first_solutions(targets: Ints, inputs: Ints, picks: Ints | None = None) -> Ints:
    """The rank of each instance's first solution in depth-first successor order, -1 where none is found.

    Args:
        targets: [N] integers from 1.
        inputs: [N, numbers] integers from 1.
        picks: [N] integers from 0; given, solution `picks` modulo their number is taken in place of the first. With
            5 numbers or more these are the solutions below the first way down to 4 numbers that has any.
    """
    ranks = np.full(len(targets), -1, dtype=np.int64)
    prefixes = _prefixes_that_reach(targets, inputs)
    rows = np.flatnonzero(prefixes >= 0)
    if len(rows):
        ranks[rows] = _ranks(targets[rows], inputs[rows], prefixes[rows], None if picks is None else picks[rows])
    return ranks


def _prefixes_that_reach(targets: Ints, inputs: Ints) -> Ints:
    """The first way down to `EXHAUSTIVE` numbers below which each instance has a solution, -1 where there is none."""
    found = np.full(len(targets), -1, dtype=np.int64)
    for prefix in range(_prefixes(inputs.shape[1])):
        rows = np.flatnonzero(found < 0)
        state = _reduced(inputs[rows], prefix)
        legal = ~np.isnan(state).any(axis=0)
        rows, state = rows[legal], state[:, legal]
        if len(rows):
            found[rows[solvable(targets[rows], state)]] = prefix
    return found


def _ranks(targets: Ints, inputs: Ints, prefixes: Ints, picks: Ints | None) -> Ints:
    """The rank of the first (or picked) solution below each instance's prefix, which must have one."""
    base = min(inputs.shape[1], EXHAUSTIVE)
    state = np.empty((base, len(targets)))
    for prefix in np.unique(prefixes).tolist():
        rows = prefixes == prefix
        state[:, rows] = _reduced(inputs[rows], prefix)
    ranks = prefixes * paths(base)
    for start in range(0, len(targets), NARROW):
        part = slice(start, start + NARROW)
        ranks[part] += _first_leaf(targets[part], state[:, part], None if picks is None else picks[part])
    return ranks


def _prefixes(count: int) -> int:
    """Ways down to `EXHAUSTIVE` numbers that are tried."""
    return min(REDUCTIONS, paths(count, min(count, EXHAUSTIVE)))


def _reduced(inputs: Ints, prefix: int) -> Floats:
    """The numbers left by a prefix, [N, numbers] -> [4 or fewer, N]; NaN where it is illegal or too large."""
    state = inputs.T.astype(np.float64)
    for i, j, sign in moves_of(prefix, inputs.shape[1], min(inputs.shape[1], EXHAUSTIVE)):
        state = _reduce(state, i, j, sign)
    return state


def _reduce(state: Floats, i: int, j: int, sign: str) -> Floats:
    """One move for all instances, [numbers, N] -> [numbers - 1, N]; NaN where it is illegal or too large."""
    result = np.empty((4, state.shape[1]))
    _results(state[i], state[j], result)
    chosen = result[SIGNS.index(sign)]
    rest = [state[place] for place in range(len(state)) if place not in (i, j)]
    return np.stack([*rest, np.where(chosen <= REDUCED_LIMIT, chosen, np.nan)])


def solvable(targets: Ints, state: Floats) -> Bools:
    """Which instances, numbers [3 or 4, N], have a solution: [N].

    With 4 numbers the last operation has one of them on a side, or a pair on each. Either way one side must be what the
    other calls for, so only three numbers in every order, and pairs, are worked out.
    """
    if len(state) < EXHAUSTIVE:
        return _first_leaf(targets, state, None) >= 0
    state = _single(state)
    goal = targets.astype(state.dtype)
    pairs = np.empty((4, len(PAIRS[4]), len(goal)), state.dtype)
    _results(state[FIRST], state[SECOND], pairs)
    threes = np.empty((4, 4, len(ORDERS), len(goal)), state.dtype)
    _results(pairs[:, PAIR_OF], np.broadcast_to(state[THIRD_OF], threes.shape[1:]), threes)
    called_for = _called_for(goal, state)[:, LAST_OF]
    other_pairs = _called_for(goal, pairs[:, :2:-1])
    hit = np.zeros(len(goal), dtype=np.bool_)
    for place in range(4):
        hit |= (threes == called_for[place]).any(axis=(0, 1, 2))
        hit |= (pairs[:, None, :3] == other_pairs[place]).any(axis=(0, 1, 2))
    return hit


def _single(state: Floats) -> Floats:
    """In single precision, which is twice as fast, where that is exact: larger results are equal to no target.

    The largest results that are compared with anything but a target have three of the numbers in them.
    """
    return state.astype(np.float32) if state.max() ** 3 < SINGLE else state


def _called_for(goal: Floats, numbers: Floats) -> Floats:
    """What makes the goal [N] with each number [..., N]: their sum, product, difference and quotient [4, ..., N]."""
    found = np.empty((4, *numbers.shape), numbers.dtype)
    _results(np.broadcast_to(goal, numbers.shape), numbers, found)
    found[1][numbers == 0] = np.nan  # 0 makes 0 of everything, and divides nothing
    return found


def _first_leaf(targets: Ints, state: Floats, picks: Ints | None) -> Ints:
    """The first (or picked) path from `state` [numbers, N] that ends at the target [N], -1 where there is none."""
    nodes = _single(state)[:, None]  # [numbers, L, N]
    while len(nodes) > 2:
        nodes = expand(nodes)
    hits = hits_of(nodes, targets.astype(nodes.dtype)).reshape(-1, len(targets))  # [L * 4, N]
    if picks is not None:
        wanted = 1 + picks % np.maximum(hits.sum(axis=0), 1)
        hits &= hits.cumsum(axis=0) == wanted
    first = hits.argmax(axis=0)
    return np.where(hits[first, np.arange(len(targets))], first, -1)


def _picks(targets: Ints, inputs: Ints) -> Ints:
    """[N] integers from 0 that look random and are fixed by the problem (a multiplicative hash)."""
    mixed = targets.astype(np.uint64)
    for column in inputs.T:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(20)).astype(np.int64)


def expand(nodes: Floats) -> Floats:
    """All successors of all nodes, [numbers, L, N] -> [numbers - 1, L * moves, N]; NaN marks an illegal result.

    A NaN stays NaN through every further operation and equals no target. All values that count are exact.
    """
    count, length, width = nodes.shape
    children = np.empty((count - 1, length, len(PAIRS[count]), 4, width), nodes.dtype)
    for place, (i, j) in enumerate(PAIRS[count]):
        rest = [k for k in range(count) if k not in (i, j)]
        for row, k in enumerate(rest):
            children[row, :, place] = nodes[k][:, None]
        _results(nodes[i], nodes[j], children[-1, :, place].swapaxes(0, 1))
    return children.reshape(count - 1, -1, width)


def _results(left: Floats, right: Floats, out: Floats) -> None:
    """The four results in the order of `SIGNS`, into out [4, ...]."""
    high, low = np.maximum(left, right), np.minimum(left, right)
    np.add(left, right, out=out[0])
    np.multiply(left, right, out=out[1])
    np.subtract(high, low, out=out[2])
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.divide(high, low, out=out[3])
        # Division by zero gives inf or NaN here, and neither times zero equals anything.
        quotient[np.rint(quotient) * low != high] = np.nan


def hits_of(nodes: Floats, targets: Floats) -> Bools:
    """Which of the four results of the last two numbers, nodes [2, L, N], are the target [N]: [L, 4, N]."""
    left, right = nodes
    hits = np.empty((left.shape[0], 4, left.shape[1]), dtype=np.bool_)
    np.equal(left + right, targets, out=hits[:, 0])
    np.equal(left * right, targets, out=hits[:, 1])
    np.equal(np.abs(left - right), targets, out=hits[:, 2])
    high, low = np.maximum(left, right), np.minimum(left, right)
    hits[:, 3] = (low * targets == high) & (low > 0)
    return hits


# A path's rank, and what it says


def steps_of(inputs: Sequence[int], rank: int) -> list[Step]:
    """The solution at `rank` in depth-first successor order."""
    numbers = list(inputs)
    steps: list[Step] = []
    for i, j, sign in moves_of(rank, len(inputs)):
        left, right = numbers[i], numbers[j]
        if sign in "-/" and left < right:
            left, right = right, left
        result = calculate(left, sign, right)
        assert result is not None, "the search only returns legal operations"
        numbers = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :] + [result]
        steps.append(Step(Operation(left, sign, right, result), numbers))
    return steps


def drawn_steps(inputs: Sequence[int], random: Random) -> list[Step]:
    """Legal operations until one number is left: the places and the sign of each drawn evenly, again where illegal."""
    numbers = list(inputs)
    steps: list[Step] = []
    while len(numbers) > 1:
        i, j = PAIRS[len(numbers)][int(random.random() * len(PAIRS[len(numbers)]))]
        sign = SIGNS[int(random.random() * len(SIGNS))]
        left, right = numbers[i], numbers[j]
        if sign in "-/" and left < right:
            left, right = right, left
        result = calculate(left, sign, right)
        if result is None:
            continue
        numbers = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :] + [result]
        steps.append(Step(Operation(left, sign, right, result), numbers))
    return steps


def moves_of(rank: int, count: int, until: int = 1) -> list[tuple[int, int, str]]:
    """The places and signs of a path from `count` to `until` numbers, given its rank among all such paths."""
    moves: list[tuple[int, int, str]] = []
    for left_over in range(until + 1, count + 1):
        rank, place = divmod(rank, 4 * len(PAIRS[left_over]))
        moves.append((*PAIRS[left_over][place // 4], SIGNS[place % 4]))
    return moves[::-1]


def paths(count: int, until: int = 1) -> int:
    """Number of paths from `count` to `until` numbers, illegal operations included."""
    return math.prod(4 * len(PAIRS[left_over]) for left_over in range(until + 1, count + 1))
