"""Skills: simple things done to a string, and one after the other; some often, some seldom.

Sources: the implicit curriculum of pretraining (arXiv 2604.08510, KaiserWhoLearns/ElementalTask): elemental tasks such
as copy, upper case, first letter and reversal, and composites of them, of which is asked in what order they are learnt;
and mixtures of tasks of different frequency and complexity (arXiv 2605.29548).

Where sources differ, or leave a choice, this file does:

1. The paper's prompts are five examples of a task, of words; here a task is named, since models are small and trained
   from scratch, and strings are letters drawn evenly.
2. Skills are copy, upper, reverse, first, last, shift (the next letter of the alphabet, after z comes a), sort, double
   (every letter twice). Composites are all of 2 (or `parts`) different ones without copy, carried out from left to
   right. `skills` is the list of elemental ones; their order says how often they come.
3. Tasks with fewer parts come first, and of as many parts in the order of the list. The task at place r = 0, 1, ... is
   drawn with probability in proportion to (r + 1) ** -exponent: 0 is evenly, 1 a Zipf law. Composites are so both more
   complex and rarer; `reversed_frequency=true` turns the places round, so that frequency and complexity can be told
   apart.
4. Slices of an evaluation are the tasks: `skill`, and `parts`.
5. `test` may be of other lengths. Splits go by a hash of task and string.

Worked example: `reverse upper kelm = ` → `MLEK`, `first kelm = ` → `k`.
"""

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, permutations
from random import Random
from string import ascii_lowercase, ascii_uppercase
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, compared, split_of, stable_hash
from rlx.tasks.lengths import LengthConfig, Lengths
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Strings drawn for one example before the setting is said to have none in the split."""
NEXT = str.maketrans(ascii_lowercase + ascii_uppercase, ascii_lowercase[1:] + "a" + ascii_uppercase[1:] + "A")
SKILLS: dict[str, Callable[[str], str]] = {
    "copy": lambda text: text,
    "upper": str.upper,
    "reverse": lambda text: text[::-1],
    "first": lambda text: text[:1],
    "last": lambda text: text[-1:],
    "shift": lambda text: text.translate(NEXT),
    "sort": lambda text: "".join(sorted(text)),
    "double": lambda text: "".join([2 * letter for letter in text]),
}
MOST_PARTS = 3
NOTHING = {"letters": 0.0}
"""Measures of text that is no string of letters."""


@option("task", "skills")
@dataclass(kw_only=True, slots=True)
class SkillsConfig(LengthConfig):
    """Things done to strings, alone and in a row."""

    most_length: ClassVar[int] = 1_000
    min_length: int = 4
    """Shortest string."""
    max_length: int = 8
    """Longest string."""
    skills: list[str] = field(
        default_factory=lambda: ["copy", "upper", "reverse", "first", "last", "shift", "sort", "double"]
    )
    """Elemental skills, the most frequent first: copy, upper, reverse, first, last, shift, sort, double."""
    parts: int = 2
    """Skills in a row, at most: 1 to 3."""
    exponent: float = 0.0
    """How fast the frequency of a task falls with its place: 0 (all alike) to 4."""
    reversed_frequency: bool = False
    """The last tasks, with most parts, are the most frequent."""

    def __post_init__(self) -> None:
        LengthConfig.__post_init__(self)
        unknown = [name for name in self.skills if name not in SKILLS]
        if unknown or not self.skills or len(set(self.skills)) < len(self.skills):
            raise ConfigError(
                f"task.skills must be some of {', '.join(SKILLS)}, each once, got [{','.join(self.skills)}]; "
                "try task.skills=[copy,upper,reverse]"
            )
        if not 1 <= self.parts <= MOST_PARTS:
            raise ConfigError(f"task.parts must be 1 to {MOST_PARTS}, got {self.parts}; try task.parts=2")
        if not 0 <= self.exponent <= 4:
            raise ConfigError(f"task.exponent must be 0 to 4, got {self.exponent:g}; try task.exponent=1")

    def build(self) -> "Skills":
        return Skills(self)


class Skills(Sized):
    """Tasks of one setting and their verifier."""

    bounded = True
    baseline = "writes the string again"

    def __init__(self, config: SkillsConfig) -> None:
        super().__init__(config)
        self.config = config
        self.lengths = Lengths(config)
        elements = [name for name in config.skills if name != "copy"]
        tasks: list[tuple[str, ...]] = [(name,) for name in config.skills]
        for parts in range(2, config.parts + 1):
            tasks += permutations(elements, parts)
        self.tasks = tasks
        """The most frequent first."""
        if config.reversed_frequency:
            self.tasks = tasks[::-1]
        self._sums = [*accumulate((1 + place) ** -config.exponent for place in range(len(tasks)))]
        self.longest = 100 + 4 * 2 * self.lengths.most
        """Characters of the longest text that is read."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no strings of this setting belong to the split.
        """
        random = Random(stable_hash("skills", split.value, self.seed_at(split, index), index))
        task = self.tasks[bisect(self._sums, random.random() * self._sums[-1], hi=len(self._sums) - 1)]
        length = self.lengths.draw(random, split)
        name = " ".join(task)
        text = self._draw(random, split, name, length)
        answer = text
        for skill in task:
            answer = SKILLS[skill](answer)
        prompt = f"{name} {text} = "
        return Example(
            id=f"skills/{stable_hash(prompt):016x}",
            prompt=prompt,
            solution=answer,
            truth=(text, answer),
            difficulty={"skill": name, "parts": len(task)},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (another string) or malformed.

        Text longer than four times any solution is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        given, answer = completion.rstrip(" \t\r\n"), example.truth[1]
        if not (given.isascii() and given.isalpha()):
            return Verdict(Outcome.malformed, "not a string of letters", NOTHING)
        return compared(given, answer, "letters")

    def chance(self, example: Example) -> float:
        """Strings of the answer's length, of letters of both cases drawn evenly."""
        return float(2 * len(ascii_lowercase)) ** -len(example.truth[1])

    def guess(self, example: Example) -> str:
        """The string as it is."""
        return example.truth[0]

    def words(self) -> list[str]:
        """Names of skills, letters and marks."""
        capitals = ascii_uppercase if "upper" in self.config.skills else ""
        return [*self.config.skills, *ascii_lowercase, *capitals, "=", " "]

    def _draw(self, random: Random, split: Split, name: str, length: int) -> str:
        for _ in range(ATTEMPTS):
            text = "".join(random.choices(ascii_lowercase, k=length))
            if split_of(f"{name} {text}") is split:
                return text
        raise ConfigError(
            f"task.min_length={self.config.min_length} has (almost) no strings of {length} letters for {split.value}; "
            "try longer ones: task.min_length=4"
        )
