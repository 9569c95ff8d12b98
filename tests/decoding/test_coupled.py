"""Decoding with coupled positions, given and predicted, against full passes of the same model."""

from typing import Any

import pytest
import torch

from rlx.decoding.completions import Completions
from rlx.decoding.engine import Engine
from rlx.decoding.logprobs import token_logprobs
from rlx.decoding.sample import SampleConfig
from rlx.models.dense import DenseConfig
from rlx.models.layers.attention import Position
from rlx.nn.decoder import Decoder

VOCAB, PAD, END, MOST = 12, 0, 1, 9
PROMPTS = [[2, 3, 4], [5], [6, 7, 8, 9, 10]]
GUIDES = [[0, 2, 1, 2, 3, 0], [4, 5, 0], [0, 3, 2, 1, 1, 2, 9, 0]]
"""Ids of each prompt and of what should follow it."""


def model_of(position: Position) -> Decoder:
    torch.manual_seed(0)
    config = DenseConfig(d_model=32, n_layers=2, init_std=0.4, position=position, max_position=MOST)
    return config.build(VOCAB).eval()


def complete(model: Decoder, rows: int = 64, **settings: Any) -> Completions:
    decode = SampleConfig(max_tokens=10, rows=rows)
    engine = Engine(model, end_id=END, pad_id=PAD, **settings)
    return engine.complete(PROMPTS, keys=[7, 8, 9], samples=4, decode=decode, places=GUIDES)


def rows_of(done: Completions) -> list[tuple[list[int], list[int], list[int], int]]:
    """Of each row prompt, guide, ids of its completion, and its place in the output."""
    assert done.places is not None
    return [
        (PROMPTS[n // 4], GUIDES[n // 4], done.places[n, : int(done.lengths[n])].tolist(), n)
        for n in range(len(done.tokens))
    ]


def test_given_ids_go_on_as_the_solution_does() -> None:
    done = complete(model_of(Position.coupled))
    assert int(done.lengths.max()) > 5, "some rows are longer than their solutions"
    for prompt, guide, ids, _ in rows_of(done):
        beyond = min(max(guide) + 1, MOST)
        expected = [*guide[len(prompt) :], *[beyond] * 10]
        assert ids == expected[: len(ids)]


@pytest.mark.parametrize("position", [Position.coupled, Position.predicted])
def test_log_probabilities_are_those_of_a_full_pass_with_the_ids(position: Position) -> None:
    model = model_of(position)
    done = complete(model)
    for prompt, guide, ids, n in rows_of(done):
        drawn = done.tokens[n, : len(ids)].tolist()
        tokens = torch.tensor([[*prompt, *drawn]])
        places = torch.tensor([[*guide[: len(prompt)], *ids]])
        with torch.no_grad():
            whole = token_logprobs(model.logits(model(tokens, places=places)[0]), tokens)[0, len(prompt) :]
        torch.testing.assert_close(done.logprobs[n, : len(ids)], whole, atol=1e-5, rtol=0)


def test_predicted_ids_are_the_likeliest_after_what_was_fed() -> None:
    model = model_of(Position.predicted)
    assert model.places is not None and model.places.head is not None
    seen = set()
    for prompt, guide, ids, n in rows_of(complete(model)):
        tokens = [*prompt, *complete(model).tokens[n].tolist()]
        fed = guide[: len(prompt)]
        for place, found in enumerate(ids):
            hidden = model(torch.tensor([tokens[: len(fed)]]), places=torch.tensor([fed]))[0]
            expected = int((hidden[0, -1] @ model.places.head.weight.T).argmax())
            assert found == expected, place
            fed = [*fed, found]
            seen.add(found)
    assert len(seen) > 2


@pytest.mark.parametrize("position", [Position.coupled, Position.predicted])
def test_rows_do_not_depend_on_their_neighbours(position: Position) -> None:
    """Two rows at a time: refilled and compacted on the way."""
    model = model_of(position)
    one, other = complete(model), complete(model, rows=2)
    assert one.places is not None and other.places is not None
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.places, other.places)


def test_models_without_have_none() -> None:
    engine = Engine(model_of(Position.rope), end_id=END, pad_id=PAD)
    done = engine.complete(PROMPTS, keys=[7, 8, 9], samples=1, decode=SampleConfig(max_tokens=3))
    assert done.places is None
