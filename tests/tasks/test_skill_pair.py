"""Lookup, addition and both: what they say, which pairs a split has, and what a base may know beforehand."""

from collections import Counter
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.skill_pair import Answers, Skill, SkillPair, SkillPairConfig, Trace
from rlx.types import Example, Outcome, Split


def task_of(skill: Skill = Skill.composed, **fields: Any) -> SkillPair:
    return SkillPairConfig(skill=skill, val_examples=8_000, test_examples=8_000, **fields).build()


def examples(task: SkillPair, count: int = 1_000, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def read(prompt: str) -> tuple[str, list[str]]:
    """Command, and what stands on both sides of the +."""
    command, _, rest = prompt.partition(":")
    assert rest.endswith("=")
    return command, rest[:-1].split("+")


def test_every_skill_says_what_the_table_says() -> None:
    values = {}
    for example in examples(task_of(Skill.lookup), 4_000):
        command, keys = read(example.prompt)
        assert command == "value"
        for key, number in zip(keys, example.solution.split("+"), strict=True):
            assert values.setdefault(key, int(number)) == int(number)
    assert values.keys() == {f"k{key}" for key in range(200)} and set(values.values()) <= set(range(97))
    assert len(set(values.values())) > 70, "drawn evenly"
    for trace in Trace:
        for example in examples(task_of(trace=trace)):
            command, keys = read(example.prompt)
            a, b = (values[key] for key in keys)
            assert command == "sum"
            assert example.solution == (f"{a}+{b}=" if trace is Trace.steps else "") + str((a + b) % 97)
            assert example.difficulty == {"skill": "composed", "wraps": int(a + b >= 97)}
        for example in examples(task_of(Skill.addition, trace=trace)):
            command, (a, b) = read(example.prompt)
            assert command == "sum"
            steps = f"{a}+{b}=" if trace is Trace.steps else ""
            assert example.solution == steps + str((int(a) + int(b)) % 97)


def test_a_composed_prompt_has_the_command_of_one_skill_and_the_symbols_of_the_other() -> None:
    forms = {skill: read(task_of(skill).example(Split.train, 0).prompt) for skill in Skill if skill is not Skill.all}
    assert forms[Skill.composed][0] == forms[Skill.addition][0] != forms[Skill.lookup][0]
    assert forms[Skill.composed][1][0][0] == forms[Skill.lookup][1][0][0] == "k" != forms[Skill.addition][1][0][0]


def test_all_are_a_third_each() -> None:
    found = Counter(example.difficulty["skill"] for example in examples(task_of(Skill.all), 3_000))
    assert set(found) == {"lookup", "addition", "composed"} and min(found.values()) > 900
    own = {skill: {example.id: example for example in examples(task_of(skill), 3_000)} for skill in list(Skill)[:3]}
    for example in examples(task_of(Skill.all), 3_000):
        same = own[Skill(example.difficulty["skill"])].get(example.id, example)
        assert same == example


def pairs_of(skill: Skill, split: Split, count: int, **fields: Any) -> set[tuple[str, ...]]:
    return {tuple(read(example.prompt)[1]) for example in examples(task_of(skill, **fields), count, split)}


def test_held_out_pairs_of_symbols_are_the_same_in_both_skills() -> None:
    """No composed test problem has a pair that a lookup document had; every symbol was in one."""
    small = {"keys": 30, "modulus": 40}
    of = {(s, split): pairs_of(s, split, 6_000, **small) for s in list(Skill)[:3] for split in Split}
    for skill in (Skill.lookup, Skill.composed):
        assert of[skill, Split.test] == of[Skill.composed, Split.test] and len(of[skill, Split.test]) > 5
        assert of[skill, Split.train].isdisjoint(of[Skill.composed, Split.test])
        assert len({key for pair in of[skill, Split.train] for key in pair}) == 30
    assert sum(len(of[Skill.lookup, split]) for split in Split) > 0.98 * 30 * 30
    assert 30 < len(of[Skill.lookup, Split.test]) < 85, "one in 16 of 900"
    assert sum(len(of[Skill.addition, split]) for split in Split) > 0.96 * 40 * 40
    assert of[Skill.addition, Split.train].isdisjoint(of[Skill.addition, Split.test])


def test_shuffled_answers_have_the_form_and_nothing_else() -> None:
    task = task_of(Skill.composed, answers=Answers.shuffled, modulus=20, keys=20)
    right = task_of(Skill.composed, modulus=20, keys=20)
    found = examples(task, 4_000)
    assert {example.prompt for example in found} == {example.prompt for example in examples(right, 4_000)}
    known = {example.prompt: example.truth for example in examples(right, 4_000)}
    agree = [a == b for example in found for a, b in zip(example.truth, known[example.prompt], strict=True)]
    assert abs(sum(agree) / len(agree) - 1 / 20) < 0.01
    sums = [sum(example.truth[:2]) % 20 == example.truth[2] for example in found]
    assert abs(sum(sums) / len(sums) - 1 / 20) < 0.015
    counts = Counter(number for example in found for number in example.truth)
    assert len(counts) == 20 and min(counts.values()) > 400
    assert len({example.truth for example in found if example.prompt == found[0].prompt}) > 1, "anew each time"


def test_another_world_has_other_answers_to_the_same_questions() -> None:
    assert task_of().values == task_of(seed=4).values != task_of(world=1).values
    same = [a == b for a, b in zip(task_of().values, task_of(world=1).values, strict=True)]
    assert sum(same) < 10
    assert task_of(keys=100).values != task_of(keys=200).values[:100], "another table, not a part of one"
    pairs = zip(examples(task_of(Skill.addition)), examples(task_of(Skill.addition, world=5)), strict=True)
    for own, other in pairs:
        assert own.prompt == other.prompt and other.truth == (*own.truth[:2], (own.truth[2] + 5) % 97)
    assert task_of(world=1).example(Split.test, 0).prompt == task_of().example(Split.test, 0).prompt


@pytest.mark.parametrize(
    ("text", "outcome", "numbers"),
    [
        ("43+80=26", Outcome.correct, 1.0),
        ("43+80=26 \n", Outcome.correct, 1.0),
        ("43+80=27", Outcome.wrong, 2 / 3),
        ("42+80=26", Outcome.wrong, 2 / 3),
        ("80+43=26", Outcome.wrong, 1 / 3),
        ("043+80=26", Outcome.malformed, 0.0),
        ("26", Outcome.malformed, 0.0),
        ("43+80", Outcome.malformed, 0.0),
        ("43 + 80 = 26", Outcome.malformed, 0.0),
        ("43+80=26=26", Outcome.malformed, 0.0),
        ("+43+80=26", Outcome.malformed, 0.0),
        (" 43+80=26", Outcome.malformed, 0.0),
        ("", Outcome.malformed, 0.0),
    ],
    ids=repr,
)
def test_verdicts(text: str, outcome: Outcome, numbers: float) -> None:
    example = Example(id="", prompt="sum:k7+k3=", solution="43+80=26", truth=(43, 80, 26))
    verdict = task_of().verify(example, text)
    assert verdict.outcome is outcome and verdict.measures == {"numbers": pytest.approx(numbers)}


def test_a_number_has_as_many_digits_as_it_needs() -> None:
    example = Example(id="", prompt="sum:3+4=", solution="7", truth=(7,))
    assert task_of(Skill.addition).verify(example, "7").correct
    for text in ("07", "007", "7+0", "0007", "٧"):
        assert not task_of(Skill.addition).verify(example, text).correct


def test_chance_and_words() -> None:
    assert task_of().chance(task_of().example(Split.test, 0)) == pytest.approx(97.0**-3)
    assert task_of(Skill.lookup).chance(task_of(Skill.lookup).example(Split.test, 0)) == pytest.approx(97.0**-2)
    assert task_of(trace=Trace.direct).chance(task_of(trace=Trace.direct).example(Split.test, 0)) == 1 / 97
    assert task_of(Skill.lookup).words() == task_of(Skill.addition, answers=Answers.shuffled).words()


def test_worlds_are_counted_from_0() -> None:
    with pytest.raises(ConfigError, match=r"task\.world must be at least 0, got -1"):
        SkillPairConfig(world=-1)


@pytest.mark.parametrize("values", [{"keys": 11}, {"modulus": 11}, {"keys": 1001}, {"modulus": 1001}], ids=str)
def test_sizes_have_bounds(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be 12 to 1000"):
        SkillPairConfig(**values)


@pytest.mark.parametrize("size", [12, 13])
def test_the_smallest_have_pairs_in_every_split(size: int) -> None:
    for skill in Skill:
        for split in Split:
            assert task_of(skill, keys=size, modulus=size).example(split, 3).solution
