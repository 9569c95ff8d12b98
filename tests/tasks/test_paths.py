"""Paths against networkx, enumeration, and the sheet's rules."""

import re
from collections import Counter, defaultdict
from itertools import combinations, pairwise, permutations
from math import sqrt
from random import Random
from statistics import mean, stdev
from typing import Any

import networkx as nx
import pytest

from rlx.errors import ConfigError
from rlx.tasks.paths import Paths, PathsConfig, Question, Truth, _kept
from rlx.types import Example, Outcome, Split

GOLDEN = (
    "paths/0d69bf8565778b41",
    "<edges> 8 1 ; 7 13 ; 15 13 ; 0 10 ; 8 3 ; 10 7 ; 15 11 ; 8 7 ; 9 14 ; 13 6 ; 3 4 ; 12 1 ; 7 11 ; 0 7 ; 9 15 "
    "; 8 6 ; 6 14 <q> 15 10 <path> 15 11 7 10",
)
"""Example 3 of `test`, as written once."""
TEXT = "<edges> 4 0 ; 2 1 ; 1 4 ; 3 0 ; 2 3 <q> 2 0 <path> "
"""A ring of five: 2 - 3 - 0 and 2 - 1 - 4 - 0."""


def paths(question: Question = Question.shortest, **fields: Any) -> Paths:
    return PathsConfig(question=question, **fields).build()


def reachable(**fields: Any) -> Paths:
    return paths(Question.reachable, **fields)


def read(text: str) -> tuple[nx.Graph, str, str]:
    """Graph and ends of a prompt, each edge written once."""
    match = re.fullmatch(r"<edges> (\d+ \d+(?: ; \d+ \d+)*) <q> (\d+) (\d+) <(?:path|reachable)> ", text)
    assert match
    edges = [(u, v) for u, v in (edge.split() for edge in match[1].split(" ; "))]
    found = nx.Graph(edges)
    assert found.number_of_edges() == len(edges)
    return found, match[2], match[3]


def problem(text: str = TEXT) -> Example:
    """The example of a prompt, with what its question has for an answer."""
    found, start, end = read(text)
    answer = len(nx.shortest_path(found, start, end)) - 1
    beside = {label: sorted(found[label], key=int) for label in found}
    told = answer if "<path>" in text else "yes" if answer == 2 else "no"
    return Example(id="", prompt=text, solution="", truth=Truth(start, end, told, beside))


def examples(task: Paths, count: int, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def three_errors(share: float, count: int) -> float:
    return 3 * sqrt(share * (1 - share) / count)


# Shortest paths


def floyd_warshall(found: nx.Graph) -> dict[tuple[str, str], float]:
    """All distances, the textbook way."""
    far = {(u, v): 0 if u == v else 1 if found.has_edge(u, v) else float("inf") for u in found for v in found}
    for k in found:
        for i in found:
            for j in found:
                far[i, j] = min(far[i, j], far[i, k] + far[k, j])
    return far


@pytest.mark.parametrize("fields", [{}, {"min_vertices": 20, "max_vertices": 50}], ids=["default", "paper"])
def test_every_shortest_path_verifies_and_the_lowest_is_written(fields: dict[str, Any]) -> None:
    task = paths(**fields)
    lengths = set()
    for example in examples(task, 120 if not fields else 20):
        found, start, end = read(example.prompt)
        distance = floyd_warshall(found)[start, end]
        lengths.add(distance)
        assert 2 <= distance < float("inf")
        assert example.difficulty["distance"] == distance
        shortest = list(nx.all_shortest_paths(found, start, end))
        assert example.solution.split(" ") == min(shortest, key=lambda path: [int(vertex) for vertex in path])
        for path in shortest:
            verdict = task.verify(example, " ".join(path))
            assert verdict.correct and verdict.measures == {"valid": 1, "excess": 0}
            assert task.verify(example, " ".join(path[::-1])).outcome is Outcome.illegal
        for path in nx.all_simple_paths(found, start, end, cutoff=int(distance) + 1):
            verdict = task.verify(example, " ".join(path))
            assert verdict.correct == (len(path) == distance + 1)
            assert verdict.measures == {"valid": 1, "excess": len(path) - 1 - distance}
    assert len(lengths) > 2


def test_chance_is_a_count_of_lists() -> None:
    """All lists of different vertices from start to end, each verified."""
    task = paths(max_vertices=8, min_vertices=6)
    for example in [problem(), *examples(task, 6)]:
        found, start, end = read(example.prompt)
        between = [vertex for vertex in found if vertex not in (start, end)]
        lists = [(start, *chosen, end) for count in range(len(between) + 1) for chosen in permutations(between, count)]
        right = sum(task.verify(example, " ".join(path)).correct for path in lists)
        assert right and task.chance(example) == pytest.approx(right / len(lists))
    assert task.chance(problem()) == 1 / 16


def test_guess_goes_where_most_edges_are() -> None:
    """Written again with networkx; right for some, and judged by the verifier like any answer."""
    task = paths()
    outcomes = Counter[Outcome]()
    for example in examples(task, 300):
        found, start, end = read(example.prompt)
        path = [start]
        while path[-1] != end:
            ahead = sorted(set(found[path[-1]]) - set(path), key=lambda v: (v != end, -found.degree(v), int(v)))
            if not ahead:
                break
            path.append(ahead[0])
        assert task.guess(example) == " ".join(path)
        assert all(found.has_edge(*step) for step in pairwise(path))
        outcomes[task.verify(example, task.guess(example)).outcome] += 1
    assert outcomes[Outcome.illegal] == outcomes[Outcome.malformed] == 0
    assert 0.4 < outcomes[Outcome.correct] / 300 < 0.75
    assert task.guess(problem()) == "2 1 4 0"


@pytest.mark.parametrize(
    ("completion", "expected", "valid", "excess"),
    [
        ("2 3 0", "correct", 1, 0),
        ("2 3 0 \n", "correct", 1, 0),
        ("2 1 4 0", "wrong", 1, 1),
        ("2 3 2 3 0", "wrong", 1, 2),
        ("2 3", "wrong", 0, -1),
        ("2", "wrong", 0, -2),
        ("2 1 4", "wrong", 0, 0),
        ("2 3 0 4", "wrong", 0, 1),
        ("2 0", "illegal", 0, -1),
        ("2 4 0", "illegal", 0, 0),
        ("0 3 2", "illegal", 0, 0),
        ("3 0", "illegal", 0, -1),
        ("2 2 3 0", "illegal", 0, 1),
        ("2 5 0", "illegal", 0, 0),
        ("5", "illegal", 0, -2),
        ("2 8 0", "malformed", None, None),
        ("2  3 0", "malformed", None, None),
        (" 2 3 0", "malformed", None, None),
        ("2 3\n0", "malformed", None, None),
        ("2 03 0", "malformed", None, None),
        ("2 -3 0", "malformed", None, None),
        ("2,3,0", "malformed", None, None),
        ("2 \uff13 0", "malformed", None, None),
        ("yes", "malformed", None, None),
        ("", "malformed", None, None),
        ("2 3" + " 2 3" * 1000 + " 0", "malformed", None, None),
    ],
)
def test_outcomes_of_shortest(completion: str, expected: str, valid: int | None, excess: int | None) -> None:
    verdict = paths(max_vertices=8).verify(problem(), completion)
    assert verdict.outcome.value == expected
    assert verdict.measures == ({"valid": 0.0} if valid is None else {"valid": valid, "excess": excess})


# Two edges


def test_yes_is_a_vertex_beside_both_ends() -> None:
    task = reachable()
    for example in examples(task, 300):
        found, start, end = read(example.prompt)
        assert not found.has_edge(start, end)
        answer = "yes" if list(nx.common_neighbors(found, start, end)) else "no"
        assert (example.solution, example.difficulty["answer"]) == (answer, answer)
        for said in ("yes", "no"):
            verdict = task.verify(example, said)
            assert verdict.outcome is (Outcome.correct if said == answer else Outcome.wrong)
            assert verdict.measures == {"yes": said == "yes"}
        assert task.chance(example) == 0.5


def test_yes_is_as_likely_whatever_the_edges_at_the_ends() -> None:
    task, seen = reachable(min_vertices=12, max_vertices=12), defaultdict[tuple[int, int], list[bool]](list)
    for example in examples(task, 6000):
        found, start, end = read(example.prompt)
        seen[found.degree(start), found.degree(end)].append(example.solution == "yes")
    strata = {key: answers for key, answers in seen.items() if len(answers) >= 100}
    assert len(strata) > 12
    # The worst of some twenty strata.
    assert all(abs(mean(answers) - 0.5) < 1.2 * three_errors(0.5, len(answers)) for answers in strata.values())
    assert abs(mean(answer for answers in seen.values() for answer in answers) - 0.5) < three_errors(0.5, 6000)


def best_threshold(rows: list[tuple[int, bool]]) -> float:
    """What counting edges tells at most where yes and no are made as likely."""
    yes, no = ([count for count, answer in rows if answer is wanted] for wanted in (True, False))
    return max((mean(count >= least for count in yes) + mean(count < least for count in no)) / 2 for least in range(40))


def test_counting_edges_tells_nothing_and_would_have() -> None:
    """The module says 72 % of graphs as they come, drawn here by networkx."""
    random, rows = Random(0), list[tuple[int, bool]]()
    while len(rows) < 3000:
        count = random.randint(8, 16)
        found = nx.gnp_random_graph(count, 3 / (count - 1), seed=random)
        if not found.has_edge(0, 1):
            rows.append((found.degree(0) + found.degree(1), any(nx.common_neighbors(found, 0, 1))))
    assert abs(best_threshold(rows) - 0.72) < 0.02
    task, kept = reachable(), list[tuple[int, bool]]()
    for example in examples(task, 3000):
        found, start, end = read(example.prompt)
        kept.append((found.degree(start) + found.degree(end), example.solution == "yes"))
    assert best_threshold(kept) < 0.53
    fresh = [task.example(Split.train, index) for index in range(3000, 5000)]
    right = mean(task.verify(example, task.guess(example)).correct for example in fresh)
    assert abs(right - 0.5) < three_errors(0.5, len(fresh))


def test_the_short_cut_is_fitted_to_training_examples() -> None:
    """Yes from a number of edges on, the one that is right most often."""
    task = reachable(train_examples=300)
    rows = []
    for example in examples(task, 300):
        found, start, end = read(example.prompt)
        rows.append((found.degree(start) + found.degree(end), example.solution == "yes"))
    guessed = [task.guess(example) == "yes" for example in examples(task, 300)]
    best = max(sum((count >= least) == yes for count, yes in rows) for least in range(40))
    assert sum(said == yes for said, (_, yes) in zip(guessed, rows, strict=True)) == best
    assert max([c for s, (c, _) in zip(guessed, rows, strict=True) if not s], default=-1) < min(
        [c for s, (c, _) in zip(guessed, rows, strict=True) if s], default=99
    )


@pytest.mark.parametrize(("others", "at_start", "at_end"), [(4, 1, 1), (5, 2, 2), (6, 3, 2), (5, 3, 3), (4, 0, 2)])
def test_shares_kept_are_those_of_all_draws(others: int, at_start: int, at_end: int) -> None:
    """Every pair of sets of neighbours, counted."""
    sets = [
        (set(a), set(b)) for a in combinations(range(others), at_start) for b in combinations(range(others), at_end)
    ]
    no = sum(a.isdisjoint(b) for a, b in sets)
    yes = len(sets) - no
    for answer, own, opposite in ((True, yes, no), (False, no, yes)):
        if own:
            assert _kept(others, at_start, at_end, answer) == pytest.approx(min(1, opposite / own))


@pytest.mark.parametrize(
    ("completion", "expected"),
    [("yes", "correct"), ("yes \n", "correct"), ("no", "wrong")]
    + [(text, "malformed") for text in ("", "Yes", " yes", "yes.", "yesyes", "y", "yes no", "2 3 0", "\uff59es")],
)
def test_outcomes_of_reachable(completion: str, expected: str) -> None:
    text = TEXT.replace("<path>", "<reachable>")
    assert reachable().verify(problem(text), completion).outcome.value == expected


# Problems


def test_worked_examples() -> None:
    assert paths().verify(problem(), "2 3 0").correct
    assert problem(TEXT.replace("<path>", "<reachable>")).truth.answer == "yes"


def test_graphs_are_as_the_sheet_says() -> None:
    """Expected degree (an edge between the ends is passed by), and numbers that say nothing of vertices."""
    task, random = paths(min_vertices=10, max_vertices=20, degree=3.0), Random(0)
    sizes = [10 + number % 11 for number in range(4000)]
    drawn = [found for size in sizes if (found := task._draw(random, Split.train, size)) is not None]
    pairs = [found.vertices * (found.vertices - 1) / 2 - 1 for found in drawn]
    edges = [len(found.edges) - pair * 3 / (found.vertices - 1) for found, pair in zip(drawn, pairs, strict=True)]
    assert abs(mean(edges)) < 3 * stdev(edges) / sqrt(len(edges))
    for named in ([found.start for found in drawn], [found.end for found in drawn]):
        assert abs(mean(named) - 9.5) < 3 * stdev(named) / sqrt(len(named))
        assert set(named) == set(range(20))


def test_writing_says_nothing_of_the_graph() -> None:
    """Lower numbers come first half the time, in edges and ends, and a solution's first edge stands anywhere."""
    lower, early, first = [], [], []
    for example in examples(paths(), 3000):
        pairs = [pair.split() for pair in example.prompt.split("<q>")[0][len("<edges> ") :].strip().split(" ; ")]
        lower += [int(u) < int(v) for u, v in pairs]
        path = example.solution.split()
        place = next(place for place, pair in enumerate(pairs) if set(pair) == set(path[:2]))
        early.append((place + 0.5) / len(pairs))
        first.append(int(path[0]) < int(path[-1]))
    assert abs(mean(lower) - 0.5) < three_errors(0.5, len(lower))
    assert abs(mean(early) - 0.5) < 3 * stdev(early) / sqrt(len(early))
    assert abs(mean(first) - 0.5) < three_errors(0.5, len(first))


@pytest.mark.parametrize("question", list(Question), ids=lambda question: question.name)
def test_ids_are_equal_where_problems_are(question: Question) -> None:
    """Few graphs of five vertices; edges and ends in any order are one problem."""
    task = paths(question, min_vertices=5, max_vertices=5, degree=2.0)
    pairs, texts = set(), defaultdict[str, set[str]](set)
    for example in examples(task, 2000):
        found, start, end = read(example.prompt)
        pairs.add((example.id, (frozenset(map(frozenset, found.edges)), frozenset((start, end)))))
        texts[example.id].add(f"{start} {end}")
    assert len(pairs) == len({name for name, _ in pairs}) == len({key for _, key in pairs})
    assert len(pairs) < 1900
    assert max(map(len, texts.values())) == 2


@pytest.mark.parametrize("split", list(Split), ids=lambda split: split.value)
def test_only_train_moves_with_the_seed(split: Split) -> None:
    one, other = (examples(paths(seed=seed), 8, split) for seed in (0, 1))
    assert (one == other) == (split is not Split.train)


def test_examples_are_the_same_everywhere() -> None:
    """Written down once: no machine and no version of Python may move an example."""
    example = paths().example(Split.test, 3)
    assert (example.id, example.prompt + example.solution) == GOLDEN


def test_truth_may_come_from_json() -> None:
    example = Example(id="", prompt="", solution="", truth=list(problem().truth))
    assert paths().verify(example, "2 3 0").correct


@pytest.mark.parametrize("question", list(Question), ids=lambda question: question.name)
def test_sizes_are_as_likely(question: Question) -> None:
    bands = Counter(example.difficulty["vertices"] for example in examples(paths(question), 3000))
    assert set(bands) == {"8-10", "11-13", "14-16"}
    assert all(abs(count / 3000 - 1 / 3) < three_errors(1 / 3, 3000) for count in bands.values())


def test_sizes_are_told_by_thirds() -> None:
    for low, high in ((8, 16), (20, 50), (12, 12), (12, 13)):
        task = paths(min_vertices=low, max_vertices=high)
        bands = [task._band(size) for size in range(low, high + 1)]
        for size, band in zip(range(low, high + 1), bands, strict=True):
            first, last = map(int, band.split("-"))
            assert low <= first <= size <= last <= high
        assert len(set(bands)) == min(3, high - low + 1)


# Settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_vertices": 3}, "task vertices need 4 <= min_vertices <= max_vertices <= 256, got 3 and 16"),
        ({"min_vertices": 17}, "got 17 and 16"),
        ({"max_vertices": 257}, "got 8 and 257"),
        ({"degree": 0.5}, "task.degree must be 1 to 6 .* got 0.5; try task.degree=2"),
        ({"degree": 6.5}, "task.degree must be 1 to 6"),
        ({"degree": float("nan")}, "task.degree must be 1 to 6"),
        ({"test_examples": 0}, "task.test_examples must be at least 1"),
    ],
)
def test_a_wrong_setting_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        PathsConfig(**fields)
    assert "\n" not in str(error.value)


def test_a_split_without_problems_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlx.tasks.paths.split_of", lambda key: Split.train)
    monkeypatch.setattr("rlx.tasks.paths.ATTEMPTS", 200)
    assert paths().example(Split.train, 0)
    with pytest.raises(ConfigError, match=r"\(almost\) no problems for val with max_vertices=16 and degree=3.0"):
        paths().example(Split.val, 0)
