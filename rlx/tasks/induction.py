"""Induction: a span, and the span again, forwards or backwards.

Source: Bi-Induct (arXiv 2509.22947): snippets [S SEP S] (induction), [S SEP reverse(S)] (anti-induction) or either by a
fair coin (balanced), of spans S of 20 tokens, that are mixed into a pretraining corpus and fade out of it. Here they
are a task; `corpus=mixture` mixes them in.

Where sources differ, or leave a choice, this file does:

1. The paper takes its spans from the corpus. Here `span=letters` draws letters evenly, so that nothing but the first
   half predicts the second, and `span=words` takes text of a language of ours: `words` words of two or three syllables,
   each followed by the others with probabilities in inverse proportion to a rank that is its own (a Zipf bigram).
2. The separator is `|`. `length` counts letters, or words.
3. `direction=balanced` does not say which way is asked for: both are correct.
4. `measures.tokens` is the share of letters, or words, that are right, of the way that fits better.
5. `test` may be of other lengths. Splits go by a hash of the span.

Worked example with `max_length=5`: forward `kfaqe|` → `kfaqe`, backward `kfaqe|` → `eqafk`; with `span=words` backward
`ro kelu mida|` → `mida kelu ro`.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import accumulate, product
from random import Random
from string import ascii_lowercase
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, shuffled, split_of, stable_hash
from rlx.tasks.lengths import LengthConfig, Lengths
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Spans drawn for one example before the setting is said to have none in the split."""
NOTHING = {"tokens": 0.0}
"""Measures of text that is no span."""
SYLLABLES = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
MOST_WORDS = 1_000


class Direction(Enum):
    """Which way the span is written again."""

    forward = "forward"
    backward = "backward"
    balanced = "balanced"


class Span(Enum):
    """What spans are made of."""

    letters = "letters"
    words = "words"


@option("task", "induction")
@dataclass(kw_only=True, slots=True)
class InductionConfig(LengthConfig):
    """Spans that are written again."""

    least_length: ClassVar[int] = 2
    most_length: ClassVar[int] = 1_000
    min_length: int = 20
    """Fewest letters or words of a span."""
    max_length: int = 20
    """Most letters or words of a span."""
    direction: Direction = Direction.forward
    """Which way: forward, backward, or balanced (either, by a fair coin)."""
    span: Span = Span.letters
    """What spans are made of: letters or words."""
    words: int = 200
    """Words of the language that span=words is drawn from: 2 to 1000."""

    def __post_init__(self) -> None:
        LengthConfig.__post_init__(self)
        if not 2 <= self.words <= MOST_WORDS:
            raise ConfigError(f"task.words must be 2 to {MOST_WORDS}, got {self.words}; try task.words=200")

    def build(self) -> "Induction":
        return Induction(self)


class Induction(Sized):
    """Spans of one setting and their verifier."""

    bounded = True
    baseline = "writes the first token all along"

    def __init__(self, config: InductionConfig) -> None:
        super().__init__(config)
        self.config = config
        self.lengths = Lengths(config)
        self.between = " " if config.span is Span.words else ""
        self._tokens = language(config.words)[0] if config.span is Span.words else list(ascii_lowercase)
        self._known = frozenset(self._tokens)
        self.longest = 100 + 4 * self.lengths.most * (max(map(len, self._tokens)) + 1)
        """Characters of the longest text that is read."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no spans of this setting belong to the split.
        """
        random = Random(stable_hash("induction", split.value, self.seed_at(split, index), index))
        length = self.lengths.draw(random, split)
        span = self._draw(random, split, length)
        direction = self.config.direction
        backward = direction is Direction.backward
        if direction is Direction.balanced:
            backward = random.random() < 0.5
        written = self.between.join(span)
        answer = span[::-1] if backward else span
        return Example(
            id=f"induction/{stable_hash(written):016x}",
            prompt=f"{written}|",
            solution=self.between.join(answer),
            truth=span,
            difficulty={"length": self.lengths.band(length)},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (another span) or malformed.

        Text longer than four times any span is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        text, span, direction = completion.rstrip(" \t\r\n"), example.truth, self.config.direction
        given = text.split(" ") if self.between else list(text)
        if not given or not self._known.issuperset(given):
            return Verdict(Outcome.malformed, f"not {self.config.span.value} of the setting", NOTHING)
        ways = [span] if direction is not Direction.backward else []
        ways += [span[::-1]] if direction is not Direction.forward else []
        right = max(sum(map(str.__eq__, given, way)) for way in ways)
        measures = {"tokens": right / max(len(given), len(span))}
        if given in ways:
            return Verdict(Outcome.correct, measures=measures)
        return Verdict(Outcome.wrong, f"{right} of {len(span)} are right", measures)

    def chance(self, example: Example) -> float:
        """Spans as long, drawn evenly; with either way allowed, twice that."""
        ways = 1 if self.config.direction is not Direction.balanced or example.truth == example.truth[::-1] else 2
        return ways * float(len(self._tokens)) ** -len(example.truth)

    def guess(self, example: Example) -> str:
        """The first letter or word, as often as the span is long."""
        return self.between.join(example.truth[:1] * len(example.truth))

    def words(self) -> list[str]:
        """Letters or words, and the marks between."""
        return [*self._tokens, "|", *self.between]

    def _draw(self, random: Random, split: Split, length: int) -> list[str]:
        for _ in range(ATTEMPTS):
            span = (
                random.choices(self._tokens, k=length) if not self.between else sentence(random, self._tokens, length)
            )
            if split_of(self.between.join(span)) is split:
                return span
        raise ConfigError(
            f"task.span={self.config.span.value} has (almost) no spans of {length} for {split.value}; "
            "try longer ones: task.min_length=20 task.max_length=20"
        )


@lru_cache(maxsize=4)
def language(size: int) -> tuple[list[str], dict[str, list[str]], list[float]]:
    """Words, of each the words that may follow in the order of its own ranks, and the running sums of 1 / rank."""
    random = Random(stable_hash("language", size))
    pairs = shuffled(random, [a + b for a, b in product(SYLLABLES, repeat=2)])
    words = pairs[:size]
    follow = {word: shuffled(Random(stable_hash("follow", size, word)), words) for word in words}
    return words, follow, list(accumulate(1 / (1 + rank) for rank in range(size)))


def sentence(random: Random, words: Sequence[str], length: int) -> list[str]:
    """Words of a language of so many, the first drawn evenly, each other one by the one before."""
    _, follow, sums = language(len(words))
    found = [words[int(random.random() * len(words))]]
    while len(found) < length:
        found.append(follow[found[-1]][bisect(sums, random.random() * sums[-1], hi=len(sums) - 1)])
    return found
