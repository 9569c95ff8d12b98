"""Cpm3 by its definition."""

from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.cpm3 import Cpm3Config
from rlx.types import Outcome, Split


@pytest.mark.parametrize(("modulus", "factor"), [(7, 17), (11, 25), (3, 8)])
def test_counts_are_those_of_the_definition(modulus: int, factor: int) -> None:
    task = Cpm3Config(modulus=modulus, factor=factor, max_length=9).build()
    for split in Split:
        for index in range(40):
            example = task.example(split, index)
            x = [int(word) for word in example.prompt.removesuffix(" : ").split(" ")]
            n = range(len(x))
            assert all(0 <= number < modulus for number in x)
            wanted = [sum((x[i] + factor * x[j] + x[k]) % modulus == 0 for j in n for k in n) for i in n]
            assert [int(word) for word in example.solution.split(" ")] == wanted
            assert task.chance(example) == (len(x) ** 2 + 1) ** -len(x)


def test_the_worked_example() -> None:
    task = Cpm3Config(min_length=3, max_length=3).build()
    assert task._counts([1, 2, 4]) == [1, 1, 1]


def test_verdicts() -> None:
    task = Cpm3Config().build()
    example = task.example(Split.train, 0)
    right = example.solution.split(" ")
    other = " ".join([str(int(right[0]) + 1), *right[1:]])
    found = task.verify(example, other)
    assert found.outcome is Outcome.wrong and found.measures["counts"] == 1 - 1 / len(right)
    for text in (
        " ".join(right[:-1]),
        example.solution + " 1",
        example.solution.replace(" ", ","),
        "-" + other,
        "\u0661",
    ):
        assert task.verify(example, text).outcome is Outcome.malformed


@pytest.mark.parametrize("factor", [0, 7, 8, 15])
def test_factors_that_forget_the_order_are_refused(factor: int) -> None:
    with pytest.raises(ConfigError, match="the order of a pair does not matter"):
        Cpm3Config(factor=factor)


@pytest.mark.parametrize("fields", [{"modulus": 2}, {"min_length": 1}, {"max_length": 300}])
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Cpm3Config(**fields)
