"""Phone books that are read, and pairs that are known by heart."""

import re
from collections import Counter
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.phonebook import Phonebook, PhonebookConfig, Question
from rlx.types import Example, Outcome, Split


def lookup(**fields: Any) -> Phonebook:
    return PhonebookConfig(**fields).build()


def memory(**fields: Any) -> Phonebook:
    return PhonebookConfig(question=Question.memory, **fields).build()


def examples(task: Phonebook, count: int = 200, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def test_numbers_are_looked_up_in_the_lines() -> None:
    for example in examples(lookup()):
        book, _, rest = example.prompt.partition("\n\n")
        lines = dict(line.split(": ") for line in book.split("\n"))
        *again, asked = rest.split("\n")
        assert 4 <= len(lines) <= 12 and len(lines) == book.count("\n") + 1
        assert all(re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+", name) for name in lines)
        assert all(re.fullmatch(r"[6-9][0-9]{9}", number) for number in lines.values())
        assert len(again) == 2 and all(lines[name] == number for name, number in (line.split(": ") for line in again))
        name = asked.removesuffix(": ")
        assert name not in {line.split(": ")[0] for line in again}
        assert example.solution == lines[name]


def test_the_short_cut_looks_up_first_letters() -> None:
    task = lookup(min_length=20, max_length=20)
    found = [task.verify(example, task.guess(example)).correct for example in examples(task)]
    for example in examples(task, 50):
        letter = example.prompt.rsplit("\n", 1)[1][0]
        found_first = re.search(rf"^{letter}\w+ \w+: ([0-9]+)$", example.prompt, re.M)
        assert found_first and found_first[1] == task.guess(example)
    assert 0.4 < sum(found) / len(found) < 0.8


def test_asked_lines_stand_anywhere() -> None:
    counts = Counter(example.difficulty["third"] for example in examples(lookup(min_length=9, max_length=9), 3_000))
    assert all(900 < counts[third] < 1_100 for third in ("first", "second", "last"))


def test_chance_is_one_of_the_lines_not_shown_again() -> None:
    example = lookup(min_length=7, max_length=7, examples=3).example(Split.train, 0)
    assert lookup(examples=3, min_length=5).chance(example) == 1 / 4


def test_pairs_known_by_heart_are_as_many_as_told_and_all_different() -> None:
    task = memory(pairs=3_000)
    assert task.size(Split.train) == 3_000
    names = [example.prompt for example in examples(task, 3_000)]
    assert len(set(names)) == 3_000 and all(re.fullmatch("[a-z]{5}:", name) for name in names)
    assert all(re.fullmatch("[0-9]{8}", example.solution) for example in examples(task))
    others = [example.prompt for split in (Split.val, Split.test) for example in examples(task, 1_000, split)]
    assert len(set(others)) == 2_000 and not set(others) & set(names)
    assert not {example.prompt for example in examples(memory(pairs=3_000, seed=1), 3_000)} & set(others)


def test_another_seed_is_another_book() -> None:
    one, other = examples(memory()), examples(memory(seed=1))
    assert len({example.prompt for example in one} & {example.prompt for example in other}) < 5
    assert all(a.solution != b.solution for a, b in zip(one, other, strict=True))


def test_names_and_digits_are_spread() -> None:
    found = examples(memory(pairs=5_000), 5_000)
    for place in range(5):
        counts = Counter(example.prompt[place] for example in found)
        assert len(counts) == 26 and max(counts.values()) < 300
    digits = Counter("".join(example.solution for example in found))
    assert all(abs(count / 40_000 - 0.1) < 0.006 for count in digits.values())


def test_verdicts() -> None:
    task = memory()
    example = Example(id="", prompt="", solution="12345678", truth=("12345678", "00000000"))
    assert task.verify(example, "12345678\n").correct
    assert task.verify(example, "12345670").measures == {"digits": 7 / 8}
    for text in ("1234567", "123456789", "1234567x", "\u0661" * 8):
        assert task.verify(example, text).outcome is Outcome.malformed
    assert task.chance(example) == 1e-8


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"examples": 3}, "task.examples must be 0 to 2"),
        ({"max_length": 1_000}, "task.max_length must be at most"),
        ({"digits": 0}, "task.digits must be 1 to 100"),
        ({"question": Question.memory, "train_examples": 5}, "task.pairs sets task.train_examples"),
        ({"question": Question.memory, "pairs": 0}, "task.pairs must be 1 to"),
    ],
)
def test_settings_that_cannot_be_are_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PhonebookConfig(**fields)
