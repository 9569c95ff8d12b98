"""Planted parities: by counting, by place, with coupled positions."""

from collections import Counter
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.planted import Planted, PlantedConfig, Trace
from rlx.types import Example, Outcome, Split


def planted(**fields: Any) -> Planted:
    return PlantedConfig(**fields).build()


def examples(task: Planted, count: int = 300, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def bits(example: Example) -> list[int]:
    return [int(symbol) for symbol in example.prompt if symbol in "01"]


def test_answers_are_parities() -> None:
    for task in (planted(planted=4), planted(planted=4, trace=Trace.scratchpad)):
        for example in examples(task):
            found = bits(example)
            assert len(found) == 4
            after = [str(sum(found[: count + 1]) % 2) for count in range(4)]
            assert example.solution == ("".join(after) if task.scratchpad else after[-1])


def test_bits_and_places_are_drawn_evenly() -> None:
    found = examples(planted(planted=3, min_length=6, max_length=6), 6_000)
    ones = sum(sum(bits(example)) for example in found) / 18_000
    assert abs(ones - 0.5) < 0.012
    places = Counter(place for example in found for place, symbol in enumerate(example.prompt) if symbol in "01")
    assert all(abs(places[place] / 6_000 - 0.5) < 0.025 for place in range(6))
    assert abs(sum(example.solution == "1" for example in found) / 6_000 - 0.5) < 0.025


def test_the_control_has_more_bits_the_longer_it_is() -> None:
    task = planted(one_in=8, min_length=8, max_length=50)
    for example in examples(task):
        assert len(bits(example)) == (len(example.prompt) - 1) // 8


def test_the_last_bit_decides() -> None:
    task = planted(planted=3, trace=Trace.scratchpad)
    example = Example(id="", prompt="", solution="", truth=([1, 0, 1], [1, 1, 0]))
    assert task.verify(example, "110").measures == {"steps": 1}
    found = task.verify(example, "000")
    assert found.correct and found.measures["steps"] == pytest.approx(1 / 3)
    assert task.verify(example, "111").outcome is Outcome.wrong
    for text in ("11", "1100", "11a", ""):
        assert task.verify(example, text).outcome is Outcome.malformed


def test_coupled_positions() -> None:
    """Of `hb1ac0d1?`: bits share ids with the scratchpad, or, without one, with the answer."""
    with_steps = planted(planted=3, trace=Trace.scratchpad)
    assert with_steps._places("hb1ac0d1", 3) == (0, 0, 2, 0, 0, 3, 0, 4, 1, 2, 3, 4, 0)
    assert planted(planted=3)._places("hb1ac0d1", 3) == (0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"planted": 6}, "task.planted must be 1 to 5"),
        ({"planted": 0}, "task.planted must be 1 to"),
        ({"planted": 3, "one_in": 4}, "give one of them"),
        ({"one_in": 6}, "task.one_in must be 1 to 5"),
        ({"background": 27}, "task.background must be 1 to 26"),
    ],
)
def test_settings_that_cannot_be_are_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PlantedConfig(**fields)
