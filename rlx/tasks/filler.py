"""Filler: a language of sentences, strings that are copied, lists that are sorted: ability that has nothing to do with
a task.

Source: "RL Excursions during Pre-training" (arXiv 2606.04272) asks what fine-tuning and reinforcement learning on one
task cost elsewhere. Its general benchmarks stand here for what a small model was trained on beside the task: four
fifths of a corpus are this (`corpus=mixture`), a fifth the task's traces, and its held-out loss is followed on.

Choices of this file (the sheet asks for a synthetic grammar, copying and sorting, and no more):

1. `part=grammar`: a sentence up to its verb, which must agree in number with the subject, whatever nouns stand between
   (`the dals near the kif ...` runs, not run). A noun phrase is followed by `near the <noun>`, or by `that the <noun>
   <verb>`, with probability `nesting`, up to `depth` times. The completion is the verb: any verb in the right number is
   correct. Half of the answers are plural.
2. `part=copy` writes syllables again, `part=sort` sorts digits; `length` is how many. `part=mixed` draws one of the
   three for each example, evenly.
3. Nouns and verbs are made of syllables and are the same in every run; a plural noun, and a singular verb, end in s.
4. The short cut agrees with the last noun, copies the first syllable, and leaves lists as they are.
5. Splits go by a hash of the prompt.

Worked examples: `the dals near the kif ` → `vem`, of a verb `vem`; `copy: ka ro mi = ` → `ka ro mi`; `sort: 5 2 9 = ` →
`2 5 9`.
"""

from dataclasses import dataclass
from enum import Enum
from itertools import product
from random import Random
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, shuffled, split_of, stable_hash
from rlx.tasks.lengths import LengthConfig, Lengths
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Prompts drawn for one example before the setting is said to have none in the split."""
_STEMS = shuffled(
    Random(stable_hash("filler")), ["".join(each) for each in product("bdfgklmnprtvz", "aeiou", "bdfglmnprt")]
)
NOUNS, VERBS = _STEMS[:60], _STEMS[60:100]
SYLLABLES = ["".join(each) for each in product("bdfgklmnprtvz", "aeiou")]
NOTHING = {"words": 0.0}
"""Measures of text out of form."""


class Part(Enum):
    """What examples are of."""

    mixed = "mixed"
    grammar = "grammar"
    copy = "copy"
    sort = "sort"


PARTS = (Part.grammar, Part.copy, Part.sort)


@option("task", "filler")
@dataclass(kw_only=True, slots=True)
class FillerConfig(LengthConfig):
    """Sentences, copies and sorted lists."""

    least_length: ClassVar[int] = 2
    most_length: ClassVar[int] = 1_000
    min_length: int = 3
    """Fewest syllables of a copy, or digits of a list."""
    max_length: int = 8
    """Most syllables of a copy, or digits of a list."""
    part: Part = Part.mixed
    """What examples are of: grammar, copy, sort, or mixed (each a third)."""
    depth: int = 3
    """Phrases between a subject and its verb, at most: 1 to 8."""
    nesting: float = 0.6
    """Probability of another phrase."""

    def __post_init__(self) -> None:
        LengthConfig.__post_init__(self)
        if not 1 <= self.depth <= 8:
            raise ConfigError(f"task.depth must be 1 to 8, got {self.depth}; try task.depth=3")
        if not 0 < self.nesting < 1:
            raise ConfigError(f"task.nesting must be above 0 and below 1, got {self.nesting:g}; try task.nesting=0.6")

    def build(self) -> "Filler":
        return Filler(self)


class Filler(Sized):
    """Examples of one setting and their verifier."""

    bounded = True
    baseline = "agrees with the last noun, copies one syllable"

    def __init__(self, config: FillerConfig) -> None:
        super().__init__(config)
        self.config = config
        self.lengths = Lengths(config)
        self.longest = 100 + 4 * 3 * self.lengths.most
        """Characters of the longest text that is read."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no prompts of this setting belong to the split.
        """
        random = Random(stable_hash("filler", split.value, self.seed_at(split, index), index))
        part = self.config.part
        if part is Part.mixed:
            part = PARTS[int(random.random() * len(PARTS))]
        length = self.lengths.draw(random, split)
        for _ in range(ATTEMPTS):
            prompt, solution, short_cut = self._draw(random, part, length)
            if split_of(prompt) is split:
                break
        else:
            raise ConfigError(
                f"task.part={part.value} has (almost) no prompts of length {length} for {split.value}; "
                "try task.min_length=3"
            )
        return Example(
            id=f"filler/{stable_hash(prompt):016x}",
            prompt=prompt,
            solution=solution,
            truth=(part.value, solution, short_cut),
            difficulty={"part": part.value},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (a verb of the other number, other words) or malformed.

        Text longer than four times any solution is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        part, solution, _ = example.truth
        given = completion.rstrip(" \t\r\n").split(" ")
        known = _KNOWN[part]
        if not known.issuperset(given) or (part == "grammar" and len(given) > 1):
            return Verdict(Outcome.malformed, f"not in the form of {part}", NOTHING)
        if part == "grammar":
            right = given[0].endswith("s") == solution.endswith("s")
            outcome = Outcome.correct if right else Outcome.wrong
            return Verdict(outcome, "" if right else "a verb of the other number", {"words": float(right)})
        wanted = solution.split(" ")
        same = sum(map(str.__eq__, given, wanted))
        outcome = Outcome.correct if given == wanted else Outcome.wrong
        return Verdict(outcome, measures={"words": same / max(len(given), len(wanted))})

    def chance(self, example: Example) -> float:
        """A verb of either number; words, or digits, drawn evenly."""
        part, solution, _ = example.truth
        return 0.5 if part == "grammar" else float(len(_KNOWN[part])) ** -len(solution.split(" "))

    def guess(self, example: Example) -> str:
        """See the head of this file."""
        return example.truth[2]

    def words(self) -> list[str]:
        """Words of sentences, syllables, digits and marks."""
        forms = [form for stem in (*NOUNS, *VERBS) for form in (stem, f"{stem}s")]
        return [*forms, *SYLLABLES, *"0123456789:= ", "the", "near", "that", "copy", "sort"]

    def _draw(self, random: Random, part: Part, length: int) -> tuple[str, str, str]:
        """Prompt, solution, and what the short cut writes."""
        if part is Part.grammar:
            return self._sentence(random)
        tokens = random.choices(SYLLABLES if part is Part.copy else "0123456789", k=length)
        text = " ".join(tokens)
        solution = text if part is Part.copy else " ".join(sorted(tokens))
        short_cut = " ".join([tokens[0]] * length) if part is Part.copy else text
        return f"{part.value}: {text} = ", solution, short_cut

    def _sentence(self, random: Random) -> tuple[str, str, str]:
        draw = random.random

        def noun() -> tuple[str, bool]:
            plural = draw() < 0.5
            return NOUNS[int(draw() * len(NOUNS))] + "s" * plural, plural

        def verb(plural: bool) -> str:
            return VERBS[int(draw() * len(VERBS))] + "s" * (not plural)

        subject, number = noun()
        words, last, depth = ["the", subject], number, 0
        while depth < self.config.depth and draw() < self.config.nesting:
            between, last = noun()
            words += ["near", "the", between] if draw() < 0.5 else ["that", "the", between, verb(last)]
            depth += 1
        return f"{' '.join(words)} ", verb(number), verb(last)


_KNOWN = {
    "grammar": frozenset(stem + end for stem in VERBS for end in ("", "s")),
    "copy": frozenset(SYLLABLES),
    "sort": frozenset("0123456789"),
}
"""Words that a completion may have."""
