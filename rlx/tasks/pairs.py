"""Pairs: which of two symbols comes first in a hidden order, or the symbol of the sum of two hidden numbers.

Source: "Why Larger Models Learn More" (arXiv 2605.29548): tasks of three tokens, TOK1 TOK2 LABEL, over 100 symbols,
that are injected into a corpus at frequencies from one in a hundred batches down (`corpus=mixture` does). Comparison is
the simple one, with one feature to be found; addition modulo the number of symbols the complex one.

Where sources differ, or leave a choice, this file does:

1. Symbols are syllables, whose order (and numbers) is drawn once by `table`, so that nothing in a text tells it.
2. `question=compare`: `<`, `>` or `=` (the labels are ours); add: the symbol whose number is the sum modulo `symbols`.
3. Half of the pairs are in `train`, one in twenty in `val`, the rest in `test`, by a hash; pairs are ordered, as in the
   paper, so (a, b) may be in train and (b, a) in test. Examples are even draws of a split's pairs, which come again.
4. The default has 32 symbols, 1,024 pairs; the paper's 100.

Worked example with a table in which `ka` is 3 and `vo` 30: compare `ka vo ` → `<`; add `ka vo ` → the symbol of 1.
"""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import product
from random import Random

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, TaskConfig, shuffled, stable_hash
from rlx.types import Example, Outcome, Split, Verdict

SYLLABLES = ["".join(pair) for pair in product("bcdfghjklmnpqrstvwxz", "aeiou")]
"""Symbols: 100."""
MARKS = ("<", ">", "=")
SHARES = {Split.val: 1, Split.train: 10, Split.test: 9}
"""Twentieths of the pairs that a split has, in the order of their hashes."""


class Question(Enum):
    """What is asked about two symbols."""

    compare = "compare"
    add = "add"


@option("task", "pairs")
@dataclass(kw_only=True, slots=True)
class PairsConfig(TaskConfig):
    """Two symbols, compared or added."""

    question: Question = Question.compare
    """What is asked: compare (<, > or =) or add (modulo the number of symbols)."""
    symbols: int = 32
    """Symbols: 12 to 100."""
    table: int = 0
    """Number of the hidden order."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        if not 12 <= self.symbols <= len(SYLLABLES):
            raise ConfigError(f"task.symbols must be 12 to {len(SYLLABLES)}, got {self.symbols}; try task.symbols=32")

    def build(self) -> "Pairs":
        return Pairs(self)


class Pairs(Sized):
    """Pairs of one table and their verifier."""

    bounded = True

    def __init__(self, config: PairsConfig) -> None:
        super().__init__(config)
        self.config = config
        self.compare = config.question is Question.compare
        self.baseline = "knows where the first symbol stands" if self.compare else "answers the first symbol"
        drawn = shuffled(Random(stable_hash("pairs table", config.symbols, config.table)), SYLLABLES)
        self.symbols = drawn[: config.symbols]
        """In the hidden order."""
        self.answers = frozenset(MARKS if self.compare else self.symbols)
        self._pairs = _by_split(config.symbols)

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
        """
        pairs = self._pairs[split]
        place = stable_hash("pairs", split.value, self.seed_at(split, index), index) % len(pairs)
        a, b = pairs[place]
        prompt = f"{self.symbols[a]} {self.symbols[b]} "
        return Example(
            id=f"pairs/{self.config.question.value}/{self.symbols[a]}{self.symbols[b]}",
            prompt=prompt,
            solution=self._answer(a, b),
            truth=(a, b),
            difficulty={"distance": min(abs(a - b), 8)} if self.compare else {},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (another label) or malformed."""
        text = completion[:100].rstrip(" \t\r\n")
        if text not in self.answers:
            return Verdict(Outcome.malformed, "no label", {"label": 0.0})
        right = text == self._answer(*example.truth)
        return Verdict(Outcome.correct if right else Outcome.wrong, measures={"label": 1.0})

    def chance(self, example: Example) -> float:
        """One of the labels."""
        return 1 / len(self.answers)

    def guess(self, example: Example) -> str:
        """Compare: `<` where the first symbol is in the lower half of the order. Add: the first symbol."""
        a: int = example.truth[0]
        return self.symbols[a] if not self.compare else "<" if 2 * a < len(self.symbols) else ">"

    def words(self) -> list[str]:
        """Symbols, and labels."""
        return [*self.symbols, *(MARKS if self.compare else ()), " "]

    def _answer(self, a: int, b: int) -> str:
        if self.compare:
            return "<" if a < b else ">" if a > b else "="
        return self.symbols[(a + b) % len(self.symbols)]


@lru_cache(maxsize=8)
def _by_split(symbols: int) -> dict[Split, list[tuple[int, int]]]:
    """The pairs of places of each split."""
    ranked = sorted(product(range(symbols), range(symbols)), key=lambda pair: stable_hash("pairs split", *pair))
    found: dict[Split, list[tuple[int, int]]] = {}
    start = 0
    for split, share in SHARES.items():
        count = share * len(ranked) // 20
        found[split] = ranked[start : start + count]
        start += count
    return found
