"""Copy and n-gram lookup: answers found by plain search, lengths, coupled positions, refusals."""

from collections import Counter
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.copy import Copy, CopyConfig, Question
from rlx.types import Example, Outcome, Split


def copy(question: Question = Question.copy, **fields: Any) -> Copy:
    return CopyConfig(question=question, **fields).build()


def examples(task: Copy, count: int = 300, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def test_copies_are_the_string() -> None:
    for example in examples(copy()):
        assert example.prompt == f"{example.solution}|"


@pytest.mark.parametrize("question", [Question.prefix, Question.suffix], ids=lambda question: question.value)
@pytest.mark.parametrize("answer_length", [None, 2])
def test_lookups_answer_what_follows_the_only_place(question: Question, answer_length: int | None) -> None:
    """Over 3 letters n-grams come twice, so that the choice of one that does not is tried."""
    task = copy(question, letters=3, ngram=2, min_length=5, answer_length=answer_length)
    for example in examples(task):
        parts = example.prompt.split("|")
        key, text = parts[:2] if question is Question.prefix else parts[::-1]
        assert len(key) == 2 and text.count(key) == 1 and not text.endswith(key)
        rest = text.partition(key)[2]
        assert example.solution == (rest if answer_length is None else rest[:answer_length])
        assert task.verify(example, example.solution).correct


def test_overlapping_places_count() -> None:
    """`aa` is twice in `aaab`."""
    assert [*copy(Question.suffix, letters=2, ngram=2, min_length=4)._once("aaab")] == []
    assert [*copy(Question.suffix, letters=2, ngram=2, min_length=4)._once("aabb")] == [0, 1]


def test_duplicates_have_an_ngram_twice() -> None:
    for example in examples(copy(Question.duplicate, ngram=4, min_length=8)):
        text = example.solution
        grams = Counter(text[place : place + 4] for place in range(len(text) - 3))
        assert max(grams.values()) >= 2 and example.prompt == f"{text}|"


def test_lengths_are_even_and_tests_may_be_longer() -> None:
    task = copy(min_length=2, max_length=5, test_min_length=40, test_max_length=60)
    counts = Counter(len(example.solution) for example in examples(task, 4_000))
    assert set(counts) == {2, 3, 4, 5} and all(850 < count < 1_150 for count in counts.values())
    held_out = [len(example.solution) for example in examples(task, 100, Split.test)]
    assert 40 <= min(held_out) < 43 and 57 < max(held_out) <= 60


def test_questions_have_the_same_strings_in_a_split() -> None:
    """What is trained on as a copy is not asked for as a lookup."""
    tasks = [copy(question, letters=2, ngram=4, min_length=10, max_length=10) for question in Question]
    strings = {split: set[str]() for split in Split}
    for task in tasks:
        for split in Split:
            strings[split] |= {example.truth[0] for example in examples(task, 150, split)}
    assert not strings[Split.train] & (strings[Split.val] | strings[Split.test])


def test_measures_are_letters_in_their_places() -> None:
    task = copy(letters=4, min_length=4, max_length=4)
    example = task.example(Split.train, 0)
    text = example.solution
    other = "abcd"[("abcd".index(text[-1]) + 1) % 4]
    assert task.verify(example, text + " \n").correct
    near = task.verify(example, text[:-1] + other)
    assert near.outcome is Outcome.wrong and near.measures == {"letters": 0.75}
    assert task.verify(example, text * 2).measures == {"letters": 0.5}
    assert task.verify(example, "z" * 4).outcome is Outcome.malformed
    assert task.chance(example) == 4**-4


def test_coupled_positions_are_those_of_the_paper() -> None:
    """arXiv 2405.20671: input letter i has s + i, the mark s, output letter i s + i."""
    example = copy(min_length=3, max_length=3).example(Split.train, 0)
    assert example.places == (2, 3, 4, 1, 2, 3, 4, 0)
    assert copy(Question.suffix).example(Split.train, 0).places is None


def test_the_short_cut_is_right_where_no_letter_comes_twice() -> None:
    for task in (copy(), copy(Question.suffix), copy(Question.prefix)):
        for example in examples(task):
            if len(set(example.truth[0])) == len(example.truth[0]):
                assert task.guess(example) == example.solution


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"letters": 1}, "task.letters must be 2 to 26"),
        ({"min_length": 6, "max_length": 5}, "min_length <= max_length"),
        ({"test_max_length": 3}, "test_min_length <= test_max_length"),
        ({"answer_length": 0}, "task.answer_length must be at least 1"),
        ({"question": Question.suffix, "ngram": 5}, "strings of 6 letters or more, got 5"),
        ({"question": Question.duplicate, "ngram": 3}, "strings of 6 letters or more, got 5"),
    ],
)
def test_settings_that_cannot_be_are_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        CopyConfig(**fields)
    assert "\n" not in str(caught.value)


def test_a_split_without_strings_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no strings of 1 letters for val"):
        copy(letters=2, min_length=1, max_length=1).example(Split.val, 0)
