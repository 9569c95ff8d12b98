"""Arithmetic on digits: addition, subtraction, multiplication and chains modulo a number, in the papers' formats.

Sources: Universal Length Generalization with Turing Programs (arXiv 2407.03310; `turing`); Why Can't Transformers Learn
Multiplication (arXiv 2510.00184) with the data of Implicit Chain of Thought (arXiv 2405.14838, repository
da03/Internalize_CoT_Step_by_Step; `icot`, `running_sums`); Position Coupling (arXiv 2405.20671; `reversed`).

Where sources differ, or leave a choice, this file does:

1. First the length is drawn, evenly, then the number: no leading zeros, so one digit is 1 to 9. The second number has
   as many digits as the first, or `second_digits`. Differences are never negative: the larger number stands first. A
   chain (`operation=modular`) has from `min_digits` to `max_digits` numbers from 0 to below `modulus`, and is read from
   left to right, `2+3*4` as 20.
2. `test` may be of other lengths (`test_min_digits`, `test_max_digits`); `val` has those of `train`. Splits go by a
   hash of the problem, equal whatever the order of factors, of addends, and of the numbers in a stretch of a chain that
   has only + and -, or only *. A length of which `val` or `test` would have fewer than 10 problems (by default: 1
   digit) is not in it.
3. Where digits stand in columns, numbers are padded to the longer of the two and no further; answers that begin with
   the least significant digit have a width that the numbers' lengths fix (one more for sums, both together for
   products, the longer for differences). So nothing in a text tells which other lengths the setting has, nor do zeros
   tell how many steps are left.
4. `reversed`: the answer begins with the least significant digit, numbers do not. `plain` is as people write it.
   `reversed` has coupled positions (arXiv 2405.20671): 1 for signs, 2 for units, 3 for tens, and so on, in
   the numbers and in the answer, of products too (ours); `29+57=680` has 321321234, and its end mark 0. The others have
   none: in `plain` they would tell how long the answer is.
5. `scratchpad` (ours) copies nothing: a line for each column, what is carried into it last on the left, what it carries
   on before the last digit on the right; in a difference a borrowed ten stands before the digit that needs it. A
   product has the columns of `running_sums`. A chain has a line for each number after the first: the value, then its
   remainder. The answer is as in `plain`.
6. `turing` (the string is our reading of the description): digits under the head are letters, a to j for 0 to 9; then
   the register (carry, borrow, remainder), then the digits of the result so far. One step for each digit of the first
   number, and a last one without a head. The register of a product is the carry of a digit times the whole second
   number, and as wide as that. Registers, results and the answer are least significant first: the answer is a copy of
   the last step, the result and then the register. In a chain the head is on a whole number.
7. `icot` is the data of its authors without the spaces, for a character is a token here: `||` ends the prompt, terms
   have their running totals in parentheses, but for the first and the last. They have it for products alone. Here the
   terms of a sum or difference are the first number and each digit of the second in its place, those of a chain its
   numbers. `removed` tokens are taken from the left (the authors take 8 more each epoch, and start the optimizer anew).
8. The answer decides: a completion with wrong steps, or none, is correct if it is well formed and its answer right.
   Measures say the rest: `digits` (share of the answer's digits right), `steps` (share of steps right; in `icot` terms
   with their totals, counted from the end), `chain` (1 where all of the work is right; in `icot` a model may write more
   of it than `removed` leaves).

Worked examples, for 29 + 57, and the authors' for 3719 * 3349:

    plain        29+57=      86
    reversed     29+57=      680
    scratchpad   29+57       9+7+0=16
                             2+5+1=8
                             =86
    turing       $29+57|     2j+5h#0#|c9+f7#1#6|29+57#0#68|=680.
    icot         92+75||     92+7(630)+05####680
    icot         9173*9433|| 17433+067841(132281)+0075111(1397921)+00075111####13945421
"""

from dataclasses import dataclass
from random import Random

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.arithmetic_problems import (
    SIGNS,
    Operation,
    Problem,
    Rules,
    Source,
    Space,
    apply,
    digits_of,
    lengths_of,
    running_sums,
)
from rlx.tasks.arithmetic_traces import Trace, backwards, shortest, trace_format
from rlx.tasks.base import Sized, TaskConfig, stable_hash
from rlx.types import Example, Outcome, Split, Verdict

MOST_DIGITS = 300
"""The work of a Turing program grows with the square: 270,000 characters at this length."""
BANDS = 8
"""Lengths up to which each is a slice of its own."""
LONG_KEY = 100
"""Characters of a problem's name after which it is written as a hash."""
SHORT_TEXT = 100
"""Characters that are read even where no solution is so long: white space may follow it."""
SHORTCUTS = {
    Operation.add: "adds digits without carries",
    Operation.subtract: "subtracts digits without borrows",
    Operation.multiply: "adds digit products without carries",
    Operation.modular: "answers the last number",
}


@option("task", "arithmetic")
@dataclass(kw_only=True, slots=True)
class ArithmeticConfig(TaskConfig):
    """Sums, differences, products, and chains modulo a number."""

    operation: Operation = Operation.add
    """What is done: add, subtract, multiply (two numbers), or modular (a chain of numbers)."""
    min_digits: int = 1
    """Fewest digits of the first number; in a chain, fewest numbers."""
    max_digits: int = 5
    """Most digits of the first number; in a chain, most numbers."""
    test_min_digits: int | None = None
    """Fewest digits in `test`; null is min_digits."""
    test_max_digits: int | None = None
    """Most digits in `test`; null is max_digits."""
    second_digits: int | None = None
    """Digits of the second number; null is as many as the first has."""
    modulus: int = 10
    """What remainders of a chain are taken of, 2 to 1000000."""
    signs: str = "+-*"
    """Signs that a chain draws from."""
    held_out: int = 64
    """One in so many problems is in `val`, one in so many in `test`: 3 to 256."""
    trace: Trace = Trace.plain
    """Format of solutions: plain, reversed, scratchpad, turing (a Turing program) or icot (terms and totals)."""
    removed: int = 0
    """Tokens of the work that `icot` leaves out, from the left; as many as there are, or more, leave the answer."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        for low, high in (("min_digits", "max_digits"), ("test_min_digits", "test_max_digits")):
            shortest, longest = (self._length(name) for name in (low, high))
            if not 1 <= shortest <= longest <= MOST_DIGITS:
                raise ConfigError(
                    f"task lengths need 1 <= {low} <= {high} <= {MOST_DIGITS}, got {shortest} and {longest}; "
                    f"try task.{low}=1 task.{high}=5"
                )
        self._check_second()
        if not 2 <= self.modulus <= 1_000_000:
            raise ConfigError(f"task.modulus must be 2 to 1000000, got {self.modulus}; try task.modulus=97")
        if not self.signs or not set(self.signs) <= set(SIGNS) or len(set(self.signs)) < len(self.signs):
            raise ConfigError(f"task.signs must be some of {SIGNS}, each once, got {self.signs!r}; try task.signs=+-")
        if self.operation is not Operation.modular and (self.modulus, self.signs) != (10, SIGNS):
            raise ConfigError(
                f"task.modulus and task.signs are of task.operation=modular, got {self.modulus} and {self.signs} with "
                f"operation={self.operation.value}; try task.operation=modular"
            )
        if not 3 <= self.held_out <= 256:
            raise ConfigError(f"task.held_out must be 3 to 256, got {self.held_out}; try task.held_out=64")
        if self.removed < 0 or (self.removed and self.trace is not Trace.icot):
            raise ConfigError(
                f"task.removed must be at least 0 and is of task.trace=icot, got {self.removed} with "
                f"trace={self.trace.value}; try task.removed=0"
            )
        for split in Split:
            lengths_of(self.space(split), split)

    def build(self) -> "Arithmetic":
        return Arithmetic(self)

    def _check_second(self) -> None:
        if self.second_digits is None:
            return
        if self.operation is Operation.modular:
            raise ConfigError(
                f"task.second_digits is not of task.operation=modular, got {self.second_digits}; "
                "try task.second_digits=null"
            )
        least = min(self.min_digits, self._length("test_min_digits"))
        most = least if self.operation is Operation.subtract else MOST_DIGITS
        if not 1 <= self.second_digits <= most:
            raise ConfigError(
                f"task.second_digits must be 1 to {most} (of differences, the fewest digits of the first number), "
                f"got {self.second_digits}; try task.second_digits=1"
            )

    def _length(self, name: str) -> int:
        value = getattr(self, name)
        return getattr(self, name.removeprefix("test_")) if value is None else value

    def space(self, split: Split) -> Space:
        """Which problems the split has."""
        prefix = "test_" if split is Split.test else ""
        shortest, longest = (self._length(f"{prefix}{end}_digits") for end in ("min", "max"))
        return Space(self.operation, shortest, longest, self.second_digits, self.modulus, self.signs, self.held_out)


class Arithmetic(Sized):
    """Problems of one setting, their solutions and their verifier."""

    bounded = True

    def __init__(self, config: ArithmeticConfig) -> None:
        super().__init__(config)
        self.config = config
        self.rules = Rules(config.operation, config.modulus)
        self.format = trace_format(config.trace, self.rules, config.removed)
        self.baseline = SHORTCUTS[config.operation]
        self._sources = {split: Source(config.space(split), split) for split in Split}
        spaces = [source.space for source in self._sources.values()]
        lengths = [length for space in spaces for length in (space.shortest, space.longest)]
        self._length_name = "numbers" if config.operation is Operation.modular else "digits"
        self._least, self._most = min(lengths), max(lengths)
        whole = trace_format(config.trace, self.rules, 0)
        widest = self._widest()
        longest = len(whole.work(widest)) + len(whole.answer("9" * self.rules.answer_width(widest)))
        names = ["digits", "steps", "chain"] if self.format.has_steps else ["digits"]
        self._nothing = dict.fromkeys(names, 0.0)
        self._limit = max(SHORT_TEXT, 4 * longest)

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no problems of a length are in the split.
        """
        length, problem, key = self._sources[split].draw(self.seed_at(split, index), index)
        return Example(
            id=f"arithmetic/{key if len(key) <= LONG_KEY else f'{stable_hash(key):016x}'}",
            prompt=self.format.prompt(problem),
            solution=self.format.work(problem) + self.format.answer(self._answer(problem)),
            truth=(problem.numbers, problem.signs),
            difficulty={self._length_name: self._length_band(length), "carries": self._carries_band(problem)},
            places=self.format.places(problem),
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (well formed, another answer) or malformed.

        Text longer than any solution can be is malformed unread.
        """
        if len(completion) > self._limit:
            return Verdict(Outcome.malformed, f"longer than {self._limit} characters", self._nothing)
        parsed = self.format.parse(completion.rstrip(" \t\r\n"))
        if parsed is None:
            return Verdict(Outcome.malformed, f"not in the format of trace={self.config.trace.value}", self._nothing)
        problem = _problem(example)
        wanted, given = self._answer(problem), parsed.answer
        if not self.format.full_width:
            given = given.ljust(len(wanted), "0")
        right = sum(map(str.__eq__, wanted, given))
        measures = {"digits": right / max(len(wanted), len(given))}
        if self.format.has_steps:
            steps, chain = self.format.right(problem, parsed.work)
            measures |= {"steps": steps, "chain": float(chain)}
        if given == wanted:
            return Verdict(Outcome.correct, measures=measures)
        return Verdict(Outcome.wrong, f"{right} of {len(wanted)} digits of the answer are right", measures)

    def chance(self, example: Example) -> float:
        """1 / modulus for a chain, else 10 to the power of minus the width of the answer: every natural number that
        has no more digits than the answer to numbers so long can have, its zeros written or not, is one answer."""
        if self.config.operation is Operation.modular:
            return 1 / self.config.modulus
        return 10.0 ** -self.rules.answer_width(_problem(example))

    def guess(self, example: Example) -> str:
        """The answer alone, in the format, with nothing carried; of a chain, its last number."""
        problem = _problem(example)
        width = self.rules.answer_width(problem)
        if self.config.operation is Operation.modular:
            return self.format.answer(backwards(problem.numbers[-1], width))
        if self.config.operation is Operation.multiply:
            values = running_sums(*problem.numbers).s
        else:
            first, second = (digits_of(number, width) for number in problem.numbers)
            values = [apply(problem.signs, x, y) for x, y in zip(first, second, strict=True)]
        return self.format.answer("".join(str(value % 10) for value in values))

    def calls(self, example: Example) -> list[str]:
        """The expression whose value is the answer; of a chain, the one whose remainder is."""
        (first, *others), signs = example.truth
        text = str(first)
        for sign, number in zip(signs, others, strict=True):
            text = f"{text}{sign}{number}" if text.isdecimal() else f"({text}){sign}{number}"
        return [text]

    def mistake(self, example: Example, random: Random) -> str:
        """The solution with one digit of the answer that is written changed, the work before it as it should be."""
        problem = _problem(example)
        digits = self._answer(problem)
        shown = len(digits) if self.format.full_width else len(shortest(digits))
        place = int(random.random() * shown)
        other = (int(digits[place]) + 1 + int(random.random() * 9)) % 10
        return self.format.work(problem) + self.format.answer(f"{digits[:place]}{other}{digits[place + 1 :]}")

    def brief(self, solution: str) -> str:
        """The answer of a solution in the trace's format, without its work; `verify` takes both."""
        parsed = self.format.parse(solution)
        return solution if parsed is None else self.format.answer(parsed.answer)

    def words(self) -> list[str]:
        """Digits and marks that prompts and solutions are made of."""
        return list(self.format.words)

    def _answer(self, problem: Problem) -> str:
        """Digits of the answer, least significant first, all that one to numbers so long can have."""
        return backwards(self.rules.value(problem), self.rules.answer_width(problem))

    def _widest(self) -> Problem:
        """A problem whose solutions are as long as any; only their text is meant."""
        if self.config.operation is Operation.modular:
            return Problem((self.config.modulus - 1,) * self._most, "*" * (self._most - 1))
        first, second = (10**digits - 1 for digits in (self._most, self.config.second_digits or self._most))
        return self._sources[Split.test].space.pair(first, second)

    def _length_band(self, length: int) -> int | str:
        """The length, or the part of the setting's lengths that it is in, as `low-high`, where there are many."""
        count = self._most - self._least + 1
        if count <= BANDS:
            return length
        width = -(-count // BANDS)
        low = length - (length - self._least) % width
        return f"{low}-{min(low + width - 1, self._most)}"

    def _carries_band(self, problem: Problem) -> str:
        """How many of the places carry: none, few (up to half of them) or many."""
        carries, places = self.rules.carries(problem)
        return "none" if not carries else "few" if 2 * carries <= places else "many"


def _problem(example: Example) -> Problem:
    numbers, signs = example.truth
    return Problem(tuple(numbers), signs)
