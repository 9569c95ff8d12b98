"""Graph: which of two targets is connected to the start, in a graph of two components that look alike.

Source: "Let Me Think! A long chain of thought can be worth exponentially many short ones" (arXiv 2505.21825) and
github.com/seyedparsa/let-me-think. A problem is two copies of one component: the start and one target are the ends of
the first, the other target is the far end of the second. `graph=bridge` is `depth` blocks in a row, joined at shared
vertices: a short and a long arm lead from a block's entry to its exit, and a dead arm hangs on the entry. `graph=
two_path` is two paths. The labels are new in every example, so which target it is can only be found by a walk.

Where sources differ, or leave a choice, this file does:

1. `trace` is the list that is written as work. decision: none. optimal: a shortest path. walk: a depth-first search
   with all its backtracks (the paper's dfs). pruned: its first visits (dfs-pruned). path: the stack at its end, no
   mistakes. random: a random walk, of those that hit the target within `walk_length` steps (walk-L). The walk, pruned
   and path of one example are three ways to write one search.
2. Labels are drawn from all `labels` (the paper's vocabulary of vertices); null is as many as the problem has
   vertices. `words()` has the marks `(`, `,` and `)` of the paper's vocabulary too, which no text here uses.
3. The default is small enough for a CPU: Bridge(2; 2, 3, 1). The paper's is `depth` 3 to 5 with arms of 3, 5 and 3.
   The start and the targets of a two-path graph are ends of its paths (our choice).
4. A problem is a labelled graph with its start and its two targets: neither the order of edges, nor their direction,
   nor the order of the targets, nor which of two equal arms comes first makes another one (`canonical`). Splits are
   disjoint by its hash. The graph without labels is the same in all of them.
5. The problems do not depend on `trace`, so arms that differ in it meet the same ones.
6. `score=evidence`: the decision names the right target, and the work begins at the start, ends at that target and
   lists only labels beside one that is listed before (backtracks may be left out, and one can jump back). With
   `trace=decision` there need be no work. `score=decision` looks at the decision alone. `measures` has both (evidence
   is the work's own, whatever is decided), `edges`, the share of the listed labels that are the start or beside an
   earlier one, and `work_nodes`, the number listed.
7. `answer_tokens` sets `train_examples` so that the solutions of `train` have so many words in all (words of
   `words()`, blanks and the end mark not counted): exactly, up to one answer, for the first `COUNTED` of them, and
   from their mean beyond.

Worked example, Bridge(1; 1, 2, 1) with `labels=10`: the prompt is `graph : [ 5 7 2 7 4 0 9 7 1 0 2 5 3 0 4 1 ] task : 7
to 4 or 2 / ` (in one line, a blank at its end), a solution with `trace=walk` `work : [ 7 9 7 2 ] decision : [ 2 ]`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from random import Random
from typing import NamedTuple

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, TaskConfig, shuffled, split_of, stable_hash
from rlx.tasks.graph_shapes import Component, beside_in, bridge, canonical, neighbours_in, two_path
from rlx.tasks.graph_text import AROUND, MARKS, WORDS, parse, prompt, solution, steps_on
from rlx.tasks.graph_walks import HittingWalk, depth_first, distances, shortest_path
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Problems drawn for one example before the setting is said to have none in the split: one in 64 is held out, so that
with many problems one in 10^34 examples is given up."""
COUNTED = 16_384
"""Answers whose words are counted for `answer_tokens`; the standard error of their mean is below 0.2 %."""
MOST_VERTICES = 10_000
"""Vertices of the largest problem."""
NOTHING = {"decision": 0.0, "evidence": 0.0, "edges": 0.0}
"""Measures of text that is not in the format."""
MOST_STEPS = 1_000
"""Steps of the longest `walk_length`."""


class Kind(Enum):
    """What the graph is."""

    bridge = "bridge"
    two_path = "two_path"


class Trace(Enum):
    """What is written as work."""

    decision = "decision"
    optimal = "optimal"
    path = "path"
    walk = "walk"
    pruned = "pruned"
    random = "random"


class Score(Enum):
    """What a correct answer is."""

    evidence = "evidence"
    decision = "decision"


@option("task", "graph")
@dataclass(kw_only=True, slots=True)
class GraphConfig(TaskConfig):
    """Which of two targets is in the start's component."""

    graph: Kind = Kind.bridge
    """The graph: bridge (depth, short, long, dead) or two_path (length)."""
    depth: int = 2
    """Blocks of a bridge graph."""
    short: int = 2
    """Short arm of a block, in edges."""
    long: int = 3
    """Long arm of a block, in edges; at least the short one."""
    dead: int = 1
    """Dead arm of a block, in edges."""
    length: int = 8
    """Length of each path of a two-path graph, in edges."""
    labels: int | None = None
    """Labels that vertices are given, 0 and up; null is as many as there are vertices."""
    trace: Trace = Trace.walk
    """What solutions write as work: decision (nothing), optimal, path, walk (with backtracks), pruned, random."""
    walk_length: int = 20
    """Most steps of a walk of trace=random."""
    score: Score = Score.evidence
    """What is correct: evidence (a right decision and a work that shows it), decision (that alone)."""
    answer_tokens: int | None = None
    """Words that the solutions of train have in all, for traces of equal answers; sets train_examples."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        for name in ("depth", "short", "long", "dead", "length"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"task.{name} must be at least 1, got {value}; try task.{name}=3")
        if self.graph is Kind.bridge and not max(self.short, 2) <= self.long:
            raise ConfigError(
                "task.long must be at least 2 and at least task.short, "
                f"got {self.long} and short={self.short}; try task.short=3 task.long=5"
            )
        vertices = self.vertices()
        if vertices > MOST_VERTICES:
            size = "depth=5" if self.graph is Kind.bridge else "length=8"
            raise ConfigError(
                f"task.graph={self.graph.value} must have at most {MOST_VERTICES} vertices, got {vertices}; "
                f"try task.{size}"
            )
        if self.labels is not None and not vertices <= self.labels <= MOST_VERTICES:
            raise ConfigError(
                f"task.labels must be {vertices} (the graph's vertices) to {MOST_VERTICES}, got {self.labels}; "
                f"try task.labels={vertices} or task.labels=null"
            )
        if self.trace is Trace.random and not self.distance() <= self.walk_length <= MOST_STEPS:
            raise ConfigError(
                f"task.walk_length must be {self.distance()} (the target's distance) to {MOST_STEPS}, "
                f"got {self.walk_length}; try task.walk_length={2 * self.distance()}"
            )
        if self.answer_tokens is not None and self.train_examples is not None:
            raise ConfigError("task.answer_tokens sets task.train_examples; give one of them")
        if self.answer_tokens is not None and self.answer_tokens < 1:
            raise ConfigError(
                f"task.answer_tokens must be at least 1, got {self.answer_tokens}; try task.answer_tokens=1000000"
            )

    def vertices(self) -> int:
        """Vertices of a problem: both components."""
        if self.graph is Kind.bridge:
            return 2 * (self.depth * (self.short + self.long + self.dead - 1) + 1)
        return 2 * (self.length + 1)

    def distance(self) -> int:
        """Edges from the start to the target."""
        return self.depth * self.short if self.graph is Kind.bridge else self.length

    def build(self) -> "Graph":
        return Graph(self)


class Truth(NamedTuple):
    """What the verifier needs."""

    start: str
    target: str
    """The target in the start's component."""
    shown: tuple[str, str]
    """Both targets in the order of the prompt."""
    beside: dict[str, tuple[str, ...]]
    """The labels beside each label, in the order of the prompt."""


class Graph(Sized):
    """Problems of one setting, their walks and their verifier."""

    bounded = True
    baseline = "follows the first edge on, never back"

    def __init__(self, config: GraphConfig) -> None:
        super().__init__(config)
        self.config = config
        self.component = _component(config)
        self.neighbours = neighbours_in(self.component)
        size, edges = self.component.size, self.component.edges
        self._edges = (*edges, *((u + size, v + size) for u, v in edges))
        self._labels = [str(label) for label in range(config.labels or 2 * size)]
        self._known = frozenset(self._labels)
        far = distances(self.neighbours.__getitem__, self.component.target)
        self._optimal = shortest_path(self.neighbours.__getitem__, self.component.start, far)
        self._hitting = None
        if config.trace is Trace.random:
            ends = self.component.start, self.component.target
            self._hitting = HittingWalk(self.neighbours, *ends, config.walk_length)
        nodes = max(2 * size, config.walk_length + 1)
        self.longest = 100 + 4 * nodes * (len(self._labels[-1]) + 1)
        """Characters of the longest text that is read: four times the longest work of any trace."""
        if config.answer_tokens is not None:
            self._sizes[Split.train] = self._within(config.answer_tokens)

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no problems of this setting belong to the split.
        """
        random = Random(stable_hash("graph", split.value, self.seed_at(split, index), index))
        labels, key = self._labelled(random, split)
        edges = [(labels[u], labels[v]) for u, v in self._edges]
        edges = [(v, u) if random.random() < 0.5 else (u, v) for u, v in shuffled(random, edges)]
        start, target = labels[self.component.start], labels[self.component.target]
        first = random.random() < 0.5
        other = labels[self.component.size + self.component.target]
        shown = (target, other) if first else (other, target)
        return Example(
            id=f"graph/{stable_hash(key):016x}",
            prompt=prompt(edges, start, shown),
            solution=solution([labels[vertex] for vertex in self._work(split, index)], target),
            truth=Truth(start, target, shown, beside_in(edges)),
            difficulty={"vertices": 2 * self.component.size, "target": "first" if first else "second"},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong, illegal (work that is not walked along edges; only where the score
        asks for evidence) or malformed.

        Text longer than four times any solution is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        answer = parse(completion.rstrip(" \t\r\n"))
        if answer is None:
            return Verdict(Outcome.malformed, "not `work : [ ... ] decision : [ ... ]`", NOTHING)
        start, target, _, beside = example.truth
        work, decision = answer
        walked = steps_on(work, start, beside)
        right = decision == [target]
        if not (right and walked == len(work)) and not self._known.issuperset([*work, *decision]):
            return Verdict(Outcome.malformed, "lists what is no label", NOTHING)
        shown = bool(work) and walked == len(work) and work[-1] == target
        measures = {
            "decision": float(right),
            "evidence": float(shown),
            "edges": walked / len(work) if work else 0.0,
            "work_nodes": float(len(work)),
        }
        asked = self.config.score is Score.evidence and (bool(work) or self.config.trace is not Trace.decision)
        if right and (shown or not asked):
            return Verdict(Outcome.correct, measures=measures)
        if asked and walked < len(work):
            return Verdict(Outcome.illegal, "the work does not follow edges from the start", measures)
        if not right:
            return Verdict(Outcome.wrong, f"decides for {' '.join(decision[:3]) or 'none'}, not {target}", measures)
        return Verdict(Outcome.wrong, f"the work does not end at {target}", measures)

    def chance(self, example: Example) -> float:
        """1/2, one of two targets, where the decision alone is asked for; 0 where work is: lists have no end."""
        return 0.5 if self.config.score is Score.decision or self.config.trace is Trace.decision else 0.0

    def guess(self, example: Example) -> str:
        """From the start, always along the edge that is written first of those to vertices not yet visited, until there
        is none or a target is reached; without one, the first target is named."""
        start, _, shown, beside = example.truth
        work = [start]
        while work[-1] not in shown:
            ahead = next((label for label in beside[work[-1]] if label not in work), None)
            if ahead is None:
                break
            work.append(ahead)
        found = work[-1] if work[-1] in shown else shown[0]
        return solution([] if self.config.trace is Trace.decision else work, found)

    def words(self) -> list[str]:
        """Words, labels and marks that prompts and solutions are made of."""
        return [*self._labels, *WORDS, *MARKS, " "]

    def _labelled(self, random: Random, split: Split) -> tuple[list[str], str]:
        """Labels of the vertices, the start's component first, and the canonical text of the problem they make."""
        for _ in range(ATTEMPTS):
            labels = shuffled(random, self._labels)[: 2 * self.component.size]
            key = canonical(self.component, labels)
            if split_of(key) is split:
                return labels, key
        raise ConfigError(
            f"task.graph={self.config.graph.value} has (almost) no problems for {split.value}; "
            f"try a larger graph, or more labels: task.labels={len(self._labels) + 10}"
        )

    def _work(self, split: Split, index: int) -> list[int]:
        """The vertices that an example's solution lists; not drawn with its labels, so that they can be counted
        without them."""
        trace = self.config.trace
        if trace is Trace.decision:
            return []
        if trace is Trace.optimal:
            return self._optimal
        random = Random(stable_hash("graph walk", split.value, self.seed_at(split, index), index))
        if self._hitting is not None:
            return self._hitting.draw(random)
        walk, stack = depth_first(self.neighbours, self.component.start, self.component.target, random)
        if trace is Trace.path:
            return stack
        return walk if trace is Trace.walk else list(dict.fromkeys(walk))

    def _within(self, words: int) -> int:
        """Examples of train whose solutions have so many words in all; at least one."""
        total, count = 0, 0
        for count, total in enumerate(accumulate(self._lengths()), start=1):
            if total >= words:
                return count
        return round(count * words / total)

    def _lengths(self) -> Iterator[int]:
        """Words of the first solutions of train."""
        for index in range(COUNTED):
            yield AROUND + 1 + len(self._work(Split.train, index))


def _component(config: GraphConfig) -> Component:
    if config.graph is Kind.bridge:
        return bridge(config.depth, config.short, config.long, config.dead)
    return two_path(config.length)
