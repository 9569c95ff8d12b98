"""Which problems of navigation there are, drawn a block at a time; the rules: `rlx/tasks/navigation.py`."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlx.errors import ConfigError
from rlx.tasks.base import HELD_OUT_SHARE, split_of, stable_hash
from rlx.tasks.navigation_tables import WHOLE, Ints, Tables, make_tables, thresholds
from rlx.types import Split

BLOCK = 128
"""Examples drawn together; reading one costs as much as reading all of its block."""
WIDTH = {Split.train: BLOCK + BLOCK // 4, Split.val: BLOCK * HELD_OUT_SHARE, Split.test: BLOCK * HELD_OUT_SHARE}
"""Candidates drawn at once: about as many as make a block."""
MAX_DRAWS = 250_000
"""Candidates after which a setting is refused: half a second, and 30 times what a held-out block needs."""


@dataclass(frozen=True, slots=True)
class Space:
    """The settings that decide which problems there are."""

    values: int
    min_actions: int
    max_actions: int
    irrelevant: int
    concentration: float
    tables_seed: int
    biased: bool


class Problem(NamedTuple):
    """One problem with its solution; n actions."""

    states: list[int]
    """n + 1 states, the first one given."""
    actions: list[int]
    """n actions."""
    problems: list[int]
    """n + 1 problem states, all given."""
    contexts: list[int]
    """n contexts, all given."""
    irrelevant: list[int]
    """Values that mean nothing."""
    picks: list[int]
    """Three raw numbers, for a proposed solution: which kind, which step, which other value."""


def tables_of(space: Space) -> Tables:
    return make_tables(space.values, space.concentration, space.tables_seed)


@lru_cache(maxsize=64)
def draw_block(space: Space, split: Split, seed: int, block: int) -> tuple[Problem, ...]:
    """`BLOCK` problems, a pure function of the arguments.

    Raises:
        ConfigError: `MAX_DRAWS` candidates had too few of the split.
    """
    biased = space.biased and split is Split.train
    tables = tables_of(space)
    instance = (space.values, space.min_actions, space.max_actions, space.tables_seed, split.value, seed, block)
    drawn_from = (*instance, space.concentration) if biased else instance
    bits = np.random.PCG64(stable_hash("navigation problems", *drawn_from))
    walks: list[list[int]] = []
    tries = 0
    while len(walks) < BLOCK:
        if tries > MAX_DRAWS:
            raise _no_problem(space, split)
        walks += _candidates(space, split, bits, WIDTH[split], biased)
        tries += WIDTH[split]
    rolled = [_roll(tables, walk) for walk in walks[:BLOCK]]

    bits = np.random.PCG64(stable_hash("navigation surroundings", *drawn_from))
    picks = _raw(bits, (BLOCK, 3)).tolist()
    actions = np.array([own + [0] * (space.max_actions - len(own)) for _, own, _ in rolled], dtype=np.int64)
    contexts = _contexts(space, bits, actions, biased).tolist()
    irrelevant = _uniform(bits, (BLOCK, space.irrelevant), space.values).tolist()
    return tuple(
        Problem(states, own, problems, contexts[row][: len(own)], irrelevant[row], picks[row])
        for row, (states, own, problems) in enumerate(rolled)
    )


def _candidates(space: Space, split: Split, bits: np.random.PCG64, width: int, biased: bool) -> list[list[int]]:
    """First problem state, first state and actions of those of `width` draws that belong to the split."""
    lengths = space.min_actions + _uniform(bits, (width,), space.max_actions - space.min_actions + 1)
    starts = _uniform(bits, (width, 2), space.values)
    actions = _actions(space, bits, starts[:, 1], biased)
    drawn = np.concatenate([starts, actions], axis=1)
    # The canonical instance is the plan: the actions, two hex digits each.
    names = drawn[:, 2:].astype(np.uint8).tobytes().hex()
    place = 2 * space.max_actions
    ends = (place * np.arange(width) + 2 * lengths).tolist()
    own = [row for row, end in enumerate(ends) if split_of(names[row * place : end]) is split]
    return [walk[: length + 2] for walk, length in zip(drawn[own].tolist(), lengths[own].tolist(), strict=True)]


def _actions(space: Space, bits: np.random.PCG64, states: Ints, biased: bool) -> Ints:
    """The most actions that there may be, from the first states [N]: [N, max_actions]."""
    shape = (len(states), space.max_actions)
    if not biased:
        return _uniform(bits, shape, space.values)
    tables = tables_of(space)
    limits, state_next = _limits(space)[0], np.array(tables.state_next, dtype=np.int64)
    numbers = _uniform(bits, shape, WHOLE)
    actions = np.empty(shape, dtype=np.int64)
    for step in range(space.max_actions):
        actions[:, step] = _chosen(limits[states], numbers[:, step])
        states = state_next[states, actions[:, step]]
    return actions


def _contexts(space: Space, bits: np.random.PCG64, actions: Ints, biased: bool) -> Ints:
    """A context for each action, [N, max_actions]."""
    if not biased:
        return _uniform(bits, actions.shape, space.values)
    return _chosen(_limits(space)[1][actions], _uniform(bits, actions.shape, WHOLE))


def _chosen(limits: Ints, numbers: Ints) -> Ints:
    """The value that each number [...] below `WHOLE` stands for, by thresholds [..., V]."""
    return (limits <= numbers[..., None]).sum(axis=-1)


@lru_cache(maxsize=32)
def _limits(space: Space) -> tuple[Ints, Ints]:
    """Thresholds of the actions by state, and of the contexts by action: [V, V] each."""
    tables = tables_of(space)
    return thresholds(tables.action_logs), thresholds(tables.context_logs)


def _roll(tables: Tables, walk: list[int]) -> tuple[list[int], list[int], list[int]]:
    """States, actions and problem states of a walk: its first problem state, first state and actions."""
    problem, state, *actions = walk
    states, problems = [state], [problem]
    for action in actions:
        states.append(tables.state_next[states[-1]][action])
        problems.append(tables.problem_next[problems[-1]][action])
    return states, actions, problems


def _raw(bits: np.random.PCG64, shape: tuple[int, ...]) -> NDArray[np.uint64]:
    return np.asarray(bits.random_raw(math.prod(shape)), dtype=np.uint64).reshape(shape)


def _uniform(bits: np.random.PCG64, shape: tuple[int, ...], below: int) -> Ints:
    """Uniform integers from 0; the modulus is off by less than 1 in 10^17."""
    return (_raw(bits, shape) % np.uint64(below)).astype(np.int64)


def _no_problem(space: Space, split: Split) -> ConfigError:
    return ConfigError(
        f"task=navigation expected problems of {split.value}, found (almost) none with values={space.values} and "
        f"{space.min_actions} to {space.max_actions} actions; try task.values=10 task.max_actions=6"
    )
