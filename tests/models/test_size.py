"""Counts of parameters and operations against torch's own counter on a real pass."""

from collections import Counter
from importlib import import_module
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rlx.batches import Batch, Extent
from rlx.models.base import Layer, ModelConfig
from rlx.models.dense import DenseConfig
from rlx.models.moe import MoeConfig
from rlx.models.size import Operations, matrix_numel, parameter_count, parameter_counts, state_bytes
from rlx.nn.decoder import Decoder
from rlx.options import discover

VOCAB = 50
SETTINGS = {
    "tied": {"n_heads": 4},
    "untied": {"n_heads": 4, "tie_embeddings": False},
    "grouped": {"n_heads": 4, "n_kv_heads": 2},
    "wide heads": {"n_heads": 4, "head_dim": 24},
    "qk norm, own width": {"n_heads": 2, "d_ff": 100, "qk_norm": True},
}


def by_hand(config: DenseConfig) -> int:
    """Parameters from the shapes that the papers give."""
    width, heads = config.d_model, config.n_heads
    head_width = config.head_dim or width // heads
    kv_width = head_width * (config.n_kv_heads or heads)
    attention = 2 * width * heads * head_width + 2 * width * kv_width + (2 * head_width if config.qk_norm else 0)
    layer = attention + 3 * width * config.feed_forward_width() + 2 * width
    return config.n_layers * layer + width + VOCAB * width * (1 if config.tie_embeddings else 2)


@pytest.fixture(params=SETTINGS.values(), ids=list(SETTINGS))
def config(request: pytest.FixtureRequest) -> DenseConfig:
    return DenseConfig(d_model=64, n_layers=3, **request.param)


def test_parameters(config: DenseConfig) -> None:
    model = config.build(VOCAB)
    assert parameter_count(model) == by_hand(config)
    outside = 0 if config.tie_embeddings else VOCAB * 64  # the look-up table, when it is not the head too
    norms = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert matrix_numel(model) == by_hand(config) - outside - norms


RECURRENT = {"gssm", "delta", "lstm"}
"""Mixers that multiply and add without matrix products, which torch's counter does not see: their own tests hold what
they count against it, and what is left against a formula."""


def settings() -> list[Any]:
    """Every option of `model=` with the variants of its own test, where torch's counter sees what is computed."""
    found = []
    for name, option in discover("model").items():
        for more in [{}, *import_module(f"tests.models.test_{name}").VARIANTS]:
            label = "-".join([name, *(f"{key}={value}" for key, value in more.items())])
            config = option.config(**{"d_model": 64, "n_layers": 3, **more})
            if not any(_is_unseen(each) for each in config.pattern()):
                found.append(pytest.param(config, id=label))
    return found


def _is_unseen(layer: Layer) -> bool:
    """True also for windows of pseudo-tokens, whose share of the square its own test knows."""
    return layer.token in RECURRENT or (layer.token == "iha" and "local" in layer.hows)


every = pytest.mark.parametrize("any_config", settings())


def without_windows(config: ModelConfig) -> Decoder:
    """The decoder, whose layers count what torch's counter does: of a window the whole square, which the real pass
    computes and masks."""
    model = config.build(VOCAB)
    for block in model.blocks:
        if getattr(block.mixer, "window", None) is not None:
            cast(Any, block.mixer).window = None
    return model


def measured(config: ModelConfig, rows: int, length: int, frozen: str = "-") -> tuple[float, float]:
    """Operations of a forward, and of a forward and a backward pass, by torch's counter."""
    model = config.build(VOCAB)
    freeze(model, frozen)
    return counted(model, torch.zeros(rows, length, dtype=torch.int64))


def counted(model: Decoder, tokens: torch.Tensor) -> tuple[float, float]:
    """As `measured`, of a model that is there."""
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention of the CPU is not in the counter's list
        with FlopCounterMode(display=False) as forward:
            hidden, _ = model(tokens, places=tokens if model.places is not None else None)
            loss = model.logits(hidden).sum()
            if model.places is not None and model.places.head is not None:
                loss = loss + model.places.head(hidden).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def freeze(model: Decoder, frozen: str) -> None:
    for name, parameter in model.named_parameters():
        if frozen in name:
            parameter.requires_grad_(False)


@every
def test_operations_of_full_rows(any_config: ModelConfig) -> None:
    """The counter takes attention as T x T: as if every token of a row attended T positions."""
    rows, length = 2, 40
    operations = Operations(without_windows(any_config))
    square = Extent.of(torch.full((rows * length,), length))
    forward, both = measured(any_config, rows, length)
    assert operations.forward(square) == pytest.approx(forward, rel=0.02)
    assert operations.training(square) == pytest.approx(both, rel=0.02)


@every
def test_operations_of_a_decode_step(any_config: ModelConfig) -> None:
    """One token a row over a cache of S positions attends S."""
    rows, slots = 3, 30
    model = any_config.build(VOCAB)
    cache = model.new_cache(rows, 64)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        positions = torch.full((rows, 1), slots - 1)
        tokens = torch.zeros(rows, 1, dtype=torch.int64)
        places = tokens if model.places is not None else None
        hidden, _ = model(tokens, positions=positions, cache=cache, slots=slots, places=places)
        model.logits(hidden)
        if model.places is not None:
            model.places.predicted(hidden)
    found = Operations(without_windows(any_config)).forward(Extent.of(torch.full((rows,), slots)), cached=True)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("frozen", ["channel", "mixer.", "head.", "blocks.0."])
def test_what_is_frozen_costs_no_gradient(frozen: str) -> None:
    """Nothing below it is frozen, so that gradients go through all of it."""
    config = DenseConfig(d_model=64, n_layers=3, tie_embeddings=False)
    model = config.build(VOCAB)
    freeze(model, frozen)
    square = Extent.of(torch.full((80,), 40))
    _, both = measured(config, 2, 40, frozen)
    assert Operations(model).training(square) == pytest.approx(both, rel=0.005)
    assert Operations(model).training(square) < Operations(config.build(VOCAB)).training(square)


@pytest.mark.parametrize("window", [1, 5, 100])
def test_only_what_is_seen_is_counted(window: int) -> None:
    """Against the masks of packed rows, entry by entry."""
    config = DenseConfig(d_model=32, n_layers=3, n_heads=2, layers=["attention.local*2", "attention"], window=window)
    documents = torch.tensor([[0] * 9 + [1] * 12 + [-1] * 3, [0] * 2 + [1] * 22])
    positions = torch.cat([torch.arange(n) for n in (9, 12, 3, 2, 22)]).view(2, 24)
    batch = Batch(tokens=positions, positions=positions, documents=documents, loss_mask=torch.ones(2, 24))
    model = config.build(VOCAB)
    rows, real = model.rows(batch.tokens, positions=positions, documents=documents), documents >= 0
    seen = [int((rows.given[f"seen/{window}"][:, 0] & real[:, :, None]).sum())] * 2
    seen += [int((rows.given["seen"][:, 0] & real[:, :, None]).sum())]
    by_masks = 2 * matrix_numel(model) * int(real.sum()) + 4 * 32 * sum(seen)
    assert Operations(model).forward(batch.extent()) == by_masks
    assert Operations(model).training(batch.extent()) == 3 * by_masks


def test_extents_against_lists() -> None:
    first, last = torch.tensor([1, 4, 3, 7]), torch.tensor([5, 3, 3, 9])
    listed = Counter(place for one, two in zip(first, last, strict=True) for place in range(int(one), int(two) + 1))
    extent = Extent.spans(first, last)
    assert {n + 1: count for n, count in enumerate(extent.plain()) if count} == listed
    assert extent == Extent.of(torch.tensor(list(listed.elements()))) == Extent.read(extent.plain())
    other = Extent.of(torch.tensor([2, 20, 20]))
    both = (extent + other, other + extent)
    assert both[0] == both[1] and both[0].tokens == listed.total() + 3 and both[0].plain()[19] == 2
    assert (extent * 0.5).tokens == listed.total() / 2
    assert Extent.spans(torch.tensor([3]), torch.tensor([2])) == Extent() and Extent().tokens == 0


class Parts(nn.Module):
    """Eight matrices, of which a token meets two."""

    active_numel = 2 * 5 * 7

    def __init__(self) -> None:
        super().__init__()
        self.many, self.one = nn.Parameter(torch.ones(8, 5, 7)), nn.Parameter(torch.ones(5))


def test_parts_that_a_token_is_not_sent_to_are_not_active() -> None:
    model = DenseConfig(d_model=64, n_layers=1, n_heads=2).build(VOCAB)
    whole, before = parameter_counts(model), matrix_numel(model)
    assert whole == {"total": parameter_count(model), "active": parameter_count(model), "embedding": VOCAB * 64}
    model.add_module("parts", Parts())
    found = parameter_counts(model)
    assert found["total"] - whole["total"] == 8 * 35 + 5 and found["active"] - whole["active"] == 2 * 35 + 5
    assert matrix_numel(model) - before == 70 == matrix_numel(model, trained=True) - before
    cast(Any, model).parts.many.requires_grad_(False)
    assert matrix_numel(model, trained=True) == before
    untied = DenseConfig(d_model=64, n_layers=1, n_heads=2, tie_embeddings=False).build(VOCAB)
    assert parameter_counts(untied)["embedding"] == 2 * VOCAB * 64


def test_state_of_keys_and_values() -> None:
    model = DenseConfig(d_model=64, n_layers=3, n_heads=4, n_kv_heads=2).build(VOCAB)
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        assert state_bytes(model, 30, dtype) == 3 * 2 * 2 * 16 * 30 * size


@pytest.mark.parametrize("targets", [["experts"], ["down"]], ids=["experts", "down"])
def test_operations_with_adapters_of_experts(targets: list[str]) -> None:
    """But for B A, which is worked out once a pass, for the gradients of A and of B too."""
    from rlx.adapters.lora import LoraConfig

    config = MoeConfig(d_model=32, n_layers=2, n_heads=2, n_experts=4, d_expert=24, tie_embeddings=False)
    model, rank, length, rows = config.build(VOCAB), 3, 16, 4
    LoraConfig(targets=targets, rank=rank).attach(model)
    model.embed.requires_grad_(True)  # the gradient goes through the whole first layer
    operations, square = Operations(model), Extent.of(torch.full((rows * length,), length))
    forward, both = counted(model, torch.zeros(rows, length, dtype=torch.int64))
    stacks = sum({"experts": [48 * 32, 32 * 24], "down": [32 * 24]}[targets[0]])
    product = 2 * config.n_layers * 4 * rank * stacks
    assert forward - product == operations.forward(square)
    assert operations.training(square) == pytest.approx(both - 3 * product, rel=0.005)  # the share has of the router
