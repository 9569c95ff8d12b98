"""Walks and distances in graphs, for `task=graph` and `task=paths`."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from math import log10
from random import Random
from typing import TypeVar

from rlx.errors import ConfigError
from rlx.tasks.graph_shapes import Neighbours

SMALLEST = 1e-200
"""Probability of hitting the target below which walks are not drawn: the numbers behind it lose their digits."""

V = TypeVar("V", bound=Hashable)


def distances(beside: Callable[[V], Iterable[V]], start: V) -> dict[V, int]:
    """Edges from `start` to every vertex that can be reached, nearest first."""
    far = {start: 0}
    queue = [start]
    for vertex in queue:
        for other in beside(vertex):
            if other not in far:
                far[other] = far[vertex] + 1
                queue.append(other)
    return far


def shortest_path(beside: Callable[[V], Iterable[V]], start: V, far: Mapping[V, int]) -> list[V]:
    """The way from `start` to where `far` is 0, each step to the first neighbour that is nearer to it."""
    path = [start]
    for left in reversed(range(far[start])):
        path.append(next(other for other in beside(path[-1]) if far[other] == left))
    return path


def depth_first(neighbours: Neighbours, start: int, target: int, random: Random) -> tuple[list[int], list[int]]:
    """A depth-first search that goes on to an even draw of the unvisited neighbours: the vertices in the order in
    which they were on top of the stack, and the stack at the end."""
    visited = {start}
    stack, walk = [start], [start]
    while (vertex := stack[-1]) != target:
        ahead = [other for other in neighbours[vertex] if other not in visited]
        if ahead:
            stack.append(ahead[int(random.random() * len(ahead))])
            visited.add(stack[-1])
        else:
            stack.pop()
        walk.append(stack[-1])
    return walk, stack


class HittingWalk:
    """Random walks (each neighbour as likely) that hit `target` within `steps` steps, and end there.

    A step goes to a neighbour in proportion to the probability of hitting the target from it in the steps left; these
    probabilities are in a table, made once.
    """

    def __init__(self, neighbours: Neighbours, start: int, target: int, steps: int) -> None:
        self.neighbours, self.start, self.target, self.steps = neighbours, start, target, steps
        self.reach = [[float(vertex == target) for vertex in range(len(neighbours))]]
        """`reach[n][v]`: probability that n steps from v hit the target."""
        for _ in range(steps):
            last = self.reach[-1]
            row = [sum(last[other] for other in beside) / len(beside) for beside in neighbours]
            row[target] = 1.0
            self.reach.append(row)
        if self.reach[-1][start] < SMALLEST:
            raise ConfigError(
                f"task.walk_length={steps} is hit by fewer than one random walk in 10^{-round(log10(SMALLEST))}; try a "
                "longer one, or a smaller graph"
            )

    def draw(self, random: Random) -> list[int]:
        walk = [self.start]
        for left in reversed(range(self.steps)):
            walk.append(self._step(walk[-1], self.reach[left], random.random()))
            if walk[-1] == self.target:
                break
        return walk

    def _step(self, vertex: int, reach: Sequence[float], draw: float) -> int:
        ahead = [other for other in self.neighbours[vertex] if reach[other]]
        place = draw * sum(reach[other] for other in ahead)
        for other in ahead:
            place -= reach[other]
            if place < 0:
                return other
        return ahead[-1]
