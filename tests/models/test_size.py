"""Counts of parameters and operations against torch's own counter on a real pass."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rlx.models.dense import DenseConfig
from rlx.models.size import forward_flops, matrix_numel, parameter_count, training_flops

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


def measured(config: DenseConfig, rows: int, length: int) -> tuple[float, float]:
    """Operations of a forward, and of a forward and a backward pass, by torch's counter."""
    model = config.build(VOCAB)
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention of the CPU is not in the counter's list
        with FlopCounterMode(display=False) as forward:
            loss = model.logits(model(tokens)[0]).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def test_operations_of_full_rows(config: DenseConfig) -> None:
    """The counter takes attention as T x T; ours takes what a causal row attends, T (T + 1) / 2."""
    rows, length = 2, 40
    model = config.build(VOCAB)
    forward, both = measured(config, rows, length)
    attended, square = rows * length * (length + 1) // 2, rows * length * length
    heads_width = config.n_heads * (config.head_dim or 64 // config.n_heads)
    per_position = 2 * 2 * heads_width * config.n_layers  # score and value, a multiply-add each, over all heads
    assert forward_flops(model, rows * length, square) == pytest.approx(forward, rel=0.02)
    expected = forward - per_position * (square - attended)
    assert forward_flops(model, rows * length, attended) == pytest.approx(expected, rel=0.02)
    assert training_flops(model, rows * length, square) == pytest.approx(both, rel=0.02)


def test_operations_of_a_decode_step(config: DenseConfig) -> None:
    """One token a row over a cache of S positions attends S."""
    rows, slots = 3, 30
    model = config.build(VOCAB)
    cache = model.new_cache(rows, 64)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        positions = torch.full((rows, 1), slots - 1)
        tokens = torch.zeros(rows, 1, dtype=torch.int64)
        model.logits(model(tokens, positions=positions, cache=cache, slots=slots)[0])
    assert forward_flops(model, rows, rows * slots) == pytest.approx(counter.get_total_flops(), rel=0.02)
