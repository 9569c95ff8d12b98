"""Deeper models from others: which layer is whose, and the function where it is to stay."""

from typing import Any

import pytest
import torch

from rlx.errors import ConfigError
from rlx.models.base import Grow
from rlx.models.dense import DenseConfig
from rlx.models.folder import load_weights, weights_of
from rlx.models.growth import advice, grown_config, grown_tensors, timing
from rlx.models.hybrid import HybridConfig
from rlx.models.size import parameter_count
from rlx.nn.decoder import Decoder

TOKENS = torch.randint(23, (2, 12), generator=torch.Generator().manual_seed(1))
ORDERS = {Grow.stack: [0, 1, 2, 0, 1, 2], Grow.interleave: [0, 0, 1, 1, 2, 2]}


def grown(how: Grow, after: int = 6, **settings: Any) -> tuple[Decoder, Decoder]:
    """A model of three layers with weights that matter everywhere, and the one that it becomes."""
    torch.manual_seed(0)
    config = DenseConfig(d_model=32, n_layers=3, init_std=0.3, **settings)
    small = config.build(23)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    large = grown_config(config, after, how).build(23)
    load_weights(large, grown_tensors(weights_of(small), weights_of(large), how, 3, after), "here")
    return small, large


def logits(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(TOKENS)[0])


@pytest.mark.parametrize("how", ORDERS, ids=lambda how: how.name)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_copied_layers_are_equal_bit_by_bit(how: Grow, tied: bool) -> None:
    small, large = grown(how, tie_embeddings=tied, qk_norm=True)
    for layer, source in enumerate(ORDERS[how]):
        theirs = list(small.blocks)[source].state_dict()
        for name, tensor in list(large.blocks)[layer].state_dict().items():
            assert torch.equal(tensor, theirs[name]), (layer, name)
    for name in ("embed.weight", "norm.weight", "head.weight"):
        assert torch.equal(large.state_dict()[name], small.state_dict()[name])
    layers = sum(parameter.numel() for parameter in small.blocks.parameters())  # pyright: ignore[reportAttributeAccessIssue]
    assert parameter_count(large) == parameter_count(small) + layers
    assert logits(large).isfinite().all() and (logits(large) - logits(small)).abs().max() > 0.01


@pytest.mark.parametrize("after", [4, 7])
def test_layers_that_add_nothing_keep_the_function_and_learn(after: int) -> None:
    small, large = grown(Grow.zero, after)
    torch.testing.assert_close(logits(large), logits(small), atol=1e-6, rtol=0)
    large.logits(large(TOKENS)[0]).square().sum().backward()
    for block in list(large.blocks)[3:]:
        for part in (block.mixer, block.channel):
            (last,) = [p for name, p in part.named_parameters() if name.split(".")[0] in ("out", "down")]  # pyright: ignore
            assert last.grad is not None and last.grad.abs().max() > 0


def test_layers_of_every_kind_add_nothing_at_first() -> None:
    """Shared experts write into the residual stream too."""
    layers = ["attention+experts", "iha", "gssm", "delta", "lstm"]
    config = HybridConfig(d_model=32, n_layers=5, layers=layers, init_std=0.3, n_shared_experts=1)
    torch.manual_seed(0)
    small, large = config.build(23), grown_config(config, 10, Grow.zero).build(23)
    load_weights(large, grown_tensors(weights_of(small), weights_of(large), Grow.zero, 5, 10), "here")
    torch.testing.assert_close(logits(large), logits(small), atol=1e-6, rtol=0)


def test_fresh_layers_are_on_top_of_the_old_ones() -> None:
    small, large = grown(Grow.random, 5)
    for layer in range(3):
        for name, tensor in list(large.blocks)[layer].state_dict().items():
            assert torch.equal(tensor, list(small.blocks)[layer].state_dict()[name])
    assert (logits(large) - logits(small)).abs().max() > 0.01


@pytest.mark.parametrize(
    "how, expected",
    [
        (Grow.stack, ["local", "local", "full", "local", "local", "local", "full", "local"]),
        (Grow.interleave, ["local", "local", "local", "local", "full", "full", "local", "local"]),
        (Grow.zero, ["local", "local", "full", "local", "local", "local", "full", "local"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_layer_is_of_the_kind_of_the_one_it_comes_from(how: Grow, expected: list[str]) -> None:
    """Also where the pattern was cut: four layers of a period of three."""
    layers = ["attention.local*2", "attention"]
    own = HybridConfig(d_model=32, n_layers=4, window=4, layers=layers, rope_theta=50.0)
    large = grown_config(own, 8, how)
    assert ["local" if "local" in each.hows else "full" for each in large.pattern()] == expected
    assert (large.n_layers, large.rope_theta) == (8, 50.0)


@pytest.mark.parametrize(
    "how, after, line",
    [
        (Grow.stack, 5, "must be a multiple; try 6"),
        (Grow.interleave, 7, "must be a multiple; try 6"),
        (Grow.stack, 3, "needs model.n_layers above the parent's 3, got 3"),
        (Grow.zero, 2, "got 2"),
    ],
)
def test_what_cannot_be_grown_is_a_line(how: Grow, after: int, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        grown_config(DenseConfig(n_layers=3), after, how)


@pytest.mark.parametrize(
    "parameters, tokens, expected",
    [(8e9, 15e12, 6.58e9), (7e9, 2e12, 11.11e9), (13e9, 2e12, 15.84e9), (70e9, 2e12, 42.48e9)],
)
def test_the_timing_law_is_the_papers_table(parameters: float, tokens: float, expected: float) -> None:
    assert timing(parameters, tokens) == pytest.approx(expected, rel=0.01)


def test_the_timing_law_says_nothing_of_small_models() -> None:
    assert "says nothing at this size" in advice(10e6, 200e6, 20e6)
    assert advice(8e9, 15e12, 1.5e12).startswith("grown after 10% of 1.5e+13 tokens; by the timing law")
