"""Copy: write a string again, or what follows a few letters of it.

Source: "Repeat After Me: Transformers are Better than State Space Models at Copying" (arXiv 2402.01032) and
github.com/sjelassi/transformers_ssm_copy; coupled positions from arXiv 2405.20671.

Where sources differ, or leave a choice, this file does:

1. `question=copy`: the string. prefix, suffix: what follows an n-gram in the string, which is named before it or after
   it. duplicate: copy, of a string in which one n-gram stands in a second place too (the paper tests on it what was
   trained on copy: `stage=eval task.question=duplicate` does). Strings are drawn evenly, their lengths too.
2. The n-gram is drawn from those that are in the string once and have a letter after them; a string without one is
   drawn again. The released code draws it from all, and answers with what follows the first.
3. `answer_length` letters are asked for, fewer where the string ends before; null is all to its end. With many, an
   n-gram is followed by its string's end, and the task is a copy from the middle.
4. The begin and end marks are the tokenizer's; `|` stands between, as in the paper.
5. `test` may be of other lengths. Splits go by a hash of the string, so that the questions have the same strings in the
   same splits.
6. Coupled positions (of copy and duplicate): 1 for `|`, 2 for the first letter, in the string and in the copy, and so
   on; 0 for the end mark.

Worked example, for the string `kfaqe` with `ngram=2`: copy `kfaqe|` → `kfaqe`; prefix `fa|kfaqe|` → `qe`; suffix
`kfaqe|fa` → `qe`. With duplicate the string might be `kfakf`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from random import Random
from string import ascii_lowercase

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, compared, split_of, stable_hash
from rlx.tasks.lengths import LengthConfig, Lengths
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Strings drawn for one example before the setting is said to have none in the split."""
BETWEEN = "|"
LONG_KEY = 60
"""Characters of a problem's name after which it is written as a hash."""
NOTHING = {"letters": 0.0}
"""Measures of text that is no string."""


class Question(Enum):
    """What is asked about a string."""

    copy = "copy"
    prefix = "prefix"
    suffix = "suffix"
    duplicate = "duplicate"


LOOKUPS = (Question.prefix, Question.suffix)


@option("task", "copy")
@dataclass(kw_only=True, slots=True)
class CopyConfig(LengthConfig):
    """Strings to write again, whole or from an n-gram on."""

    question: Question = Question.copy
    """What is asked: copy, prefix or suffix (what follows an n-gram, named before or after the string), duplicate (copy
    where an n-gram stands twice)."""
    letters: int = 26
    """Letters that strings are made of, 2 to 26."""
    ngram: int = 2
    """Letters of an n-gram."""
    answer_length: int | None = None
    """Letters asked for; null is all to the end of the string."""

    def __post_init__(self) -> None:
        LengthConfig.__post_init__(self)
        if not 2 <= self.letters <= 26:
            raise ConfigError(f"task.letters must be 2 to 26, got {self.letters}; try task.letters=26")
        if self.answer_length is not None and self.answer_length < 1:
            raise ConfigError(
                f"task.answer_length must be at least 1, got {self.answer_length}; try task.answer_length=null"
            )
        if self.question is Question.copy:
            return
        need = 2 * self.ngram if self.question is Question.duplicate else self.ngram + 1
        shortest = min(self.lengths(split)[0] for split in Split)
        if not self.ngram >= 1 or need > shortest:
            raise ConfigError(
                f"task.ngram={self.ngram} with question={self.question.value} needs strings of {max(need, 2)} letters "
                f"or more, got {shortest}; try task.ngram=2 task.min_length=5"
            )

    def build(self) -> "Copy":
        return Copy(self)


class Copy(Sized):
    """Strings of one setting, the questions about them and their verifier."""

    bounded = True
    baseline = "looks up one letter, not several"

    def __init__(self, config: CopyConfig) -> None:
        super().__init__(config)
        self.config = config
        self.lengths = Lengths(config)
        self._letters = ascii_lowercase[: config.letters]
        self._known = frozenset(self._letters)
        self.longest = 100 + 4 * self.lengths.most
        """Characters of the longest text that is read."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no strings of this setting belong to the split.
        """
        question = self.config.question
        random = Random(stable_hash("copy", split.value, self.seed_at(split, index), index))
        length = self.lengths.draw(random, split)
        text, place = self._draw(random, split, length)
        if question in LOOKUPS:
            key = text[place : place + self.config.ngram]
            after = place + self.config.ngram
            prompt = f"{key}|{text}|" if question is Question.prefix else f"{text}|{key}"
        else:
            after, prompt = 0, f"{text}|"
        answer = text[after:]
        if self.config.answer_length is not None:
            answer = answer[: self.config.answer_length]
        places = None
        if question not in LOOKUPS:
            places = (*range(2, length + 2), 1, *range(2, len(answer) + 2), 0)
        return Example(
            id=f"copy/{prompt if len(prompt) <= LONG_KEY else f'{stable_hash(prompt):016x}'}",
            prompt=prompt,
            solution=answer,
            truth=(text, answer),
            difficulty={"length": self.lengths.band(length)},
            places=places,
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (another string) or malformed.

        Text longer than four times any string is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        given, answer = completion.rstrip(" \t\r\n"), example.truth[1]
        if not given or not self._known.issuperset(given):
            return Verdict(Outcome.malformed, "not a string of the setting's letters", NOTHING)
        return compared(given, answer, "letters")

    def chance(self, example: Example) -> float:
        """Strings as long as the answer, drawn evenly."""
        return float(self.config.letters) ** -len(example.truth[1])

    def guess(self, example: Example) -> str:
        """Each letter is the one after the first place of the letter before: of the n-gram's last, and from then on of
        the last written; where that ends the string, and at the beginning of a copy, the string's first letter."""
        text: str = example.truth[0]
        answer: str = example.truth[1]
        follows = dict(zip(text[-2::-1], text[:0:-1], strict=True))  # the first place of a letter is written last
        written = ""
        if self.config.question in LOOKUPS:
            last = example.prompt.split(BETWEEN)[0 if self.config.question is Question.prefix else 1][-1]
            written = follows.get(last, text[0])
        while len(written) < len(answer):
            written += follows.get(written[-1], text[0]) if written else text[0]
        return written

    def words(self) -> list[str]:
        """Letters, and the mark between."""
        return [*self._letters, BETWEEN]

    def _draw(self, random: Random, split: Split, length: int) -> tuple[str, int]:
        """A string of the split, and where its n-gram begins (0 where none is asked for)."""
        question = self.config.question
        for _ in range(ATTEMPTS):
            letters = random.choices(self._letters, k=length)
            if question is Question.duplicate:
                self._repeat(random, letters)
            text = "".join(letters)
            if split_of(text) is not split:
                continue
            if question not in LOOKUPS:
                return text, 0
            once = [*self._once(text)]
            if once:
                return text, once[int(random.random() * len(once))]
        raise ConfigError(
            f"task.letters={self.config.letters} has (almost) no strings of {length} letters for {split.value}; "
            "try task.letters=26, or longer ones: task.min_length=5"
        )

    def _repeat(self, random: Random, letters: list[str]) -> None:
        """Write one n-gram of the string over another place, which does not overlap with its own."""
        size = self.config.ngram
        source = target = 0
        while abs(source - target) < size:
            source, target = (int(random.random() * (len(letters) - size + 1)) for _ in range(2))
        letters[target : target + size] = letters[source : source + size]

    def _once(self, text: str) -> Iterator[int]:
        """Where the n-grams begin that are in `text` once and have a letter after them."""
        size = self.config.ngram
        counts: dict[str, int] = {}
        grams = [text[place : place + size] for place in range(len(text) - size + 1)]
        for gram in grams:
            counts[gram] = counts.get(gram, 0) + 1
        return (place for place, gram in enumerate(grams[:-1]) if counts[gram] == 1)
