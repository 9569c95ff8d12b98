"""What every task promises, run over all options found, in each of their traces."""

import importlib
import re
from dataclasses import fields
from enum import Enum
from functools import lru_cache
from itertools import combinations, product
from random import Random
from typing import Any

import pytest

from rlx.decoding.sample import SampleConfig
from rlx.options import discover
from rlx.stages.pretrain import PretrainConfig
from rlx.tasks.base import Task
from rlx.types import Example, Outcome, Split, Verdict

SETTINGS: dict[str, dict[str, Any]] = {}
"""Values that a task needs to be built here, where its defaults do not do."""
COUNT = 24
"""Examples read per split."""

HOSTILE = {
    "empty": "",
    "blank": " \n\t\r ",
    "junk": "the answer, I think, is: banana #### ~~ \\boxed{}",
    "power": "9**9**9**9",
    "import": "__import__('os').system('echo hi')",
    "unicode digits": "\u0661\u0663+\u0661\u0669=\u0663\u0662,\uff11\uff12,\u00b2",
    "nul": "\x00\x00 1\x002",
    "surrogate": "\ud800 1+1=2",
    "brackets": "[" * 100_000,
    "closed brackets": "(" * 50_000 + ")" * 50_000,
    "long number": "9" * 1_000_000,
    "long equation": "1+1=2," * 200_000,
    "long blanks": " " * 1_000_000,
    "long lines": "\n" * 1_000_000,
    "negative zero": "-0/-0=-0",
    "floats": "1e999,nan,inf,-inf,0x10,1_000",
    "template": "{0.__class__.__mro__} %s%n ${x}",
}


def variants() -> list[Any]:
    """(config class, settings) for every task and every two choices of its Enum fields together."""
    found: list[Any] = []
    for name, option in discover("task").items():
        kinds = {f.name: type(f.default) for f in fields(option.config) if isinstance(f.default, Enum)}
        for choice in pairwise(list(product(*kinds.values()))):
            label = "-".join([name, *(member.name for member in choice)])
            settings = {**SETTINGS.get(name, {}), **dict(zip(kinds, choice, strict=True))}
            found.append(pytest.param((option.config, settings), id=label))
    return found


def pairwise(choices: list[tuple[Enum, ...]]) -> list[tuple[Enum, ...]]:
    """As few of the choices as hold every pair of members that is in one of them."""
    missing = {choice: {*combinations(choice, min(2, len(choice)))} for choice in choices}
    found = []
    while any(missing.values()):
        best = max(choices, key=lambda choice: len(missing[choice]))
        found.append(best)
        missing = {choice: pairs - {*combinations(best, min(2, len(best)))} for choice, pairs in missing.items()}
    return found or choices


@pytest.fixture(scope="module", params=variants())
def variant(request: pytest.FixtureRequest) -> tuple[type, dict[str, Any]]:
    return request.param


@pytest.fixture(scope="module")
def task(variant: tuple[type, dict[str, Any]]) -> Task:
    return build(variant)


def build(variant: tuple[type, dict[str, Any]], **changes: Any) -> Task:
    config, settings = variant
    return config(**{**settings, **changes}).build()


@lru_cache(maxsize=8)
def read(task: Task, split: Split, count: int = COUNT) -> list[Example]:
    """The first examples of a split. Making them takes most of the time here: the last tasks' are kept."""
    size = task.size(split)
    return [task.example(split, index) for index in range(count if size is None else min(count, size))]


def with_last(text: str, wanted: Any) -> str | None:
    """`text` with its last wanted character made another of its kind; None where there is none."""
    place = next((place for place in reversed(range(len(text))) if wanted(text[place])), None)
    if place is None:
        return None
    other = str((int(text[place]) + 1) % 10) if text[place].isdigit() else "x" if text[place] != "x" else "y"
    return text[:place] + other + text[place + 1 :]


@pytest.mark.parametrize("split", list(Split), ids=lambda split: split.value)
def test_same_arguments_give_the_same_example(task: Task, variant: tuple[type, dict[str, Any]], split: Split) -> None:
    first = read(task, split)
    again = build(variant)
    assert [again.example(split, index) for index in reversed(range(len(first)))] == first[::-1]


def test_sizes_are_kept(task: Task) -> None:
    for split in Split:
        size = task.size(split)
        assert size is None or size > 0
        for outside in (-1, size):
            if outside is not None:
                with pytest.raises(IndexError):
                    task.example(split, outside)


def test_splits_are_disjoint_whatever_the_seed(task: Task, variant: tuple[type, dict[str, Any]]) -> None:
    seen: dict[str, Split] = {}
    for seeded in (task, build(variant, seed=1)):
        for split in Split:
            for example in read(seeded, split):
                assert seen.setdefault(example.id, split) is split, example.id


def test_held_out_examples_do_not_move_with_the_seed(task: Task, variant: tuple[type, dict[str, Any]]) -> None:
    """Runs whose training examples differ are compared on the same problems."""
    seeded = build(variant, seed=1)
    for split in (Split.val, Split.test):
        assert read(seeded, split, 8) == read(task, split)[:8]
    first, other = read(task, Split.train)[:8], read(seeded, Split.train, 8)
    assert [example.id for example in first] != [example.id for example in other]


def test_own_solution_verifies(task: Task) -> None:
    for split in Split:
        for example in read(task, split):
            assert task.verify(example, example.solution).correct, example.id


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_a_verdict(task: Task, text: str) -> None:
    example = task.example(Split.train, 0)
    assert not task.verify(example, text).correct


def test_long_text_around_a_solution_is_a_verdict(task: Task) -> None:
    example = task.example(Split.train, 0)
    for text in (example.solution * 5_000, "[" * 100_000 + example.solution, example.solution + "9" * 1_000_000):
        verdict = task.verify(example, text)
        assert isinstance(verdict, Verdict)
        assert len(verdict.detail) < 1_000


def test_near_miss_fails(task: Task) -> None:
    for example in read(task, Split.train):
        for wanted in (str.isdigit, str.isalnum):
            missed = with_last(example.solution, wanted)
            assert missed is None or not task.verify(example, missed).correct, missed
        assert not task.verify(example, example.solution.rstrip()[:-1]).correct


def test_coupled_positions_are_one_a_character_and_begin_with_1(task: Task) -> None:
    for example in read(task, Split.train):
        if example.places is not None:
            assert len(example.places) == len(example.prompt) + len(example.solution) + 1
            assert min(place for place in example.places if place) == 1 and min(example.places) >= 0


def test_difficulty_makes_slices(task: Task) -> None:
    """Fields of an evaluation's slices: the same names everywhere, and few values each."""
    examples = read(task, Split.train)
    assert len({tuple(example.difficulty) for example in examples}) == 1
    for example in examples:
        assert all(isinstance(value, int | float | str) for value in example.difficulty.values())


def test_chance_and_baseline_are_stated(task: Task) -> None:
    """Chance is a probability, and the short cut writes text that is judged like any other, the same each time."""
    assert task.baseline and len(task.baseline) < 60
    for example in read(task, Split.test):
        assert 0 <= task.chance(example) < 1
        guessed = task.guess(example)
        assert guessed == task.guess(example)
        assert task.verify(example, guessed).outcome is not Outcome.malformed, guessed


def test_measures_are_the_same_for_every_text(task: Task) -> None:
    """So that means over completions are means over all of them, except those not in the format."""
    example = task.example(Split.val, 0)
    other = task.example(Split.val, 1)
    texts = (example.solution, other.solution, task.guess(example))
    verdicts = [task.verify(example, text) for text in texts]
    names = {tuple(verdict.measures) for verdict in verdicts if verdict.outcome is not Outcome.malformed}
    assert len(names) == 1
    assert all(isinstance(value, float | int) for verdict in verdicts for value in verdict.measures.values())


def test_text_out_of_format_has_the_measures_that_are_shares(task: Task) -> None:
    """So that the columns of an evaluation do not hang on what a model writes."""
    example = task.example(Split.val, 0)
    whole = task.verify(example, example.solution).measures
    junk = task.verify(example, "~")
    assert junk.outcome is Outcome.malformed and set(junk.measures) <= set(whole)
    assert bool(junk.measures) or whole.keys() <= {"yes"}
    assert not any(junk.measures.values())


def test_a_mistake_is_a_wrong_answer_of_the_right_form(task: Task) -> None:
    """Of tasks that write mistakes of their own: never correct, never malformed, and a function of the draws alone."""
    mistake = getattr(task, "mistake", None)
    if mistake is None:
        return
    examples = read(task, Split.train)
    texts = [[mistake(example, Random(seed)) for seed in range(8)] for example in examples]
    if texts[0][0] is None:
        assert {text for own in texts for text in own} == {None}
        return
    for example, own in zip(examples, texts, strict=True):
        assert {task.verify(example, text).outcome for text in own} == {Outcome.wrong}, example.id
    assert sum(len(set(own)) for own in texts) > 2 * COUNT
    assert texts == [[mistake(example, Random(seed)) for seed in range(8)] for example in examples]
    words = set("".join(task.words()))
    assert all(set(text) <= words for own in texts for text in own)


def test_text_is_made_of_the_words(task: Task) -> None:
    """A word tokenizer, which takes the longest word first, can write every prompt and solution; so can ASCII."""
    words = sorted(map(re.escape, task.words()), key=len, reverse=True)
    whole = re.compile(f"(?:{'|'.join(words)})*")
    for split in Split:
        for example in read(task, split):
            text = example.prompt + example.solution
            assert whole.fullmatch(text), text
            assert all(" " <= character <= "~" or character == "\n" for character in text)


def test_prompts_of_two_problems_differ(task: Task) -> None:
    examples = {example.id: example for example in read(task, Split.train)}
    assert len({example.prompt for example in examples.values()}) == len(examples)


@pytest.mark.parametrize("name", discover("task"))
def test_default_documents_fit_the_default_row(name: str) -> None:
    """In characters, two marks included: `stage=pretrain task=<name>` must just run, and so must rl and eval."""
    task = discover("task")[name].config().build()
    for example in read(task, Split.train, 500):
        assert len(example.prompt) + len(example.solution) + 2 <= PretrainConfig().row_tokens
        assert len(example.solution) + 1 <= SampleConfig().max_tokens


@pytest.mark.parametrize("name", discover("task"))
def test_the_head_of_the_file_shows_a_worked_example(name: str) -> None:
    text = importlib.import_module(discover("task")[name].config.__module__).__doc__ or ""
    assert "Worked example" in text and "Source" in text
