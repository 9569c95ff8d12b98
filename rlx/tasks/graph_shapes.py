"""The graphs of `task=graph`: one component of each kind; a problem has two copies. The rules: `rlx/tasks/graph.py`."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

Neighbours = tuple[tuple[int, ...], ...]
"""The vertices beside each vertex."""


class Component(NamedTuple):
    """A connected graph on the vertices 0 to size - 1."""

    name: str
    edges: tuple[tuple[int, int], ...]
    size: int
    """Number of vertices."""
    start: int
    target: int
    twins: tuple[tuple[range, range], ...] = ()
    """Vertices that change places in pairs and leave the graph, its start and its target as they are."""


def bridge(depth: int, short: int, long: int, dead: int) -> Component:
    """Bridge(depth; short, long, dead), lengths in edges: blocks joined at shared vertices, from the first one's entry
    to the last one's exit. Two arms lead from a block's entry to its exit, a third hangs on the entry."""
    edges: list[tuple[int, int]] = []
    twins: list[tuple[range, range]] = []
    entry, size = 0, 1
    for _ in range(depth):
        out = size
        first = range(size + 1, size + short)
        second = range(first.stop, first.stop + long - 1)
        tail = range(second.stop, second.stop + dead)
        edges += [*pairwise((entry, *first, out)), *pairwise((entry, *second, out)), *pairwise((entry, *tail))]
        if short == long:
            twins.append((first, second))
        entry, size = out, tail.stop
    return Component(f"bridge {depth} {short} {long} {dead}", tuple(edges), size, 0, entry, tuple(twins))


def two_path(length: int) -> Component:
    """A path of `length` edges from end to end."""
    return Component(f"two_path {length}", tuple(pairwise(range(length + 1))), length + 1, 0, length)


def neighbours_in(component: Component) -> Neighbours:
    beside: list[list[int]] = [[] for _ in range(component.size)]
    for u, v in component.edges:
        beside[u].append(v)
        beside[v].append(u)
    return tuple(map(tuple, beside))


def canonical(component: Component, labels: Sequence[str]) -> str:
    """One text for all ways to write a problem: the labels of the start's copy, then of the other, in the order of the
    vertices, twins with the lower label first. No other exchange of vertices keeps the graph and its ends."""
    ordered = list(labels)
    for base in (0, component.size):
        for twins in component.twins:
            one, other = (slice(base + twin.start, base + twin.stop) for twin in twins)
            if ordered[one] > ordered[other]:
                ordered[one], ordered[other] = ordered[other], ordered[one]
    return f"{component.name} {' '.join(ordered)}"


def beside_in(edges: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The labels beside each label, in the order in which the edges are written."""
    beside: dict[str, list[str]] = {}
    for u, v in edges:
        beside.setdefault(u, []).append(v)
        beside.setdefault(v, []).append(u)
    return {label: tuple(others) for label, others in beside.items()}
