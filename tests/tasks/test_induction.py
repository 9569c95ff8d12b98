"""Induction snippets: both ways, and the language of their words."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.induction import Direction, Induction, InductionConfig, Span, language
from rlx.types import Example, Outcome, Split


def induction(direction: Direction = Direction.forward, **fields: Any) -> Induction:
    return InductionConfig(direction=direction, **fields).build()


def examples(task: Induction, count: int = 200, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


@pytest.mark.parametrize("span", Span)
def test_spans_are_written_again(span: Span) -> None:
    split = (lambda text: text.split(" ")) if span is Span.words else list
    for direction in (Direction.forward, Direction.backward):
        for example in examples(induction(direction, span=span)):
            tokens = split(example.prompt.removesuffix("|"))
            assert len(tokens) == 20
            assert split(example.solution) == (tokens if direction is Direction.forward else tokens[::-1])


def test_either_way_is_correct_where_none_is_said() -> None:
    task = induction(Direction.balanced)
    backward = 0
    for example in examples(task, 1_000):
        span = example.prompt.removesuffix("|")
        assert task.verify(example, span).correct and task.verify(example, span[::-1]).correct
        backward += example.solution == span[::-1]
    assert 440 < backward < 560
    assert induction(Direction.forward).verify(example, span[::-1]).outcome is Outcome.wrong
    assert task.chance(example) == 2 * 26**-20


def test_words_follow_by_a_zipf_law_of_their_own() -> None:
    words, follow, _ = language(200)
    assert len(set(words)) == 200 and all(sorted(follow[word]) == sorted(words) for word in words)
    assert follow[words[0]] != follow[words[1]]
    ranks = Counter[int]()
    for example in examples(induction(span=Span.words, words=200, min_length=100, max_length=100), 300):
        tokens = example.truth
        ranks.update(follow[a].index(b) for a, b in pairwise(tokens))
    total, harmonic = sum(ranks.values()), sum(1 / rank for rank in range(1, 201))
    for rank in (0, 1, 3, 9):
        assert abs(ranks[rank] / total - 1 / (1 + rank) / harmonic) < 0.01


def test_measures_are_of_the_way_that_fits_better() -> None:
    task = induction(Direction.balanced, min_length=4, max_length=4)
    example = Example(id="", prompt="", solution="", truth=list("abcd"))
    assert task.verify(example, "dcbx").measures == {"tokens": 0.75}
    assert task.verify(example, "abcdabcd").measures == {"tokens": 0.5}
    assert task.verify(example, "ab d").outcome is Outcome.malformed


@pytest.mark.parametrize("fields", [{"words": 1}, {"words": 5_000}, {"min_length": 1}])
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        InductionConfig(**fields)
