"""Verdicts are on what was sampled, not only on the text that it decodes to."""

import torch

from rlx.data.tokenizers.char import CharConfig
from rlx.decoding.engine import Completions
from rlx.evaluation.judge import Judge
from rlx.evaluation.verdicts import mean_measures, verified
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.types import Outcome, Split, Verdict


def test_special_tokens_before_the_end_mark_are_malformed():
    tokenizer = CharConfig().build()
    task = CountdownConfig(numbers=3, trace=Trace.operations).build()
    example = task.example(Split.test, 0)
    right = tokenizer.encode(example.solution)
    rows = [
        [*right, tokenizer.end_id],
        [right[0], tokenizer.pad_id, *right[1:], tokenizer.end_id],
        [tokenizer.begin_id, *right, tokenizer.end_id],
        right,
    ]
    width = max(map(len, rows)) + 1
    completions = Completions(
        tokens=torch.tensor([row + [tokenizer.pad_id] * (width - len(row)) for row in rows]),
        logprobs=torch.zeros(len(rows), width),
        lengths=torch.tensor([len(row) for row in rows]),
        finished=torch.tensor([row[-1] == tokenizer.end_id for row in rows]),
    )
    texts, verdicts = verified(Judge(task), tokenizer, [example], completions)
    assert texts == [example.solution] * 4
    found = [verdict.outcome for verdict in verdicts]
    assert found == [Outcome.correct, Outcome.malformed, Outcome.malformed, Outcome.truncated]


def test_measures_are_means_over_the_verdicts_that_have_them():
    """A truncated completion was not read, so it says nothing about its format."""
    read = [{"code": 1.0, "cells": 0.5}, {"code": 0.0, "cells": 0.5}, {"code": 0.0}]
    verdicts = [Verdict(Outcome.wrong, measures=measures) for measures in read]
    assert mean_measures([*verdicts, Verdict(Outcome.truncated)]) == {"code": 1 / 3, "cells": 0.5}
    assert mean_measures([Verdict(Outcome.truncated)]) == {}
