"""Filler: its grammar parsed by another parser, copies, sorted lists."""

import re
from collections import Counter
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.filler import NOUNS, VERBS, Filler, FillerConfig, Part
from rlx.types import Example, Outcome, Split

NOUN, VERB = (f"(?:{'|'.join(words)})" for words in (NOUNS, VERBS))
CLAUSE = rf"(?: near the {NOUN}s?| that the (?:{NOUN} {VERB}s|{NOUN}s {VERB}))"
SENTENCE = re.compile(rf"the (?P<subject>{NOUN}s?){CLAUSE}{{0,3}} ")


def filler(part: Part = Part.mixed, **fields: Any) -> Filler:
    return FillerConfig(part=part, **fields).build()


def examples(task: Filler, count: int = 400, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def test_verbs_agree_with_the_subject_and_inside_clauses() -> None:
    task = filler(Part.grammar)
    plural, depths = 0, Counter[int]()
    for example in examples(task, 2_000):
        match = SENTENCE.fullmatch(example.prompt)
        assert match, example.prompt
        is_plural = match["subject"] not in NOUNS
        plural += is_plural
        depths[len(re.findall("near|that", example.prompt))] += 1
        assert example.solution in ({*VERBS} if is_plural else {f"{verb}s" for verb in VERBS})
        for verb in VERBS[:3]:
            assert task.verify(example, verb).correct == is_plural == (not task.verify(example, f"{verb}s").correct)
    assert abs(plural / 2_000 - 0.5) < 0.04
    for depth, share in {0: 0.4, 1: 0.24, 2: 0.144, 3: 0.216}.items():
        assert abs(depths[depth] / 2_000 - share) < 0.04


def test_the_short_cut_agrees_with_the_last_noun() -> None:
    task = filler(Part.grammar)
    right = {near: Counter[bool]() for near in (False, True)}
    for example in examples(task, 2_000):
        right["near" in example.prompt or "that" in example.prompt][
            task.verify(example, task.guess(example)).correct
        ] += 1
    assert not right[False][False]
    assert abs(right[True][True] / sum(right[True].values()) - 0.5) < 0.05


def test_copies_and_sorted_lists() -> None:
    for example in examples(filler()):
        part = example.difficulty["part"]
        if part == "grammar":
            continue
        tokens = example.prompt.removeprefix(f"{part}: ").removesuffix(" = ").split(" ")
        assert 3 <= len(tokens) <= 8
        assert example.solution.split(" ") == (tokens if part == "copy" else sorted(tokens))


def test_parts_are_mixed_evenly() -> None:
    counts = Counter(example.difficulty["part"] for example in examples(filler(), 3_000))
    assert all(920 < counts[part] < 1_080 for part in ("grammar", "copy", "sort"))


def test_nouns_and_verbs_are_different_words_and_no_plural_is_a_stem() -> None:
    stems = {*NOUNS, *VERBS}
    assert len(stems) == 100 and not any(stem.endswith("s") for stem in stems)


def test_verdicts() -> None:
    task = filler(Part.sort)
    example = Example(id="", prompt="", solution="2 5 9", truth=("sort", "2 5 9", ""))
    assert task.verify(example, "2 5 9").correct
    assert task.verify(example, "2 5 8").measures == {"words": pytest.approx(2 / 3)}
    for text in ("", "2 5 x", "2,5,9", "ka"):
        assert task.verify(example, text).outcome is Outcome.malformed
    verb = Example(id="", prompt="", solution=VERBS[0], truth=("grammar", VERBS[0], ""))
    assert task.verify(verb, f"{VERBS[0]} {VERBS[1]}").outcome is Outcome.malformed


@pytest.mark.parametrize("fields", [{"depth": 0}, {"nesting": 1.0}, {"min_length": 1}])
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FillerConfig(**fields)
