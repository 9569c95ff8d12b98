"""An evaluation in chunks is one evaluation, whether or not some of them were finished before."""

import json
from typing import Any

import pytest
import torch

from rlx.data.tokenizers.char import CharConfig
from rlx.decoding.sample import SampleConfig
from rlx.evaluation import evaluate
from rlx.evaluation.evaluate import Evaluation, Evaluator, chunks, first_problems
from rlx.models.dense import DenseConfig
from rlx.tasks.countdown import CountdownConfig
from rlx.types import Split

PROBLEMS = 10


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    torch.manual_seed(0)
    tokenizer = CharConfig().build()
    model = DenseConfig(d_model=32, n_layers=2, n_heads=4, init_std=0.25).build(tokenizer.vocab_size)
    task, decode = CountdownConfig(numbers=3).build(), SampleConfig(max_tokens=8)
    return Evaluator(model, tokenizer, task, decode=decode, stop=lambda: False, compile=False)


def evaluated(evaluator: Evaluator, done: list[Any]) -> tuple[Evaluation, list[dict[str, Any]]]:
    """What is found, and the findings of the chunks that were completed."""
    kept: list[dict[str, Any]] = []
    examples = first_problems(evaluator.task, Split.val, PROBLEMS)
    found = evaluator.evaluate(examples, samples=3, seed=0, done=done, keep=kept.append)
    return found, kept


def test_chunks_add_up(evaluator, monkeypatch):
    """To one chunk's findings, costs included."""
    whole, (one,) = evaluated(evaluator, [])
    monkeypatch.setattr(evaluate, "CHUNK", 4)
    parts, kept = evaluated(evaluator, [])
    assert parts == whole and len(kept) == 3
    assert whole.decoded.plain() == one["decoded"] and whole.decoded.tokens > 0
    assert whole.outcomes.total() == len(whole.lengths) == 30
    assert [len(chunk) for chunk in chunks(first_problems(evaluator.task, Split.val, PROBLEMS))] == [4, 4, 2]


@pytest.mark.parametrize("finished", [1, 2, 3])
def test_finished_chunks_are_not_made_again(evaluator, monkeypatch, finished):
    """They come from JSON, as the file of a run that was killed has them."""
    monkeypatch.setattr(evaluate, "CHUNK", 4)
    whole, made = evaluated(evaluator, [])
    found, rest = evaluated(evaluator, json.loads(json.dumps(made[:finished])))
    assert found == whole and rest == made[finished:]
