"""Verdicts are on what was sampled, not only on the text that it decodes to."""

from typing import Any

import torch

from rlx.data.tokenizers.base import Tokenizer
from rlx.data.tokenizers.char import CharConfig
from rlx.decoding.completions import Completions
from rlx.decoding.engine import Engine
from rlx.decoding.sample import SampleConfig
from rlx.environments.single import Single
from rlx.evaluation.episodes import Player
from rlx.evaluation.judge import Judge
from rlx.evaluation.verdicts import mean_measures
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.types import Outcome, Split, Verdict


class Spoken(Engine):
    """An engine that says what it is told."""

    def __init__(self, rows: list[list[int]], tokenizer: Tokenizer) -> None:
        self.rows, self.tokenizer = rows, tokenizer

    def complete(self, *_: Any, **__: Any) -> Completions:
        width = max(map(len, self.rows)) + 1
        lengths = torch.tensor([len(row) for row in self.rows])
        return Completions(
            tokens=torch.tensor([row + [self.tokenizer.pad_id] * (width - len(row)) for row in self.rows]),
            logprobs=torch.zeros(len(self.rows), width),
            lengths=lengths,
            finished=torch.tensor([row[-1] == self.tokenizer.end_id for row in self.rows]),
            sampled=torch.arange(width) < lengths[:, None],
            turns=torch.zeros(len(self.rows), width, dtype=torch.int64),
        )


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
    player = Player(Single(), tokenizer, Judge(task))
    played = player.play(
        Spoken(rows, tokenizer), [example] * 4, keys=range(4), samples=1, decode=SampleConfig(), training=False
    )
    assert played.texts == [example.solution] * 4
    verdicts = played.verdicts
    found = [verdict.outcome for verdict in verdicts]
    assert found == [Outcome.correct, Outcome.malformed, Outcome.malformed, Outcome.truncated]


def test_measures_are_means_over_the_verdicts_that_have_them():
    """A truncated completion was not read, so it says nothing about its format."""
    read = [{"code": 1.0, "cells": 0.5}, {"code": 0.0, "cells": 0.5}, {"code": 0.0}]
    verdicts = [Verdict(Outcome.wrong, measures=measures) for measures in read]
    assert mean_measures([*verdicts, Verdict(Outcome.truncated)]) == {"code": 1 / 3, "cells": 0.5}
    assert mean_measures([Verdict(Outcome.truncated)]) == {}
