"""Answers that pass without work: texts that hold nothing of a problem's solution, put before its verifier.

A policy finds them. They are the empty text, the prompt again, and the solution of another problem, which may pass by
accident as often as the task's chance level says.
"""

import math
from collections.abc import Sequence
from contextlib import suppress

from rlx.evaluation.judge import Judge
from rlx.types import Example, Failure

MOST = 64
"""Problems looked at."""
BY_ACCIDENT = 1e-3
"""Probability below which so many others' solutions do not pass by accident."""


def unearned(judge: Judge, examples: Sequence[Example]) -> list[str]:
    """One sentence where such texts pass, with their shares; none where none does. A verifier that hangs or dies on
    them is asked no more."""
    examples = examples[:MOST]
    others = [(example, _other(place, examples)) for place, example in enumerate(examples)]
    swapped = [(example, other.solution) for example, other in others if other is not None]
    kinds = {
        "the empty text": [(example, "") for example in examples],
        "the prompt itself": [(example, example.prompt) for example in examples],
        "another problem's solution": swapped,
    }
    found = []
    for name, pairs in kinds.items():
        count = _passing(judge, pairs)
        if count is None:
            break
        chance = _chance(judge, [example for example, _ in pairs]) if pairs is swapped else 0.0
        if count and at_least(count, len(pairs), chance) < BY_ACCIDENT:
            beside = f" (chance {chance:.1%})" if chance else ""
            found.append(f"{name} on {count / len(pairs):.0%} of {len(pairs)} problems{beside}")
    if not found:
        return []
    return [f"the verifier is passed without work: {', '.join(found)}; the policy will find that, mend the verifier"]


def at_least(count: int, n: int, p: float) -> float:
    """Probability of `count` or more successes in `n` draws of probability `p` each."""
    return max(0.0, 1.0 - sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count)))


def _other(place: int, examples: Sequence[Example]) -> Example | None:
    """The next problem, from this place on and around, that has another solution."""
    around, own = (*examples[place + 1 :], *examples[:place]), examples[place]
    return next((each for each in around if each.id != own.id and each.solution != own.solution), None)


def _passing(judge: Judge, pairs: Sequence[tuple[Example, str]]) -> int | None:
    """How many of the texts are judged correct; None where the verifier hangs or dies."""
    count = 0
    for example, text in pairs:
        verdict = judge.verify(example, text)
        if verdict.failure not in (None, Failure.error):
            return None
        count += verdict.correct
    return count


def _chance(judge: Judge, examples: Sequence[Example]) -> float:
    """The task's mean chance level; 0 where it states none."""
    with suppress(Exception):
        return sum(judge.task.chance(example) for example in examples) / max(len(examples), 1)
    return 0.0
