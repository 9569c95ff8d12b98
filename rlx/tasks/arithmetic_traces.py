"""How problems of arithmetic and their solutions are written and read back; the rules: `rlx/tasks/arithmetic.py`."""

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from rlx.tasks.arithmetic_problems import Operation, Problem, Rules, apply, digits_of

MARKED = str.maketrans("0123456789", "abcdefghij")
"""A digit under the head of a Turing program, and the letter that it is written as."""
CHAIN_END = "####"
DIGITS = tuple("0123456789")


class Trace(Enum):
    """How a solution is written."""

    plain = "plain"
    reversed = "reversed"
    scratchpad = "scratchpad"
    turing = "turing"
    icot = "icot"


class Parsed(NamedTuple):
    """What a completion says: its work, and the digits of its answer, least significant first."""

    work: str
    answer: str


class Column(NamedTuple):
    """One step of a sum, a difference or a product with a whole number: digits, what is carried in, what comes out."""

    first: int
    second: int
    carried: int
    digit: int
    carry: int


class AnswerTrace:
    """The answer alone: `29+57=` and `86`; or, at `full_width`, all digits that an answer to numbers so long can have,
    the least significant first: `680`."""

    has_steps = False
    words: tuple[str, ...] = (*DIGITS, *"+-*%=")

    def __init__(self, rules: Rules, full_width: bool) -> None:
        self.rules, self.full_width = rules, full_width
        self._whole = re.compile("()([0-9]++)" if full_width else "()(0|[1-9][0-9]*+)")

    def prompt(self, problem: Problem) -> str:
        return expression(self.rules, problem, written(self.rules, problem, padded=self.full_width)) + "="

    def work(self, problem: Problem) -> str:
        """What is written before the answer."""
        return ""

    def answer(self, digits: str) -> str:
        """The end of a solution, from the answer's digits, least significant first."""
        return digits if self.full_width else shortest(digits)[::-1]

    def places(self, problem: Problem) -> tuple[int, ...] | None:
        """Coupled positions of prompt, answer and end mark; None where there are none."""
        if self.has_steps or not self.full_width or self.rules.operation is Operation.modular:
            return None
        return coupled(tuple(map(len, written(self.rules, problem))), self.rules.answer_width(problem))

    def parse(self, text: str) -> Parsed | None:
        found = self._whole.fullmatch(text)
        return Parsed(found[1], found[2] if self.full_width else found[2][::-1]) if found else None

    def right(self, problem: Problem, work: str) -> tuple[float, bool]:
        """The share of the steps in `work` that are right, and whether all of the work is."""
        return 1.0, not work


class StepTrace(AnswerTrace):
    """Work in steps, each with an end mark, before the answer."""

    has_steps = True
    step_end: str

    def steps(self, problem: Problem) -> list[str]:
        raise NotImplementedError

    def work(self, problem: Problem) -> str:
        return "".join(f"{step}{self.step_end}" for step in self.steps(problem))

    def right(self, problem: Problem, work: str) -> tuple[float, bool]:
        wanted = self.work(problem)
        if work == wanted:
            return 1.0, True
        expected, given = (text.split(self.step_end)[:-1] for text in (wanted, work))
        return sum(map(str.__eq__, expected, given)) / max(len(expected), len(given)), False


class ScratchpadTrace(StepTrace):
    """A line for each column or each number of a chain, which copies nothing: `9+7+0=16`, `2+5+1=8`, then `=86`."""

    words = (*DIGITS, *"+-*%=\n")
    step_end = "\n"

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules, full_width=False)
        line = {
            Operation.add: r"[0-9]++\+[0-9]++\+[0-9]++=[0-9]++",
            Operation.subtract: "[0-9]++-[0-9]++-[0-9]++=[0-9]++",
            Operation.multiply: r"(?:[0-9]++\*[0-9]++\+)*+[0-9]++=[0-9]++",
            Operation.modular: "[0-9]++[-+*][0-9]++=-?[0-9]++=[0-9]++",
        }[rules.operation]
        self._whole = re.compile(f"((?:{line}\n)*+)=(0|[1-9][0-9]*+)")

    def prompt(self, problem: Problem) -> str:
        return expression(self.rules, problem, written(self.rules, problem)) + "\n"

    def answer(self, digits: str) -> str:
        return "=" + shortest(digits)[::-1]

    def steps(self, problem: Problem) -> list[str]:
        operation = self.rules.operation
        if operation is Operation.modular:
            totals = self.rules.remainders(problem)
            steps = zip(totals, problem.signs, problem.numbers[1:], totals[1:], strict=False)
            return [f"{total}{sign}{n}={apply(sign, total, n)}={after}" for total, sign, n, after in steps]
        if operation is Operation.multiply:
            return _product_lines(*problem.numbers)
        if operation is Operation.add:
            return [f"{x}+{y}+{carried}={x + y + carried}" for x, y, carried, _, _ in columns(self.rules, problem)]
        # A borrowed ten stands before the digit that needs it.
        return [f"{x + 10 * carry}-{y}-{c}={digit}" for x, y, c, digit, carry in columns(self.rules, problem)]


class TuringTrace(StepTrace):
    """A Turing program: the whole tape in each step, digits under the head as letters."""

    words = (*DIGITS, *"abcdefghij", *"$+-*%|#=.")
    step_end = "|"

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules, full_width=True)
        tape = r"[0-9a-j]++(?:[-+*][0-9a-j]++)*+(?:%[0-9]++)?+#[0-9]++(?:#[0-9]*+)?+"
        self._whole = re.compile(rf"((?:{tape}\|)*+)=([0-9]++)\.")

    def prompt(self, problem: Problem) -> str:
        return f"${expression(self.rules, problem, written(self.rules, problem))}|"

    def answer(self, digits: str) -> str:
        return f"={digits}."

    def steps(self, problem: Problem) -> list[str]:
        if self.rules.operation is Operation.modular:
            return self._chain_steps(problem)
        first, second = written(self.rules, problem)
        both = self.rules.operation is not Operation.multiply
        register = 1 if both else len(second)  # digits; the carry of a product is below its second number
        steps: list[str] = []
        carried, result = 0, ""
        for place, column in enumerate(columns(self.rules, problem), 1):
            other = _mark(second, place) if both else second
            steps.append(f"{_mark(first, place)}{problem.signs}{other}#{backwards(carried, register)}#{result}")
            carried, result = column.carry, f"{result}{column.digit}"
        steps.append(f"{first}{problem.signs}{second}#{backwards(carried, register)}#{result}")
        return steps

    def _chain_steps(self, problem: Problem) -> list[str]:
        numbers = written(self.rules, problem)
        width = len(numbers[0])
        registers = [backwards(total, width) for total in (0, *self.rules.remainders(problem))]
        steps: list[str] = []
        for place, register in enumerate(registers):
            tape = [number.translate(MARKED) if n == place else number for n, number in enumerate(numbers)]
            steps.append(f"{expression(self.rules, problem, tape)}#{register}")
        return steps


class IcotTrace(AnswerTrace):
    """Terms that sum to the answer and their running totals, all least significant first, less `removed` tokens."""

    words = (*DIGITS, *"+-*%()", "||", CHAIN_END)
    has_steps = True

    def __init__(self, rules: Rules, removed: int) -> None:
        super().__init__(rules, full_width=True)
        self._removed = removed
        self._whole = re.compile(f"([-+*()0-9]*+){CHAIN_END}([0-9]++)")

    def prompt(self, problem: Problem) -> str:
        return expression(self.rules, problem, [number[::-1] for number in written(self.rules, problem)]) + "||"

    def work(self, problem: Problem) -> str:
        return self.chain(problem)[self._removed :]

    def answer(self, digits: str) -> str:
        return CHAIN_END + digits

    def right(self, problem: Problem, work: str) -> tuple[float, bool]:
        """As above, from the end on: tokens are removed from the left, and a model may have removed fewer."""
        chain = self.chain(problem)
        wanted = chain[self._removed :]
        if chain.endswith(work) and work.endswith(wanted):
            return 1.0, True
        every, expected, given = (re.findall("[-+*]*[^-+*]+|[-+*]+", text)[::-1] for text in (chain, wanted, work))
        expected += [""] * (len(given) - len(expected))
        parts = zip(every, given, expected, strict=False)
        return sum(whole.endswith(one) and one.endswith(end) for whole, one, end in parts) / len(expected), False

    def chain(self, problem: Problem) -> str:
        """All of the work, nothing removed."""
        terms, totals = self._terms(problem)
        signs = ("", *(problem.signs if self.rules.operation is Operation.modular else self._sign * (len(terms) - 1)))
        inner = [f"{sign}{term}" for sign, term in zip(signs, terms, strict=True)]
        inner[1:-1] = [f"{text}({total})" for text, total in zip(inner[1:-1], totals[1:-1], strict=True)]
        return "".join(inner)

    @property
    def _sign(self) -> str:
        return "-" if self.rules.operation is Operation.subtract else "+"

    def _terms(self, problem: Problem) -> tuple[list[str], list[str]]:
        """The terms, and the running total after each."""
        if self.rules.operation is Operation.modular:
            numbers = written(self.rules, problem)
            totals = [backwards(total, len(numbers[0])) for total in self.rules.remainders(problem)]
            return [number[::-1] for number in numbers], totals
        a, b = problem.numbers
        places = [b % 10**place for place in range(1, len(str(b)) + 1)]
        if self.rules.operation is Operation.multiply:
            width = len(str(a)) + 1
            terms = [backwards(a * digit * 10**j, width + j) for j, digit in enumerate(digits_of(b))]
            return terms, [backwards(a * part, width + j) for j, part in enumerate(places)]
        width = self.rules.number_width(problem) or 0
        terms = [backwards(a, width), *("0" * j + str(digit) for j, digit in enumerate(digits_of(b, width)))]
        totals = [backwards(apply(problem.signs, a, b % 10**j), self.rules.answer_width(problem)) for j in range(width)]
        return terms, [*totals, ""]


def trace_format(trace: Trace, rules: Rules, removed: int) -> AnswerTrace:
    """How `trace` writes; `removed` is of `icot` alone."""
    if trace is Trace.scratchpad:
        return ScratchpadTrace(rules)
    if trace is Trace.turing:
        return TuringTrace(rules)
    if trace is Trace.icot:
        return IcotTrace(rules, removed)
    return AnswerTrace(rules, full_width=trace is Trace.reversed)


def columns(rules: Rules, problem: Problem) -> list[Column]:
    """The steps of a sum or a difference digit by digit, or of a product digit by digit of its first number."""
    a, b = problem.numbers
    width = rules.number_width(problem) or 0
    first = digits_of(a, width)
    second = [b] * len(first) if rules.operation is Operation.multiply else digits_of(b, width)
    found: list[Column] = []
    carried = 0
    for x, y in zip(first, second, strict=True):
        if rules.operation is Operation.subtract:
            value = x - y - carried
            carry = int(value < 0)
        else:
            value = apply(problem.signs, x, y) + carried
            carry = value // 10
        found.append(Column(x, y, carried, value % 10, carry))
        carried = carry
    return found


def _product_lines(a: int, b: int) -> list[str]:
    """`a_0*b_0+0=chat_0`, `a_0*b_1+a_1*b_0+r_0=chat_1`, ...: the recurrences of `running_sums`."""
    left, right = digits_of(a), digits_of(b)
    lines: list[str] = []
    carried = 0
    for k in range(len(left) + len(right) - 1):
        pairs = [(left[i], right[k - i]) for i in range(max(0, k - len(right) + 1), min(k + 1, len(left)))]
        value = sum(x * y for x, y in pairs) + carried
        lines.append("".join(f"{x}*{y}+" for x, y in pairs) + f"{carried}={value}")
        carried = value // 10
    return lines


@lru_cache(maxsize=1024)
def coupled(widths: tuple[int, ...], answer: int) -> tuple[int, ...]:
    """Coupled positions of numbers and of an answer that are so wide, and of the end mark."""
    ids: list[int] = []
    for width in widths:
        ids += [*range(width + 1, 1, -1), 1]  # digits by their place, and the sign after them
    return (*ids, *range(2, 2 + answer), 0)


def written(rules: Rules, problem: Problem, padded: bool = True) -> list[str]:
    """The numbers, most significant digit first; `padded`, as wide as the longest where digits stand in columns."""
    width = rules.number_width(problem) if padded else None
    return [str(number).zfill(width or 0) for number in problem.numbers]


def expression(rules: Rules, problem: Problem, numbers: Sequence[str]) -> str:
    """`29+57`, `7*3+5%10`: the problem's signs between `numbers`."""
    text = numbers[0] + "".join([sign + number for sign, number in zip(problem.signs, numbers[1:], strict=True)])
    return f"{text}%{rules.modulus}" if rules.operation is Operation.modular else text


def backwards(number: int, width: int) -> str:
    """Digits least significant first, with zeros up to `width`."""
    return str(number).zfill(width)[::-1]


def shortest(digits: str) -> str:
    """Digits, least significant first, without the zeros that say nothing."""
    return digits.rstrip("0") or "0"


def _mark(number: str, place: int) -> str:
    """`number` with the digit at `place` from its end, counted from 1, as a letter."""
    at = len(number) - place
    return number[:at] + number[at].translate(MARKED) + number[at + 1 :]
