"""Word problems, read back from their English by a reader written here, against what they were made from."""

import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from random import Random

import pytest

from rlx.errors import ConfigError
from rlx.tasks.base import split_of
from rlx.tasks.math_words import (
    QUANTITIES,
    QUESTIONS,
    SHARE,
    Limits,
    Problem,
    Rule,
    calculate,
    draw_problem,
    key_of,
    tell,
)
from rlx.types import Split

LIMITS = Limits(min_operations=1, max_operations=6, distractors=2, max_given=50, max_number=1000)
VERB = "(?:has|picked|baked|bought|collected|planted|made)"
BASE = "(?:have|pick|bake|buy|collect|plant|make)"
WHO = r"([A-Z][a-z]+)"
WHAT = r"([a-z]+(?: [a-z]+)?)"
PARTS = {"half": 2, "a third": 3, "a quarter": 4, "a fifth": 5, "a sixth": 6, "a seventh": 7, "an eighth": 8,
         "a ninth": 9, "a tenth": 10}  # fmt: skip
Key = tuple[str, str]
Value = Callable[[Key], Fraction]
Definition = Callable[[Value], Fraction]


def draws(count: int, limits: Limits = LIMITS, *, shuffle: bool = True) -> list[tuple[Problem, str]]:
    made = []
    for seed in range(count):
        random = Random(seed)
        problem = draw_problem(limits, Split.train, random)
        made.append((problem, tell(problem, shuffle=shuffle, random=random).text))
    return made


# A reader of the English


def others(text: str, person: str, thing: str) -> list[Key]:
    """Whose what "than ..." or "as ..." means, for a quantity of `person` and `thing`."""
    found: list[Key] = []
    owner, last = None, re.split(r", | and ", text)
    for part in last:
        if full := re.fullmatch(f"{WHO} {VERB} {WHAT}", part):
            owner = full[1]
            found.append((full[1], full[2]))
        elif re.fullmatch(WHO, part):
            found.append((part, thing))
        else:
            found.append((owner or person, part))
    return found


def number_of(words: str) -> Fraction:
    if words in PARTS:
        return Fraction(1, PARTS[words])
    return Fraction(2) if words == "twice" else Fraction(words.removesuffix(" times"))


def total(keys: list[Key]) -> Definition:
    return lambda value: sum((value(key) for key in keys), Fraction(0))


def linear(key: Key, factor: Fraction, more: Fraction) -> Definition:
    return lambda value: factor * value(key) + more


def definition(sentence: str) -> tuple[Key, Definition]:
    """The quantity that a sentence gives, and how."""
    factor = "(twice|[0-9]+ times|half|an? [a-z]+)"
    if m := re.fullmatch(f"{WHO} {VERB} ([0-9]+) {WHAT}", sentence):
        number = Fraction(m[2])
        return (m[1], m[3]), lambda value: number
    if m := re.fullmatch(f"{WHO} {VERB} ([0-9]+) [a-z]+ of {WHAT} with ([0-9]+) in each", sentence):
        product = Fraction(int(m[2]) * int(m[4]))
        return (m[1], m[3]), lambda value: product
    if m := re.fullmatch(f"{WHO} {VERB} ([0-9]+) (more|fewer) {WHAT} than (.*)", sentence):
        (key,) = others(m[5], m[1], m[4])
        return (m[1], m[4]), linear(key, Fraction(1), Fraction(m[2]) * (1 if m[3] == "more" else -1))
    if m := re.fullmatch(f"Compared with {WHO}, {WHO} {VERB} ([0-9]+) (more|fewer) {WHAT}", sentence):
        return (m[2], m[5]), linear((m[1], m[5]), Fraction(1), Fraction(m[3]) * (1 if m[4] == "more" else -1))
    if m := re.fullmatch(f"{WHO} {VERB} ([0-9]+) (more|fewer) than {factor} as many {WHAT} as (.*)", sentence):
        (key,) = others(m[6], m[1], m[5])
        return (m[1], m[5]), linear(key, number_of(m[4]), Fraction(m[2]) * (1 if m[3] == "more" else -1))
    if m := re.fullmatch(f"{WHO} {VERB} {factor} as many {WHAT} as (.*)", sentence):
        (key,) = others(m[4], m[1], m[3])
        return (m[1], m[3]), linear(key, number_of(m[2]), Fraction(0))
    if m := re.fullmatch(
        f"If {WHO}'s {WHAT} were split into ([0-9]+) equal groups, "
        rf"each group would have as many \2 as {WHO} {VERB}(?: {WHAT})?",
        sentence,
    ):
        return (m[4], m[5] or m[2]), linear((m[1], m[2]), Fraction(1, int(m[3])), Fraction(0))
    if m := re.fullmatch(f"{WHO} {VERB} as many {WHAT} as (.*) together", sentence):
        return (m[1], m[2]), total(others(m[3], m[1], m[2]))
    number = f"[Tt]he number of {WHAT} {WHO} {VERB}"
    m = re.fullmatch(f"{number} is {number} minus {number}", sentence)
    assert m, sentence
    first, second = (m[4], m[3]), (m[6], m[5])
    return (m[2], m[1]), lambda value: value(first) - value(second)


def asked(sentence: str) -> Definition:
    """What the last sentence asks for."""
    if m := re.fullmatch(f"How many {WHAT} (?:do|did) (.* and .*) {BASE} in total", sentence):
        return total([(who, m[1]) for who in re.split(", | and ", m[2])])
    if m := re.fullmatch(f"How many (.* and .*) (?:does|did) {WHO} {BASE} in total", sentence):
        return total([(m[2], what) for what in re.split(", | and ", m[1])])
    if m := re.fullmatch("Counting (.*), how many [a-z ]+ are there in total", sentence):
        return total([(who, what) for who, what in re.findall(f"{WHO}'s {WHAT}(?=,|$| and )", m[1])])
    if m := re.fullmatch(f"How many {WHAT} (?:does|did) {WHO} {BASE}", sentence):
        return linear((m[2], m[1]), Fraction(1), Fraction(0))
    for pattern, names in (
        (f"How many more {WHAT} (?:does|did) {WHO} {BASE} than {WHO}(?: {VERB} {WHAT})?", "twow"),
        (f"How many more {WHAT} than {WHAT} (?:does|did) {WHO} {BASE}", "ttw"),
        (f"If {WHO} [a-z ]+? as many {WHAT} as {WHO} {VERB}(?: {WHAT})?, how many of (.*) are left", "wtow"),
    ):
        if m := re.fullmatch(pattern, sentence):
            if names == "ttw":
                first, second = (m[3], m[1]), (m[3], m[2])
            elif names == "twow":
                first, second = (m[2], m[1]), (m[3], m[4] or m[1])
            else:
                first, second = (m[1], m[2]), (m[3], m[4] or m[2])
                assert m[5] == f"{m[1]}'s {m[2]}"
            return lambda value: value(first) - value(second)
    if m := re.fullmatch(rf"If {WHO} [a-z ]+? ([0-9]+) {WHAT}, how many of \1's \3 are left", sentence):
        return linear((m[1], m[3]), Fraction(1), -Fraction(m[2]))
    if m := re.fullmatch(f"If {WHO} puts all of the {WHAT} into bags of ([0-9]+), how many bags are filled", sentence):
        return linear((m[1], m[2]), Fraction(1, int(m[3])), Fraction(0))
    m = re.fullmatch(rf"If {WHO} sells every {WHAT} for ([0-9]+) dollars, how many dollars does \1 get", sentence)
    assert m, sentence
    plural = {"pastry": "pastries", "daisy": "daisies", "lily": "lilies", "peach": "peaches", "atlas": "atlases"}
    return linear((m[1], plural.get(m[2], f"{m[2]}s")), Fraction(m[3]), Fraction(0))


def answer(text: str) -> Fraction:
    """The answer of a problem in English; fails where a quantity is given twice, or not at all."""
    *told, question = re.split(r"(?<=[.?]) ", text)
    given: dict[Key, Definition] = {}
    for sentence in told:
        key, made = definition(sentence.rstrip("."))
        assert key not in given, text
        given[key] = made

    @cache
    def value(key: Key) -> Fraction:
        return given[key](value)

    return asked(question.rstrip("?"))(value)


@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in order"])
def test_the_english_says_what_the_answer_is(shuffle: bool) -> None:
    seen: Counter[str] = Counter()
    for problem, text in draws(1200, shuffle=shuffle):
        assert answer(text) == problem.answer, text
        assert 1 <= problem.answer <= LIMITS.max_number
        seen.update([problem.question.kind, *(rule.kind for rule in problem.rules)])
    assert set(seen) == {"given", *QUANTITIES, *QUESTIONS}
    assert min(seen.values()) > 20


def test_numbers_of_what_is_needed_move_the_answer_and_others_do_not() -> None:
    """Each number in digits is raised by one in the English; halves and twice have none. A part may then be no whole
    number, as the reader does not mind."""
    for problem, text in draws(300):
        moved = 0
        for found in re.finditer("[0-9]+", text):
            raised = f"{text[: found.start()]}{int(found[0]) + 1}{text[found.end() :]}"
            moved += answer(raised) != problem.answer
        in_words = sum(
            rule.kind.startswith("times") and rule.numbers[0] == 2
            for rule in (*problem.rules[: problem.needed], problem.question)
        )
        spelt = Counter(rule.kind for rule in problem.rules[: problem.needed])["part"]
        numbers = sum(len(rule.numbers) for rule in (*problem.rules[: problem.needed], problem.question))
        assert numbers - in_words - spelt <= moved <= numbers - in_words, text


def test_needed_quantities_are_those_that_the_question_reaches() -> None:
    for problem, _ in draws(300):
        reached, waiting = set(), list(problem.question.parents)
        while waiting:
            place = waiting.pop()
            reached.add(place)
            waiting += problem.rules[place].parents
        assert reached == set(range(problem.needed))
        assert len(problem.rules) == problem.needed + LIMITS.distractors
        assert all(parent < place for place, rule in enumerate(problem.rules) for parent in rule.parents)


def test_operations_and_depth_are_counted() -> None:
    """Operations are signs between numbers, here by the arity of each rule; both are spread over their range."""
    signs = {
        "packs": 1,
        "times_more": 2,
        "times_fewer": 2,
        "together_three": 2,
        "total_three": 2,
        "value": 0,
        "given": 0,
    }
    operations: Counter[int] = Counter()
    depths: set[int] = set()
    for problem, _ in draws(600):
        needed = [*problem.rules[: problem.needed], problem.question]
        assert problem.operations == sum(signs.get(rule.kind, 1) for rule in needed)

        def depth(rule: Rule, rules: tuple[Rule, ...] = problem.rules) -> int:
            own = 0 if rule.kind in ("given", "value") else 1
            return own + max((depth(rules[parent]) for parent in rule.parents), default=0)

        assert problem.depth == depth(problem.question) >= 1
        operations[problem.operations] += 1
        depths.add(problem.depth)
    assert set(operations) == set(range(1, 7)) and min(operations.values()) > 70
    assert depths == set(range(1, 7))


def test_values_follow_from_the_rules_and_stay_in_bounds() -> None:
    tight = Limits(min_operations=2, max_operations=5, distractors=3, max_given=9, max_number=30)
    for limits in (LIMITS, tight):
        for problem, _ in draws(200, limits):
            for rule, value in zip(problem.rules, problem.values, strict=True):
                made = [Fraction(problem.values[parent]) for parent in rule.parents]
                expected = {
                    "given": lambda p, n: n[0],
                    "packs": lambda p, n: n[0] * n[1],
                    "more": lambda p, n: p[0] + n[0],
                    "fewer": lambda p, n: p[0] - n[0],
                    "times": lambda p, n: p[0] * n[0],
                    "part": lambda p, n: p[0] / n[0],
                    "times_more": lambda p, n: p[0] * n[0] + n[1],
                    "times_fewer": lambda p, n: p[0] * n[0] - n[1],
                    "difference": lambda p, n: p[0] - p[1],
                    "together": lambda p, n: p[0] + p[1],
                    "together_three": lambda p, n: p[0] + p[1] + p[2],
                }[rule.kind](made, rule.numbers)
                assert value == expected == calculate(rule.kind, [int(each) for each in made], rule.numbers)
                assert 1 <= value <= limits.max_number
                assert all(2 <= number <= limits.max_given for number in rule.numbers)


def test_sentences_are_in_order_unless_shuffled() -> None:
    """In order, each quantity is told after those that its sentence speaks of; shuffled, most problems are not so."""

    def ordered(text: str) -> bool:
        known: set[Key] = set()
        for sentence in re.split(r"(?<=[.?]) ", text)[:-1]:
            key, made = definition(sentence.rstrip("."))
            used: list[Key] = []
            made(lambda other, used=used: used.append(other) or Fraction(1))
            if not known.issuperset(used):
                return False
            known.add(key)
        return True

    assert all(ordered(text) for _, text in draws(200, shuffle=False))
    assert sum(ordered(text) for _, text in draws(200)) < 100


def test_the_order_without_shuffle_is_not_always_the_same() -> None:
    """Distractors do not always come last."""
    places: Counter[int] = Counter()
    limits = Limits(min_operations=2, max_operations=2, distractors=1, max_given=50, max_number=1000)
    for seed in range(100):
        random = Random(seed)
        problem = draw_problem(limits, Split.train, random)
        story = tell(problem, shuffle=False, random=random)
        slot = story.slots[-1]
        sentences = re.split(r"(?<=[.?]) ", story.text)[:-1]
        where = [definition(each.rstrip("."))[0] for each in sentences].index((slot.person, slot.plural))
        places[where - len(sentences)] += 1
    assert len(places) >= 3 and max(places.values()) < 80


def test_keys_do_not_hang_on_words_order_or_distractors() -> None:
    first = (Rule("given", (), (24,)), Rule("packs", (), (6, 4)), Rule("part", (0,), (2,)))
    key = key_of(first, Rule("total_three", (0, 1, 2)))
    other = (Rule("packs", (), (4, 6)), Rule("given", (), (24,)), Rule("part", (1,), (2,)))
    assert key == key_of(other, Rule("total_three", (2, 0, 1))) == "total_three(24,packs(4,6),part(24,2))"
    assert key != key_of(first, Rule("total_three", (0, 1, 1)))
    assert key_of(first, Rule("compare", (0, 2))) != key_of(first, Rule("compare", (2, 0)))
    for problem, text in draws(50):
        needed = problem.rules[: problem.needed]
        assert problem.key == key_of(needed, problem.question)
        again = tell(problem, shuffle=True, random=Random(99)).text
        assert again != text and answer(again) == answer(text)


def test_one_key_in_sixteen_is_in_val_and_one_in_test() -> None:
    """By the keys of problems as they come, which is what a split keeps."""
    keys = {
        draw_problem(LIMITS, split, Random(seed)).key: split
        for split in Split
        for seed in range(100 if split is Split.train else 20)
    }
    assert all(split_of(key, SHARE) is split for key, split in keys.items())
    places = Counter(split_of(str(number), SHARE) for number in range(3200))
    assert abs(places[Split.val] - 200) < 60 and abs(places[Split.test] - 200) < 60


def test_splits_have_the_same_graphs() -> None:
    """The share of each question in val is that in train, within four standard errors of 500 draws."""
    shares = []
    for split in (Split.train, Split.val):
        kinds = Counter(
            draw_problem(LIMITS._replace(distractors=0, max_operations=3), split, Random(seed)).question.kind
            for seed in range(500)
        )
        shares.append(kinds)
    for kind in QUESTIONS:
        assert abs(shares[0][kind] - shares[1][kind]) < 4 * (2 * 500 * 0.125 * 0.875) ** 0.5, kind


def test_a_setting_without_problems_is_one_line() -> None:
    with pytest.raises(ConfigError, match="almost") as raised:
        draw_problem(
            LIMITS._replace(min_operations=12, max_operations=12, max_given=2, max_number=3), Split.train, Random(0)
        )
    assert "\n" not in str(raised.value)


def test_text_is_plain_and_names_agree_with_numbers() -> None:
    for _, text in draws(300):
        assert re.fullmatch(r"[A-Za-z0-9 .,?']+", text)
        assert not re.search(r"\b[01] [a-z]", text), text
        assert "  " not in text and not re.search(r"\ba [aeiou]", text)
