"""What is asked about a problem of navigation, and how answers are judged; the rules: `rlx/tasks/navigation.py`.

Every text is a chain of letters and numbers with a blank after each. An answer is read by `_numbers`; what is then
asked of it is each question's own.
"""

from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import Any, NamedTuple

from rlx.tasks.navigation_problems import Problem
from rlx.tasks.navigation_tables import Tables
from rlx.types import Outcome, Verdict

WHITE = " \t\r\n"
NO_CHAIN = "not letters and numbers as asked for"


class Question(Enum):
    """What is asked: the whole walk, its actions, its states given the actions, or whether a walk is right."""

    solve = "solve"
    plan = "plan"
    execute = "execute"
    judge = "judge"


class Proposal(NamedTuple):
    """A walk to be judged: right, or with one wrong action (plan) or one wrong state (execution) in it."""

    kind: str
    states: list[int]
    actions: list[int]


class Truth(NamedTuple):
    """What verifiers need; a list in this order does as well."""

    state: int
    problems: list[int]
    contexts: list[int]
    answer: str
    """Of a proposal: yes or no; else empty."""


class Solve:
    """The whole walk: `S 9 A 7 S 2 A 5 S 3`."""

    words: Sequence[str] = ()
    baseline = "takes actions that contexts and states suggest"
    zeros: Sequence[str] = ("plan", "execute", "prefix")
    """Measures that are 0 of a text that is not in the format."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.number_of = {str(value): value for value in range(tables.values)}

    def name(self, problem: Problem) -> str:
        """The canonical instance as it is asked: what decides the answer, and no more."""
        return f"{problem.states[0]}:{','.join(map(str, problem.problems))}"

    def prompt(self, problem: Problem) -> str:
        return f"{given(problem)}: "

    def solution(self, problem: Problem) -> str:
        return walk(problem.states, problem.actions)

    def answer(self, problem: Problem) -> str:
        """What `Truth.answer` holds."""
        return ""

    def difficulty(self, problem: Problem) -> dict[str, str]:
        """Fields that this question adds."""
        return {}

    def chance(self, truth: Truth) -> float:
        """One of the walks that have as many actions as asked for, and states that follow: V^n of them."""
        return float(self.tables.values) ** -len(truth.contexts)

    def guess(self, truth: Truth) -> str:
        return walk(*self._shortcut(truth))

    def verify(self, truth: Truth, text: str) -> Verdict:
        numbers = self._numbers(text, "SA")
        if numbers is None or len(numbers) % 2 == 0:
            return self.malformed(NO_CHAIN)
        states, actions = numbers[::2], numbers[1::2]
        planned = self.planned(truth)
        right = executed(self.tables, planned, truth.state)
        steps = list(zip(actions, states[1:], strict=True))
        expected = list(zip(planned, right[1:], strict=True))
        legal = executed(self.tables, actions, truth.state) == states
        measures = {
            "plan": float(actions == planned),
            "execute": float(legal),
            "prefix": _prefix(steps, expected) if states[0] == truth.state else 0.0,
            "shortcut": self._by_cue(truth, states, actions),
        }
        if not legal:
            return Verdict(Outcome.illegal, "a state is not what the action before it leads to", measures)
        if actions != planned:
            return Verdict(Outcome.wrong, _differs(actions, planned), measures)
        return Verdict(Outcome.correct, measures=measures)

    def planned(self, truth: Truth) -> list[int]:
        """The actions that lead through the problem states."""
        action_of = self.tables.action_of
        return [action_of[before][after] for before, after in pairwise(truth.problems)]

    def _shortcut(self, truth: Truth) -> tuple[list[int], list[int]]:
        """States and actions of a solver that takes the likeliest action of biased draws by state and context."""
        states, actions = [truth.state], list[int]()
        for context in truth.contexts:
            actions.append(self.tables.cue[states[-1]][context])
            states.append(self.tables.state_next[states[-1]][actions[-1]])
        return states, actions

    def _by_cue(self, truth: Truth, states: Sequence[int], actions: Sequence[int]) -> float:
        """Share of the actions that the state written before and the context suggest."""
        cue, steps = self.tables.cue, zip(states, truth.contexts, actions, strict=False)
        return sum(cue[state][context] == action for state, context, action in steps) / max(len(actions), 1)

    def _numbers(self, text: str, letters: str) -> list[int] | None:
        """The numbers of a chain whose letters are `letters` in turn; None where it is no such chain."""
        words = text.rstrip(WHITE).split(" ")
        count = len(words) // 2
        if words[::2] != (list(letters) * count)[:count]:
            return None
        numbers = [self.number_of.get(word) for word in words[1::2]]
        return None if None in numbers else [number for number in numbers if number is not None]

    def malformed(self, detail: str) -> Verdict:
        return Verdict(Outcome.malformed, detail, dict.fromkeys(self.zeros, 0.0))


class Plan(Solve):
    """The actions alone: `A 7 A 5`."""

    words = ("plan",)
    zeros = ("plan", "prefix")

    def prompt(self, problem: Problem) -> str:
        return f"{given(problem)}plan : "

    def solution(self, problem: Problem) -> str:
        return chain("A", problem.actions)

    def guess(self, truth: Truth) -> str:
        return chain("A", self._shortcut(truth)[1])

    def verify(self, truth: Truth, text: str) -> Verdict:
        actions = self._numbers(text, "A")
        if actions is None:
            return self.malformed(NO_CHAIN)
        planned = self.planned(truth)
        measures = {
            "plan": float(actions == planned),
            "prefix": _prefix(actions, planned),
            "shortcut": self._by_cue(truth, executed(self.tables, actions, truth.state), actions),
        }
        if actions != planned:
            return Verdict(Outcome.wrong, _differs(actions, planned), measures)
        return Verdict(Outcome.correct, measures=measures)


class Execute(Solve):
    """The states, the actions being given: `S 9 S 2 S 3`."""

    words = ("plan", "execute")
    baseline = "takes the state that an action usually leads to"
    zeros = ("execute", "prefix")

    def name(self, problem: Problem) -> str:
        return f"{problem.states[0]}>{','.join(map(str, problem.actions))}"

    def prompt(self, problem: Problem) -> str:
        return f"{given(problem)}plan : {chain('A', problem.actions)}execute : "

    def solution(self, problem: Problem) -> str:
        return chain("S", problem.states)

    def guess(self, truth: Truth) -> str:
        return chain("S", [truth.state, *(self.tables.usual_state[action] for action in self.planned(truth))])

    def verify(self, truth: Truth, text: str) -> Verdict:
        states = self._numbers(text, "S")
        if states is None:
            return self.malformed(NO_CHAIN)
        planned = self.planned(truth)
        right = executed(self.tables, planned, truth.state)
        prefix = _prefix(states[1:], right[1:]) if states[0] == truth.state else 0.0
        measures = {"execute": float(states == right), "prefix": prefix}
        steps = zip(states, planned, states[1:], strict=False)
        state_next = self.tables.state_next
        if states[0] != truth.state or any(state_next[state][action] != after for state, action, after in steps):
            return Verdict(Outcome.illegal, "a state is not what the action before it leads to", measures)
        if states != right:
            return Verdict(Outcome.wrong, f"{len(states)} states, not {len(right)}", measures)
        return Verdict(Outcome.correct, measures=measures)


class Judge(Solve):
    """Whether a walk is right: `yes` or `no`."""

    words = ("judge", "yes", "no")
    baseline = "says yes"
    zeros = ()

    def name(self, problem: Problem) -> str:
        states, actions = self._proposal(problem)[1:]
        proposed = ",".join(f"{action}>{state}" for action, state in zip(actions, states[1:], strict=True))
        return f"{Solve.name(self, problem)}?{proposed}"

    def prompt(self, problem: Problem) -> str:
        _, states, actions = self._proposal(problem)
        return f"{given(problem)}: {walk(states, actions)}judge : "

    def solution(self, problem: Problem) -> str:
        return f"{self.answer(problem)} "

    def answer(self, problem: Problem) -> str:
        return "yes" if self._proposal(problem).kind == "right" else "no"

    def difficulty(self, problem: Problem) -> dict[str, str]:
        return {"proposal": self._proposal(problem).kind}

    def chance(self, truth: Truth) -> float:
        """One of two."""
        return 0.5

    def guess(self, truth: Truth) -> str:
        return "yes "

    def verify(self, truth: Truth, text: str) -> Verdict:
        answer = text.rstrip(WHITE)
        if answer not in ("yes", "no"):
            return self.malformed("neither yes nor no")
        measures = {"yes": float(answer == "yes")}
        if answer != truth.answer:
            return Verdict(Outcome.wrong, f"{answer}, not {truth.answer}", measures)
        return Verdict(Outcome.correct, measures=measures)

    def _proposal(self, problem: Problem) -> Proposal:
        """The walk that `picks` make of the right one: every second stays right, a quarter each has a wrong action
        (and the states that follow from it) or a wrong state (and the states that follow from that)."""
        kind, step, other = problem.picks
        states, actions = problem.states, list(problem.actions)
        place = step % len(actions)
        if kind % 4 < 2:
            return Proposal("right", states, actions)
        if kind % 4 == 2:
            actions[place] = _other(actions[place], other, self.tables.values)
            return Proposal("plan", executed(self.tables, actions, states[0]), actions)
        wrong = _other(states[place + 1], other, self.tables.values)
        after = executed(self.tables, actions[place + 1 :], wrong)
        return Proposal("execution", [*states[: place + 1], *after], actions)


QUESTIONS: dict[Question, type[Solve]] = {
    Question.solve: Solve,
    Question.plan: Plan,
    Question.execute: Execute,
    Question.judge: Judge,
}


def given(problem: Problem) -> str:
    """What every prompt begins with: the first state, the problem states with contexts between, values that mean
    nothing."""
    first, *others = problem.problems
    steps = zip(problem.contexts, others, strict=True)
    path = "".join([f"C {context} P {after} " for context, after in steps])
    return f"S {problem.states[0]} P {first} {path}{chain('I', problem.irrelevant)}"


def walk(states: Sequence[int], actions: Sequence[int]) -> str:
    """States with the actions between them."""
    steps = zip(actions, states[1:], strict=True)
    return f"S {states[0]} " + "".join([f"A {action} S {state} " for action, state in steps])


def chain(letter: str, numbers: Sequence[int]) -> str:
    return "".join([f"{letter} {number} " for number in numbers])


def executed(tables: Tables, actions: Sequence[int], state: int) -> list[int]:
    """The states that actions lead to from `state`, itself included."""
    states = [state]
    for action in actions:
        state = tables.state_next[state][action]
        states.append(state)
    return states


def _prefix(written: Sequence[Any], right: Sequence[Any]) -> float:
    """Share of the right steps that are written before the first mistake."""
    same = 0
    for one, other in zip(written, right, strict=False):
        if one != other:
            break
        same += 1
    return same / len(right)


def _differs(actions: Sequence[int], planned: Sequence[int]) -> str:
    if len(actions) != len(planned):
        return f"{len(actions)} actions, not {len(planned)}"
    return "an action does not lead to the next problem state"


def _other(value: int, pick: int, values: int) -> int:
    """Any value but `value`."""
    return (value + 1 + pick % (values - 1)) % values
