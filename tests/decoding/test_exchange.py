"""Interactions in the engine: what is answered is fed, and everything else is as if it had been sampled alone."""

from collections import Counter
from shutil import which
from typing import Any

import pytest
import torch

from rlx.decoding import engine as engine_module
from rlx.decoding.completions import Completions, Reply
from rlx.decoding.engine import Engine
from rlx.decoding.logprobs import token_logprobs
from rlx.decoding.sample import SampleConfig
from rlx.decoding.uniforms import sample_keys, uniforms
from rlx.models.dense import DenseConfig
from rlx.models.gssm import GssmConfig
from rlx.models.moe import MoeConfig
from rlx.nn.decoder import Decoder

VOCAB, PAD, END, MARK, STOP = 12, 0, 1, 2, 3
PROMPTS = [[5, 6], [7], [4, 8, 9, 5, 6], [10, 11, 4]]
KEYS = [11, 2**62, -5, 7]
SAMPLES, MOST = 3, 30


class Answering:
    """Answers two turns with as many marks as the turn has tokens, at most three, and the place; then ends."""

    def __init__(self, budget: int | None = 6, stop: bool = True, turns: int = 3) -> None:
        self.most, self.turns = budget, turns
        self.ends = torch.arange(VOCAB) == STOP if stop else None
        self.heard: dict[int, list[tuple[list[int], bool]]] = {}

    def budget(self, place: int) -> int | None:
        return self.most

    def reply(self, place: int, tokens: list[int], ended: bool) -> Reply | None:
        said = self.heard.setdefault(place, [])
        said.append((tokens, ended))
        if len(said) == self.turns:
            return None
        return Reply(tokens=[MARK] * min(len(tokens), 3) + [4 + place % 8], budget=self.most)


def model_of(config: Any) -> Decoder:
    torch.manual_seed(0)
    return config.build(VOCAB)


SIZE: dict[str, Any] = dict(d_model=32, n_layers=2, init_std=0.25)
MODELS = {
    "dense": DenseConfig(**SIZE, n_heads=4, n_kv_heads=2),
    "moe": MoeConfig(**SIZE, n_heads=4),
    "gssm": GssmConfig(**SIZE),
}


@pytest.fixture(scope="module")
def model() -> Decoder:
    return model_of(MODELS["dense"])


def play(
    model: Decoder, exchange: Answering, *, prompts: Any = None, compile: bool = False, **decode: Any
) -> Completions:
    settings = SampleConfig(**{"max_tokens": MOST, **decode})
    engine = Engine(model, end_id=END, pad_id=PAD, compile=compile)
    return engine.complete(
        PROMPTS if prompts is None else prompts, keys=KEYS, samples=SAMPLES, decode=settings, exchange=exchange
    )


def by_hand(model: Decoder, prompt: list[int], key: torch.Tensor, place: int, exchange: Answering) -> list[int]:
    """A dialogue by full passes, every draw at the column's own number."""
    text: list[int] = []
    start, limit = 0, min(exchange.most or MOST, MOST)
    while True:
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([prompt + text]))[0])[0, -1]
        share = torch.softmax(logits.double(), -1).cumsum(-1)
        text.append(int((share <= float(uniforms(key[None], len(text)))).sum()))
        ended = text[-1] == END or (exchange.ends is not None and text[-1] == STOP)
        if not ended and len(text) < limit:
            continue
        reply = exchange.reply(place, text[start:], ended)
        if reply is None or len(text) + len(reply.tokens) >= MOST:
            return text
        text += reply.tokens
        start, limit = len(text), min(len(text) + (reply.budget or MOST), MOST)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("budget", [6, None], ids=["budget", "none"])
def test_a_dialogue_is_that_of_full_passes(name: str, budget: int | None) -> None:
    model, exchange, expected = model_of(MODELS[name]), Answering(budget), Answering(budget)
    done = play(model, exchange)
    keys = sample_keys(torch.tensor(KEYS), SAMPLES)
    for place in range(len(keys)):
        text = by_hand(model, PROMPTS[place // SAMPLES], keys[place], place, expected)
        assert done.tokens[place, : int(done.lengths[place])].tolist() == text
        assert exchange.heard[place] == expected.heard[place]
    assert len({len(heard) for heard in exchange.heard.values()}) > 1 or budget is not None


def test_turns_masks_and_logprobs(model: Decoder) -> None:
    exchange = Answering()
    done = play(model, exchange)
    width = max(map(len, PROMPTS)) + MOST
    tokens = torch.full((len(done.tokens), width), PAD)
    given = [len(PROMPTS[place // SAMPLES]) for place in range(len(tokens))]
    for place, row in enumerate(done.tokens):
        tokens[place, : given[place]] = torch.tensor(PROMPTS[place // SAMPLES])
        tokens[place, given[place] : given[place] + MOST] = row
    with torch.no_grad():
        trained = token_logprobs(model.logits(model(tokens)[0]), tokens)
    for place, heard in exchange.heard.items():
        length, sampled = int(done.lengths[place]), done.sampled[place]
        for turn, (said, _) in enumerate(heard):
            own = sampled & (done.turns[place] == turn)
            assert done.tokens[place, own].tolist() == said
        assert sampled.sum() == sum(len(said) for said, _ in heard) and not sampled[length:].any()
        told = ~sampled
        told[length:] = False
        assert (done.logprobs[place][~sampled] == 0).all() and (done.logprobs[place][sampled] < 0).all()
        assert told.sum() == length - sampled.sum() and set(done.turns[place, told].tolist()) <= {1, 2}
        own = trained[place, given[place] : given[place] + MOST]
        torch.testing.assert_close(done.logprobs[place][sampled], own[sampled], atol=1e-5, rtol=0)


def same(one: Completions, other: Completions) -> None:
    for name in ("tokens", "lengths", "finished", "sampled", "turns"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
@pytest.mark.parametrize("refill", [0.0, 0.5, 1.0])
def test_dialogues_do_not_depend_on_the_wave_or_refill(
    model: Decoder, rows: int, refill: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = play(model, Answering())
    monkeypatch.setattr(engine_module, "REFILL_SHARE", refill)
    found = play(model, Answering(), rows=rows)
    same(found, expected)
    assert (found.prefilled, found.decoded) == (expected.prefilled, expected.decoded)


@pytest.mark.parametrize("share", [0.0, 2.0], ids=["never", "every step"])
def test_dialogues_do_not_depend_on_compaction(model: Decoder, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = play(model, Answering())
    monkeypatch.setattr(engine_module, "ALIVE_SHARE", share)
    same(play(model, Answering()), expected)


def test_one_that_answers_nothing_changes_nothing(model: Decoder) -> None:
    engine = Engine(model, end_id=END, pad_id=PAD)
    settings = SampleConfig(max_tokens=MOST)
    expected = engine.complete(PROMPTS, keys=KEYS, samples=SAMPLES, decode=settings)
    same(play(model, Answering(None, stop=False, turns=1)), expected)


def test_what_is_passed_is_counted(model: Decoder) -> None:
    """Every token behind the prompt passes once, replies too, save a row's last."""
    done = play(model, Answering(), rows=5)
    drawn = Counter[int]()
    for place, length in enumerate(done.lengths.tolist()):
        given = len(PROMPTS[place // SAMPLES])
        drawn.update(given + column + 1 for column in range(length - 1))
    assert {n + 1: count for n, count in enumerate(done.decoded.plain()) if count} == drawn


def test_what_does_not_fit_is_not_said(model: Decoder) -> None:
    """A reply after which there is no room for a token ends the dialogue, which then is not finished."""
    exchange = Answering(None)
    done = play(model, exchange, max_tokens=8)
    assert int(done.lengths.max()) <= 8
    for place, heard in exchange.heard.items():
        last = len(heard) < 3
        if last and heard[-1][1]:
            assert not done.finished[place]
        assert int(done.turns[place].max()) == len(heard) - 1


def test_routing_is_kept_of_what_is_told_too() -> None:
    model = model_of(MODELS["moe"])
    engine = Engine(model, end_id=END, pad_id=PAD)
    done = engine.complete(
        PROMPTS, keys=KEYS, samples=SAMPLES, decode=SampleConfig(max_tokens=MOST), exchange=Answering(), routing=True
    )
    assert done.routing is not None
    for place in range(len(done.tokens)):
        passed = len(PROMPTS[place // SAMPLES]) + int(done.lengths[place]) - 1
        assert (done.routing[place, :passed] >= 0).all() and (done.routing[place, passed:] == -1).all()


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_plays_the_same(model: Decoder) -> None:
    same(play(model, Answering(), rows=8, compile=True), play(model, Answering(), rows=8))
