"""Texts without work that pass a verifier are told of, and accidents are not."""

import math
from itertools import product
from typing import Any

import pytest

from rlx.evaluation.judge import Judge
from rlx.evaluation.leaks import at_least, unearned
from rlx.options import discover
from rlx.types import Example, Outcome, Split, Verdict


class Leaky:
    """Twelve problems whose verifier is `passes(example, text)`."""

    def __init__(self, passes: Any, chance: float = 0.0) -> None:
        self.passes, self.level = passes, chance
        self.asked: list[tuple[str, str]] = []
        self.examples = [Example(str(n), f"{n}?", "yes" if n % 3 else "no") for n in range(12)]

    def verify(self, example: Example, completion: str) -> Verdict:
        self.asked.append((example.id, completion))
        return Verdict(Outcome.correct if self.passes(example, completion) else Outcome.wrong)

    def chance(self, example: Example) -> float:
        return self.level


def said(passes: Any, chance: float = 0.0) -> list[str]:
    task: Any = Leaky(passes, chance)
    return unearned(Judge(task), task.examples)


def sentence(*found: str) -> list[str]:
    return [f"the verifier is passed without work: {', '.join(found)}; the policy will find that, mend the verifier"]


def test_what_passes_is_told_with_its_share():
    assert said(lambda example, text: text == example.solution) == []
    assert said(lambda example, text: not text and int(example.id) < 3) == sentence(
        "the empty text on 25% of 12 problems"
    )
    assert said(lambda example, text: example.prompt in text) == sentence("the prompt itself on 100% of 12 problems")
    assert said(lambda example, text: text in ("yes", "no"), 0.5) == sentence(
        "another problem's solution on 100% of 12 problems (chance 50.0%)"
    )
    assert said(lambda example, text: True) == sentence(
        "the empty text on 100% of 12 problems",
        "the prompt itself on 100% of 12 problems",
        "another problem's solution on 100% of 12 problems",
    )


def test_the_other_solution_is_another_text():
    """Two problems may well have one answer: that it passes says nothing."""
    task: Any = Leaky(lambda example, text: text == example.solution)
    unearned(Judge(task), task.examples)
    solutions = {example.id: example.solution for example in task.examples}
    swapped = task.asked[24:]
    assert len(swapped) == 12 and all(text in ("yes", "no") and text != solutions[name] for name, text in swapped)


def test_a_verifier_that_raises_passes_nothing():
    assert said(lambda example, text: 1 / 0) == []


@pytest.mark.parametrize("count, n, p", [(0, 5, 0.3), (2, 5, 0.3), (5, 5, 0.9), (1, 7, 0.0), (3, 7, 0.5)])
def test_the_tail_is_that_of_counted_draws(count, n, p):
    """Over all outcomes of n draws, one by one."""
    draws = product((0, 1), repeat=n)
    whole = sum(math.prod(p if hit else 1 - p for hit in each) for each in draws if sum(each) >= count)
    assert at_least(count, n, p) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("name", discover("task"))
def test_no_task_of_ours_is_passed_without_work(name):
    task = discover("task")[name].config().build()
    assert unearned(Judge(task), [task.example(Split.train, index) for index in range(64)]) == []
