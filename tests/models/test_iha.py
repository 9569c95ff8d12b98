"""`model=iha`: its settings, its parameters, its schedule of equal compute, and where it is the dense model."""

from typing import Any

import pytest
import torch

from rlx.batches import Extent
from rlx.errors import ConfigError
from rlx.kernels.iha.reference import seen
from rlx.models.dense import DenseConfig
from rlx.models.folder import config_of, describe, load_weights, weights_of
from rlx.models.hybrid import HybridConfig
from rlx.models.iha import IhaConfig
from rlx.models.layers.attention import Position
from rlx.models.layers.iha import IhaCollapse, IhaMask, IhaRotary
from rlx.models.size import Operations, matrix_numel, parameter_count

VARIANTS: list[dict[str, Any]] = [
    {"iha_mask": IhaMask.token, "iha_rotary": IhaRotary.token, "pseudo_heads": 3},
    {"iha_collapse": IhaCollapse.per_head, "qk_norm": True, "head_dim": 6},
    {"pseudo_heads": 1},
    {"layers": ["iha.local*2", "attention"], "matched_context": 40},
    {"layers": ["iha.local", "iha.nope"], "window": 3, "iha_mask": IhaMask.token},
    {"position": Position.coupled, "max_position": 5},
]
"""Settings that the contract of mixers is tested with."""
VOCAB = 19
MIXED = ("mixer.mix_q", "mixer.mix_k", "mixer.mix_v", "mixer.collapse")


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("pseudo", [1, 2, 5])
def test_extra_parameters(pseudo: int, heads: int) -> None:
    """4 H^2 P a layer more than dense; 3 H^2 P + H P where a head is made of its own pseudo-heads."""
    sizes: dict[str, Any] = {"d_model": 32, "n_layers": 3, "n_heads": heads}
    plain = parameter_count(DenseConfig(**sizes).build(VOCAB))
    full = parameter_count(IhaConfig(**sizes, pseudo_heads=pseudo).build(VOCAB))
    own = IhaConfig(**sizes, pseudo_heads=pseudo, iha_collapse=IhaCollapse.per_head).build(VOCAB)
    assert full - plain == 3 * 4 * heads**2 * pseudo
    assert parameter_count(own) - plain == 3 * (3 * heads**2 * pseudo + heads * pseudo)
    assert matrix_numel(own) == matrix_numel(DenseConfig(**sizes).build(VOCAB)), "the rest is in flops"


@pytest.mark.parametrize(("mask", "same"), [(IhaMask.token, True), (IhaMask.flat, False)])
def test_it_begins_as_the_dense_model_where_it_can(mask: IhaMask, same: bool) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 32, "n_layers": 3, "init_std": 0.3}
    config = IhaConfig(**sizes, pseudo_heads=3, iha_noise=0.0, iha_mask=mask, iha_rotary=IhaRotary.token)
    model, dense = config.build(VOCAB), DenseConfig(**sizes).build(VOCAB)
    load_weights(dense, {name: t for name, t in weights_of(model).items() if not name.endswith(MIXED)}, "iha")
    tokens = torch.randint(VOCAB, (2, 17))
    with torch.no_grad():
        error = (model(tokens)[0] - dense(tokens)[0]).abs().max()
    assert error < 1e-5 if same else error > 1e-2


def test_pseudo_heads_come_apart() -> None:
    """Equal under the token mask and their token's place, but for the noise."""
    tokens = torch.randint(VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    for noise, apart in ((0.0, False), (0.02, True)):
        torch.manual_seed(0)
        config = IhaConfig(d_model=32, n_layers=1, iha_noise=noise, iha_mask=IhaMask.token, iha_rotary=IhaRotary.token)
        model = config.build(VOCAB)
        model.logits(model(tokens)[0]).square().sum().backward()
        for name in MIXED:
            gradient = model.get_parameter(f"blocks.0.{name}").grad
            assert gradient is not None and gradient.abs().max() > 0
            close = torch.allclose(gradient[..., 0], gradient[..., 1], rtol=1e-3, atol=1e-6 * gradient.abs().max())
            assert close is not apart, (name, noise)


@pytest.mark.parametrize(
    ("context", "pseudo", "window"), [(128, 2, 16), (1024, 4, 32), (100, 3, 5), (8, 4, 1), (7, 1, 3)]
)
def test_a_matched_context_is_a_window(context: int, pseudo: int, window: int) -> None:
    layers = ["iha.local*4", "attention"]
    sizes: dict[str, Any] = {"n_layers": 5, "pseudo_heads": pseudo, "layers": layers}
    config = IhaConfig(**sizes, matched_context=context)
    assert config == IhaConfig(**sizes, window=window), "so that they are one run"
    assert [layer.name for layer in config.pattern()] == ["iha.local+mlp"] * 4 + ["attention+mlp"]
    assert HybridConfig(**sizes, matched_context=context).window == window
    deep = IhaConfig(depth=5, pseudo_heads=pseudo, layers=layers, matched_context=context)
    assert (deep.n_layers, deep.window) == (5, window)


@pytest.mark.parametrize(("context", "pseudo"), [(256, 2), (2048, 4)])
def test_what_the_schedule_costs(context: int, pseudo: int) -> None:
    """The paper's 3/5 takes the global layer as N^2 pairs; a causal row has half of them, and then a local layer is
    1 - 1 / (4 P^2) of it."""
    schedule = IhaConfig(n_layers=5, pseudo_heads=pseudo, layers=["iha.local*4", "attention"], matched_context=context)
    mixers: Any = [block.mixer for block in schedule.build(VOCAB).blocks]
    attended = torch.arange(1, context + 1, dtype=torch.float64)
    products = 2 * mixers[0].head_dim * 4 * mixers[0].n_heads ** 2 * pseudo * context
    local = mixers[0].flops(attended, cached=False).sum().item() - products
    causal, width = mixers[4].flops(attended, cached=False).sum().item(), 4 * 128
    square = width * context**2
    assert (4 * local + square) / (5 * square) == pytest.approx(3 / 5, abs=1 / (4 * pseudo**2))
    assert 4 * local + square < 3 * square
    assert causal == pytest.approx(square / 2, rel=0.01)
    assert local / causal == pytest.approx(1 - 1 / (4 * pseudo**2), rel=0.02)


@pytest.mark.parametrize("mask", IhaMask)
@pytest.mark.parametrize("window", [None, 3])
def test_operations_are_those_of_the_pairs_that_the_mask_has(mask: IhaMask, window: int | None) -> None:
    layer = "iha" if window is None else "iha.local"
    mixer: Any = IhaConfig(layers=[layer], window=window, pseudo_heads=3, iha_mask=mask).build(VOCAB).blocks[0].mixer
    pairs = seen(8, 3, flat=mask is IhaMask.flat, window=window, documents=None)[0, 0].view(8, -1).sum(1)
    mixed = 2 * sum(mixer.get_parameter(name).numel() for name in ("mix_q", "mix_k", "mix_v", "collapse"))
    expected = (4 * mixer.n_heads * pairs + mixed) * mixer.head_dim
    found = mixer.flops(torch.arange(1, 9, dtype=torch.float64), cached=False)
    assert found.tolist() == expected.tolist()


def test_operations_grow_with_the_square_of_pseudo_heads() -> None:
    def core(config: Any) -> float:
        operations = Operations(config.build(VOCAB))
        return operations.forward(Extent.of(torch.tensor([1000]))) - operations.forward(Extent.of(torch.tensor([500])))

    plain = core(DenseConfig())
    assert [core(IhaConfig(pseudo_heads=p)) / plain for p in (1, 2, 3)] == [1, 4, 9]


def test_it_is_written_and_read() -> None:
    config = IhaConfig(n_layers=5, layers=["iha.local*4", "attention"], matched_context=64, iha_mask=IhaMask.token)
    assert config_of(describe(config, VOCAB), "here") == (config, VOCAB)


def test_fields_that_change_no_weight_may_change() -> None:
    free = {"iha_mask", "iha_rotary", "rope_theta", "norm_eps"}
    assert free <= IhaConfig.tensor_free and free <= HybridConfig.tensor_free
    shapes = {name: t.shape for name, t in IhaConfig().build(VOCAB).named_parameters()}
    other = IhaConfig(iha_mask=IhaMask.token, iha_rotary=IhaRotary.token).build(VOCAB)
    assert {name: t.shape for name, t in other.named_parameters()} == shapes


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pseudo_heads": 0}, r"model\.pseudo_heads=0 must be at least 1"),
        ({"n_kv_heads": 2}, r"model\.n_kv_heads=2 but iha mixes .* model\.n_heads=4; leave model\.n_kv_heads out"),
        ({"n_heads": 5}, r"model\.n_heads=5 does not divide"),
        ({"iha_noise": -1.0}, r"model\.iha_noise=-1\.0 must be at least 0"),
        ({"layers": ["iha.local"]}, r"model\.window=64"),
        ({"matched_context": 64}, r"window of iha\.local layers, and there are none"),
        ({"layers": ["iha.local"], "matched_context": 0}, r"model\.matched_context=0 must be at least 1"),
        ({"layers": ["iha.local"], "matched_context": 64, "pseudo_heads": 0}, r"model\.pseudo_heads=0"),
        ({"layers": ["iha.local"], "matched_context": 64, "window": 9}, r"leave model\.window out \(it would be 8\)"),
        ({"layers": ["iha.locale"]}, r"iha has no \.locale; did you mean local"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        IhaConfig(**settings)
    assert "\n" not in str(error.value)
