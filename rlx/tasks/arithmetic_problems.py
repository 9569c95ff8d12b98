"""Which problems of arithmetic there are, their answers and carries; the rules: `rlx/tasks/arithmetic.py`."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from enum import Enum
from functools import cached_property, lru_cache
from itertools import product
from random import Random
from typing import NamedTuple

from rlx.errors import ConfigError
from rlx.tasks.base import split_of, stable_hash
from rlx.types import Split

SIGNS = "+-*"
"""What may stand between two numbers."""
ENUMERATED = 100
"""A length with fewer problems than this for each one held out is listed; of others some are in every split."""
FEWEST = 10
"""Problems of a length that `val` or `test` has at least, or it has none: few would be met again and again."""
PATIENCE = 100
"""Draws for each one that is held out, after which a split is taken to have no problems of a length."""


class Operation(Enum):
    """What is done with the numbers."""

    add = "add"
    subtract = "subtract"
    multiply = "multiply"
    modular = "modular"


class Problem(NamedTuple):
    """Numbers in the order of the prompt, and the sign between each two of them."""

    numbers: tuple[int, ...]
    signs: str


class RunningSums(NamedTuple):
    """The columns of a product, least significant first: all of one length, the digits of both factors together."""

    s: tuple[int, ...]
    """Sum of the digit products of the column."""
    chat: tuple[int, ...]
    """That sum and what the column before carries into it."""
    r: tuple[int, ...]
    """What the column carries on."""
    c: tuple[int, ...]
    """Digit of the product."""


def digits_of(number: int, width: int = 0) -> list[int]:
    """Decimal digits, least significant first, with zeros up to `width`."""
    return [int(digit) for digit in reversed(str(number).zfill(width))]


def running_sums(a: int, b: int) -> RunningSums:
    """The recurrences of `a * b`: s_k = sum of a_i b_(k-i), chat_k = s_k + r_(k-1), r_k = chat_k div 10, c_k = chat_k
    mod 10 (arXiv 2510.00184: what its auxiliary loss regresses is chat).

    Args:
        a, b: integers from 0, of n and m digits; k runs from 0 to n + m - 1.
    """
    left, right = digits_of(a), digits_of(b)
    sums = [0] * (len(left) + len(right))
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            sums[i + j] += x * y
    chat: list[int] = []
    carried = 0
    for column in sums:
        chat.append(column + carried)
        carried = chat[-1] // 10
    return RunningSums(
        tuple(sums), tuple(chat), tuple(value // 10 for value in chat), tuple(value % 10 for value in chat)
    )


def apply(sign: str, left: int, right: int) -> int:
    """`left sign right`."""
    return left + right if sign == "+" else left - right if sign == "-" else left * right


@dataclass(frozen=True, slots=True)
class Rules:
    """An operation, and the modulus where it has one: what the numbers of a problem come to."""

    operation: Operation
    modulus: int

    def remainders(self, problem: Problem) -> list[int]:
        """The remainder after each number of a chain, read from left to right."""
        totals = [problem.numbers[0] % self.modulus]
        for sign, number in zip(problem.signs, problem.numbers[1:], strict=True):
            totals.append(apply(sign, totals[-1], number) % self.modulus)
        return totals

    def value(self, problem: Problem) -> int:
        if self.operation is Operation.modular:
            return self.remainders(problem)[-1]
        return apply(problem.signs, *problem.numbers)

    def number_width(self, problem: Problem) -> int | None:
        """Digits to which all numbers are padded; None where each stands as it is."""
        if self.operation is Operation.modular:
            return len(str(self.modulus - 1))
        return None if self.operation is Operation.multiply else len(str(max(problem.numbers)))

    def answer_width(self, problem: Problem) -> int:
        """Digits of the longest answer to numbers as long as these."""
        width = self.number_width(problem)
        if width is None:
            return sum(len(str(number)) for number in problem.numbers)
        return width + (self.operation is Operation.add)

    def carries(self, problem: Problem) -> tuple[int, int]:
        """How many places carry (borrow, leave a remainder below their value), and how many could."""
        if self.operation is Operation.multiply:
            columns = running_sums(*problem.numbers).r[:-1]
            return sum(carried > 0 for carried in columns), len(columns)
        if self.operation is Operation.modular:
            totals = zip(self.remainders(problem), problem.signs, problem.numbers[1:], strict=False)
            values = [apply(sign, total, number) for total, sign, number in totals]
            return sum([not 0 <= value < self.modulus for value in values]), len(values)
        # A carry takes 10 from one digit and gives 1 to the next: the sum of digits falls by 9.
        a, b = problem.numbers
        parts = (a, b, a + b) if self.operation is Operation.add else (b, a - b, a)
        first, second, whole = map(_digit_sum, parts)
        return (first + second - whole) // 9, len(str(max(a, b)))

    def key(self, problem: Problem) -> str:
        """Canonical name: equal for problems that differ in the order of numbers alone, where that changes nothing.

        The order of factors and of addends, that is; in a chain, within each stretch of + and -, or of *.
        """
        numbers, signs = problem
        if self.operation is not Operation.modular:
            first, second = numbers if self.operation is Operation.subtract else sorted(numbers)
            return f"{first}{signs}{second}"
        stretches: list[list[str]] = []
        products = signs[:1] == "*"
        for sign, number in zip(("*" if products else "+") + signs, numbers, strict=True):
            if not stretches or (sign == "*") != products:
                stretches.append([])
                products = sign == "*"
            stretches[-1].append(f"{sign}{number}")
        return "".join(["".join(sorted(stretch)) for stretch in stretches]) + f"%{self.modulus}"


@dataclass(frozen=True)
class Space:
    """The settings that decide which problems a split has."""

    operation: Operation
    shortest: int
    longest: int
    second: int | None
    modulus: int
    signs: str
    held_out: int

    @cached_property
    def rules(self) -> Rules:
        return Rules(self.operation, self.modulus)

    @cached_property
    def sign(self) -> str:
        """What stands between two numbers."""
        return {Operation.add: "+", Operation.subtract: "-"}.get(self.operation, "*")

    @cached_property
    def name(self) -> str:
        return repr(astuple(self))

    def count(self, length: int) -> int:
        """Problems of a length, in each order."""
        if self.operation is Operation.modular:
            return self.modulus**length * len(self.signs) ** (length - 1)
        return 81 * 10 ** (length + (self.second or length) - 2)

    def all_of(self, length: int) -> Iterator[Problem]:
        """Every problem of a length, as often as it is drawn."""
        if self.operation is Operation.modular:
            chains = product(product(range(self.modulus), repeat=length), product(self.signs, repeat=length - 1))
            return (Problem(numbers, "".join(signs)) for numbers, signs in chains)
        ranges = (range(10 ** (digits - 1), 10**digits) for digits in (length, self.second or length))
        return (self.pair(a, b) for a, b in product(*ranges))

    def draw(self, length: int, random: Random) -> Problem:
        """A problem of a length, each as likely."""
        if self.operation is Operation.modular:
            numbers = tuple([below(random, self.modulus) for _ in range(length)])
            return Problem(numbers, "".join([self.signs[below(random, len(self.signs))] for _ in range(length - 1)]))
        first, second = 10 ** (length - 1), 10 ** ((self.second or length) - 1)
        return self.pair(first + below(random, 9 * first), second + below(random, 9 * second))

    def pair(self, a: int, b: int) -> Problem:
        """The problem of two numbers; of a difference, the larger stands first."""
        if self.operation is Operation.subtract and a < b:
            a, b = b, a
        return Problem((a, b), self.sign)


def _digit_sum(number: int) -> int:
    digits = str(number).encode()
    return sum(digits) - ord("0") * len(digits)


def below(random: Random, count: int) -> int:
    """A uniform integer from 0 to `count - 1`; only raw bits are drawn, which every version of Python draws alike."""
    bits = (count - 1).bit_length()
    while (value := random.getrandbits(bits) if bits else 0) >= count:
        pass
    return value


@lru_cache(maxsize=64)
def lengths_of(space: Space, split: Split) -> Sequence[int]:
    """The lengths of which a split has problems.

    Raises:
        ConfigError: there are none.
    """
    fewest = 1 if split is Split.train else FEWEST
    lengths = range(space.shortest, space.longest + 1)
    found = [n for n in lengths if _has_many(space, n) or len(listed(space, split, n)) >= fewest]
    if not found:
        raise _no_problems(space, split)
    return found


def _has_many(space: Space, length: int) -> bool:
    return space.count(length) >= ENUMERATED * space.held_out


@lru_cache(maxsize=64)
def listed(space: Space, split: Split, length: int) -> Sequence[Problem]:
    """All problems of a length that are in the split, as often as each is drawn: for lengths that have few."""
    key, share = space.rules.key, space.held_out
    return [problem for problem in space.all_of(length) if split_of(key(problem), share) is split]


class Source:
    """The problems of a split.

    Raises:
        ConfigError: there are none.
    """

    def __init__(self, space: Space, split: Split) -> None:
        self.space, self.split, self.rules = space, split, space.rules
        self.lengths = lengths_of(space, split)
        self.few = {length: listed(space, split, length) for length in self.lengths if not _has_many(space, length)}
        """All problems of the lengths that have few."""

    def draw(self, seed: int, index: int) -> tuple[int, Problem, str]:
        """A length, a problem of it and its canonical name, a pure function of the arguments: first the length is
        drawn, then the digits.

        Raises:
            ConfigError: (almost) no problems of the length are in the split.
        """
        space, split = self.space, self.split
        random = Random(stable_hash("arithmetic", space.name, split.value, seed, index))
        length = self.lengths[below(random, len(self.lengths))]
        if few := self.few.get(length):
            problem = few[below(random, len(few))]
            return length, problem, self.rules.key(problem)
        for _ in range(PATIENCE * space.held_out):
            problem = space.draw(length, random)
            key = self.rules.key(problem)
            if split_of(key, space.held_out) is split:
                return length, problem, key
        raise _no_problems(space, split)


def _no_problems(space: Space, split: Split) -> ConfigError:
    kind = "numbers" if space.operation is Operation.modular else "digits"
    return ConfigError(
        f"task=arithmetic expected problems for {split.value}, found (almost) none with operation="
        f"{space.operation.value} of {space.shortest} to {space.longest} {kind} and held_out={space.held_out}; "
        "raise task.max_digits, or hold out more with task.held_out=4"
    )
