"""How solutions of Countdown are written, read back and replayed; the rules: `rlx/tasks/countdown.py`."""

import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from rlx.types import Outcome, Verdict


class Operation(NamedTuple):
    """One line of arithmetic, `left sign right = result`."""

    left: int
    sign: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.sign}{self.right}={self.result}"


Written = tuple[str, str, str, str]
"""An operation as found in a text: its numbers (short, without leading zeros) and its sign."""


class Step(NamedTuple):
    """An operation and the numbers there are after it."""

    operation: Operation
    numbers: list[int]


def calculate(left: int, sign: str, right: int) -> int | None:
    """The result of a legal operation; None where it would be negative, inexact or a division by zero."""
    if sign == "+":
        return left + right
    if sign == "*":
        return left * right
    if sign == "-":
        return left - right if left >= right else None
    return left // right if right and left % right == 0 else None


def replay(target: int, inputs: Sequence[int], operations: Sequence[Written]) -> Verdict:
    """The verdict on `operations`, carried out one by one on the multiset `inputs`."""
    pool = list(inputs)
    for first, sign, second, found in operations:
        left, right, result = int(first), int(second), int(found)
        for operand in (left, right):
            if operand not in pool:
                return Verdict(Outcome.illegal, f"{first}{sign}{second}={found}: {operand} is not available")
            pool.remove(operand)
        if calculate(left, sign, right) != result:
            return Verdict(Outcome.illegal, f"{first}{sign}{second}={found}: not exact arithmetic on natural numbers")
        pool.append(result)
    if pool == [target]:
        return CORRECT
    return Verdict(Outcome.wrong, f"ends with {pool}, not {[target]}")


CORRECT = Verdict(Outcome.correct)


class Trace(Enum):
    """How a solution is written."""

    direct = "direct"
    operations = "operations"
    dfs = "dfs"
    bfs = "bfs"
    mix = "mix"
    think = "think"
    tinyzero = "tinyzero"


class Parsed(NamedTuple):
    """What a completion says: operations, and the numbers it claims to be the target (if its format has them)."""

    operations: list[Written]
    goal: tuple[int, ...] = ()


def judge(target: int, inputs: Sequence[int], parsed: Parsed | None) -> Verdict | None:
    """The verdict on what was parsed: its operations, replayed, and the number it claims to have reached."""
    if parsed is None:
        return None
    verdict = replay(target, inputs, parsed.operations)
    if verdict.correct and any(number != target for number in parsed.goal):
        return Verdict(Outcome.wrong, f"the goal line does not say {target},{target}")
    return verdict


class TraceFormat(Protocol):
    """A way to write problems and solutions."""

    words: tuple[str, ...]
    marks: str
    longest: int
    """Characters of the longest text that `judge` is given."""

    def prompt(self, target: int, inputs: Sequence[int]) -> str: ...

    def solution(self, target: int, inputs: Sequence[int], steps: Sequence[Step]) -> str:
        """The text of steps that reach the target."""
        ...

    def attempt(self, target: int, inputs: Sequence[int], steps: Sequence[Step]) -> str:
        """The text of steps that may end elsewhere."""
        ...

    def judge(self, target: int, inputs: Sequence[int], text: str) -> Verdict | None:
        """What `text` is; None where it is not in the format."""
        ...


def number_pattern(digits: int) -> str:
    """Pattern of a natural number: ASCII, no leading zeros, at most `digits` long so that int() stays cheap."""
    return rf"(?:0|[1-9][0-9]{{0,{digits - 1}}})"


def state_sentence(target: int, numbers: list[int], done: list[str]) -> str:
    """The numbers at hand and the operations that left them, in Stream of Search's words."""
    return f"Current State: {target}:{numbers}, Operations: {done}"


class OperationsTrace:
    """`59:55,8,13,19` and `13+19=32,32/8=4,55+4=59`."""

    words: tuple[str, ...] = ()
    marks = "+*-/=:,\n"

    def __init__(self, numbers: int, digits: int) -> None:
        self.longest = 4 * len(self.solution(10**digits - 1, (), _widest_steps(numbers, digits)))
        number = number_pattern(digits)
        self._one = re.compile(rf"({number})([-+*/])({number})=({number})")
        one = rf"{number}[-+*/]{number}={number}"
        self._whole = re.compile(rf"{one}(?:,{one})*")

    def prompt(self, target: int, inputs: Sequence[int]) -> str:
        return f"{target}:{','.join(map(str, inputs))}\n"

    def solution(self, target: int, inputs: Sequence[int], steps: Sequence[Step]) -> str:
        return ",".join(str(step.operation) for step in steps)

    attempt = solution

    def judge(self, target: int, inputs: Sequence[int], text: str) -> Verdict | None:
        return replay(target, inputs, self._one.findall(text)) if self._whole.fullmatch(text) else None


class DirectTrace:
    """The optimal path in Stream of Search's words."""

    words: tuple[str, ...] = (
        "Current", "State", "Operations", "Exploring", "Operation", "Resulting", "Numbers",
        "Generated", "Node", "from", "equal", "Goal", "Reached",
    )  # fmt: skip
    marks = "+*-/=:,[]'# \n"

    def __init__(self, numbers: int, digits: int) -> None:
        self.longest = 4 * len(self.solution(10**digits - 1, (), _widest_steps(numbers, digits)))
        number = number_pattern(digits)
        one = rf"{number}[-+*/]{number}={number}"
        left = rf"\[{number}(?:, {number})*\]"
        explore = rf"Exploring Operation: {one}, Resulting Numbers: {left}\n"
        node = rf"Generated Node #{number}: {left} from Operation: {one}\n"
        state = rf"Current State: {number}:{left}, Operations: \['{one}'(?:, '{one}')*\]\n"
        self._whole = re.compile(rf"(?:{explore}{node}{state})*{explore}({number}),({number}) equal: Goal Reached")
        self._one = re.compile(rf"({number})([-+*/])({number})=({number})")

    def prompt(self, target: int, inputs: Sequence[int]) -> str:
        return state_sentence(target, list(inputs), []) + "\n"

    def solution(self, target: int, inputs: Sequence[int], steps: Sequence[Step]) -> str:
        done: list[str] = []
        lines: list[str] = []
        for node, (operation, numbers) in enumerate(steps, start=2):
            done.append(str(operation))
            lines.append(f"Exploring Operation: {done[-1]}, Resulting Numbers: {numbers}")
            if node <= len(steps):
                lines.append(f"Generated Node #{node}: {numbers} from Operation: {done[-1]}")
                lines.append(state_sentence(target, numbers, done))
        lines.append(f"{steps[-1].numbers[-1]},{target} equal: Goal Reached")
        return "\n".join(lines)

    attempt = solution

    def judge(self, target: int, inputs: Sequence[int], text: str) -> Verdict | None:
        return judge(target, inputs, self._parse(text))

    def _parse(self, text: str) -> Parsed | None:
        whole = self._whole.fullmatch(text)
        if not whole:
            return None
        last_state = max(text.rfind("Operations: ["), 0)
        return Parsed(self._one.findall(text, last_state), (int(whole[1]), int(whole[2])))


def _widest_steps(count: int, digits: int) -> list[Step]:
    """Steps as long as any legal ones with numbers of `digits` digits; only their text is meant."""
    wide = 10**digits - 1
    return [Step(Operation(wide, "+", wide, wide), [wide] * left_over) for left_over in range(count - 1, 0, -1)]
