"""Searches of Countdown that are written out as they go, wrong ways and all.

Source: Stream of Search (arXiv 2404.03683, github.com/kanishkg/stream-of-search, `countdown_dfs.py` and
`countdown_bfs.py`). With `keep_failed`, depth first writes the source's texts, character for character; with `sum` they
are the backtracking data of "To Backtrack or Not to Backtrack" (arXiv 2504.07052).

The heuristic of a state is lower where the target seems nearer. `sum`: mean distance of the numbers to the target.
`multiply`: sum of their distances to the nearest divisor of the target, from 2 on. Both searches sort a state's
successors by it (equal ones stay in the order of `rlx/tasks/countdown.py`) and stop at the first hit:

- Depth first: successors whose heuristic is above the target are dropped, the others visited in order; before each but
  the first the parent's state is written again. A search that fails just ends.
- Breadth first, with a beam: the `beam` best states of the queue are taken and expanded in turn; of each the `beam`
  best successors are written in random order and queued. A search that fails ends with `No solution found.`.
- `think`, the second paper's "Think-backtrack": depth first with steps skipped. Which ones was not seen; here a state
  of two numbers from which the target is not one operation away is generated but not visited, so the search writes on
  where it is. Of 4,000 problems 5, 32, 43, 54 and 69 % are solved within 256, 512, 1024, 2048 and 4096 tokens (words,
  single digits and marks), depth first 5, 12, 29, 38 and 48 %, and both 80 % in the end: from 512 tokens on 2.6, 1.5,
  1.4 and 1.4 times as many, where the paper's models (17M) solve 2.5, 1.8, 1.5 and 1.4 times as many. Visiting such
  states too, but leaving out what fails there, gives 1.4, 1.1, 1.2 and 1.1 times.

Where the source leaves a choice, or has a fault, this file does:

1. Random means fixed by the problem. States of equal heuristic leave the queue as they came (source: the heap decides).
2. Numbers that miss the target are queued and visited like states, as in the source, but each has a node id of its own
   (there all of one parent have the same).
3. For target 1, which has no divisor from 2 on, `multiply` takes the distance to 1 (the source fails).
4. Not every search finds a solution that there is: of 4,000 problems with 4 numbers up to 99, depth first fails on 20 %
   (sum) and 40 % (multiply), breadth first with beam 5 on 43 and 34 %, with beam 1 on 92 and 76 %; the source's code
   fails on as many of the same problems. Such a search is made again with its limit doubled (the largest heuristic
   kept, or the beam) until it does not fail, and the last one is written. So every problem keeps its place and has a
   solution that verifies; `keep_failed` writes the first search instead, as the source does.
5. Searches are written for 3 and 4 numbers. With 5 they are twenty times as long: 110,000 tokens in the mean.

Worked example, depth first with `sum` for target 20 from 3, 9, 2; the first line is the prompt:

    Current State: 20:[3, 9, 2], Operations: []
    Exploring Operation: 9*2=18, Resulting Numbers: [3, 18]
    Generated Node #0,0: 20:[3, 18] Operation: 9*2=18
    Moving to Node #0,0
    Current State: 20:[3, 18], Operations: ['9*2=18']
    Exploring Operation: 3+18=21, Resulting Numbers: [21]
    21,20 unequal: No Solution
    Moving to Node #0,0
    Current State: 20:[3, 18], Operations: ['9*2=18']
    ...
"""

import math
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import lru_cache
from heapq import heappop, heappush
from itertools import combinations
from operator import itemgetter
from random import Random
from typing import NamedTuple

from rlx.tasks.base import stable_hash
from rlx.tasks.countdown_search import paths
from rlx.tasks.countdown_traces import Operation, Parsed, Step, Written, judge, number_pattern, state_sentence
from rlx.types import Verdict

MOST_NUMBERS = 4
"""Inputs up to which searches are written."""
BEAMS = 5
"""Largest beam of a mix."""


class Heuristic(Enum):
    """How a state's distance to the target is measured."""

    sum = "sum"
    multiply = "multiply"


class Method(NamedTuple):
    """A way to search."""

    heuristic: Heuristic
    beam: int | None
    """Successors kept of a state, breadth first; None is depth first."""
    think: bool = False
    """Depth first: visit no state of two numbers that misses the target."""


class State(NamedTuple):
    """A node of the search tree."""

    name: str
    numbers: list[int]
    done: list[str]
    """The operations that led here."""


def mixed(target: int, inputs: Sequence[int]) -> Method:
    """The method that a mix has for a problem: either heuristic, depth first or breadth first with any beam."""
    left, heuristic = divmod(stable_hash("countdown method", target, *inputs), len(Heuristic))
    left, breadth = divmod(left, 2)
    return Method(list(Heuristic)[heuristic], 1 + left % BEAMS if breadth else None)


def search(target: int, inputs: Sequence[int], method: Method, *, width: int = 1) -> tuple[list[str], bool]:
    """The lines of a search, and whether it reaches the target.

    Args:
        width: the largest heuristic kept (depth first) or the beam is so many times as large.
    """
    tree = grow(target, inputs, method, width=width)
    return tree.lines, tree.way is not None


def grow(target: int, inputs: Sequence[int], method: Method, *, width: int = 1, done: Sequence[str] = ()) -> "Tree":
    """The tree of a search from `inputs`, which the operations `done` have left."""
    tree = Tree(target, method)
    root = State("0", list(inputs), list(done))
    if method.beam is None:
        tree.depth_first(root, width * target)
    else:
        tree.breadth_first(root, width * method.beam)
    return tree


def greedy(target: int, inputs: Sequence[int]) -> list[Step]:
    """The steps of a solver that always goes to the successor with the lowest `multiply`: breadth first, beam 1."""
    tree = Tree(target, SHORT_CUT)
    numbers, steps = list(inputs), list[Step]()
    while len(numbers) > 1:
        _, operation, rest = tree.successors(numbers, math.inf)[0]
        numbers = [*rest, operation.result]
        steps.append(Step(operation, numbers))
    return steps


SHORT_CUT = Method(Heuristic.multiply, 1)
"""The search that looks no further than the next state."""


class Tree:
    """A search tree and the lines written on it so far."""

    def __init__(self, target: int, method: Method) -> None:
        self.target = target
        self.mean = method.heuristic is Heuristic.sum
        self.think = method.think
        self.distance = _Distance((target,) if self.mean else divisors(target))
        self.lines: list[str] = []
        self.way: list[str] | None = None
        """The operations that reach the target, once they are found."""

    def depth_first(self, state: State, bound: int) -> bool:
        """Search below `state`, in successors whose heuristic is `bound` or less."""
        here = state_sentence(self.target, state.numbers, state.done)
        self.lines.append(here)
        away = False
        for place, (_, operation, rest) in enumerate(self.successors(state.numbers, bound)):
            if away:
                self.lines += [f"Moving to Node #{state.name}", here]
            child = self.explore(state, place, operation, rest)
            if self.way is not None:
                return True
            if self.think and len(rest) == 1 and self.misses(child.numbers, bound):
                continue
            away = True
            if rest:
                self.lines.append(f"Moving to Node #{child.name}")
                if self.depth_first(child, bound):
                    return True
        return False

    def misses(self, numbers: list[int], bound: int) -> bool:
        """True when no operation on the last two numbers is the target."""
        return all(operation.result != self.target for _, operation, _ in self.successors(numbers, bound))

    def breadth_first(self, root: State, beam: int) -> bool:
        """Search below `root`, the `beam` best states of the queue at a time."""
        random = Random(stable_hash("countdown shuffle", self.target, *root.numbers))
        queue: list[tuple[float, int, State]] = [(0, 0, root)]
        queued = 1
        while queue:
            for state in [heappop(queue)[2] for _ in range(min(beam, len(queue)))]:
                if state is not root:
                    self.lines.append(f"Moving to Node #{state.name}")
                self.lines.append(state_sentence(self.target, state.numbers, state.done))
                kept = self.successors(state.numbers, math.inf)[:beam]
                random.shuffle(kept)
                for place, (value, operation, rest) in enumerate(kept):
                    child = self.explore(state, place, operation, rest)
                    if self.way is not None:
                        return True
                    heappush(queue, (value, queued, child))
                    queued += 1
        self.lines.append("No solution found.")
        return False

    def explore(self, state: State, place: int, operation: Operation, rest: list[int]) -> State:
        """Write that `operation` leaves `rest` and its result: the successor at `place` of those kept of `state`."""
        text, target = str(operation), self.target
        child = State(f"{state.name},{place}", [*rest, operation.result], [*state.done, text])
        self.lines.append(f"Exploring Operation: {text}, Resulting Numbers: {child.numbers}")
        if rest:
            self.lines.append(f"Generated Node #{child.name}: {target}:{child.numbers} Operation: {text}")
        elif operation.result == target:
            self.lines.append(f"{target},{target} equal: Goal Reached")
            self.way = child.done
        else:
            self.lines.append(f"{operation.result},{target} unequal: No Solution")
        return child

    def successors(self, numbers: list[int], bound: float) -> list[tuple[float, Operation, list[int]]]:
        """Heuristic, operation and other numbers of the successors up to `bound`, lowest heuristic first."""
        distance = self.distance
        over = len(numbers) - 1 if self.mean else 1
        found: list[tuple[float, Operation, list[int]]] = []
        for i, j in combinations(range(len(numbers)), 2):
            rest = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
            others = sum([distance[number] for number in rest])
            for operation in _operations(numbers[i], numbers[j]):
                value = (others + distance[operation.result]) / over
                if value <= bound:
                    found.append((value, operation, rest))
        found.sort(key=itemgetter(0))
        return found


class _Distance(dict[int, int]):
    """Number to its distance from the nearest of `goals`."""

    def __init__(self, goals: Sequence[int]) -> None:
        self.goals = goals

    def __missing__(self, number: int) -> int:
        self[number] = nearest = min([abs(number - goal) for goal in self.goals])
        return nearest


@lru_cache(maxsize=1024)
def divisors(target: int) -> tuple[int, ...]:
    """Divisors of the target from 2 on; 1 for target 1."""
    return tuple(number for number in range(2, target + 1) if target % number == 0) or (1,)


def _operations(left: int, right: int) -> Iterator[Operation]:
    """The legal operations on two numbers, in successor order."""
    yield Operation(left, "+", right, left + right)
    yield Operation(left, "*", right, left * right)
    high, low = (left, right) if left > right else (right, left)
    yield Operation(high, "-", low, high - low)
    if low and high % low == 0:
        yield Operation(high, "/", low, high // low)


class SearchTrace:
    """A search in Stream of Search's words, up to the goal line.

    Args:
        numbers: inputs of a search.
        digits: of the largest number there can be.
        method: how to search; None is a mix, of all methods, drawn by the problem.
        keep_failed: write a search that fails as it is.
        stacked: a problem is three searches, the last one on what two with `numbers` inputs reach.
    """

    words: tuple[str, ...] = (
        "Current", "State", "Operations", "Exploring", "Operation", "Resulting", "Numbers", "Generated", "Node",
        "Moving", "to", "equal", "Goal", "Reached", "unequal", "No", "Solution", "solution", "found",
    )  # fmt: skip
    marks = "+*-/=:,.[]'# \n"

    def __init__(
        self, numbers: int, digits: int, *, method: Method | None, keep_failed: bool, stacked: bool = False
    ) -> None:
        self.method, self.keep_failed = method, keep_failed
        widest = 10 ** (math.ceil(digits / 2) if stacked else digits) - 1
        done = [str(Operation(widest, "+", widest, widest))] * (2 * numbers if stacked else numbers)
        # Every operation of the whole tree, each with the six lines that are written on it at most.
        tree = (
            6
            * len(state_sentence(widest, [widest] * numbers, done))
            * sum(paths(numbers, until) for until in range(1, numbers))
        )
        self.longest = 3 * tree if stacked else tree
        number = number_pattern(digits)
        one = rf"{number}[-+*/]{number}={number}"
        more = "{0,7}"  # lists that go on for longer are in no problem, and dropped at once
        left = rf"\[{number}(?:, {number}){more}\]"
        node = rf"Node #0(?:,{number}){more}"
        goal = rf"({number}),({number}) equal: Goal Reached"
        lines = [
            rf"Exploring Operation: {one}, Resulting Numbers: {left}",
            rf"Generated {node}: {number}:{left} Operation: {one}",
            rf"Moving to {node}",
            rf"Current State: {number}:{left}, Operations: \[(?:'{one}'(?:, '{one}'){more})?\]",
            rf"{number},{number} unequal: No Solution",
        ]
        inner = [*lines, rf"{number},{number} equal: Goal Reached(?=\nCurrent)"] if stacked else lines
        self._whole = re.compile(rf"(?:(?:{'|'.join(inner)})\n)*(?:{goal}|No solution found\.|{'|'.join(lines)})")
        self._one = re.compile(rf"({number})([-+*/])({number})=({number})")

    def prompt(self, target: int, inputs: Sequence[int]) -> str:
        return state_sentence(target, list(inputs), []) + "\n"

    def solution(self, target: int, inputs: Sequence[int], steps: Sequence[Step]) -> str:
        """The search of a problem that has a solution; which one `steps` has does not matter."""
        return "\n".join(self.grow(target, inputs).lines[1:])

    def attempt(self, target: int, inputs: Sequence[int], steps: Sequence[Step]) -> str:
        """The search with the short cut of `greedy`; `steps` are known from it."""
        return "\n".join(grow(target, inputs, SHORT_CUT).lines[1:])

    def grow(self, target: int, inputs: Sequence[int], done: Sequence[str] = ()) -> Tree:
        """The tree of the search that is written."""
        method, width = self.method or mixed(target, inputs), 1
        tree = grow(target, inputs, method, done=done)
        while tree.way is None and not self.keep_failed:
            width *= 2
            tree = grow(target, inputs, method, width=width, done=done)
        return tree

    def judge(self, target: int, inputs: Sequence[int], text: str) -> Verdict | None:
        return judge(target, inputs, self._parse(text))

    def _parse(self, text: str) -> Parsed | None:
        """The operations of the last state written and the last one explored; none where no goal is claimed."""
        whole = self._whole.fullmatch(text)
        if not whole:
            return None
        if whole[1] is None:
            return Parsed([])
        found = [*self._on_last_line("Operations: [", text), *self._on_last_line("Exploring Operation: ", text)]
        return Parsed(found, (int(whole[1]), int(whole[2])))

    def _on_last_line(self, mark: str, text: str) -> list[Written]:
        """The operations after the last `mark`, in its line."""
        start = text.rfind(mark)
        return self._one.findall(text, start, text.find("\n", start)) if start >= 0 else []
