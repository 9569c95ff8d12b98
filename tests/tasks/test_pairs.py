"""Pairs of symbols: order, sums, and which pairs a split has."""

from collections import Counter
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.pairs import Pairs, PairsConfig, Question
from rlx.types import Example, Outcome, Split


def pairs(question: Question = Question.compare, **fields: Any) -> Pairs:
    return PairsConfig(question=question, val_examples=8_000, test_examples=8_000, **fields).build()


def examples(task: Pairs, count: int = 2_000, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def test_labels_are_of_one_order() -> None:
    """The order is found again from the labels alone, and puts every pair right."""
    task = pairs()
    wins = Counter[str]()
    found = [example for split in Split for example in examples(task, 6_000, split)]
    labels = {tuple(example.prompt.split()): example.solution for example in found}
    for (a, b), label in labels.items():
        wins[a] += label == ">"
        wins[b] += label == "<"
        assert (label == "=") == (a == b)
    order = sorted(task.symbols, key=lambda symbol: wins[symbol])
    right = [(order.index(a) > order.index(b)) == (label == ">") for (a, b), label in labels.items()]
    assert sum(right) / len(right) > 0.98  # few pairs are not seen


def test_sums_are_those_of_a_group() -> None:
    task = pairs(Question.add, symbols=13)
    number = {symbol: place for place, symbol in enumerate(task.symbols)}
    for example in examples(task):
        a, b = example.prompt.split()
        assert number[example.solution] == (number[a] + number[b]) % 13
    assert task.chance(examples(task, 1)[0]) == 1 / 13


def test_half_of_the_pairs_is_trained_on() -> None:
    for question in Question:
        task = pairs(question, symbols=20)
        of = {split: {example.id for example in examples(task, 8_000, split)} for split in Split}
        assert {split: len(found) for split, found in of.items()} == {Split.train: 200, Split.val: 20, Split.test: 180}
        assert not of[Split.train] & of[Split.test] and not of[Split.val] & (of[Split.train] | of[Split.test])


def test_another_table_is_another_order() -> None:
    assert pairs().symbols == pairs(seed=4).symbols != pairs(table=1).symbols


def test_the_short_cut_is_right_on_three_quarters() -> None:
    task = pairs(symbols=100)
    found = [task.verify(example, task.guess(example)).correct for example in examples(task)]
    assert abs(sum(found) / len(found) - 0.745) < 0.03


def test_verdicts() -> None:
    task = pairs(Question.add)
    example = examples(task, 1)[0]
    other = next(symbol for symbol in task.symbols if symbol != example.solution)
    assert task.verify(example, other).outcome is Outcome.wrong
    for text in ("", "<", example.solution * 2, f"{example.solution} {other}"):
        assert task.verify(example, text).outcome is Outcome.malformed


@pytest.mark.parametrize("symbols", [11, 101])
def test_settings_that_cannot_be_are_refused(symbols: int) -> None:
    with pytest.raises(ConfigError, match=r"task\.symbols must be 12 to 100"):
        PairsConfig(symbols=symbols)
