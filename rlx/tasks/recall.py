"""Recall: the values of a few keys among many, or among sentences that have nothing to do with them.

Sources: multi-query associative recall (arXiv 2312.04927) and the key-value recall of qTTT's stand-in (arXiv
2512.13898: `k17 v42 k03 v11 ... ? k03 -> v11`, trained on up to 128 pairs and tested on 256 to 2,048); the multi-key
needle of RULER (arXiv 2404.06654), on which Interleaved Head Attention (arXiv 2602.21371) is compared.

Where sources differ, or leave a choice, this file does:

1. `question=pairs`: `length` pairs of a key (letters) and a value (digits), then `queries` of the keys. Keys are all
   different and values drawn evenly. The answer names each key again and then its value: so a value follows its key as
   it does in the list, and each is asked for right after its key, as in multi-query recall (whose queries come one at a
   time, at places drawn by a power law; here they stand together).
2. `question=needle`: `length` sentences, of which `needles` say the number of a key, the others fill; the same number
   of keys is asked for. Sentences that fill are drawn evenly from a few of ours (RULER repeats some, or takes essays).
3. `measures.values` is the share of values that are right, of an answer with the right keys.
4. `test` may be of other lengths. Splits go by a hash of keys and values, whatever their order, and what is asked.

Worked examples, `queries=2`: pairs `kd17 af42 zz03 ? zz kd = ` → `zz03 kd17`. Needle, with `needles=2`: `The ferry was
late. The number of af is 42. Rain fell on the hills. The number of kd is 17. ? kd af = ` → `kd17 af42`.
"""

from dataclasses import dataclass
from enum import Enum
from random import Random
from string import ascii_lowercase

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, compared, shuffled, split_of, stable_hash
from rlx.tasks.lengths import LengthConfig, Lengths
from rlx.types import Example, Outcome, Split, Verdict

FILLING: tuple[str, ...] = (
    "The ferry was late.", "Rain fell on the hills.", "A dog slept by the stove.", "Someone had painted the gate.",
    "The baker closed at noon.", "Two boats lay in the bay.", "It was a cold spring.", "The road bends at the mill.",
    "Nobody answered the door.", "The clock had stopped.", "Geese flew over the barn.", "The soup needed salt.",
)  # fmt: skip
NOTHING = {"values": 0.0}
"""Measures of text that is no list of keys and values."""


class Question(Enum):
    """Among what the keys are."""

    pairs = "pairs"
    needle = "needle"


@option("task", "recall")
@dataclass(kw_only=True, slots=True)
class RecallConfig(LengthConfig):
    """Values of keys, out of many."""

    question: Question = Question.pairs
    """Among what keys and values are: pairs (other keys and values) or needle (sentences that fill)."""
    min_length: int = 4
    """Fewest pairs, or sentences."""
    max_length: int = 16
    """Most pairs, or sentences."""
    queries: int = 1
    """Keys asked for."""
    needles: int = 2
    """Sentences of question=needle that have a key."""
    key_letters: int = 2
    """Letters of a key."""
    value_digits: int = 2
    """Digits of a value."""

    def __post_init__(self) -> None:
        LengthConfig.__post_init__(self)
        for name in ("key_letters", "value_digits"):
            if not 1 <= getattr(self, name) <= 16:
                raise ConfigError(f"task.{name} must be 1 to 16, got {getattr(self, name)}; try task.{name}=2")
        shortest = min(self.lengths(split)[0] for split in Split)
        keys = max(self.lengths(split)[1] for split in Split)
        fewest = shortest
        if self.question is Question.needle:
            if not 1 <= self.needles <= shortest:
                raise ConfigError(
                    f"task.needles must be 1 to {shortest} (the fewest sentences), got {self.needles}; "
                    "try task.needles=2"
                )
            keys = fewest = self.needles
        if not 1 <= self.queries <= fewest:
            raise ConfigError(
                f"task.queries must be 1 to {fewest} (the fewest keys), got {self.queries}; try task.queries=1"
            )
        if 2 * keys > len(ascii_lowercase) ** self.key_letters:
            raise ConfigError(
                f"task.key_letters={self.key_letters} makes too few keys for {keys}; "
                f"try task.key_letters={self.key_letters + 1}"
            )

    def build(self) -> "Recall":
        return Recall(self)


class Recall(Sized):
    """Lists of one setting and their verifier."""

    bounded = True

    def __init__(self, config: RecallConfig) -> None:
        super().__init__(config)
        self.config = config
        self.lengths = Lengths(config)
        self.baseline = "answers the last value for every key"
        self._key, self._digits = config.key_letters, config.value_digits
        self.longest = 100 + 4 * config.queries * (self._key + self._digits + 1)
        """Characters of the longest text that is read."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
        """
        random = Random(stable_hash("recall", split.value, self.seed_at(split, index), index))
        length = self.lengths.draw(random, split)
        needle = self.config.question is Question.needle
        count = self.config.needles if needle else length
        while True:
            pairs = self._pairs(random, count)
            asked = shuffled(random, range(count))[: self.config.queries]
            if split_of(f"{sorted(pairs)} {[pairs[place][0] for place in asked]}") is split:
                break
        if needle:
            text, place = self._hidden(random, pairs, length, asked[0])
        else:
            text, place = " ".join([f"{key}{value}" for key, value in pairs]), asked[0]
        prompt = f"{text} ? {' '.join([pairs[number][0] for number in asked])} = "
        return Example(
            id=f"recall/{stable_hash(prompt):016x}",
            prompt=prompt,
            solution=" ".join([f"{key}{value}" for key, value in (pairs[number] for number in asked)]),
            truth=([pairs[number] for number in asked], pairs[-1][1]),
            difficulty={
                "length": self.lengths.band(length),
                "first": ("first third", "second third", "last third")[3 * place // length],
            },
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (another value, or another key) or malformed.

        Text longer than four times a solution is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        wanted = example.truth[0]
        given = completion.rstrip(" \t\r\n").split(" ")
        if len(given) != len(wanted) or not all(map(self._is_pair, given)):
            form = f"{self._key} letters and {self._digits} digits"
            return Verdict(Outcome.malformed, f"not {len(wanted)} times {form}", NOTHING)
        return compared(given, [key + value for key, value in wanted], "values")

    def chance(self, example: Example) -> float:
        """Values drawn evenly, the keys being given."""
        return 10.0 ** -(self._digits * self.config.queries)

    def guess(self, example: Example) -> str:
        """The keys asked for, each with the value that was read last."""
        wanted, last = example.truth
        return " ".join([f"{key}{last}" for key, _ in wanted])

    def words(self) -> list[str]:
        """Letters, digits and marks; of sentences, their words."""
        found = [*ascii_lowercase, *"0123456789", "?", "=", " "]
        if self.config.question is Question.needle:
            sentences = [*FILLING, "The number of is"]
            found += [*sorted({word for sentence in sentences for word in sentence.rstrip(".").split(" ")}), "."]
        return found

    def _is_pair(self, word: str) -> bool:
        key, value = word[: self._key], word[self._key :]
        return len(key) == self._key and len(value) == self._digits and value.isdigit() and value.isascii()

    def _pairs(self, random: Random, count: int) -> list[tuple[str, str]]:
        """Different keys with their values, in the order drawn."""
        found = dict[str, str]()
        while len(found) < count:
            key = "".join(random.choices(ascii_lowercase, k=self._key))
            found.setdefault(key, "".join(random.choices("0123456789", k=self._digits)))
        return list(found.items())

    def _hidden(self, random: Random, pairs: list[tuple[str, str]], length: int, asked: int) -> tuple[str, int]:
        """Sentences with the pairs among them in their order, and which of them has the pair `asked`."""
        sentences = random.choices(FILLING, k=length)
        places = sorted(shuffled(random, range(length))[: len(pairs)])
        for place, (key, value) in zip(places, pairs, strict=True):
            sentences[place] = f"The number of {key} is {value}."
        return " ".join(sentences), places[asked]
