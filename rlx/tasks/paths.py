"""Paths: a shortest path in a random graph, or whether two edges lead from one vertex to another.

Source: "Mixture of Parrots: Experts improve memorization more than reasoning" (arXiv 2410.19034): the length-2 path
problem is what its lower bound for the width of a mixture of experts is about, shortest path its reasoning task.

Where sources differ, or leave a choice, this file does (the paper's generators were not seen: all but the two questions
is ours):

1. A graph has `min_vertices` to `max_vertices` vertices, each count as likely (drawn first and kept), named by
   different numbers below `max_vertices`; each pair is an edge with the same probability, such that a vertex has
   `degree` edges on average. The ends are two of the vertices; where they are neighbours all is drawn again. The
   paper's size is 20 to 50 vertices and a degree of 3 to 4; the default fits a CPU.
2. `question=shortest`: a path with the fewest edges, any of them, is correct; without a path all is drawn again. The
   solution written is the one with the lowest numbers, from its start on: a function of the problem.
3. `question=reachable`: is there a vertex with edges to both ends? Problems are kept so that yes and no are as likely
   among all that have the same number of vertices and the same numbers of edges at both ends: otherwise the edges at
   the ends, counted, tell 72 % of the answers (yes and no made as likely, default size). What is kept is exact: given
   their numbers, the neighbours of two ends that are not neighbours are even draws of the other vertices, so that the
   probability of no is that of two draws without a common vertex.
4. A problem is a graph with its two ends: neither the order of edges, nor their direction, nor which end is the start
   makes another one. Other numbers for the vertices do. Splits are disjoint by its hash, for both questions alike.
5. `measures` of shortest: `valid`, 1 for a path along edges from the start to the end; `excess`, edges written more
   than a shortest path has (valid or not). Of reachable: `yes`, 1 for that answer.

Worked example: with `question=shortest` the prompt is `<edges> 4 0 ; 2 1 ; 1 4 ; 3 0 ; 2 3 <q> 2 0 <path> ` (a blank
at its end), the solution `2 3 0`. With `question=reachable` it ends in `<reachable> `, and the solution is `yes`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from itertools import chain, combinations, pairwise
from math import comb, perm
from random import Random
from typing import NamedTuple

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, TaskConfig, shuffled, split_of, stable_hash
from rlx.tasks.graph_walks import distances, shortest_path
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 20_000
"""Problems drawn for one example before the setting is said to have none in the split."""
MEASURED = 1_000
"""Training examples that the short cut of `question=reachable` is fitted to."""
MOST_VERTICES = 256
"""Vertices of the largest graph."""


class Question(Enum):
    """What is asked about a graph."""

    shortest = "shortest"
    reachable = "reachable"


@option("task", "paths")
@dataclass(kw_only=True, slots=True)
class PathsConfig(TaskConfig):
    """Shortest paths, and paths of two edges, in random graphs."""

    question: Question = Question.shortest
    """What is asked: shortest (a shortest path) or reachable (do two edges lead from start to end?)."""
    min_vertices: int = 8
    """Vertices of the smallest graph, at least 4."""
    max_vertices: int = 16
    """Vertices of the largest graph, itself included; vertices are numbered below it."""
    degree: float = 3.0
    """Edges of a vertex, on average."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        if not 4 <= self.min_vertices <= self.max_vertices <= MOST_VERTICES:
            raise ConfigError(
                f"task vertices need 4 <= min_vertices <= max_vertices <= {MOST_VERTICES}, "
                f"got {self.min_vertices} and {self.max_vertices}; try task.min_vertices=8 task.max_vertices=16"
            )
        if not 1 <= self.degree <= self.min_vertices - 2:
            raise ConfigError(
                f"task.degree must be 1 to {self.min_vertices - 2} (task.min_vertices less 2), got {self.degree}; "
                "try task.degree=2"
            )

    def build(self) -> "Paths":
        return Paths(self)


class Problem(NamedTuple):
    """A graph and the two ends."""

    vertices: int
    edges: list[tuple[int, int]]
    beside: Mapping[int, list[int]]
    """The vertices beside each vertex, lowest first."""
    start: int
    end: int
    key: str
    """One text for all ways to write it."""


class Truth(NamedTuple):
    """What the verifier needs."""

    start: str
    end: str
    answer: int | str
    """Edges of a shortest path, or yes or no."""
    beside: dict[str, list[str]]
    """The vertices beside each vertex that has edges, lowest first."""


class Paths(Sized):
    """Problems of one setting and their verifier."""

    bounded = True

    def __init__(self, config: PathsConfig) -> None:
        super().__init__(config)
        self.config = config
        self.reachable = config.question is Question.reachable
        self.baseline = "counts the edges of both ends" if self.reachable else "goes where most edges are, never back"
        self._names = [str(vertex) for vertex in range(config.max_vertices)]
        self._known = frozenset(self._names)
        self._nothing: dict[str, float] = {} if self.reachable else {"valid": 0.0}
        self.longest = 100 + 4 * config.max_vertices * (len(self._names[-1]) + 1)
        """Characters of the longest text that is read: four times a path through all vertices."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no problems of this setting belong to the split.
        """
        # Both questions draw from one stream, but keep other problems of it.
        random = Random(stable_hash("paths", split.value, self.seed_at(split, index), index))
        smallest, largest = self.config.min_vertices, self.config.max_vertices
        vertices = smallest + int(random.random() * (largest - smallest + 1))
        for _ in range(ATTEMPTS):
            problem = self._draw(random, split, vertices)
            if problem is None:
                continue
            example = self._two_edges(problem, random) if self.reachable else self._shortest(problem, random)
            if example is not None:
                return example
        raise ConfigError(
            f"task.question={self.config.question.value} has (almost) no problems for {split.value} with "
            f"max_vertices={self.config.max_vertices} and degree={self.config.degree}; try task.max_vertices=16"
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (no shortest path, or one that does not lead to the end), illegal (it
        does not begin at the start, or a step is no edge) or malformed.

        Text longer than four times any path is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", self._nothing)
        text = completion.rstrip(" \t\r\n")
        start, end, answer, beside = example.truth
        if self.reachable:
            if text not in ("yes", "no"):
                return Verdict(Outcome.malformed, "not yes or no", self._nothing)
            measures = {"yes": float(text == "yes")}
            return Verdict(Outcome.correct if text == answer else Outcome.wrong, measures=measures)
        path = text.split(" ")
        if not self._known.issuperset(path):
            return Verdict(Outcome.malformed, "not vertices with a blank between them", self._nothing)
        legal = path[0] == start
        for here, there in pairwise(path):
            legal = legal and there in beside.get(here, ())
        excess = len(path) - 1 - answer
        measures = {"valid": float(legal and path[-1] == end), "excess": float(excess)}
        if not legal:
            return Verdict(Outcome.illegal, "does not follow edges from the start", measures)
        if path[-1] != end:
            return Verdict(Outcome.wrong, f"ends at {path[-1]}, not {end}", measures)
        if excess:
            return Verdict(Outcome.wrong, f"{excess} edges longer than a shortest path", measures)
        return Verdict(Outcome.correct, measures=measures)

    def chance(self, example: Example) -> float:
        """1/2 for yes or no. For paths, the shortest ones among all lists of different vertices from start to end: with
        n vertices that have edges, the sum over k of (n - 2)! / (n - 2 - k)! lists with k between the ends."""
        if self.reachable:
            return 0.5
        start, end, answer, beside = example.truth
        ways = {start: 1}
        for _ in range(answer):
            ahead: dict[str, int] = {}
            for here, count in ways.items():
                for there in beside[here]:
                    ahead[there] = ahead.get(there, 0) + count
            ways = ahead
        between = len(beside) - 2
        return ways[end] / sum(perm(between, count) for count in range(between + 1))

    def guess(self, example: Example) -> str:
        """Shortest: from the start to the neighbour with most edges (the lowest of several), never back, to the end as
        soon as that is a neighbour, until there is no way on. Reachable: yes when both ends together have as many edges
        as tells most of the first `MEASURED` training examples right."""
        start, end, _, beside = example.truth
        if self.reachable:
            return "yes" if _edges_at_ends(example) >= self._threshold else "no"
        path = [start]
        while path[-1] != end:
            ahead = [vertex for vertex in beside[path[-1]] if vertex not in path]
            if not ahead:
                break
            path.append(end if end in ahead else max(ahead, key=lambda vertex: len(beside[vertex])))
        return " ".join(path)

    def words(self) -> list[str]:
        """Words, numbers and marks that prompts and solutions are made of."""
        answers = ["yes", "no", "<reachable>"] if self.reachable else ["<path>"]
        return [*self._names, "<edges>", "<q>", *answers, ";", " "]

    @cached_property
    def _threshold(self) -> int:
        """Edges at both ends from which on yes is said."""
        size = self.size(Split.train)
        examples = [self.example(Split.train, index) for index in range(min(MEASURED, size or MEASURED))]
        seen = [(_edges_at_ends(example), example.truth.answer == "yes") for example in examples]
        thresholds = range(max(count for count, _ in seen) + 2)
        return max(thresholds, key=lambda threshold: sum((count >= threshold) == yes for count, yes in seen))

    def _draw(self, random: Random, split: Split, count: int) -> Problem | None:
        """A graph of `count` vertices and two of them; None where they are neighbours, or of another split. Each pair
        of vertices is treated alike, so that their numbers say nothing of them."""
        drawn = shuffled(random, range(self.config.max_vertices))[:count]
        vertices = sorted(drawn)
        share, draw = self.config.degree / (count - 1), random.random
        edges = [pair for pair in combinations(vertices, 2) if draw() < share]
        start, end = drawn[:2]
        ends = min(start, end), max(start, end)
        key = f"paths {ends} {bytes(chain(*edges)).hex()}"
        if ends in edges or split_of(key) is not split:
            return None
        beside: dict[int, list[int]] = {vertex: [] for vertex in vertices}
        for u, v in edges:
            beside[u].append(v)
            beside[v].append(u)
        return Problem(count, edges, beside, start, end, key)

    def _shortest(self, problem: Problem, random: Random) -> Example | None:
        far = distances(problem.beside.__getitem__, problem.end)
        if problem.start not in far:
            return None
        path = shortest_path(problem.beside.__getitem__, problem.start, far)
        solution = " ".join([self._names[vertex] for vertex in path])
        return self._write(problem, random, solution, len(path) - 1, {"distance": len(path) - 1})

    def _two_edges(self, problem: Problem, random: Random) -> Example | None:
        ends = problem.beside[problem.start], problem.beside[problem.end]
        yes = not set(ends[0]).isdisjoint(ends[1])
        if random.random() >= _kept(problem.vertices - 2, len(ends[0]), len(ends[1]), yes):
            return None
        answer = "yes" if yes else "no"
        return self._write(problem, random, answer, answer, {"answer": answer})

    def _write(
        self, problem: Problem, random: Random, solution: str, answer: int | str, difficulty: dict[str, int | str]
    ) -> Example:
        names = self._names
        pairs = [(names[u], names[v]) for u, v in problem.edges]
        beside = {names[u]: [names[v] for v in others] for u, others in problem.beside.items() if others}
        pairs = [f"{v} {u}" if random.random() < 0.5 else f"{u} {v}" for u, v in shuffled(random, pairs)]
        start, end = names[problem.start], names[problem.end]
        mark = "<reachable>" if self.reachable else "<path>"
        return Example(
            id=f"paths/{stable_hash(self.config.question.value, problem.key):016x}",
            prompt=f"<edges> {' ; '.join(pairs)} <q> {start} {end} {mark} ",
            solution=solution,
            truth=Truth(start, end, answer, beside),
            difficulty={**difficulty, "vertices": self._band(problem.vertices)},
        )

    def _band(self, vertices: int) -> str:
        """The third of the range of sizes that `vertices` lies in, as `low-high`."""
        low, count = self.config.min_vertices, self.config.max_vertices - self.config.min_vertices + 1
        third = 3 * (vertices - low) // count
        first, after = (low - (-part * count // 3) for part in (third, third + 1))
        return f"{first}-{after - 1}"


@cache
def _kept(others: int, at_start: int, at_end: int, yes: bool) -> float:
    """The share of problems with such an answer that is kept, where the ends have so many neighbours among the others:
    all of the rarer answer."""
    no = comb(others - at_start, at_end) if at_end <= others - at_start else 0
    counts = (comb(others, at_end) - no, no)
    own, opposite = counts if yes else counts[::-1]
    return min(1.0, opposite / own)


def _edges_at_ends(example: Example) -> int:
    start, end, _, beside = example.truth
    return len(beside[start]) + len(beside[end])
