"""Phone book: find a number in a list that is read, or one that was learnt by heart.

Sources: "Repeat After Me" (arXiv 2402.01032), lookup in a book that is in the context; "Mixture of Parrots" (arXiv
2410.19034), a closed book whose pairs are the training set.

Where sources differ, or leave a choice, this file does:

1. `question=lookup`: lines of a name and a number of 10 digits, the first of them 6 to 9; then `examples` of the lines
   again, then another one's name, whose number is asked for. Names are a first and a last name, each of a list of ours:
   lines share them, no two have both.
2. `question=memory`: a pair is a name of 5 letters and a number of 8 digits; nothing is read. `train` is `pairs` pairs
   and no more, walked through again and again: what is measured is how many of them a model knows, so it is evaluated
   on them (`stage=eval stage.split=train stage.problems=<pairs>`). `val` and `test` have other pairs, which nothing can
   know: there a model is at chance. A pair holds 26.6 bits. (The paper's generator was not seen; its sizes are these.)
3. `task.seed` makes another book. Names of `memory` differ from each other, and by split whatever the seed.
4. `measures.digits` is the share of digits that are right.
5. Splits of lookup go by a hash of the lines, whatever their order, and the name asked for.

Worked example, lookup of three lines, with `examples=1` and `digits=4`: the prompt is these lines, a blank at its end,
and the solution `7310`; memory might have `kqwze:` → `40512267`.

    Ada Reed: 6021
    Tom Vale: 7310
    Ada Moss: 9954

    Ada Moss: 9954
    Tom Vale:
"""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import gcd
from random import Random
from string import ascii_lowercase

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, compared, shuffled, split_of, stable_hash
from rlx.tasks.lengths import LengthConfig, Lengths
from rlx.types import Example, Outcome, Split, Verdict

FIRST_NAMES = """
Ada Amy Ann Ben Bob Carl Dan Dora Ed Ella Eve Finn Fred Gil Gwen Hal Hugo Ida Ike Iris Jack Jane Joan John Kate Ken
Lena Leo Lily Lou Mary Max Mia Ned Nina Olga Otto Paul Pia Ray Rosa Sam Sue Ted Tess Tom Uma Vera Will Zoe
"""
FIRST = FIRST_NAMES.split()
LAST_NAMES = """
Abel Bell Birch Boyd Bran Cole Cook Cross Dale Dean Dunn Fay Fisk Ford Fox Frost Gale Gray Hale Hall Hart Hill Holt
Hope Hunt Kay Kerr King Lake Lane Lee Long Marsh Mills Moss Nash Nye Park Penn Pike Pope Quinn Rand Reed Rice Rowe
Shaw Snow Vale West Wood York
"""
LAST = LAST_NAMES.split()
LETTERS = 5
"""Letters of a name of question=memory."""
NAMES = len(ascii_lowercase) ** LETTERS // len(Split)
"""Names that question=memory has in each split."""
MOST_LINES = len(FIRST) * len(LAST) // 4
"""Lines of the longest book, so that names are soon drawn that are not in it yet."""
NOTHING = {"digits": 0.0}
"""Measures of text that is no number."""


class Question(Enum):
    """Where the number is."""

    lookup = "lookup"
    memory = "memory"


@option("task", "phonebook")
@dataclass(kw_only=True, slots=True)
class PhonebookConfig(LengthConfig):
    """Numbers of names, from a book that is read or known by heart."""

    min_length: int = 4
    """Fewest lines of a book that is read."""
    max_length: int = 12
    """Most lines of it."""
    question: Question = Question.lookup
    """Where the number is: lookup (in lines that are read) or memory (in the training set)."""
    examples: int = 2
    """Lines that are written again before the name, of a book that is read."""
    pairs: int = 2000
    """Pairs of question=memory; sets train_examples."""
    digits: int | None = None
    """Digits of a number; null is 10 of a book that is read, 8 of one known by heart."""

    def __post_init__(self) -> None:
        LengthConfig.__post_init__(self)
        if self.digits is not None and not 1 <= self.digits <= 100:
            raise ConfigError(f"task.digits must be 1 to 100, got {self.digits}; try task.digits=10")
        if self.question is Question.memory:
            if self.train_examples is not None:
                raise ConfigError("task.pairs sets task.train_examples of question=memory; leave that null")
            if not 1 <= self.pairs <= NAMES:
                raise ConfigError(f"task.pairs must be 1 to {NAMES}, got {self.pairs}; try task.pairs=2000")
            return
        shortest = min(self.lengths(split)[0] for split in Split)
        longest = max(self.lengths(split)[1] for split in Split)
        if longest > MOST_LINES:
            raise ConfigError(f"task.max_length must be at most {MOST_LINES} lines, got {longest}; try 100")
        if not 0 <= self.examples <= shortest - 2:
            raise ConfigError(
                f"task.examples must be 0 to {shortest - 2} (two lines of any book are left), got {self.examples}; "
                "try task.examples=2 task.min_length=4"
            )

    def build(self) -> "Phonebook":
        return Phonebook(self)


class Phonebook(Sized):
    """Books of one setting and their verifier."""

    bounded = True

    def __init__(self, config: PhonebookConfig) -> None:
        super().__init__(config)
        self.config = config
        self.lengths = Lengths(config)
        self.read = config.question is Question.lookup
        self.baseline = "looks up the first letter only" if self.read else "answers the first pair's number"
        self.digits = config.digits or (10 if self.read else 8)
        self.longest = 100 + 4 * self.digits
        """Characters of the longest text that is read."""
        if not self.read:
            self._sizes[Split.train] = config.pairs
            self._first = self._pair(Split.train, 0, 0)[1]
            """Number of the first pair, of the seed 0."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
        """
        seed = self.seed_at(split, index)
        return self._looked_up(split, seed, index) if self.read else self._known(split, seed, index)

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (another number of as many digits) or malformed.

        Text longer than four times a number is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        given, wanted = completion.rstrip(" \t\r\n"), example.truth[0]
        if len(given) != self.digits or not (given.isascii() and given.isdigit()):
            return Verdict(Outcome.malformed, f"not {self.digits} digits", NOTHING)
        return compared(given, wanted, "digits")

    def chance(self, example: Example) -> float:
        """Of a book that is read, one of its numbers, those of the lines written again left out; else digits drawn
        evenly."""
        if self.read:
            return 1 / example.truth[2]
        return 10.0**-self.digits

    def guess(self, example: Example) -> str:
        """Lookup: the number of the first line whose name begins with the letter of the one asked for. Memory: the
        number of the first pair of train, of the seed 0."""
        return example.truth[1]

    def words(self) -> list[str]:
        """Names or letters, digits and marks."""
        return [*"0123456789:", *((*FIRST, *LAST, " ", "\n") if self.read else ascii_lowercase)]

    def _looked_up(self, split: Split, seed: int, index: int) -> Example:
        random = Random(stable_hash("phonebook", split.value, seed, index))
        count = self.lengths.draw(random, split)
        while True:
            book = self._book(random, count)
            asked, *again = shuffled(random, range(count))[: self.config.examples + 1]
            if split_of(f"{book[asked][0]} in {sorted(book)}") is split:
                break
        name, number = book[asked]
        lines = [f"{who}: {digits}\n" for who, digits in book]
        prompt = "".join([*lines, "\n", *[lines[place] for place in again], f"{name}: "])
        alike = next(digits for who, digits in book if who[0] == name[0])
        third = ("first", "second", "last")[3 * asked // count]
        return Example(
            id=f"phonebook/{stable_hash(prompt):016x}",
            prompt=prompt,
            solution=number,
            truth=(number, alike, count - len(again)),
            difficulty={"lines": self.lengths.band(count), "third": third},
        )

    def _book(self, random: Random, count: int) -> list[tuple[str, str]]:
        """Lines of different names, in the order drawn."""
        draw, book = random.random, dict[str, str]()
        while len(book) < count:
            name = f"{FIRST[int(draw() * len(FIRST))]} {LAST[int(draw() * len(LAST))]}"
            book.setdefault(name, f"{6 + int(draw() * 4)}{self._number(random, self.digits - 1)}")
        return list(book.items())

    def _number(self, random: Random, digits: int) -> str:
        return "".join(random.choices("0123456789", k=digits))

    def _known(self, split: Split, seed: int, index: int) -> Example:
        name, number = self._pair(split, seed, index)
        return Example(
            id=f"phonebook/{name}/{number}",
            prompt=f"{name}:",
            solution=number,
            truth=(number, self._first),
        )

    def _pair(self, split: Split, seed: int, index: int) -> tuple[str, str]:
        """A name and its number. Names are steps of one length through all names of a split, so none comes twice."""
        start, step = _walk(split, seed)
        code = (start + index * step) % NAMES * len(Split) + list(Split).index(split)
        name = ""
        for _ in range(LETTERS):
            code, letter = divmod(code, len(ascii_lowercase))
            name += ascii_lowercase[letter]
        random = Random(stable_hash("phonebook number", split.value, seed, index))
        return name, self._number(random, self.digits)


@lru_cache(maxsize=8)
def _walk(split: Split, seed: int) -> tuple[int, int]:
    """Where the walk through a split's names begins, and its step, which has no factor in common with their number."""
    random = Random(stable_hash("phonebook names", split.value, seed))
    start, step = (int(random.random() * NAMES) for _ in range(2))
    while gcd(step, NAMES) != 1:
        step += 1
    return start, step
