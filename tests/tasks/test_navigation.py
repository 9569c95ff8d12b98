"""Navigation against solvers that read the prompt's text, closed forms, hand-worked walks and upstream's own sample."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

import rlx.tasks.navigation as module
from rlx.errors import ConfigError
from rlx.tasks.navigation import Draws, Navigation, NavigationConfig
from rlx.tasks.navigation_problems import BLOCK, Problem, draw_block
from rlx.tasks.navigation_questions import QUESTIONS, Question
from rlx.tasks.navigation_tables import Tables, dirichlet_logs, log_gamma_variate, make_tables, thresholds
from rlx.types import Example, Outcome, Split, Verdict

PAPER = {"values": 20, "min_actions": 5, "max_actions": 10, "irrelevant": 10}
ILLUSTRATION = Problem([9, 2, 3], [7, 5], [3, 4, 3], [6, 0], [1, 4], [0, 0, 0])
EVERY = pytest.mark.parametrize("question", list(Question), ids=lambda question: question.name)


def navigation(**fields: Any) -> Navigation:
    return NavigationConfig(**fields).build()


def read(task: Navigation, split: Split, count: int) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def numbers(letter: str, text: str) -> list[int]:
    return [int(number) for number in re.findall(rf"{letter} (\d+) ", text)]


def follow(tables: Tables, state: int, actions: Sequence[int]) -> list[int]:
    states = [state]
    for action in actions:
        states.append(tables.state_next[states[-1]][action])
    return states


def joined(states: Sequence[int], actions: Sequence[int]) -> str:
    words = [f"S {states[0]}"]
    for action, state in zip(actions, states[1:], strict=True):
        words += [f"A {action}", f"S {state}"]
    return " ".join(words)


def oracle(tables: Tables, prompt: str) -> str:
    """Reads the first state and the problem states off the text, and the two tables of the dynamics."""
    given, *rest = prompt.split(": ")
    actions = [tables.problem_next[before].index(after) for before, after in pairwise(numbers("P", given))]
    states = follow(tables, numbers("S", given)[0], actions)
    if "execute" in prompt:
        return " ".join(f"S {state}" for state in states)
    if "judge" in prompt:
        return "yes" if rest[0] == f"{joined(states, actions)} judge " else "no"
    return " ".join(f"A {action}" for action in actions) if "plan" in prompt else joined(states, actions)


def shortcut(tables: Tables, prompt: str) -> tuple[list[int], list[int]]:
    """Reads the first state and the contexts off the text: the likeliest action by c[a, C] * pi[s, a] each time."""
    action_share, context_share = np.exp(tables.action_logs), np.exp(tables.context_logs)
    states, actions = numbers("S", prompt.split(": ")[0]), list[int]()
    for context in numbers("C", prompt):
        actions.append(int(np.argmax(context_share[:, context] * action_share[states[-1]])))
        states.append(tables.state_next[states[-1]][actions[-1]])
    return states, actions


def with_numbers(text: str, letter: str, values: Sequence[int]) -> str:
    source = iter(values)
    return re.sub(rf"{letter} \d+ ", lambda _: f"{letter} {next(source)} ", text)


# Texts


def test_worked_example_is_written_as_in_the_docstring() -> None:
    tables = make_tables(10, 0.3, 0)
    assert module.__doc__ is not None
    for question in Question:
        writer = QUESTIONS[question](tables)
        shown = re.search(rf"^    {question.name} +(S .*)$", module.__doc__, re.MULTILINE)
        assert shown is not None
        assert writer.prompt(ILLUSTRATION) + writer.solution(ILLUSTRATION) == shown[1] + " "


def test_layout_is_upstreams() -> None:
    """The sample printed in its notebook, of a version with 10 values and no irrelevant ones."""
    prompt = "S 9 P 3 C 6 P 4 C 0 P 3 C 0 P 3 C 6 P 1 C 5 P 5 C 1 P 9 C 3 P 4 C 7 P 8 : "
    completion = "S 9 A 7 S 2 A 5 S 3 A 5 S 3 A 8 S 0 A 0 S 5 A 8 S 4 A 3 S 4 A 6 S 2 "
    problem = Problem(
        states=[9, 2, 3, 3, 0, 5, 4, 4, 2],
        actions=[7, 5, 5, 8, 0, 8, 3, 6],
        problems=[3, 4, 3, 3, 1, 5, 9, 4, 8],
        contexts=[6, 0, 0, 6, 5, 1, 3, 7],
        irrelevant=[],
        picks=[0, 0, 0],
    )
    writer = QUESTIONS[Question.solve](make_tables(10, 0.3, 0))
    assert (writer.prompt(problem), writer.solution(problem)) == (prompt, completion)


def test_sizes_in_words_are_the_papers() -> None:
    """29 entries with unk, bos and pad; 66 words of prompt with bos, 43 of completion with the end mark."""
    task = navigation(**PAPER)
    assert len(task.words()) == len(set(task.words())) == 29 - 3
    examples = read(task, Split.train, 300)
    sizes = {(len(example.prompt.split()) + 1, len(example.solution.split()) + 1) for example in examples}
    assert max(sizes) == (66, 43)
    assert len(sizes) == 6
    assert {example.difficulty["actions"] for example in examples} == {5, 6, 7, 8, 9, 10}


@EVERY
def test_words_are_tokens(question: Question) -> None:
    task = navigation(**PAPER, question=question)
    for example in read(task, Split.test, 50):
        tokens = [f"{word} " for word in (example.prompt + example.solution).split()]
        assert "".join(tokens) == example.prompt + example.solution
        assert set(tokens) <= set(task.words())


# Solvers


@EVERY
@pytest.mark.parametrize("fields", [{}, PAPER], ids=["default", "paper"])
def test_an_oracle_that_reads_problem_states_and_tables_is_always_right(
    question: Question, fields: dict[str, Any]
) -> None:
    task = navigation(question=question, **fields)
    for split in Split:
        for example in read(task, split, 150):
            answer = oracle(task.tables, example.prompt)
            assert answer == example.solution.rstrip()
            assert task.verify(example, answer).correct


@pytest.mark.parametrize("question", [Question.solve, Question.plan], ids=lambda question: question.name)
def test_guess_is_the_shortcut_solver(question: Question) -> None:
    task = navigation(**PAPER, question=question)
    for example in read(task, Split.test, 100):
        states, actions = shortcut(task.tables, example.prompt)
        expected = joined(states, actions) if question is Question.solve else " ".join(f"A {a}" for a in actions)
        assert task.guess(example) == expected + " "
        assert task.verify(example, task.guess(example)).measures["shortcut"] == 1


@pytest.mark.parametrize("fields", [{}, PAPER], ids=["default", "paper"])
def test_the_shortcut_works_in_biased_data_alone(fields: dict[str, Any]) -> None:
    """Of the first actions, whose states are uniform, it should get mean_s sum_C max_a pi[s, a] c[a, C] right; of
    uniform ones, one in V."""
    task = navigation(**fields)
    values, count = task.config.values, 2000
    joint = np.exp(task.tables.action_logs)[:, :, None] * np.exp(task.tables.context_logs)[None]  # [s, a, C]
    known = joint.max(axis=1).sum(axis=1).mean()
    assert known > 0.5
    uniform = navigation(**fields, train_draws=Draws.uniform)
    for source, split, expected in ((task, Split.train, known), (uniform, Split.train, 1 / values)):
        examples = read(source, split, count)
        right = sum(shortcut(task.tables, e.prompt)[1][0] == numbers("A", e.solution)[0] for e in examples) / count
        assert abs(right - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
    held_out = read(task, Split.test, 1000)
    right = sum(shortcut(task.tables, e.prompt)[1][0] == numbers("A", e.solution)[0] for e in held_out) / 1000
    assert abs(right - 1 / values) < 4 * math.sqrt(1 / values / 1000)
    solved = [
        sum(task.verify(e, task.guess(e)).correct for e in part) for part in (read(task, Split.train, 1000), held_out)
    ]
    assert solved[0] > 20 > 2 >= solved[1]


def test_shuffled_contexts_move_the_shortcut_alone_and_irrelevant_values_neither() -> None:
    task, random = navigation(**PAPER), np.random.RandomState(0)
    moved = differing = 0
    for example in read(task, Split.test, 100):
        contexts = with_numbers(example.prompt, "C", random.permutation(numbers("C", example.prompt)).tolist())
        irrelevant = with_numbers(example.prompt, "I", random.permutation(numbers("I", example.prompt)).tolist())
        differing += irrelevant != example.prompt
        assert oracle(task.tables, contexts) == oracle(task.tables, irrelevant) == example.solution.rstrip()
        assert shortcut(task.tables, irrelevant) == shortcut(task.tables, example.prompt)
        moved += shortcut(task.tables, contexts) != shortcut(task.tables, example.prompt)
    assert differing > 95 and moved > 80


def test_the_usual_state_is_the_baseline_of_execution() -> None:
    task = navigation(question=Question.execute)
    table = np.array(task.tables.state_next)
    for example in read(task, Split.test, 50):
        actions = numbers("A", example.prompt)
        usual = [int(np.argmax(np.bincount(table[:, action], minlength=10))) for action in actions]
        assert numbers("S", task.guess(example)) == [*numbers("S", example.prompt), *usual]


# Tables


def test_problem_states_name_their_action_and_states_do_not() -> None:
    several = 0
    for seed in range(20):
        tables = make_tables(20, 0.3, seed)
        for row, back in zip(tables.problem_next, tables.action_of, strict=True):
            assert sorted(row) == list(range(20))
            assert [row[action] for action in back] == list(range(20))
        several += sum(len(set(row)) < 20 for row in tables.state_next)
        assert {state for row in tables.state_next for state in row} == set(range(20))
    assert several == 400, "20 uniform values are all different once in 4 * 10^7 rows"


def test_tables_are_uniform() -> None:
    """Chi-squared of 99 degrees of freedom over 200 tables each, within 5 standard deviations."""
    tables = [make_tables.__wrapped__(10, 0.3, seed) for seed in range(200)]
    for rows in ([table.state_next for table in tables], [table.problem_next for table in tables]):
        counts = np.zeros((10, 10))  # how often an action leads to a state
        for row in np.concatenate([np.array(table) for table in rows]):
            counts[np.arange(10), row] += 1
        chi = float(((counts - 200) ** 2 / 200).sum())
        assert abs(chi - 99) < 5 * math.sqrt(2 * 99)


def test_tables_are_of_their_seed_and_dynamics_of_no_concentration() -> None:
    tables, other = make_tables(10, 0.3, 0), make_tables(10, 0.3, 1)
    assert tables.state_next != other.state_next and tables.problem_next != other.problem_next
    weak = make_tables(10, 3.0, 0)
    assert (weak.state_next, weak.problem_next) == (tables.state_next, tables.problem_next)
    assert weak.action_logs != tables.action_logs
    assert tables.action_logs != tables.context_logs


def raw_bits(seed: int = 0) -> Iterator[int]:
    bits = np.random.Philox(seed)
    while True:
        yield from np.asarray(bits.random_raw(4096)).tolist()


def gamma_cdf(shape: float, x: float) -> float:
    """The lower incomplete gamma function by its series, over Gamma(shape)."""
    if x > 60:
        return 1.0
    term = x**shape * math.exp(-x) / math.gamma(shape + 1)
    total, place = term, shape
    while term > 1e-17:
        place += 1
        term *= x / place
        total += term
    return total


@pytest.mark.parametrize("shape", [0.05, 0.3, 0.5, 1.0, 2.5, 20.0])
def test_gamma_variates_follow_their_distribution(shape: float) -> None:
    """Kolmogorov and Smirnov at one in a thousand, and the mean and variance, both `shape`."""
    count, raw = 8000, raw_bits()
    draws = np.sort(np.exp([log_gamma_variate(shape, raw) for _ in range(count)]))
    expected = np.array([gamma_cdf(shape, x) for x in draws.tolist()])
    steps = np.arange(count) / count
    distance = max(np.abs(expected - steps).max(), np.abs(expected - steps - 1 / count).max())
    assert distance < 1.95 / math.sqrt(count)
    assert abs(draws.mean() - shape) < 4 * math.sqrt(shape / count)
    assert abs(draws.var() / shape - 1) < 4 * math.sqrt((2 + 6 / shape) / count)


@pytest.mark.parametrize("concentration", [0.3, 2.0])
def test_dirichlet_moments(concentration: float) -> None:
    """Mean 1/V, variance (1/V)(1 - 1/V) / (V a + 1), covariance -1/V^2 / (V a + 1)."""
    raw, values = raw_bits(1), 20
    rows = np.exp(np.concatenate([dirichlet_logs(values, concentration, raw) for _ in range(100)]))  # [2000, V]
    assert np.allclose(rows.sum(axis=1), 1)
    spread = values * concentration + 1
    covariance = np.cov(rows.T)
    off = covariance[~np.eye(values, dtype=bool)]
    assert abs(rows.mean(axis=0) - 1 / values).max() < 4.5 * math.sqrt(0.05 * 0.95 / spread / len(rows))
    assert np.diag(covariance).mean() == pytest.approx(0.05 * 0.95 / spread, rel=0.05)
    assert off.mean() == pytest.approx(-(0.05**2) / spread, rel=0.05)


@pytest.mark.parametrize("concentration", [0.01, 1000.0])
def test_extreme_concentrations_make_distributions(concentration: float) -> None:
    limits = thresholds(make_tables(10, concentration, 0).action_logs)
    assert (limits[:, -1] == 2**32).all()
    assert (np.diff(limits, axis=1) >= 0).all()
    largest = np.diff(limits, axis=1, prepend=0).max(axis=1) / 2**32
    assert np.median(largest) > 0.95 if concentration < 1 else largest.max() < 0.12
    assert navigation(concentration=concentration).example(Split.train, 0).prompt


# Draws


def moves(examples: Sequence[Example]) -> Iterator[tuple[int, int, int]]:
    """State, action and context of every step."""
    for example in examples:
        states, actions = numbers("S", example.solution), numbers("A", example.solution)
        yield from zip(states[:-1], actions, numbers("C", example.prompt), strict=True)


def shares(pairs: Sequence[tuple[int, int]], values: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the first of each pair [V], and shares of the second by the first [V, V]."""
    counts = np.zeros((values, values))
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    return counts.sum(axis=1), counts / counts.sum(axis=1, keepdims=True).clip(1)


@pytest.mark.parametrize("train_draws", list(Draws), ids=lambda draws: draws.name)
def test_actions_and_contexts_are_drawn_as_the_tables_say(train_draws: Draws) -> None:
    task = navigation(train_draws=train_draws)
    steps = list(moves(read(task, Split.train, 4000)))
    logs = {"actions": task.tables.action_logs, "contexts": task.tables.context_logs}
    pairs = {"actions": [(s, a) for s, a, _ in steps], "contexts": [(a, c) for _, a, c in steps]}
    for name in logs:
        expected = np.exp(logs[name]) if train_draws is Draws.biased else np.full((10, 10), 0.1)
        counts, found = shares(pairs[name], 10)
        error = np.sqrt(expected * (1 - expected) / counts[:, None]) + 1e-3
        assert (np.abs(found - expected) < 4.5 * error).all(), name


@pytest.mark.parametrize("split", [Split.val, Split.test], ids=lambda split: split.value)
def test_held_out_draws_are_uniform(split: Split) -> None:
    steps = list(moves(read(navigation(), split, 1000)))
    for place in (1, 2):
        counts = np.bincount([step[place] for step in steps], minlength=10)
        assert float(((counts - counts.mean()) ** 2 / counts.mean()).sum()) < 9 + 5 * math.sqrt(18)


def test_starts_lengths_and_irrelevant_values_are_uniform() -> None:
    examples = read(navigation(min_actions=3, max_actions=7, irrelevant=4), Split.train, 3000)
    drawn = {
        "lengths": [len(numbers("A", example.solution)) - 3 for example in examples],
        "states": [numbers("S", example.prompt)[0] for example in examples],
        "problem states": [numbers("P", example.prompt)[0] for example in examples],
        "irrelevant": [number for example in examples for number in numbers("I", example.prompt)],
    }
    assert all(len(numbers("I", example.prompt)) == 4 for example in examples)
    for name, found in drawn.items():
        values = 5 if name == "lengths" else 10
        counts = np.bincount(found)
        assert len(counts) == values
        chi = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert chi < values - 1 + 5 * math.sqrt(2 * values), name


def test_judged_walks_are_right_every_second_time_and_else_wrong_in_one_place() -> None:
    task, tables = navigation(question=Question.judge), navigation().tables
    kinds: Counter[str] = Counter()
    for example in read(task, Split.train, 2000):
        given, proposed, _ = example.prompt.split(": ")
        expected = oracle(tables, f"{given}: ")
        states, actions = numbers("S", proposed), numbers("A", proposed)
        wrong = sum(a != b for a, b in zip(actions, numbers("A", expected), strict=True))
        illegal = sum(tables.state_next[s][a] != t for s, a, t in zip(states, actions, states[1:], strict=False))
        kind = str(example.difficulty["proposal"])
        assert (wrong, illegal) == {"right": (0, 0), "plan": (1, 0), "execution": (0, 1)}[kind]
        assert example.solution == ("yes " if kind == "right" else "no ")
        assert states[0] == numbers("S", given)[0]
        kinds[kind] += 1
    for kind, share in (("right", 0.5), ("plan", 0.25), ("execution", 0.25)):
        assert abs(kinds[kind] / 2000 - share) < 4 * math.sqrt(share * (1 - share) / 2000)


# Verdicts


def illustrated() -> Tables:
    """Tables in which the two-action illustration is right: others lead to themselves, action 5 suits state 9 at 6."""
    tables = make_tables(10, 0.3, 0)
    same = [[state] * 10 for state in range(10)]
    actions = [[0] * 10 for _ in range(10)]
    cue = [[1] * 10 for _ in range(10)]
    same[9][7], same[2][5], actions[3][4], actions[4][3], cue[9][6] = 2, 3, 7, 5, 5
    return replace(tables, state_next=same, action_of=actions, cue=cue)


@pytest.mark.parametrize(
    ("text", "outcome", "measures"),
    [
        ("S 9 A 7 S 2 A 5 S 3 ", "correct", (1, 1, 1, 0)),
        ("S 9 A 7 S 2 A 5 S 3", "correct", (1, 1, 1, 0)),
        ("S 9 A 7 S 2 A 5 S 3 \n\t ", "correct", (1, 1, 1, 0)),
        ("S 9 A 7 S 2 A 4 S 2 ", "wrong", (0, 1, 0.5, 0)),
        ("S 9 A 5 S 9 A 5 S 9 ", "wrong", (0, 1, 0, 0.5)),
        ("S 9 A 5 S 9 A 1 S 9 ", "wrong", (0, 1, 0, 1)),
        ("S 9 A 7 S 2 ", "wrong", (0, 1, 0.5, 0)),
        ("S 9 A 5 S 9 ", "wrong", (0, 1, 0, 1)),
        ("S 9 A 5 S 9 A 1 S 9 A 1 S 9 ", "wrong", (0, 1, 0, 2 / 3)),
        ("S 9 ", "wrong", (0, 1, 0, 0)),
        ("S 9 A 7 S 2 A 5 S 3 A 1 S 3 ", "wrong", (0, 1, 1, 0)),
        ("S 9 A 7 S 2 A 5 S 4 ", "illegal", (1, 0, 0.5, 0)),
        ("S 9 A 7 S 3 A 5 S 3 ", "illegal", (1, 0, 0, 0)),
        ("S 2 A 7 S 2 A 5 S 3 ", "illegal", (1, 0, 0, 0)),
        ("S 9 A 5 S 3 A 5 S 3 ", "illegal", (0, 0, 0, 0.5)),
        ("", "malformed", None),
        ("S 9 A 7 ", "malformed", None),
        ("S 9 A 7 S 2 A 5 S ", "malformed", None),
        ("S 9 A 7 S 2 A 5 S 10 ", "malformed", None),
        ("S 9 A 7 S 2 A 5 S 03 ", "malformed", None),
        ("S 9 A 7 S 2 A 5 S \u0663 ", "malformed", None),
        (" S 9 A 7 S 2 A 5 S 3 ", "malformed", None),
        ("S 9 A 7  S 2 A 5 S 3 ", "malformed", None),
        ("S 9\nA 7 S 2 A 5 S 3 ", "malformed", None),
        ("S 9 S 2 A 7 A 5 S 3 ", "malformed", None),
        ("S9A7S2A5S3", "malformed", None),
        (": S 9 A 7 S 2 A 5 S 3 ", "malformed", None),
        ("S 9 A 7 S 2 A 5 S 3 " + " " * 1000, "malformed", None),
    ],
)
def test_verdicts_of_a_walk(text: str, outcome: str, measures: tuple[float, ...] | None) -> None:
    names = ("plan", "execute", "prefix", "shortcut")
    expected = {"plan": 0, "execute": 0, "prefix": 0} if measures is None else dict(zip(names, measures, strict=True))
    found = judged(Question.solve, text)
    assert (found.outcome, dict(found.measures)) == (Outcome[outcome], expected)


def judged(question: Question, text: str, answer: str = "") -> Verdict:
    """The verdict on an answer to the illustration; its truth as JSON would give it back."""
    task = navigation(question=question, min_actions=2, max_actions=2)
    task.question.tables = illustrated()
    return task.verify(Example(id="", prompt="", solution="", truth=[9, [3, 4, 3], [6, 0], answer]), text)


@pytest.mark.parametrize(
    ("text", "outcome", "measures"),
    [
        ("A 7 A 5 ", "correct", (1, 1, 0)),
        ("A 7 A 5", "correct", (1, 1, 0)),
        ("A 7 A 4 ", "wrong", (0, 0.5, 0)),
        ("A 5 A 1 ", "wrong", (0, 0, 1)),
        ("A 7 ", "wrong", (0, 0.5, 0)),
        ("A 7 A 5 A 5 ", "wrong", (0, 1, 0)),
        ("", "malformed", None),
        ("A 7 A ", "malformed", None),
        ("A 7 S 5 ", "malformed", None),
        ("A 7,A 5 ", "malformed", None),
    ],
)
def test_verdicts_of_a_plan(text: str, outcome: str, measures: tuple[float, ...] | None) -> None:
    names = ("plan", "prefix", "shortcut")
    expected = {"plan": 0, "prefix": 0} if measures is None else dict(zip(names, measures, strict=True))
    found = judged(Question.plan, text)
    assert (found.outcome, dict(found.measures)) == (Outcome[outcome], expected)


@pytest.mark.parametrize(
    ("text", "outcome", "measures"),
    [
        ("S 9 S 2 S 3 ", "correct", (1, 1)),
        ("S 9 S 2 S 3", "correct", (1, 1)),
        ("S 9 S 2 ", "wrong", (0, 0.5)),
        ("S 9 S 2 S 3 S 3 ", "wrong", (0, 1)),
        ("S 9 S 2 S 2 ", "illegal", (0, 0.5)),
        ("S 9 S 3 S 3 ", "illegal", (0, 0)),
        ("S 2 S 2 S 3 ", "illegal", (0, 0)),
        ("S 9 A 7 S 2 ", "malformed", (0, 0)),
        ("", "malformed", (0, 0)),
    ],
)
def test_verdicts_of_an_execution(text: str, outcome: str, measures: tuple[float, float]) -> None:
    found = judged(Question.execute, text)
    assert (found.outcome, tuple(found.measures.values())) == (Outcome[outcome], measures)
    assert list(found.measures) == ["execute", "prefix"]


@pytest.mark.parametrize(
    ("text", "answer", "outcome"),
    [
        ("yes ", "yes", "correct"),
        ("no", "no", "correct"),
        ("no ", "yes", "wrong"),
        ("yes", "no", "wrong"),
        ("Yes", "yes", "malformed"),
        ("yes no", "yes", "malformed"),
        ("", "yes", "malformed"),
        (" yes", "yes", "malformed"),
    ],
)
def test_verdicts_of_a_judgement(text: str, answer: str, outcome: str) -> None:
    found = judged(Question.judge, text, answer)
    assert found.outcome is Outcome[outcome]
    assert found.measures == ({} if outcome == "malformed" else {"yes": float(text.startswith("yes"))})


def test_longer_text_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    task = navigation(**PAPER)
    examples = read(task, Split.train, 200)
    assert max(len(example.solution) for example in examples) < task.longest < 300
    monkeypatch.setattr(task.question, "verify", lambda truth, text: pytest.fail(f"read {len(text)} characters"))
    verdict = task.verify(examples[0], "S 9 " * 1_000_000)
    assert verdict.outcome is Outcome.malformed
    assert verdict.measures == {"plan": 0, "execute": 0, "prefix": 0}


def test_any_changed_character_fails() -> None:
    for question in Question:
        task = navigation(question=question)
        for example in read(task, Split.train, 10):
            text = example.solution.rstrip()
            for place, character in product(range(len(text)), "0123456789SAyesno x"):
                changed = text[:place] + character + text[place + 1 :]
                assert task.verify(example, changed).correct == (changed == text)


@EVERY
def test_chance_counts_the_answers_of_the_right_form(question: Question) -> None:
    task = navigation(values=3, min_actions=2, max_actions=3, question=question)
    tables = task.tables
    for example in read(task, Split.train, 20):
        count, first = int(example.difficulty["actions"]), numbers("S", example.prompt)[0]
        chains = list(product(range(3), repeat=count))
        texts = {
            Question.solve: [joined(follow(tables, first, actions), actions) for actions in chains],
            Question.plan: [" ".join(f"A {action}" for action in actions) for actions in chains],
            Question.execute: [" ".join(f"S {state}" for state in (first, *states)) for states in chains],
            Question.judge: ["yes", "no"],
        }[question]
        right = sum(task.verify(example, text).correct for text in texts)
        assert right == 1
        assert task.chance(example) == pytest.approx(1 / len(texts))


# Which examples there are


def said(example: Example) -> str:
    """First state and actions of the right walk, from the truth and the tables."""
    tables = make_tables(4, 0.3, 0)
    actions = [tables.problem_next[before].index(after) for before, after in pairwise(example.truth[1])]
    return f"{example.truth[0]} {actions}"


def test_splits_are_disjoint_by_what_solutions_say() -> None:
    """A space of 4^4 answers, most of which are drawn, under every seed, question and kind of draw."""
    seen: dict[Split, set[str]] = {split: set() for split in Split}
    for question, draws, seed in product(Question, Draws, (0, 1)):
        task = navigation(values=4, min_actions=3, max_actions=3, question=question, train_draws=draws, seed=seed)
        for split in Split:
            seen[split] |= {said(example) for example in read(task, split, 3 * BLOCK)}
    train, val, test = seen[Split.train], seen[Split.val], seen[Split.test]
    assert not (train & val or train & test or val & test)
    assert min(len(val), len(test)) >= 1
    assert 240 < len(train | val | test) <= 256


@EVERY
def test_equal_ids_are_equal_problems(question: Question) -> None:
    """With 3 values and 1 or 2 actions there are 36 executions and 108 plans, less what is held out."""
    task = navigation(values=3, min_actions=1, max_actions=2, question=question, train_draws=Draws.uniform)
    answers: dict[str, str] = {}
    for example in read(task, Split.train, 2000):
        assert answers.setdefault(example.id, example.solution) == example.solution
    if question is Question.judge:
        assert len(answers) > 200
    else:
        every = 36 if question is Question.execute else 108
        assert 0.9 * every < len(answers) <= every


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 9},
        {"train_draws": Draws.uniform},
        {"question": Question.plan},
        {"question": Question.execute},
        {"question": Question.judge},
        {"irrelevant": 5},
        {"concentration": 2.0},
        {"train_examples": 128},
    ],
    ids=str,
)
def test_held_out_problems_do_not_move(fields: dict[str, Any]) -> None:
    for split in (Split.val, Split.test):
        pairs = zip(read(navigation(), split, 20), read(navigation(**fields), split, 20), strict=True)
        assert all(tuple(a.truth)[:3] == tuple(b.truth)[:3] for a, b in pairs)


def test_train_moves_with_its_seed_and_its_tables() -> None:
    base = {example.id for example in read(navigation(), Split.train, 100)}
    for fields in ({"seed": 1}, {"tables_seed": 1}, {"train_draws": Draws.uniform}, {"concentration": 0.5}):
        assert len(base & {example.id for example in read(navigation(**fields), Split.train, 100)}) <= 2


def test_reading_order_does_not_matter() -> None:
    places = [300, 5, 129, 0, 5]
    apart = [navigation().example(Split.train, place) for place in places]
    draw_block.cache_clear()
    task = navigation()
    assert [task.example(Split.train, place) for place in places] == apart


def test_first_examples_are_pinned() -> None:
    """A change here changes every result: raise the option's version with it."""
    assert navigation().example(Split.train, 0).prompt == "S 1 P 0 C 7 P 7 C 3 P 2 C 3 P 1 C 1 P 7 C 0 P 4 : "
    assert navigation().example(Split.train, 0).solution == "S 1 A 1 S 9 A 7 S 2 A 9 S 6 A 3 S 0 A 3 S 6 "
    assert navigation(**PAPER).example(Split.test, 0).prompt == (
        "S 16 P 10 C 11 P 5 C 5 P 3 C 10 P 4 C 11 P 1 C 5 P 12 C 0 P 7 I 1 I 8 I 17 I 14 I 7 I 19 I 4 I 19 I 2 I 7 : "
    )


def test_difficulty_tells_lengths_and_how_likely_the_actions_are() -> None:
    task = navigation()
    share = np.exp(task.tables.action_logs)
    bands: Counter[str] = Counter()
    for example in (*read(task, Split.train, 200), *read(task, Split.test, 400)):
        actions = numbers("A", example.solution)
        mean = float(np.prod([share[s, a] for s, a, _ in moves([example])])) ** (1 / len(actions))
        low, high = map(float, str(example.difficulty["seen"]).split("-"))
        assert low <= mean < high
        assert example.difficulty["actions"] == len(actions)
        bands[str(example.difficulty["seen"])] += 1
    assert set(bands) == {"0-0.001", "0.001-0.01", "0.01-0.1", "0.1-1"}


def test_truth_goes_through_json() -> None:
    for question in Question:
        task = navigation(question=question)
        example = task.example(Split.val, 0)
        back = replace(example, truth=json.loads(json.dumps(example.truth)))
        assert task.verify(back, back.solution).correct
        assert task.guess(back) == task.guess(example)


# Settings


@pytest.mark.parametrize(
    "fields",
    [
        {"values": 1},
        {"values": 101},
        {"min_actions": 0},
        {"min_actions": 7},
        {"max_actions": 101},
        {"irrelevant": -1},
        {"irrelevant": 101},
        {"concentration": 0.0},
        {"concentration": 2000.0},
        {"concentration": float("nan")},
        {"test_examples": 0},
    ],
    ids=str,
)
def test_bad_settings_are_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^task.*; try task\.") as caught:
        NavigationConfig(**fields)
    assert "\n" not in str(caught.value)


def test_a_split_without_problems_is_refused() -> None:
    task = navigation(values=2, min_actions=1, max_actions=1)
    with pytest.raises(ConfigError, match=r"^task=navigation expected problems of val, .*; try task\.values=10"):
        task.example(Split.val, 0)


def test_the_largest_setting_is_read() -> None:
    task = navigation(values=100, min_actions=100, max_actions=100, irrelevant=100)
    example = task.example(Split.train, 0)
    assert task.verify(example, oracle(task.tables, example.prompt)).correct
    assert len(example.solution) <= task.longest


def test_a_plan_is_in_one_split() -> None:
    """Whatever the first state and the problem states: `question=plan` asks for the actions alone."""
    seen: dict[tuple[int, ...], Split] = {}
    for seed in (0, 1):
        task = navigation(values=5, min_actions=4, max_actions=4, seed=seed, question=Question.plan)
        for split in Split:
            for example in read(task, split, 600):
                assert seen.setdefault(tuple(numbers("A", example.solution)), split) is split
    assert len(set(seen.values())) == 3
