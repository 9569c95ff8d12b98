"""Skills: what each does, how often each comes."""

from collections import Counter
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.skills import Skills, SkillsConfig
from rlx.types import Example, Outcome, Split

DONE = {
    "copy": "kelz",
    "upper": "KELZ",
    "reverse": "zlek",
    "first": "k",
    "last": "z",
    "shift": "lfma",
    "sort": "eklz",
    "double": "kkeellzz",
}
"""What each makes of `kelz`."""


def skills(**fields: Any) -> Skills:
    return SkillsConfig(**fields).build()


def examples(task: Skills, count: int = 500, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def by_hand(skill: str, text: str) -> str:
    low, up = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    if skill == "upper":
        return "".join(up[low.index(letter)] if letter in low else letter for letter in text)
    if skill == "shift":
        return "".join((low if letter in low else up)[((low + up).index(letter) % 26 + 1) % 26] for letter in text)
    return {
        "copy": text, "reverse": "".join(reversed(text)), "first": text[0], "last": text[len(text) - 1],
        "sort": "".join(sorted(text)), "double": "".join(letter + letter for letter in text),
    }[skill]  # fmt: skip


def test_each_skill() -> None:
    assert {skill: by_hand(skill, "kelz") for skill in DONE} == DONE


def test_composites_are_carried_out_from_left_to_right() -> None:
    for example in examples(skills(parts=3), 3_000):
        *names, text, _ = example.prompt.removesuffix(" ").split(" ")
        for name in names:
            text = by_hand(name, text)
        assert example.solution == text
        assert example.difficulty == {"skill": " ".join(names), "parts": len(names)}


def test_tasks_are_all_orders_of_different_skills() -> None:
    assert len(skills(parts=1).tasks) == 8
    assert len(skills(parts=2).tasks) == 8 + 7 * 6
    assert len(skills(parts=3).tasks) == 8 + 7 * 6 + 7 * 6 * 5
    assert skills(parts=2).tasks[:8] == [(name,) for name in DONE]


@pytest.mark.parametrize("reversed_frequency", [False, True])
def test_frequencies_fall_by_a_power(reversed_frequency: bool) -> None:
    task = skills(skills=["upper", "first", "shift"], exponent=1.0, reversed_frequency=reversed_frequency)
    counts = Counter(example.difficulty["skill"] for example in examples(task, 6_000))
    names = ["upper", "first", "shift", "upper first", "upper shift", "first upper", "first shift", "shift upper",
             "shift first"]  # fmt: skip
    names = names[::-1] if reversed_frequency else names
    total = sum(1 / place for place in range(1, 10))
    for place, name in enumerate(names, 1):
        assert abs(counts[name] / 6_000 - 1 / place / total) < 0.02, name


def test_verdicts() -> None:
    task = skills()
    example = Example(id="", prompt="", solution="MLEK", truth=("kelm", "MLEK"))
    assert task.verify(example, "MLEK ").correct
    assert task.verify(example, "MLEk").measures == {"letters": 0.75}
    for text in ("", "ML EK", "M1EK", "\u00e9"):
        assert task.verify(example, text).outcome is Outcome.malformed
    assert task.chance(example) == 52**-4 and task.guess(example) == "kelm"


@pytest.mark.parametrize(
    "fields",
    [{"skills": ["fly"]}, {"skills": []}, {"skills": ["upper", "upper"]}, {"parts": 4}, {"exponent": -1.0}],
)
def test_settings_that_cannot_be_are_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"try task\."):
        SkillsConfig(**fields)
