"""The engine under a scheduler that sets running samples aside: every sample is what it would have been."""

import math
from collections import Counter
from random import Random
from shutil import which
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.decoding import engine as engine_module
from rlx.decoding import lengths as lengths_module
from rlx.decoding import scheduling as scheduling_module
from rlx.decoding import waiting as waiting_module
from rlx.decoding.base import Scheduling
from rlx.decoding.completions import Completions, Reply
from rlx.decoding.engine import Engine
from rlx.decoding.graphs import Graphs
from rlx.decoding.lengths import Forecast, LengthProbe
from rlx.decoding.sample import SampleConfig
from rlx.decoding.scheduling import FirstCome, Job
from rlx.decoding.uniforms import sample_keys, uniforms
from rlx.models.dense import DenseConfig
from rlx.models.gssm import GssmConfig
from rlx.models.moe import MoeConfig
from rlx.nn.decoder import Decoder
from tests.decoding.test_graphs import recorded

VOCAB, PAD, END, MARK = 12, 0, 1, 2
PROMPTS = [[5, 6], [7], [4, 8, 9, 5, 6], [10, 11, 4], [3, 3], [9, 4, 7]]
KEYS = [11, 2**62, -5, 7, 0, 8]
SAMPLES, MOST = 3, 24
SIZE: dict[str, Any] = dict(d_model=32, n_layers=2, init_std=0.25)
MODELS = {
    "dense": DenseConfig(**SIZE, n_heads=4, n_kv_heads=2),
    "moe": MoeConfig(**SIZE, n_heads=4),
    "gssm": GssmConfig(**SIZE),
}


def model_of(name: str) -> Decoder:
    torch.manual_seed(0)
    return MODELS[name].build(VOCAB)


@pytest.fixture(scope="module")
def model() -> Decoder:
    return model_of("dense")


class Fickle(Forecast):
    """Knows, and thinks otherwise of every sample at every step."""

    knows = True  # pyright: ignore[reportAssignmentType]

    def begin(self, place: Tensor, states: Tensor) -> None:
        self.go_on(place, torch.zeros_like(place), states)
        self.first.fill_(1000.0)

    def go_on(self, place: Tensor, drawn: Tensor, states: Tensor) -> None:
        self.left[place] = 30 * uniforms(self.requests[place], 99 + drawn).float()


class Restless(FirstCome):
    """Thinks otherwise of every sample whenever it is asked, of those that it set aside too."""

    def __init__(self) -> None:
        super().__init__()
        self.random = Random(0)

    def rank(self, job: Job) -> float:
        return self.random.random()

    def may_yield(self, job: Job) -> bool:
        return True


class Oracle(Forecast):
    """Knows how long each sample will be."""

    knows = True  # pyright: ignore[reportAssignmentType]
    lengths: Tensor

    def begin(self, place: Tensor, states: Tensor) -> None:
        self.left[place] = self.lengths[place].float()
        self.first[place] = self.left[place]

    def go_on(self, place: Tensor, drawn: Tensor, states: Tensor) -> None:
        own = place < len(self.lengths)
        self.left[place[own]] = (self.lengths[place[own]] - drawn[own]).float()


def probe_of(kind: type[Forecast]) -> LengthProbe:
    probe = LengthProbe(32, MOST, seed=1, device=torch.device("cpu"))
    probe.forecast = lambda requests: kind(probe, requests)
    return probe


class Answering:
    """Answers a turn with as many marks as it has tokens, at most three, and the place; then ends."""

    ends = None

    def __init__(self) -> None:
        self.heard: Counter[int] = Counter()

    def budget(self, place: int) -> int | None:
        return 6

    def reply(self, place: int, tokens: list[int], ended: bool) -> Reply | None:
        self.heard[place] += 1
        return (
            None if self.heard[place] == 3 else Reply(tokens=[MARK] * min(len(tokens), 3) + [4 + place % 8], budget=6)
        )


def complete(model: Decoder, lengths: LengthProbe | None = None, *, compile: bool = False, **more: Any) -> Completions:
    decode = SampleConfig(
        max_tokens=MOST,
        rows=more.pop("rows", 18),
        scheduler=Scheduling.fcfs if lengths is None else Scheduling.trail,
        preempt=more.pop("preempt", 0.8),
    )
    engine = Engine(model, end_id=END, pad_id=PAD, lengths=lengths, compile=compile)
    asked = {"prompts": PROMPTS, "keys": KEYS, "samples": SAMPLES, **more}
    return engine.complete(decode=decode, **asked)


def same(one: Completions, other: Completions) -> None:
    for name in ("tokens", "lengths", "finished", "sampled", "turns"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
    assert (one.prefilled, one.decoded) == (other.prefilled, other.decoded)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 4, 7])
@pytest.mark.parametrize("talks", [False, True], ids=["alone", "talks"])
def test_samples_do_not_depend_on_preemption(name: str, rows: int, talks: bool, monkeypatch: Any) -> None:
    model = model_of(name)
    more: dict[str, Any] = {"routing": name == "moe"}
    monkeypatch.setattr(scheduling_module, "SHELF_SHARE", 4.0)
    monkeypatch.setattr(waiting_module, "scheduler_of", lambda decode: Restless())
    expected = complete(model, exchange=Answering() if talks else None, **more)
    found = complete(model, probe_of(Fickle), rows=rows, exchange=Answering() if talks else None, **more)
    assert found.preempted > 10 and expected.preempted == 0
    same(found, expected)
    if name == "moe":
        assert found.routing is not None and expected.routing is not None
        assert torch.equal(found.routing, expected.routing)


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("refill", [0.0, 1.0])
def test_the_shelf_holds_no_more_than_its_share(model: Decoder, share: float, refill: float, monkeypatch: Any) -> None:
    """And it is used whole; what lies on it comes back, whenever rows are filled."""
    monkeypatch.setattr(scheduling_module, "SHELF_SHARE", share)
    monkeypatch.setattr(engine_module, "REFILL_SHARE", refill)
    monkeypatch.setattr(waiting_module, "scheduler_of", lambda decode: Restless())
    held, preempt = [], Engine._preempt

    def watched(engine: Engine, state: Any, shelf: Any, waiting: Any, *given: Any) -> int:
        reach = preempt(engine, state, shelf, waiting, *given)
        held.append(int(shelf.alive.sum()))
        assert len(shelf.alive) == math.ceil(share * 5)
        assert sorted(shelf.alive.nonzero().squeeze(1).tolist()) == sorted(waiting.shelved.values())
        assert not set(shelf.place[shelf.alive].tolist()) & set(state.place[state.alive].tolist())
        return reach

    monkeypatch.setattr(Engine, "_preempt", watched)
    expected = complete(model)
    found = complete(model, probe_of(Fickle), rows=5)
    assert max(held) == math.ceil(share * 5)
    same(found, expected)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_network_that_has_learnt_changes_no_sample(model: Decoder, rows: int) -> None:
    probe = LengthProbe(32, MOST, seed=1, device=torch.device("cpu"))
    expected, first = complete(model), complete(model, probe, rows=rows)
    same(first, expected)
    assert first.seen is not None and first.predictions == 0
    probe.learn(first.seen)
    found = complete(model, probe, rows=rows)
    same(found, expected)
    assert found.predictions == int(found.lengths.sum())


def ends(model: Decoder, probe: LengthProbe | None, monkeypatch: Any, **more: Any) -> dict[int, int]:
    """The step at which each sample was over."""
    over: dict[int, int] = {}
    steps, step, is_over = [0], Engine._step, Engine.is_over

    def stepped(engine: Engine, *given: Any) -> None:
        steps[0] += 1
        step(engine, *given)

    def judged(engine: Engine, place: Tensor, tokens: Tensor, drawn: Tensor) -> Tensor:
        found = is_over(engine, place, tokens, drawn)
        over.update({number: steps[0] for number in place[found | (drawn == MOST)].tolist() if number not in over})
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_step", stepped)
        patch.setattr(Engine, "is_over", judged)
        complete(model, probe, **more)
    return over


def test_known_lengths_run_shortest_first(model: Decoder, monkeypatch: Any) -> None:
    """Of one prompt's samples in one row each waits for all that are shorter, by the lengths in the end."""
    prompt: dict[str, Any] = dict(prompts=PROMPTS[:1], keys=KEYS[:1], samples=18, rows=1)
    expected = complete(model, **prompt)

    class Known(Oracle):
        lengths = expected.lengths

    found = ends(model, probe_of(Known), monkeypatch, **prompt)
    order = sorted(range(18), key=lambda place: (int(expected.lengths[place]), place))
    waits = torch.tensor([int(expected.lengths[place]) - 1 for place in order]).cumsum(0)
    assert [found[place] for place in order] == waits.tolist()
    same(complete(model, probe_of(Known), **prompt), expected)
    assert sum(found.values()) < 0.8 * sum(ends(model, None, monkeypatch, **prompt).values())


def test_the_shortest_of_as_many_prompts_as_rows_run_first(model: Decoder, monkeypatch: Any) -> None:
    turned: dict[str, Any] = dict(prompts=PROMPTS[::-1], keys=KEYS[::-1])  # the short ones come last
    expected = complete(model, **turned)

    class Known(Oracle):
        lengths = expected.lengths

    found = ends(model, probe_of(Known), monkeypatch, rows=6, **turned)
    first = [place for place in range(18) if found[place] == int(expected.lengths[place]) - 1]
    assert len(first) == 6, "those that began before the first step"
    assert max(expected.lengths[first]) <= min(expected.lengths[[n for n in range(18) if n not in first]])


def test_a_running_sample_yields_early_and_not_late(model: Decoder, monkeypatch: Any) -> None:
    """Every sample is thought short until it runs, and long from then on."""

    class Disappointing(Forecast):
        knows = True  # pyright: ignore[reportAssignmentType]

        def begin(self, place: Tensor, states: Tensor) -> None:
            self.left[place], self.first[place] = 10.0, 10.0

        def go_on(self, place: Tensor, drawn: Tensor, states: Tensor) -> None:
            self.left[place] = 100.0

    ages: list[float] = []
    displace = waiting_module.scheduler_of(SampleConfig(scheduler=Scheduling.trail)).__class__.displace

    def watched(scheduler: Any, running: Any, most: Any = None) -> Any:
        pairs = displace(scheduler, running, most)
        ages.extend(goes.age for goes, _ in pairs)
        return pairs

    monkeypatch.setattr("rlx.decoding.scheduling.Trail.displace", watched)
    found = complete(model, probe_of(Disappointing), rows=4, preempt=0.5)
    same(found, complete(model))
    assert ages and max(ages) < 5 and found.preempted == len(ages)
    assert complete(model, probe_of(Disappointing), rows=4, preempt=0.0).preempted == 0


def test_who_has_a_row_of_its_own_is_not_disturbed(model: Decoder) -> None:
    assert complete(model, probe_of(Fickle), rows=18).preempted == 0


def test_first_come_asks_nothing(model: Decoder, monkeypatch: Any) -> None:
    """Neither states nor predictions are made, whatever the engine was given; nor with no predictor at all."""
    monkeypatch.setattr(engine_module, "_next_logits_and_state", None)
    probe = LengthProbe(32, MOST, seed=1, device=torch.device("cpu"))
    monkeypatch.setattr(probe, "forecast", None)
    engine = Engine(model, end_id=END, pad_id=PAD, lengths=probe)
    with pytest.raises(TypeError):
        complete(model, probe)
    monkeypatch.undo()
    engine = Engine(model, end_id=END, pad_id=PAD, lengths=probe)
    monkeypatch.setattr(probe, "forecast", None)
    done = engine.complete(PROMPTS, keys=KEYS, samples=SAMPLES, decode=SampleConfig(max_tokens=MOST, rows=4))
    assert done.seen is None and done.predictions == 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kept", [10**6, 40], ids=["all", "some"])
def test_what_is_learnt_from_is_that_of_full_passes(name: str, kept: int, monkeypatch: Any) -> None:
    """States, lengths and predictions of samples that were set aside in between, against passes over the whole."""
    model = model_of(name)
    probe = LengthProbe(32, MOST, seed=1, device=torch.device("cpu"))
    probe.made = 1
    done = complete(model)
    monkeypatch.setattr(lengths_module, "KEPT", kept)
    monkeypatch.setattr(scheduling_module, "SHELF_SHARE", 4.0)
    monkeypatch.setattr(waiting_module, "scheduler_of", lambda decode: Restless())
    again = complete(model, probe, rows=4)
    seen = again.seen
    assert seen is not None and again.preempted > 5
    keys = sample_keys(torch.tensor(KEYS), SAMPLES).tolist()
    found = {
        (keys.index(request), drawn): row
        for row, (request, drawn) in enumerate(zip(seen.request.tolist(), seen.drawn.tolist(), strict=True))
    }
    assert len(found) == len(seen)
    if kept == 10**6:
        assert set(found) == {(p, n) for p in range(18) for n in range(int(done.lengths[p]))}
    else:
        assert 10 < len(found) < 60
    carry = torch.eye(10) * (1 - 10 / MOST) + torch.diag(torch.full((9,), 10 / MOST), 1)
    carry[0, 0] = 1.0
    for place in range(18):
        prompt, length = PROMPTS[place // SAMPLES], int(done.lengths[place])
        tokens = torch.tensor([prompt + done.tokens[place, :length].tolist()])
        with torch.no_grad():
            states = model(tokens, look=0)[1].looked[0]
        belief = torch.ones(0)
        for drawn in range(length):
            state = states[len(prompt) - 1 + drawn]
            with torch.no_grad():
                hidden = torch.relu(
                    probe.network[0].weight @ (state / (state.square().mean() + 1e-8).sqrt()) + probe.network[0].bias
                )
                now = torch.softmax(probe.network[2].weight @ hidden + probe.network[2].bias, -1)
            belief = now if drawn == 0 else carry @ belief * now
            belief = belief / belief.sum()
            row = found.get((place, drawn))
            if row is None:
                continue
            torch.testing.assert_close(seen.states[row], state, atol=1e-5, rtol=1e-4)
            assert int(seen.left[row]) == length - drawn
            predicted = float(belief @ (torch.arange(10) + 0.5)) * MOST / 10
            assert float(seen.predicted[row]) == pytest.approx(predicted, abs=2e-3)


def test_the_state_looked_at_is_the_streams_after_a_layer(model: Decoder) -> None:
    tokens = torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        x, rows = model.embed(tokens), model.rows(tokens)
        for number, block in enumerate(model.blocks):
            x, _ = block(x, rows=rows)
            torch.testing.assert_close(model(tokens, look=number)[1].looked, x)
    assert model(tokens)[1].looked is None


@pytest.mark.parametrize("polled", [1, 8])
def test_recorded_steps_draw_and_see_the_same(model: Decoder, polled: int, monkeypatch: Any) -> None:
    """In tensors that are kept from a call with more samples, whatever a call's scheduler did."""
    monkeypatch.setattr(engine_module, "SMALLEST_ROWS", 2)
    monkeypatch.setattr(waiting_module, "scheduler_of", lambda decode: Restless())
    monkeypatch.setattr(lengths_module, "KEPT", 10**6)
    probe = LengthProbe(32, MOST, seed=1, device=torch.device("cpu"))
    probe.made = 1
    engine = Engine(model, end_id=END, pad_id=PAD, lengths=probe, graphs=Graphs(recorded))
    engine.polled = polled
    engine.complete(PROMPTS, keys=KEYS, samples=SAMPLES, decode=SampleConfig(max_tokens=MOST, rows=4))
    preempted: list[int] = []
    for count in (6, 4, 6):
        asked: dict[str, Any] = dict(prompts=PROMPTS[:count], keys=KEYS[:count], samples=SAMPLES)
        decode = SampleConfig(max_tokens=MOST, rows=4, scheduler=Scheduling.trail, preempt=100.0)
        found, expected = engine.complete(decode=decode, **asked), complete(model, **asked)
        same(found, expected)
        preempted.append(found.preempted)
        plain = complete(model, probe, rows=4, preempt=100.0, **asked).seen
        assert found.seen is not None and plain is not None and len(found.seen) == len(plain)
        for seen in (found.seen, plain):
            order = sorted(range(len(seen)), key=lambda row: (int(seen.request[row]), int(seen.drawn[row])))
            seen.states, seen.left = seen.states[order], seen.left[order]
        assert torch.equal(found.seen.left, plain.left)
        torch.testing.assert_close(found.seen.states, plain.states, atol=1e-5, rtol=1e-4)
    assert preempted[0] == preempted[2] > 0
    assert engine._graphs is not None and not engine._graphs.refused and engine._graphs._plays
    first = engine.complete(decode=SampleConfig(max_tokens=MOST, rows=4), **asked)
    same(first, expected)
    assert first.seen is None and first.preempted == 0


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_draws_the_same(model: Decoder, monkeypatch: Any) -> None:
    monkeypatch.setattr(waiting_module, "scheduler_of", lambda decode: Restless())
    monkeypatch.setattr(scheduling_module, "SHELF_SHARE", 4.0)
    found = complete(model, probe_of(Fickle), rows=8, compile=True)
    assert found.preempted > 10
    same(found, complete(model))
