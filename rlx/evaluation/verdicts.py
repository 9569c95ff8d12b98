"""What is told of many verdicts: one rule for training and evaluation."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rlx.environments.base import Episode
from rlx.types import Example, Failure, Verdict


def heard(episodes: Sequence[Episode]) -> tuple[list[Verdict], list[Example]]:
    """What was said of every turn that has a verdict, and what each was a turn on."""
    found = [(turn.verdict, each.example) for each in episodes for turn in each.turns if turn.verdict is not None]
    return [verdict for verdict, _ in found], [example for _, example in found]


def failure_counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Answers that the verifier failed on, as `verifier/errors`, and of these by their kind those that are not its
    exceptions and junk: `verifier/timeouts`, `verifier/memory`, `verifier/deaths`, where there are any."""
    counts = Counter(verdict.failure for verdict in verdicts if verdict.failure is not None)
    kinds = {"timeouts": Failure.timeout, "memory": Failure.memory, "deaths": Failure.death}
    found = {f"verifier/{name}": counts[kind] for name, kind in kinds.items() if counts[kind]}
    return {"verifier/errors": counts.total(), **found}


def first_failure(verdicts: Sequence[Verdict], examples: Sequence[Example]) -> str:
    """How the verifier failed first, and on which example; empty where it did not. The same number of
    verdicts an example."""
    samples = len(verdicts) // max(len(examples), 1)
    for row, verdict in enumerate(verdicts):
        if verdict.failure is not None:
            return f"{verdict.detail}, first on {examples[row // samples].id}"
    return ""


def mean_measures(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The mean of each measure over the verdicts that carry it; truncated ones carry none."""
    return mean_by_name([verdict.measures for verdict in verdicts])


def mean_by_name(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name over the rows that have it, names in order of appearance."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}
