"""Recorded steps, by a recorder that does on a CPU what a CUDA graph does: it keeps the operations and their tensors,
and plays them back on the same memory, whatever the objects that held these refer to by then. As there, a recording
changes nothing, and what the host would have to wait for is refused."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from rlx.decoding import engine as engine_module
from rlx.decoding.completions import Completions
from rlx.decoding.engine import Engine
from rlx.decoding.graphs import Graphs, Step
from rlx.decoding.sample import SampleConfig
from rlx.errors import DivergedError
from rlx.models.dense import DenseConfig
from rlx.models.gssm import GssmConfig
from rlx.models.iha import IhaConfig
from rlx.models.layers.attention import Position
from rlx.models.moe import MoeConfig
from rlx.nn.decoder import Decoder
from tests.decoding.test_exchange import Answering

VOCAB, PAD, END = 12, 0, 1
KEYS = [11, 2**62, -5, 0, 7, 8]
PROMPTS = [[5, 6], [7, 7, 3], [4, 8, 9, 5, 6], [10, 11, 4], [2], [3, 9, 3, 9]]
SIZE: dict[str, Any] = dict(d_model=32, n_layers=2, init_std=0.25)
MODELS = {
    "dense": DenseConfig(**SIZE, n_heads=4, n_kv_heads=2, qk_norm=True),
    "iha": IhaConfig(**SIZE, n_heads=4),
    "gssm": GssmConfig(**SIZE),
    "window": DenseConfig(**SIZE, n_heads=4, layers=["attention.local+mlp", "attention+mlp"], window=4),
    "hard alibi": DenseConfig(**SIZE, n_heads=4, position=Position.hard_alibi),
}
WAITS = {"_local_scalar_dense", "nonzero", "lift_fresh", "masked_select", "unique2", "_unique2"}


def own(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Recorder(TorchDispatchMode):
    """What happens between `with` and its end, and the memory that it changed as it was before."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        given = [each for each in tree_iter((args, kwargs)) if isinstance(each, torch.Tensor)]
        if name in WAITS or (name.startswith("index") and any(each.dtype is torch.bool for each in given[1:-1])):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        writes = func._schema.is_mutable
        if writes and own(given[0]) not in self.made | self.before.keys():
            whole = torch.empty(0, dtype=torch.uint8).set_(given[0].untyped_storage())
            self.before[own(given[0])] = whole, whole.clone()
        out = func(*args, **kwargs)
        found = [each for each in tree_iter(out) if isinstance(each, torch.Tensor)]
        views = any(own(each) in {own(other) for other in given} for each in found)
        if not views:
            self.made |= {own(each) for each in found}
        if writes or not views:
            self.calls.append((func, args, kwargs, [] if writes else found))
        return out

    def undo(self) -> None:
        for whole, copy in self.before.values():
            whole.copy_(copy)

    def play(self) -> None:
        for func, args, kwargs, found in self.calls:
            made = [each for each in tree_iter(func(*args, **kwargs)) if isinstance(each, torch.Tensor)]
            for kept, new in zip(found, made, strict=False):
                kept.copy_(new)


def recorded(step: Step) -> Step:
    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing: tolist")

    recorder = Recorder()
    try:
        with recorder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "tolist", refuse)  # reads a CPU's memory without a call that a mode sees
            step()
    finally:
        recorder.undo()
    return recorder.play


def model_of(config: Any) -> Decoder:
    torch.manual_seed(0)
    return config.build(VOCAB)


def draw(engine: Engine, **more: Any) -> Completions:
    settings = SampleConfig(max_tokens=16, **{"rows": 16, **more.pop("decode", {})})
    return engine.complete(
        more.pop("prompts", PROMPTS), keys=KEYS[: more.pop("count", 6)], samples=4, decode=settings, **more
    )


def same(one: Completions, other: Completions) -> None:
    for name in ("tokens", "lengths", "finished", "sampled", "turns"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
    assert (one.prefilled, one.decoded) == (other.prefilled, other.decoded)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several sizes of rows, and of slots."""
    monkeypatch.setattr(engine_module, "SMALLEST_ROWS", 2)
    monkeypatch.setattr(engine_module, "SLOT_UNIT", 4)


@pytest.mark.parametrize("name", MODELS)
def test_recorded_steps_draw_the_same(name: str) -> None:
    model = model_of(MODELS[name])
    graphs = Graphs(recorded)
    engine = Engine(model, end_id=END, pad_id=PAD, graphs=graphs)
    expected = draw(Engine(model, end_id=END, pad_id=PAD))
    for _ in range(3):
        same(draw(engine), expected)
    sizes = {key[:2] for key, play in graphs._plays.items() if play is not None}
    assert not graphs.refused and len({rows for rows, _ in sizes}) > 1 and len({slots for _, slots in sizes}) > 1


def test_weights_that_change_in_place_are_followed() -> None:
    model = model_of(MODELS["dense"])
    engine = Engine(model, end_id=END, pad_id=PAD, graphs=Graphs(recorded))
    for _ in range(2):
        draw(engine)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    same(draw(engine), draw(Engine(model, end_id=END, pad_id=PAD)))


def test_other_numbers_of_samples_settings_and_lengths() -> None:
    """What is kept serves smaller calls, and is made anew for larger ones; results are no views of it."""
    model = model_of(MODELS["dense"])
    engine, plain = (
        Engine(model, end_id=END, pad_id=PAD, graphs=Graphs(recorded)),
        Engine(model, end_id=END, pad_id=PAD),
    )
    first = draw(engine)
    calls: list[dict[str, Any]] = [
        {"prompts": PROMPTS[:2], "count": 2},
        {"decode": {"temperature": 0.5}},
        {"decode": {"top_k": 2}},
        {"prompts": [[*prompt, *[5] * 30] for prompt in PROMPTS]},
        {},
    ]
    for more in [*calls, *calls]:
        same(draw(engine, **dict(more)), draw(plain, **dict(more)))
    same(first, draw(plain))
    assert not engine.unrecorded


def test_after_weights_that_diverged_nothing_is_kept() -> None:
    model = model_of(MODELS["window"])
    engine, expected = Engine(model, end_id=END, pad_id=PAD, graphs=Graphs(recorded)), None
    weight = model.blocks[0].mixer.qkv.weight  # pyright: ignore[reportAttributeAccessIssue]
    whole = weight.detach().clone()
    for good in (True, False, True):
        with torch.no_grad():
            weight.copy_(whole if good else whole * torch.nan)
        if good:
            found = draw(engine)
            same(found, expected or found)
            expected = found
        else:
            with pytest.raises(DivergedError):
                draw(engine)


def test_dialogues_are_recorded_too() -> None:
    model = model_of(MODELS["dense"])
    engine = Engine(model, end_id=END, pad_id=PAD, graphs=Graphs(recorded))
    expected = draw(Engine(model, end_id=END, pad_id=PAD), exchange=Answering())
    for _ in range(3):
        same(draw(engine, exchange=Answering()), expected)
    same(draw(engine), draw(Engine(model, end_id=END, pad_id=PAD)))


def test_bf16_copies_of_the_weights_stay_where_they_are() -> None:
    model = model_of(MODELS["dense"])
    engine = Engine(model, end_id=END, pad_id=PAD, graphs=Graphs(recorded))
    with torch.autocast("cpu", torch.bfloat16):
        draw(engine), draw(engine)
        with torch.no_grad():
            model.embed.weight.add_(0.05 * torch.randn(model.embed.weight.shape))
        found, expected = draw(engine), draw(Engine(model, end_id=END, pad_id=PAD))
    assert torch.equal(found.logprobs[:, 0], expected.logprobs[:, 0])


def test_routing_is_recorded_where_the_experts_are() -> None:
    """The experts of a CPU look at their loads, so that their steps are not recorded: they are done as they are."""
    model = model_of(MoeConfig(**SIZE, n_heads=4))
    graphs = Graphs(recorded)
    engine = Engine(model, end_id=END, pad_id=PAD, graphs=graphs)
    expected = draw(Engine(model, end_id=END, pad_id=PAD), routing=True)
    for _ in range(2):
        found = draw(engine, routing=True)
        same(found, expected)
        assert torch.equal(found.routing[:, : expected.routing.shape[1]], expected.routing)
    assert "not permitted" in graphs.refused


def test_rows_may_be_looked_at_seldom() -> None:
    """Rows that ended and are not looked at yet change nothing."""
    model = model_of(MODELS["gssm"])
    expected = draw(Engine(model, end_id=END, pad_id=PAD))
    for graphs in (None, Graphs(recorded)):
        engine = Engine(model, end_id=END, pad_id=PAD, graphs=graphs)
        engine.polled = 8
        same(draw(engine), expected)
