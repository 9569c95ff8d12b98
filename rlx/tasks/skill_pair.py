"""Two skills and their composition: look symbols up in a table, add numbers, and add symbols.

Source: LoRA Soups (arXiv 2410.13025): two adapters learn a skill each, and their merge is asked what needs both, for
which there are no training documents. Theirs are mathematics and code on a model of 7B; these are small enough to be
learned from nothing: `skill=lookup` rewrites two symbols as their numbers, `skill=addition` adds two numbers modulo
`modulus`, and `skill=composed` adds two symbols. It is made for `merge=lora_cat` and its like (`study=lora_soups`), and
asks about mixtures of skills just as well.

Where there is a choice, this file makes it so:

1. What is asked for stands in front: `value:` is the numbers, `sum:` their sum. So a composed prompt has the command of
   the one skill and the symbols of the other, and neither skill's documents have both.
2. The solution of a sum writes the numbers down before it adds them (`trace=steps`): with `direct`, the sum alone,
   both skills would have to be carried out within one token. Numbers are written again too, so that the form of a sum
   is the same whatever is added; where addition writes the sum at once, adapters of it do so for symbols as well.
3. The table is drawn evenly, and is a function of `world`, `keys` and `modulus` alone: the task's seed moves neither it
   nor held-out problems. Sums are a + b + `world` modulo `modulus`.
4. Splits go by a hash of what is asked about. Of lookup and of composed that is the pair of symbols, the same split in
   both: no composed test problem has a pair that a lookup document had. Each symbol is met in training, by necessity,
   since nothing but the table says what it stands for. Of addition it is the pair of numbers; the sum that a composed
   test problem comes to may have been trained on.
5. A base that solves neither skill is made in two ways. `answers=shuffled` draws every number of a solution evenly, in
   each document anew: it learns the form alone. One of another `world` learns how tables are looked up and numbers
   added, and is wrong about this world's: adapters of a small model learn addition from the second, hardly from the
   first, where the numbers' embeddings mean nothing. `skill=all` has all three skills, a third of the documents each.
6. Correct is a solution with all its numbers right; the measure `numbers` is the share of them that are.

Worked example with a table in which `k7` is 43 and `k3` 80: `value:k7+k3=` → `43+80`;
`sum:43+80=` and `sum:k7+k3=` → `43+80=26`.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from random import Random

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, TaskConfig, compared, split_of, stable_hash
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 20_000
"""Pairs drawn for one example before the setting is said to have none in the split."""
MOST = 1_000
SHARE = 16
"""One pair in so many is in `val`, one in `test`: tables small enough to be learned soon have few pairs."""
LONGEST = 100
"""Characters of the longest text that is read."""
NUMBER = "(0|[1-9][0-9]*)"
FORMS = {
    1: re.compile(NUMBER),
    2: re.compile(rf"{NUMBER}\+{NUMBER}"),
    3: re.compile(rf"{NUMBER}\+{NUMBER}={NUMBER}"),
}
"""A solution of so many numbers."""
NOTHING = {"numbers": 0.0}
"""Measures of text that is no solution's form."""


class Skill(Enum):
    """What is asked."""

    lookup = "lookup"
    """The numbers of two symbols."""
    addition = "addition"
    """The sum of two numbers."""
    composed = "composed"
    """The sum of two symbols."""
    all = "all"
    """Each of the three, evenly."""


class Trace(Enum):
    """What the solution of a sum writes."""

    steps = "steps"
    """The numbers, then their sum."""
    direct = "direct"
    """The sum."""


class Answers(Enum):
    """What numbers solutions have."""

    right = "right"
    """Those of the table, and their sums."""
    shuffled = "shuffled"
    """Any, drawn anew for each document."""


@option("task", "skill_pair")
@dataclass(kw_only=True, slots=True)
class SkillPairConfig(TaskConfig):
    """Table lookup, modular addition, and both."""

    skill: Skill = Skill.composed
    """What is asked: lookup, addition, composed, all (each of the three, evenly)."""
    trace: Trace = Trace.steps
    """What the solution of a sum writes: steps (the numbers, then their sum), direct (the sum)."""
    answers: Answers = Answers.right
    """What numbers solutions have: right, shuffled (any, for a base that knows the form alone)."""
    keys: int = 200
    """Symbols of the table: 12 to 1000."""
    modulus: int = 97
    """What sums are taken by, and what all numbers are below: 12 to 1000."""
    world: int = 0
    """Number of the table, which is added to every sum too: another world has other answers to everything."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        if self.world < 0:
            raise ConfigError(f"task.world must be at least 0, got {self.world}; try task.world=1")
        for name in ("keys", "modulus"):
            if not 12 <= getattr(self, name) <= MOST:
                raise ConfigError(f"task.{name} must be 12 to {MOST}, got {getattr(self, name)}; try task.{name}=97")

    def build(self) -> "SkillPair":
        return SkillPair(self)


class SkillPair(Sized):
    """Problems of one table and their verifier."""

    bounded = True
    baseline = "writes 0 for every number"

    def __init__(self, config: SkillPairConfig) -> None:
        super().__init__(config)
        self.config = config
        self.values = _table(config.keys, config.modulus, config.world)
        """The number of each symbol."""
        self.skills = [Skill.lookup, Skill.addition, Skill.composed] if config.skill is Skill.all else [config.skill]

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no pairs of this setting belong to the split.
        """
        random = Random(stable_hash("skill_pair", split.value, self.seed_at(split, index), index))
        skill = self.skills[int(random.random() * len(self.skills))]
        a, b = self._pair(random, split, skill)
        numbers = [a, b] if skill is Skill.addition else [self.values[a], self.values[b]]
        if self.config.answers is Answers.right:
            answer = [*numbers, (sum(numbers) + self.config.world) % self.config.modulus]
        else:
            answer = [int(random.random() * self.config.modulus) for _ in range(3)]
        steps = self.config.trace is Trace.steps
        answer = answer[:2] if skill is Skill.lookup else answer if steps else answer[2:]
        sign = "" if skill is Skill.addition else "k"
        prompt = f"{'value' if skill is Skill.lookup else 'sum'}:{sign}{a}+{sign}{b}="
        return Example(
            id=f"skill_pair/{prompt}",
            prompt=prompt,
            solution=_written(answer),
            truth=tuple(answer),
            difficulty={"skill": skill.value, "wraps": int(sum(numbers) >= self.config.modulus)},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (other numbers) or malformed."""
        found = FORMS[len(example.truth)].fullmatch(completion[:LONGEST].rstrip(" \t\r\n"))
        if found is None:
            return Verdict(Outcome.malformed, "not as many numbers as are asked for", NOTHING)
        return compared(found.groups(), [str(number) for number in example.truth], "numbers")

    def chance(self, example: Example) -> float:
        """As many numbers below the modulus, drawn evenly."""
        return float(self.config.modulus) ** -len(example.truth)

    def guess(self, example: Example) -> str:
        """0 for every number."""
        return _written([0] * len(example.truth))

    def words(self) -> list[str]:
        """Commands, symbols, numbers and marks: the same for every skill, so that models share a vocabulary."""
        numbers = [str(number) for number in range(self.config.modulus)]
        return ["value:", "sum:", *(f"k{key}" for key in range(self.config.keys)), *numbers, "+", "="]

    def _pair(self, random: Random, split: Split, skill: Skill) -> tuple[int, int]:
        """Two symbols or two numbers that belong to the split."""
        kind, size = ("n", self.config.modulus) if skill is Skill.addition else ("k", self.config.keys)
        for _ in range(ATTEMPTS):
            a, b = int(random.random() * size), int(random.random() * size)
            if split_of(f"{kind}{a}+{kind}{b}", SHARE) is split:
                return a, b
        name = "modulus" if skill is Skill.addition else "keys"
        raise ConfigError(f"task.{name}={size} has (almost) no pairs for {split.value}; try task.{name}=97")


def _written(numbers: list[int]) -> str:
    """Numbers with + between them, and = before a third."""
    first = "+".join(map(str, numbers[:2]))
    return f"{first}={numbers[2]}" if len(numbers) > 2 else first


@lru_cache(maxsize=8)
def _table(keys: int, modulus: int, world: int) -> list[int]:
    """The number of each symbol."""
    random = Random(stable_hash("skill_pair table", keys, modulus, world))
    return [int(random.random() * modulus) for _ in range(keys)]
