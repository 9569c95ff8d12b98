"""Texts, verdicts and measures of completions: one rule for training and evaluation."""

from collections.abc import Mapping, Sequence

from rlx.data.tokenizers.base import Tokenizer
from rlx.decoding.engine import Completions
from rlx.tasks.base import Task
from rlx.types import Example, Outcome, Verdict


def verified(
    task: Task, tokenizer: Tokenizer, examples: Sequence[Example], completions: Completions
) -> tuple[list[str], list[Verdict]]:
    """Text and verdict of every row, the same number of rows an example, example by example.

    A completion without its end mark is truncated, whatever it says; one with another special token, which its text
    would not show, is malformed.
    """
    texts, verdicts = [], []
    samples = len(completions.tokens) // max(len(examples), 1)
    lengths, finished = completions.lengths.tolist(), completions.finished.tolist()
    for row, ids in enumerate(completions.tokens.tolist()):
        texts.append(tokenizer.decode(ids[: lengths[row]]))
        if not finished[row]:
            verdicts.append(Verdict(Outcome.truncated, "no end mark"))
        elif not tokenizer.special_ids.isdisjoint(ids[: lengths[row] - 1]):
            verdicts.append(Verdict(Outcome.malformed, "a special token before the end mark"))
        else:
            verdicts.append(task.verify(examples[row // samples], texts[row]))
    return texts, verdicts


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
