"""Grade-school word problems: a random graph of quantities, its numbers, and its English.

What the problems are and how they are drawn: `rlx/tasks/math.py`. A quantity is what one person has of one thing. A
problem is a list of them, each with a rule that makes it from numbers and from earlier quantities, and a question.
"""

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import NamedTuple, TypeVar

from rlx.errors import ConfigError
from rlx.tasks.base import shuffled, split_of, stable_hash
from rlx.types import Split

SHARE = 16
"""One problem in so many is in `val`, one in `test`."""
SHAPES = 500
"""Graphs drawn before a setting is given up."""
FILLINGS = 4 * SHARE
"""Times that numbers are drawn for one graph."""
SHARED = 0.25
"""How often a rule uses a quantity that another rule uses too, where there is one."""
LARGEST_FACTOR = 5
"""Largest factor of "times as many"."""
LARGEST_PART = 10
"""Largest divisor, and most things in a bag."""
LARGEST_PACK = 12
"""Most packs, most things in one, and most dollars for one."""
DIVISIBLE = 6
"""Given quantities that are divided are multiples of it where there is room."""

Item = TypeVar("Item")


class Rule(NamedTuple):
    """How a quantity, or the answer, comes from numbers and from other quantities (by place)."""

    kind: str
    parents: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()


class Problem(NamedTuple):
    """A problem apart from its words."""

    rules: tuple[Rule, ...]
    """Quantities, each after those it is made from; the first `needed` are what the question needs."""
    values: tuple[int, ...]
    question: Rule
    answer: int
    needed: int
    operations: int
    """Operations from the given numbers to the answer."""
    depth: int
    """Rules on the longest way from a given number to the answer."""
    key: str
    """What the question needs, numbers included: equal for problems that differ in words, order or distractors."""


class Limits(NamedTuple):
    """What a setting bounds."""

    min_operations: int
    max_operations: int
    distractors: int
    max_given: int
    max_number: int


class Kind(NamedTuple):
    """A rule's number of parents and of operations, what is done, and how that is written."""

    parents: int
    operations: int
    expression: str
    """With the parents as {0} and {1} and the numbers as {a} and {b}; empty for a sum of the parents."""


QUANTITIES: dict[str, Kind] = {
    "packs": Kind(0, 1, "{a} * {b}"),
    "more": Kind(1, 1, "{0} + {a}"),
    "fewer": Kind(1, 1, "{0} - {a}"),
    "times": Kind(1, 1, "{a} * {0}"),
    "part": Kind(1, 1, "{0} / {a}"),
    "times_more": Kind(1, 2, "{a} * {0} + {b}"),
    "times_fewer": Kind(1, 2, "{a} * {0} - {b}"),
    "together": Kind(2, 1, ""),
    "together_three": Kind(3, 2, ""),
    "difference": Kind(2, 1, "{0} - {1}"),
}
"""Rules of quantities that are not `given`."""
QUESTIONS: dict[str, Kind] = {
    "value": Kind(1, 0, "{0}"),
    "total": Kind(2, 1, ""),
    "total_three": Kind(3, 2, ""),
    "compare": Kind(2, 1, "{0} - {1}"),
    "left": Kind(1, 1, "{0} - {a}"),
    "left_as_many": Kind(2, 1, "{0} - {1}"),
    "bags": Kind(1, 1, "{0} / {a}"),
    "price": Kind(1, 1, "{0} * {a}"),
}
"""Rules of the answer."""
KINDS = {"given": Kind(0, 0, "{a}"), **QUANTITIES, **QUESTIONS}
SUMS = frozenset(("together", "together_three", "total", "total_three"))


def below(random: Random, count: int) -> int:
    """A random integer from 0 to count - 1, by `random()` alone, which is the same in every version of Python."""
    return int(random.random() * count)


def between(random: Random, least: int, most: int) -> int:
    return least + int(random.random() * (most - least + 1))


def pick(random: Random, items: Sequence[Item]) -> Item:
    return items[int(random.random() * len(items))]


def draw_problem(limits: Limits, split: Split, random: Random) -> Problem:
    """A problem of the setting whose key belongs to `split`.

    The graph is drawn first, and only its numbers are drawn again until they belong, so that the splits have the same
    graphs.

    Raises:
        ConfigError: (almost) no numbers of this setting fit.
    """
    for _ in range(SHAPES):
        shape = draw_shape(between(random, limits.min_operations, limits.max_operations), random)
        if shape is None:
            continue
        for _ in range(FILLINGS):
            problem = _fill(shape, limits, random)
            if problem and split_of(problem.key, SHARE) is split:
                return _with_distractors(problem, limits, random)
    raise ConfigError(
        f"task has (almost) no {split.value} problems of {limits.min_operations} to {limits.max_operations} operations "
        f"with given numbers up to {limits.max_given} and quantities up to {limits.max_number}; "
        "try fewer operations, or larger task.max_given and task.max_number"
    )


class Shape(NamedTuple):
    """A graph without numbers."""

    rules: list[Rule]
    question: Rule
    operations: int


def draw_shape(operations: int, random: Random) -> Shape | None:
    """A graph of so many operations, all of them needed; None where the draw came to an end too early.

    It grows from the question: a quantity that is still open gets a rule, until the operations are spent; the parents
    of a rule are new quantities or, with the share `SHARED`, open ones.
    """
    question = pick(random, _affordable(operations, asks=True))
    kinds = ["given"] * QUESTIONS[question].parents
    parents: list[list[int]] = [[] for _ in kinds]
    asked = list(range(len(kinds)))
    still_open = list(asked)
    left = operations - QUESTIONS[question].operations
    while left:
        if not still_open:
            return None
        place = still_open.pop(below(random, len(still_open)))
        kinds[place] = pick(random, _affordable(left, asks=False))
        left -= QUANTITIES[kinds[place]].operations
        for _ in range(QUANTITIES[kinds[place]].parents):
            others = [other for other in still_open if other not in parents[place]]
            if others and random.random() < SHARED:
                parents[place].append(pick(random, others))
            else:
                parents[place].append(len(kinds))
                still_open.append(len(kinds))
                kinds.append("given")
                parents.append([])
    order = _after_parents(asked, parents)
    places = {old: new for new, old in enumerate(order)}
    rules = [Rule(kinds[old], tuple(places[parent] for parent in parents[old])) for old in order]
    return Shape(rules, Rule(question, tuple(places[old] for old in asked)), operations)


@cache
def _affordable(operations: int, *, asks: bool) -> list[str]:
    """Rules of questions, or of quantities, that take at most so many operations."""
    return [name for name, kind in (QUESTIONS if asks else QUANTITIES).items() if kind.operations <= operations]


def _after_parents(roots: Sequence[int], parents: Sequence[Sequence[int]]) -> list[int]:
    """What the roots need, each after its parents."""
    order: list[int] = []
    waiting = list(reversed(roots))
    while waiting:
        place = waiting.pop()
        if place in order:
            continue
        missing = [parent for parent in parents[place] if parent not in order]
        if missing:
            waiting += [place, *reversed(missing)]
        else:
            order.append(place)
    return order


def _fill(shape: Shape, limits: Limits, random: Random) -> Problem | None:
    """The graph with numbers; None where they leave the bounds, or where some number would not matter."""
    divided = {rule.parents[0] for rule in (*shape.rules, shape.question) if rule.kind in ("part", "bags")}
    rules: list[Rule] = []
    values: list[int] = []
    for place, rule in enumerate((*shape.rules, shape.question)):
        drawn = _numbers(rule.kind, [values[parent] for parent in rule.parents], limits, random, place in divided)
        if drawn is None:
            return None
        value = calculate(rule.kind, [values[parent] for parent in rule.parents], drawn)
        if not 1 <= value <= limits.max_number:
            return None
        rules.append(rule._replace(numbers=drawn))
        values.append(value)
    if not all(_matters(rules, values)):
        return None
    depths: list[int] = []
    for rule in rules:
        above = max((depths[parent] for parent in rule.parents), default=0)
        depths.append(above + (rule.kind not in ("given", "value")))
    question, answer = rules.pop(), values.pop()
    return Problem(
        rules=tuple(rules),
        values=tuple(values),
        question=question,
        answer=answer,
        needed=len(rules),
        operations=shape.operations,
        depth=depths[-1],
        key=key_of(rules, question),
    )


def _numbers(
    kind: str, parents: Sequence[int], limits: Limits, random: Random, divided: bool = False
) -> tuple[int, ...] | None:
    """The numbers of a rule whose parents have these values, 2 to `max_given`; None where there are none."""
    largest = limits.max_given
    if kind == "given":
        step = DIVISIBLE if divided and largest >= DIVISIBLE else 1
        return (step * between(random, 1 if step > 1 else 2, largest // step),)
    if kind == "packs":
        most = min(LARGEST_PACK, largest)
        return between(random, 2, most), between(random, 2, most)
    if kind == "more":
        return (between(random, 2, largest),)
    if kind in ("fewer", "left"):
        most = min(largest, parents[0] - 1)
        return (between(random, 2, most),) if most >= 2 else None
    if kind in ("part", "bags"):
        divisors = [number for number in range(2, min(LARGEST_PART, largest) + 1) if parents[0] % number == 0]
        return (pick(random, divisors),) if divisors else None
    if kind == "price":
        return (between(random, 2, min(LARGEST_PACK, largest)),)
    if kind == "times":
        return (between(random, 2, min(LARGEST_FACTOR, largest)),)
    if kind in ("times_more", "times_fewer"):
        factor = between(random, 2, min(LARGEST_FACTOR, largest))
        most = largest if kind == "times_more" else min(largest, factor * parents[0] - 1)
        return (factor, between(random, 2, most)) if most >= 2 else None
    return ()


def calculate(kind: str, parents: Sequence[int], numbers: Sequence[int]) -> int:
    """The value that a rule gives."""
    if kind in SUMS:
        return sum(parents)
    if kind in ("difference", "compare", "left_as_many"):
        return parents[0] - parents[1]
    if kind in ("given", "value"):
        return parents[0] if parents else numbers[0]
    if kind == "packs":
        return numbers[0] * numbers[1]
    if kind in ("more", "fewer", "left"):
        return parents[0] + numbers[0] if kind == "more" else parents[0] - numbers[0]
    if kind in ("part", "bags"):
        return parents[0] // numbers[0]
    product = parents[0] * numbers[0]
    if kind in ("times", "price"):
        return product
    return product + numbers[1] if kind == "times_more" else product - numbers[1]


def _matters(rules: Sequence[Rule], values: Sequence[int]) -> list[bool]:
    """Whether the answer moves with each quantity, the answer itself being the last: no term cancels another."""
    slopes = [0.0] * len(rules)
    slopes[-1] = 1.0
    for place in reversed(range(len(rules))):
        kind, parents, numbers = rules[place]
        own = slopes[place]
        if kind in ("times", "times_more", "times_fewer", "price"):
            own *= numbers[0]
        elif kind in ("part", "bags"):
            own /= numbers[0]
        for number, parent in enumerate(parents):
            slopes[parent] += -own if number and kind not in SUMS else own
    return [abs(slope) > 1e-9 for slope in slopes]


def key_of(rules: Sequence[Rule], question: Rule) -> str:
    """The text of what the question needs, the same for sums and packs in any order; a hash where it is long."""
    texts: list[str] = []
    for kind, parents, numbers in (*rules, question):
        made = [texts[parent] for parent in parents]
        made = sorted(made) if kind in SUMS else made
        shown = sorted(numbers) if kind == "packs" else numbers
        text = f"{kind}({','.join([*made, *map(str, shown)])})" if kind != "given" else str(numbers[0])
        texts.append(text if len(text) <= 60 else f"{stable_hash(text):016x}")
    return texts[-1]


def _with_distractors(problem: Problem, limits: Limits, random: Random) -> Problem:
    """The problem with quantities that the question does not need; they may be made from those that it does."""
    rules, values = list(problem.rules), list(problem.values)
    for _ in range(limits.distractors):
        rule, value = _distractor(values, limits, random)
        rules.append(rule)
        values.append(value)
    return problem._replace(rules=tuple(rules), values=tuple(values))


def _distractor(values: Sequence[int], limits: Limits, random: Random) -> tuple[Rule, int]:
    kind = pick(random, ("given", *QUANTITIES))
    if KINDS[kind].parents <= len(values):
        parents = shuffled(random, range(len(values)))[: KINDS[kind].parents]
        made = [values[parent] for parent in parents]
        numbers = _numbers(kind, made, limits, random)
        if numbers is not None and 1 <= (value := calculate(kind, made, numbers)) <= limits.max_number:
            return Rule(kind, tuple(parents), numbers), value
    number = between(random, 2, limits.max_given)
    return Rule("given", (), (number,)), number


# English


class Scene(NamedTuple):
    """What people do with which things."""

    verb: str
    base: str
    auxiliary: str
    packs: str
    """What things come in."""
    whole: str
    """A word for all of the things."""
    loses: str
    things: tuple[tuple[str, str], ...]
    """Plural and singular."""


SCENES = (
    Scene("has", "have", "does", "boxes", "toys", "gives away",
          (("marbles", "marble"), ("toy cars", "toy car"), ("balloons", "balloon"), ("dolls", "doll"))),
    Scene("has", "have", "does", "stacks", "books", "donates",
          (("novels", "novel"), ("comics", "comic"), ("atlases", "atlas"), ("cookbooks", "cookbook"))),
    Scene("picked", "pick", "did", "baskets", "pieces of fruit", "eats",
          (("apples", "apple"), ("pears", "pear"), ("plums", "plum"), ("peaches", "peach"))),
    Scene("baked", "bake", "did", "batches", "pastries", "eats",
          (("cookies", "cookie"), ("muffins", "muffin"), ("rolls", "roll"), ("pies", "pie"))),
    Scene("bought", "buy", "did", "packs", "school supplies", "loses",
          (("pencils", "pencil"), ("erasers", "eraser"), ("notebooks", "notebook"), ("markers", "marker"))),
    Scene("collected", "collect", "did", "jars", "treasures", "gives away",
          (("coins", "coin"), ("shells", "shell"), ("buttons", "button"), ("pebbles", "pebble"))),
    Scene("planted", "plant", "did", "rows", "flowers", "digs up",
          (("tulips", "tulip"), ("roses", "rose"), ("daisies", "daisy"), ("lilies", "lily"))),
    Scene("made", "make", "did", "sets", "ornaments", "gives away",
          (("bracelets", "bracelet"), ("necklaces", "necklace"), ("rings", "ring"), ("key chains", "key chain"))),
)  # fmt: skip
NAMES = (
    "Ada", "Amir", "Anna", "Ben", "Carla", "Chen", "Clara", "David", "Elena", "Emma", "Felix", "Grace", "Hana", "Hugo",
    "Ines", "Ivan", "Jack", "Jamal", "Kenji", "Lena", "Leo", "Lucy", "Maria", "Mei", "Nadia", "Noah", "Olga", "Omar",
    "Paul", "Priya", "Rosa", "Sam", "Tara", "Tom", "Uma", "Victor", "Wanda", "Yusuf", "Zoe",
)  # fmt: skip
FACTORS = {2: "twice", **{factor: f"{factor} times" for factor in range(3, LARGEST_FACTOR + 1)}}
PARTS = {
    2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth",
    7: "a seventh", 8: "an eighth", 9: "a ninth", 10: "a tenth",
}  # fmt: skip


class Slot(NamedTuple):
    """Whose quantity it is, and of what."""

    person: str
    plural: str
    singular: str

    def things(self, count: int) -> str:
        return self.singular if count == 1 else self.plural


class Story(NamedTuple):
    """A problem's words: who has what, and the question's text, which is the whole prompt but for its end."""

    scene: Scene
    slots: tuple[Slot, ...]
    text: str


def tell(problem: Problem, *, shuffle: bool, random: Random) -> Story:
    """The problem in English. With `shuffle` sentences stand in any order, else a quantity comes after those it is made
    from; the question is last."""
    scene = pick(random, SCENES)
    count = len(problem.rules)
    things = shuffled(random, scene.things)[: between(random, 1, 3)]
    people = shuffled(random, NAMES)[: -(-count // len(things)) + below(random, 2)]
    pairs = shuffled(random, [Slot(person, *thing) for person in people for thing in things])
    slots = tuple(pairs[:count])
    order = shuffled(random, range(count)) if shuffle else _any_order(problem.rules, random)
    sentences = [_sentence(problem.rules[place], slots[place], slots, scene, random) for place in order]
    return Story(scene, slots, " ".join([*sentences, _question(problem.question, slots, scene, random)]))


def _any_order(rules: Sequence[Rule], random: Random) -> list[int]:
    """The quantities, each after its parents, otherwise in any order."""
    order: list[int] = []
    while len(order) < len(rules):
        ready = [
            place
            for place, rule in enumerate(rules)
            if place not in order and all(parent in order for parent in rule.parents)
        ]
        order.append(pick(random, ready))
    return order


def join(parts: Sequence[str]) -> str:
    """`a and b`, or `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _reference(slot: Slot, parents: Sequence[Slot], verb: str) -> str:
    """What follows "as" or "than" when `slot` is compared with its parents: as short as can be understood."""
    if all(parent.plural == slot.plural for parent in parents):
        return join([parent.person for parent in parents])
    if all(parent.person == slot.person for parent in parents):
        return join([parent.plural for parent in parents])
    if all(parent.person == parents[0].person for parent in parents):
        return f"{parents[0].person} {verb} {join([parent.plural for parent in parents])}"
    return join([f"{parent.person} {verb} {parent.plural}" for parent in parents])


def _sentence(rule: Rule, slot: Slot, slots: Sequence[Slot], scene: Scene, random: Random) -> str:
    """The sentence that gives a quantity."""
    kind, places, numbers = rule
    person, plural, _ = slot
    verb = scene.verb
    parents = [slots[place] for place in places]
    if kind == "given":
        return f"{person} {verb} {numbers[0]} {plural}."
    if kind == "packs":
        return f"{person} {verb} {numbers[0]} {scene.packs} of {plural} with {numbers[1]} in each."
    than = _reference(slot, parents, verb)
    if kind in ("more", "fewer"):
        if parents[0].plural == plural and random.random() < 0.3:
            return f"Compared with {than}, {person} {verb} {numbers[0]} {kind} {plural}."
        return f"{person} {verb} {numbers[0]} {kind} {plural} than {than}."
    if kind == "times":
        return f"{person} {verb} {FACTORS[numbers[0]]} as many {plural} as {than}."
    if kind == "part":
        if random.random() < 0.3:
            other = parents[0]
            own = "" if other.plural == plural else f" {plural}"
            return (
                f"If {other.person}'s {other.plural} were split into {numbers[0]} equal groups, "
                f"each group would have as many {other.plural} as {person} {verb}{own}."
            )
        return f"{person} {verb} {PARTS[numbers[0]]} as many {plural} as {than}."
    if kind in ("times_more", "times_fewer"):
        sign = kind.removeprefix("times_")
        return f"{person} {verb} {numbers[1]} {sign} than {FACTORS[numbers[0]]} as many {plural} as {than}."
    if kind == "difference":
        first, second = (f"the number of {parent.plural} {parent.person} {verb}" for parent in parents)
        return f"The number of {plural} {person} {verb} is {first} minus {second}."
    return f"{person} {verb} as many {plural} as {than} together."


def _question(rule: Rule, slots: Sequence[Slot], scene: Scene, random: Random) -> str:
    """The sentence that asks."""
    kind, places, numbers = rule
    parents = [slots[place] for place in places]
    person, plural, singular = parents[0]
    verb, base, auxiliary = scene.verb, scene.base, scene.auxiliary
    if kind == "value":
        return f"How many {plural} {auxiliary} {person} {base}?"
    if kind in ("total", "total_three"):
        if all(parent.plural == plural for parent in parents):
            people = join([parent.person for parent in parents])
            return f"How many {plural} {auxiliary[:2] if auxiliary == 'does' else auxiliary} {people} {base} in total?"
        if all(parent.person == person for parent in parents):
            things = join([parent.plural for parent in parents])
            return f"How many {things} {auxiliary} {person} {base} in total?"
        owned = join([f"{parent.person}'s {parent.plural}" for parent in parents])
        return f"Counting {owned}, how many {scene.whole} are there in total?"
    if kind == "compare":
        other = parents[1]
        if other.plural == plural:
            return f"How many more {plural} {auxiliary} {person} {base} than {other.person}?"
        if other.person == person:
            return f"How many more {plural} than {other.plural} {auxiliary} {person} {base}?"
        return f"How many more {plural} {auxiliary} {person} {base} than {other.person} {verb} {other.plural}?"
    if kind == "left":
        return f"If {person} {scene.loses} {numbers[0]} {plural}, how many of {person}'s {plural} are left?"
    if kind == "left_as_many":
        other = parents[1]
        own = "" if other.plural == plural else f" {other.plural}"
        return (
            f"If {person} {scene.loses} as many {plural} as {other.person} {verb}{own}, "
            f"how many of {person}'s {plural} are left?"
        )
    if kind == "bags":
        return f"If {person} puts all of the {plural} into bags of {numbers[0]}, how many bags are filled?"
    return f"If {person} sells every {singular} for {numbers[0]} dollars, how many dollars does {person} get?"
