"""Graph against networkx, enumeration, and the numbers of the paper's sheet."""

import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from math import sqrt
from random import Random
from statistics import mean, stdev
from typing import Any

import networkx as nx
import pytest

from rlx.errors import ConfigError
from rlx.tasks.graph import COUNTED, Graph, GraphConfig, Kind, Score, Trace, Truth
from rlx.tasks.graph_shapes import bridge, canonical, neighbours_in, two_path
from rlx.tasks.graph_text import prompt, solution
from rlx.tasks.graph_walks import HittingWalk, depth_first
from rlx.types import Example, Outcome, Split

WORKS = [trace for trace in Trace if trace is not Trace.decision]
PAPER: dict[str, Any] = {"short": 3, "long": 5, "dead": 3}
SMALL: dict[str, Any] = {"depth": 1, "short": 1, "long": 2, "dead": 1}
GOLDEN = (
    "graph/0a4e340d952143a1",
    "graph : [ 19 17 5 8 14 16 15 13 5 18 21 15 20 0 3 5 17 12 2 10 19 1 5 13 11 2 4 9 7 5 7 14 0 1 16 18 10 17 3 21 "
    "6 14 2 4 17 9 17 20 ] task : 14 to 0 or 15 / work : [ 14 7 5 13 15 ] decision : [ 15 ]",
)
"""Example 3 of `test`, as written once."""
TEXT = (
    "graph : [ 5 7 2 7 4 0 9 7 1 0 2 5 3 0 4 1 ] task : 7 to 4 or 2 / ",
    "work : [ 7 9 7 2 ] decision : [ 2 ]",
)


def graph(**fields: Any) -> Graph:
    return GraphConfig(**fields).build()


def read(text: str) -> tuple[nx.Graph, str, tuple[str, str]]:
    """Graph, start and targets of a prompt, each edge written once."""
    match = re.fullmatch(r"graph : \[ ([\d ]+) \] task : (\d+) to (\d+) or (\d+) / ", text)
    assert match
    labels = match[1].split(" ")
    edges = list(zip(labels[::2], labels[1::2], strict=True))
    found = nx.Graph(edges)
    assert found.number_of_edges() == len(edges)
    return found, match[2], (match[3], match[4])


def work_of(text: str) -> list[str]:
    """Labels of a solution's work."""
    match = re.fullmatch(r"work : \[ ((?:\d+ )*)\] decision : \[ \d+ \]", text)
    assert match
    return match[1].split()


def problem(text: str) -> Example:
    """The example of a prompt."""
    found, start, targets = read(text)
    target = next(target for target in targets if nx.has_path(found, start, target))
    beside = {label: list(found[label]) for label in found}
    return Example(id="", prompt=text, solution="", truth=Truth(start, target, targets, beside))


def outcome(completion: str, text: str = TEXT[0], **fields: Any) -> Outcome:
    return graph(**SMALL, labels=10, **fields).verify(problem(text), completion).outcome


def walks(depth: int, count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Depth-first walks of the paper's graphs, and the stacks they end with."""
    component = bridge(depth, 3, 5, 3)
    random, neighbours = Random(depth), neighbours_in(component)
    for _ in range(count):
        yield depth_first(neighbours, component.start, component.target, random)


# The graphs


def bridge_of(depth: int, short: int, long: int, dead: int) -> nx.Graph:
    """Bridge graph as the sheet has it, with its ends marked."""
    found = nx.Graph()
    for block in range(depth):
        for name, length in (("short", short), ("long", long)):
            between = [(block, name, step) for step in range(1, length)]
            nx.add_path(found, [block, *between, block + 1])
        nx.add_path(found, [block, *((block, "dead", step) for step in range(dead))])
    nx.set_node_attributes(found, {node: {0: "s", depth: "t"}.get(node, "") for node in found}, "end")
    return found


def same(one: nx.Graph, other: nx.Graph) -> bool:
    return nx.is_isomorphic(one, other, node_match=lambda a, b: a["end"] == b["end"])


@pytest.mark.parametrize(("depth", "nodes", "edges"), [(3, 31, 33), (5, 51, 55)])
def test_counts_are_the_sheet_s(depth: int, nodes: int, edges: int) -> None:
    found, start, _ = read(graph(depth=depth, **PAPER).example(Split.train, 0).prompt)
    assert (found.number_of_nodes(), found.number_of_edges()) == (2 * nodes, 2 * edges)
    own = found.subgraph(nx.node_connected_component(found, start))
    assert (own.number_of_nodes(), own.number_of_edges()) == (nodes, edges)


@pytest.mark.parametrize("sizes", [(1, 1, 2, 1), (2, 2, 3, 1), (3, 3, 5, 3), (2, 2, 2, 4), (1, 4, 4, 2)], ids=str)
def test_prompt_shows_two_bridge_graphs(sizes: tuple[int, int, int, int]) -> None:
    names = ("depth", "short", "long", "dead")
    task = graph(**dict(zip(names, sizes, strict=True)))
    wanted = bridge_of(*sizes)
    for index in range(5):
        example = task.example(Split.train, index)
        found, start, targets = read(example.prompt)
        target, other = targets if nx.has_path(found, start, targets[0]) else targets[::-1]
        assert example.truth.target == target
        nx.set_node_attributes(found, {n: {start: "s", target: "t", other: "t"}.get(n, "") for n in found}, "end")
        own, copy = (found.subgraph(nx.node_connected_component(found, end)).copy() for end in (target, other))
        assert same(own, wanted)
        nx.set_node_attributes(wanted, {0: ""}, "end")
        assert same(copy, wanted)
        nx.set_node_attributes(wanted, {0: "s"}, "end")


@pytest.mark.parametrize("length", [1, 2, 9])
def test_prompt_shows_two_paths(length: int) -> None:
    found, start, targets = read(graph(graph=Kind.two_path, length=length).example(Split.train, 0).prompt)
    parts = list(nx.connected_components(found))
    assert [nx.is_isomorphic(found.subgraph(part), nx.path_graph(length + 1)) for part in parts] == [True, True]
    assert {found.degree(end) for end in (start, *targets)} == {1}
    target, other = targets if nx.has_path(found, start, targets[0]) else targets[::-1]
    assert nx.shortest_path_length(found, start, target) == length
    assert not nx.has_path(found, start, other)


def test_writing_says_nothing_of_the_graph() -> None:
    """Labels, directions, places of edges and the order of targets are even draws."""
    task, count = graph(labels=40), 3000
    starts, targets, places, forward, true_first = Counter[str](), Counter[str](), Counter[int](), 0, 0
    for index in range(count):
        example = task.example(Split.train, index)
        found, start, shown = read(example.prompt)
        starts[start] += 1
        targets[example.truth.target] += 1
        true_first += example.truth.target == shown[0]
        labels = example.prompt[len("graph : [ ") :].partition(" ]")[0].split(" ")
        pairs = list(zip(labels[::2], labels[1::2], strict=True))
        tail = next(label for label in found[start] if found.degree(label) == 1 and len(found[start]) == 3)
        place = next(place for place, pair in enumerate(pairs) if set(pair) == {start, tail})
        places[place] += 1
        forward += pairs[place] == (start, tail)
    for drawn, kinds in ((starts, 40), (targets, 40), (places, 24)):
        assert len(drawn) == kinds
        assert sum((n - count / kinds) ** 2 / (count / kinds) for n in drawn.values()) < kinds + 4 * sqrt(2 * kinds)
    assert abs(forward - count / 2) < 2 * sqrt(count)
    assert abs(true_first - count / 2) < 2 * sqrt(count)


# Walks, and the sheet's numbers


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_a_search_makes_no_mistake_as_often_as_the_sheet_says(depth: int) -> None:
    rate = mean(walk == stack for walk, stack in walks(depth, 4000))
    assert abs(rate - 2 / 3 * 0.5 ** (depth - 1)) <= 0.02


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_short_cut_is_right_as_often_as_a_search_makes_no_mistake(depth: int) -> None:
    task, expected, count = graph(depth=depth), 2 / 3 * 0.5 ** (depth - 1), 2500
    verdicts = [task.verify(e, task.guess(e)) for e in (task.example(Split.train, i) for i in range(count))]
    assert abs(mean(verdict.correct for verdict in verdicts) - expected) < 4 * sqrt(0.25 / count)
    # Who got nowhere names the first target.
    decided = mean(verdict.measures["decision"] for verdict in verdicts)
    assert abs(decided - (1 + expected) / 2) < 4 * sqrt(0.25 / count)


def test_naming_the_first_target_is_right_half_the_time() -> None:
    task, count = graph(trace=Trace.decision, score=Score.decision), 3000
    verdicts = []
    for index in range(count):
        example = task.example(Split.train, index)
        verdicts.append(task.verify(example, solution([], read(example.prompt)[2][0])))
        assert task.chance(example) == 0.5
    assert abs(mean(verdict.correct for verdict in verdicts) - 0.5) < 4 * sqrt(0.25 / count)


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_a_shortest_path_is_guessed_as_seldom_as_the_sheet_says(depth: int) -> None:
    """An even draw at each vertex among the ways on: 1 / (3 * 4^(depth - 1))."""
    example = graph(depth=depth, **PAPER, trace=Trace.optimal).example(Split.train, 0)
    found, start, _ = read(example.prompt)
    path = work_of(example.solution)
    assert path == nx.shortest_path(found, start, path[-1])
    ways = [found.degree(label) - (label != start) for label in path[:-1]]
    chance = Fraction(1)
    for way in ways:
        chance /= way
    assert chance == Fraction(1, 3 * 4 ** (depth - 1))


@pytest.mark.parametrize(
    ("depth", "optimal", "path", "pruned", "walk"), [(3, 10, 13, 18, 22.9), (5, 16, 21, 29.9, 38.7)]
)
def test_mean_lengths_are_the_sheet_s(depth: int, optimal: int, path: int, pruned: float, walk: float) -> None:
    task = graph(depth=depth, **PAPER, trace=Trace.optimal)
    assert len(work_of(task.example(Split.train, 0).solution)) == optimal
    made = list(walks(depth, 6000))
    for lengths, expected in (
        ([len(stack) for _, stack in made], path),
        ([len(set(walk)) for walk, _ in made], pruned),
        ([len(walk) for walk, _ in made], walk),
    ):
        # The sheet's means have an error of their own and are rounded.
        assert abs(mean(lengths) - expected) < 4 * stdev(lengths) / sqrt(len(lengths)) + 0.1
    # The longest seen there: 46 and 70.
    assert abs(max(len(walk) for walk, _ in made) - {3: 46, 5: 70}[depth]) <= 4


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_traces_write_one_search(kind: Kind) -> None:
    tasks = {trace: graph(graph=kind, trace=trace) for trace in Trace}
    for index in range(60):
        examples = {trace: task.example(Split.train, index) for trace, task in tasks.items()}
        assert len({(example.id, example.prompt) for example in examples.values()}) == 1
        found, start, _ = read(examples[Trace.walk].prompt)
        works = {trace: work_of(example.solution) for trace, example in examples.items()}
        walk, target = works[Trace.walk], examples[Trace.walk].truth.target
        assert works[Trace.decision] == []
        assert all(work[0] == start and work[-1] == target for trace, work in works.items() if work)
        for trace in (Trace.walk, Trace.path, Trace.optimal, Trace.random):
            assert all(found.has_edge(*step) for step in pairwise(works[trace]))
        assert works[Trace.pruned] == list(dict.fromkeys(walk))
        # The stack at the end: what stays when each way back is cut out.
        stack: list[str] = []
        for label in walk:
            del stack[stack.index(label) + 1 if label in stack else len(stack) :]
            stack += [label] if label not in stack else []
        assert works[Trace.path] == stack
        # Back only from where all is visited, and only by one step of the stack.
        for place, (here, there) in enumerate(pairwise(walk), start=1):
            if there in walk[:place]:
                assert set(found[here]) <= set(walk[:place])
        assert target not in walk[:-1]


def test_searches_draw_all_ways_evenly() -> None:
    """Each order of a start's three arms is as likely where the whole tree has to be searched."""
    neighbours = ((1, 2, 3), (0,), (0,), (0, 4), (3,))
    walks = [depth_first(neighbours, 0, 4, random)[0] for random in map(Random, range(6000))]
    seen = Counter(map(tuple, walks))
    wanted = {(0, 3, 4): 1 / 3, (0, 1, 0, 3, 4): 1 / 6, (0, 2, 0, 3, 4): 1 / 6}
    wanted |= {(0, 1, 0, 2, 0, 3, 4): 1 / 6, (0, 2, 0, 1, 0, 3, 4): 1 / 6}
    assert seen.keys() == wanted.keys()
    for walk, share in wanted.items():
        assert abs(seen[walk] / 6000 - share) < 4 * sqrt(share * (1 - share) / 6000)


@pytest.mark.parametrize(("sizes", "steps"), [((1, 1, 2, 1), 5), ((1, 2, 2, 1), 6), ((2, 1, 2, 1), 4)], ids=str)
def test_random_walks_are_those_that_hit_the_target(sizes: tuple[int, int, int, int], steps: int) -> None:
    """Against all walks of so many steps, each with its probability."""
    component = bridge(*sizes)
    found = nx.Graph(component.edges)
    chances: dict[tuple[int, ...], float] = {}

    def follow(walk: tuple[int, ...], chance: float) -> None:
        if walk[-1] == component.target:
            chances[walk] = chance
        elif len(walk) <= steps:
            for other in found[walk[-1]]:
                follow((*walk, other), chance / len(found[walk[-1]]))

    follow((component.start,), 1.0)
    total, count = sum(chances.values()), 20_000
    walker = HittingWalk(neighbours_in(component), component.start, component.target, steps)
    assert walker.reach[steps][component.start] == pytest.approx(total)
    random = Random(0)
    drawn = Counter(tuple(walker.draw(random)) for _ in range(count))
    assert drawn.keys() <= chances.keys()
    assert len(chances) > 4
    for walk, chance in chances.items():
        share = chance / total
        assert abs(drawn[walk] / count - share) < 4.5 * sqrt(share * (1 - share) / count) + 1e-9


def test_random_walks_keep_their_length() -> None:
    for length in (4, 9, 30):
        task = graph(trace=Trace.random, walk_length=length)
        steps = [len(work_of(task.example(Split.train, index).solution)) - 1 for index in range(300)]
        assert max(steps) <= length
        assert (min(steps), len(set(steps)) > 1) == (4, length > 4)


# Problems


def canonical_of(example: Example) -> tuple[Any, ...]:
    """What makes a problem, read from its text."""
    found, start, targets = read(example.prompt)
    return frozenset(map(frozenset, found.edges)), start, frozenset(targets)


def test_ids_are_equal_where_problems_are() -> None:
    """Two paths of two edges between six labels: 720 problems, met five times on average."""
    task = graph(graph=Kind.two_path, length=2, labels=6)
    examples = [task.example(Split.train, index) for index in range(4000)]
    pairs = {(example.id, canonical_of(example)) for example in examples}
    assert len(pairs) == len({name for name, _ in pairs}) == len({key for _, key in pairs})
    # 6! labellings, none of which stands for another, less those held out.
    assert 680 <= len(pairs) <= 720
    texts = {example.id: {other.prompt for other in examples if other.id == example.id} for example in examples[:20]}
    assert max(map(len, texts.values())) > 1


@pytest.mark.parametrize(
    "component",
    [bridge(1, 1, 2, 1), bridge(2, 2, 2, 1), bridge(2, 2, 3, 1), bridge(1, 3, 3, 3), bridge(3, 1, 2, 2), two_path(3)],
    ids=lambda component: component.name,
)
def test_nothing_but_twins_can_change_places(component: Any) -> None:
    """All exchanges of vertices that keep edges and ends, found by networkx: their labellings are one problem."""
    size = component.size
    whole = nx.Graph([*component.edges, *((u + size, v + size) for u, v in component.edges)])
    ends = {component.start: "s", component.target: "t", component.target + size: "t"}
    nx.set_node_attributes(whole, {node: ends.get(node, "") for node in whole}, "end")
    matcher = nx.isomorphism.GraphMatcher(whole, whole, node_match=lambda a, b: a["end"] == b["end"])
    exchanges = list(matcher.isomorphisms_iter())
    assert len(exchanges) == 4 ** len(component.twins)
    labels = [str(label) for label in range(2 * size)]
    Random(0).shuffle(labels)
    keys = {canonical(component, [labels[exchange[vertex]] for vertex in range(2 * size)]) for exchange in exchanges}
    assert len(keys) == 1
    assert canonical(component, labels[::-1]) not in keys


@pytest.mark.parametrize("split", list(Split), ids=lambda split: split.value)
def test_only_train_moves_with_the_seed(split: Split) -> None:
    one, other = ([graph(seed=seed).example(split, index) for index in range(10)] for seed in (0, 1))
    assert (one == other) == (split is not Split.train)


def test_examples_are_the_same_everywhere() -> None:
    """Written down once: no machine and no version of Python may move an example."""
    example = graph().example(Split.test, 3)
    assert (example.id, example.prompt + example.solution) == GOLDEN


def test_words_are_the_paper_s_vocabulary() -> None:
    """Labels and 17 more, of which UNK, PAD, BOS and EOS are the tokenizer's; blanks stand between the others."""
    words = graph(labels=100).words()
    assert len(words) == len(set(words)) == 100 + 17 - 4 + 1
    assert " " in words


@pytest.mark.parametrize("trace", [Trace.walk, Trace.path, Trace.random], ids=lambda trace: trace.name)
def test_answer_tokens_are_the_same_for_every_trace(trace: Trace) -> None:
    """Sums of words after the `/` agree within 1 %, beyond the answers that are counted."""
    budget = COUNTED * 25
    task = graph(trace=trace, answer_tokens=budget)
    count = task.size(Split.train)
    assert count is not None and count > COUNTED
    words = sum(len(task.example(Split.train, index).solution.split()) for index in range(count))
    assert abs(words / budget - 1) < 0.01


@pytest.mark.parametrize("trace", list(Trace), ids=lambda trace: trace.name)
def test_few_answer_tokens_are_counted_exactly(trace: Trace) -> None:
    task = graph(trace=trace, answer_tokens=5000)
    count = task.size(Split.train)
    assert count is not None
    words = [len(task.example(Split.train, index).solution.split()) for index in range(count)]
    assert sum(words[:-1]) < 5000 <= sum(words)
    assert graph(trace=trace).size(Split.train) is None


def test_answer_tokens_of_equal_answers_are_exact() -> None:
    task = graph(trace=Trace.optimal, answer_tokens=14_000_000)
    assert task.size(Split.train) == 1_000_000


# Verdicts


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
@pytest.mark.parametrize("score", list(Score), ids=lambda score: score.name)
def test_every_walk_verifies_and_none_in_the_other_component(kind: Kind, score: Score) -> None:
    task = graph(graph=kind, score=score)
    for index in range(60):
        for trace in WORKS:
            example = graph(graph=kind, trace=trace).example(Split.train, index)
            verdict = task.verify(example, example.solution)
            assert verdict.correct
            work = work_of(example.solution)
            assert verdict.measures == {"decision": 1, "evidence": 1, "edges": 1, "work_nodes": len(work)}
        found, start, targets = read(example.prompt)
        target, other = example.truth.target, next(end for end in targets if end != example.truth.target)
        across = list(nx.dfs_preorder_nodes(found, other))[::-1]
        for wrong in (across, [start, *across], [*work[:-1], *across], [start, *across, *work]):
            for decided in (target, other):
                verdict = task.verify(example, solution(wrong, decided))
                assert not verdict.measures["evidence"]
                assert verdict.correct == (score is Score.decision and decided == target)


def test_worked_example_is_the_sheet_s() -> None:
    edges = re.findall(r"(\d) (\d)", TEXT[0].partition("]")[0])
    assert prompt(edges, "7", ("4", "2")) == TEXT[0]
    assert solution(["7", "9", "7", "2"], "2") == TEXT[1]
    assert outcome(TEXT[1]) is Outcome.correct


@pytest.mark.parametrize(
    ("completion", "evidence", "decision"),
    [
        ("work : [ 7 9 7 2 ] decision : [ 2 ] \n", "correct", "correct"),
        ("work : [ 7 2 ] decision : [ 2 ]", "correct", "correct"),
        ("work : [ 7 5 9 2 ] decision : [ 2 ]", "correct", "correct"),
        ("work : [ 7 5 9 7 7 5 2 ] decision : [ 2 ]", "correct", "correct"),
        ("work : [ ] decision : [ 2 ]", "wrong", "correct"),
        ("work : [ 7 5 ] decision : [ 2 ]", "wrong", "correct"),
        ("work : [ 7 2 5 ] decision : [ 2 ]", "wrong", "correct"),
        ("work : [ 7 2 ] decision : [ 4 ]", "wrong", "wrong"),
        ("work : [ 7 2 ] decision : [ 7 ]", "wrong", "wrong"),
        ("work : [ 7 2 ] decision : [ ]", "wrong", "wrong"),
        ("work : [ 7 2 ] decision : [ 2 2 ]", "wrong", "wrong"),
        ("work : [ 7 2 ] decision : [ 2 4 ]", "wrong", "wrong"),
        ("work : [ 2 ] decision : [ 2 ]", "illegal", "correct"),
        ("work : [ 5 2 ] decision : [ 2 ]", "illegal", "correct"),
        ("work : [ 9 7 2 ] decision : [ 2 ]", "illegal", "correct"),
        ("work : [ 7 4 2 ] decision : [ 2 ]", "illegal", "correct"),
        ("work : [ 7 0 4 ] decision : [ 4 ]", "illegal", "wrong"),
        ("work : [ 7 6 2 ] decision : [ 2 ]", "illegal", "correct"),
        ("work : [ 7 10 2 ] decision : [ 2 ]", "malformed", "malformed"),
        ("work : [ 7 09 7 2 ] decision : [ 2 ]", "malformed", "malformed"),
        ("work : [ 7  2 ] decision : [ 2 ]", "malformed", "malformed"),
        ("work : [ 7 2 ] decision : [ 2 ] .", "malformed", "malformed"),
        ("work : [ 7 2 ] decision : [ 2", "malformed", "malformed"),
        ("work : [ 7 2 ] decision : [ 2]", "malformed", "malformed"),
        ("work : [ 7 2] decision : [ 2 ]", "malformed", "malformed"),
        (" work : [ 7 2 ] decision : [ 2 ]", "malformed", "malformed"),
        ("work : [ 7 2 ]\ndecision : [ 2 ]", "malformed", "malformed"),
        ("work : [ 7 2 ] decision : [ 2 ] decision : [ 2 ]", "malformed", "malformed"),
        ("work : [ 7 \uff12 ] decision : [ 2 ]", "malformed", "malformed"),
        ("decision : [ 2 ]", "malformed", "malformed"),
        ("work : [ ]", "malformed", "malformed"),
        ("work : [ ", "malformed", "malformed"),
        ("work : [ 7" + " 9 7" * 5000 + " 2 ] decision : [ 2 ]", "malformed", "malformed"),
    ],
)
def test_outcomes(completion: str, evidence: str, decision: str) -> None:
    assert outcome(completion).value == evidence
    assert outcome(completion, score=Score.decision).value == decision


def test_without_work_in_the_trace_none_is_asked_for() -> None:
    empty, wrong = "work : [ ] decision : [ 2 ]", "work : [ ] decision : [ 4 ]"
    assert outcome(empty, trace=Trace.decision) is Outcome.correct
    assert outcome(wrong, trace=Trace.decision) is Outcome.wrong
    assert outcome("work : [ 7 4 2 ] decision : [ 2 ]", trace=Trace.decision) is Outcome.illegal


@pytest.mark.parametrize(
    ("work", "decided", "expected"),
    [
        ("7 9 7 2", "2", (1, 1, 1, 4)),
        ("7 4 0 2", "2", (1, 0, 3 / 4, 4)),
        ("0 4 7 2", "4", (0, 0, 3 / 4, 4)),
        ("7 9", "2", (1, 0, 1, 2)),
        ("", "2", (1, 0, 0, 0)),
        ("6 8", "2 4", (0, 0, 0, 2)),
    ],
)
def test_measures_by_hand(work: str, decided: str, expected: tuple[float, ...]) -> None:
    """0 is no neighbour of 7, but of 4; 7 is where to start, wherever it stands."""
    task = graph(**SMALL, labels=10)
    verdict = task.verify(problem(TEXT[0]), f"work : [ {work}{' ' if work else ''}] decision : [ {decided} ]")
    assert dict(zip(("decision", "evidence", "edges", "work_nodes"), expected, strict=True)) == verdict.measures


def test_guess_follows_the_first_edges_of_the_prompt() -> None:
    assert graph(**SMALL, labels=10).guess(problem(TEXT[0])) == "work : [ 7 5 2 ] decision : [ 2 ]"
    dead = TEXT[0].replace("5 7 2 7 4 0 9 7", "9 7 5 7 2 7 4 0")
    assert graph(**SMALL, labels=10).guess(problem(dead)) == "work : [ 7 9 ] decision : [ 4 ]"
    assert graph(**SMALL, trace=Trace.decision).guess(problem(dead)) == "work : [ ] decision : [ 4 ]"


def test_truth_may_come_from_json() -> None:
    example = problem(TEXT[0])
    plain = Example(id="", prompt="", solution="", truth=["7", "2", ["4", "2"], example.truth.beside])
    assert graph(**SMALL, labels=10).verify(plain, TEXT[1]).correct


# Settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 0}, "task.depth must be at least 1, got 0"),
        ({"dead": 0}, "task.dead must be at least 1, got 0"),
        ({"length": -1}, "task.length must be at least 1, got -1"),
        ({"short": 1, "long": 1}, "task.long must be at least 2"),
        ({"short": 4}, "task.long must be at least 2 and at least task.short, got 3 and short=4"),
        ({"depth": 10**9}, "must have at most 10000 vertices, got 10000000002; try task.depth=5"),
        ({"graph": Kind.two_path, "length": 5000}, "vertices, got 10002; try task.length=8"),
        ({"labels": 21}, "task.labels must be 22 .* got 21; try task.labels=22"),
        ({"trace": Trace.random, "walk_length": 3}, "task.walk_length must be 4 .* got 3; try task.walk_length=8"),
        ({"trace": Trace.random, "walk_length": 1001}, "to 1000, got 1001"),
        ({"answer_tokens": 0}, "task.answer_tokens must be at least 1, got 0"),
        ({"answer_tokens": 9, "train_examples": 9}, "give one of them"),
        ({"val_examples": 0}, "task.val_examples must be at least 1"),
    ],
)
def test_a_wrong_setting_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        GraphConfig(**fields)
    assert "\n" not in str(error.value)


def test_what_a_graph_does_not_have_is_not_checked() -> None:
    assert graph(graph=Kind.two_path, length=3, short=9).component.size == 4
    assert graph(trace=Trace.walk, walk_length=1).example(Split.train, 0)


def test_a_split_without_problems_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    task = graph()
    monkeypatch.setattr("rlx.tasks.graph.split_of", lambda key: Split.train)
    assert task.example(Split.train, 0)
    with pytest.raises(ConfigError, match=r"\(almost\) no problems for test; .* task.labels=32"):
        task.example(Split.test, 0)


def test_walks_too_unlikely_to_be_drawn_are_refused() -> None:
    """Their probabilities would be 0 in floating point."""
    with pytest.raises(ConfigError, match="try a longer one"):
        graph(depth=600, short=1, long=2, dead=1, trace=Trace.random, walk_length=600)
