"""What keeps training stable: capped logits, rates and first weights by width, normed queries and keys."""

import math

import pytest
import torch

from rlx.errors import ConfigError
from rlx.models.base import Mup
from rlx.models.dense import DenseConfig
from rlx.nn.attention import Attention
from rlx.nn.decoder import Decoder
from rlx.nn.rope import rotate
from rlx.optim.adamw import AdamWConfig
from rlx.optim.base import OptimConfig
from rlx.optim.muon import MuonConfig

TOKENS = torch.randint(31, (4, 12), generator=torch.Generator().manual_seed(1))


def of_width(width: int, mup: Mup, base: int = 32) -> Decoder:
    torch.manual_seed(0)
    heads = width // 16
    return DenseConfig(d_model=width, n_layers=2, n_heads=heads, tie_embeddings=False, mup=mup, mup_base=base).build(31)


def moved(model: Decoder, config: OptimConfig) -> tuple[float, float]:
    """How far two steps move the residual stream and the logits: root mean squares."""
    seen: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    optimizer, outs = config.build(model), []
    for step in range(3):
        out = model.logits(model(TOKENS)[0])
        outs.append(out.detach())
        if step < 2:
            torch.nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
    return tuple((part[-1] - part[0]).square().mean().sqrt().item() for part in (seen, outs))  # pyright: ignore


@pytest.mark.parametrize("optimizer", [AdamWConfig(lr=3e-3), MuonConfig(lr=1e-2, adamw_lr=3e-3)], ids=["adamw", "muon"])
def test_a_step_moves_wide_models_as_far_as_narrow_ones(optimizer: OptimConfig) -> None:
    """Four times the width: with the usual rates the stream moves several times as far, by width as far as before."""
    growth = {}
    for mup in Mup:
        (narrow, _), (wide, _) = moved(of_width(32, mup), optimizer), moved(of_width(128, mup), optimizer)
        growth[mup] = wide / narrow
    assert growth[Mup.none] > 2.5
    assert all(1 / 1.6 < growth[mup] < 1.6 for mup in (Mup.simple, Mup.full)), growth


def test_logits_move_as_far_too() -> None:
    (_, narrow), (_, wide) = (moved(of_width(width, Mup.full), AdamWConfig(lr=3e-3)) for width in (32, 256))
    assert 1 / 1.6 < wide / narrow < 1.6


def test_at_the_base_width_nothing_changes() -> None:
    plain, scaled = of_width(32, Mup.none).state_dict(), of_width(32, Mup.simple).state_dict()
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)
    groups = AdamWConfig(lr=1e-2).build(of_width(32, Mup.simple)).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1e-2, 0.1), (1e-2, 0.0)]


def test_first_weights_and_rates_by_width() -> None:
    model = of_width(256, Mup.full)
    std = {name: parameter.std().item() for name, parameter in model.named_parameters()}
    assert std["embed.weight"] == pytest.approx(0.02, rel=0.05)
    assert std["head.weight"] == pytest.approx(0.02 / 8, rel=0.05)
    assert std["blocks.0.channel.gate_up.weight"] == pytest.approx(0.02 / math.sqrt(8), rel=0.05)
    queries, others = model.blocks[0].mixer.qkv.weight.split((256, 512))  # pyright: ignore[reportAttributeAccessIssue]
    assert queries.abs().max() == 0 < others.abs().min()
    rates = {id(p): group["lr"] for group in AdamWConfig(lr=1.0).build(model).param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        own = 1 / 8 if parameter.dim() == 2 and name != "embed.weight" else 1.0
        assert rates[id(parameter)] == own, name
    muon = MuonConfig(lr=1.0, adamw_lr=1.0).build(model).param_groups
    rates = {id(p): group["lr"] for group in muon for p in group["params"]}
    assert rates[id(model.head.weight)] == 1 / 8
    assert rates[id(model.blocks[0].mixer.qkv.weight)] == pytest.approx(math.sqrt(1 / 8))  # pyright: ignore


def test_scores_are_over_the_width_of_heads() -> None:
    """As a model without, whose queries are divided by the root once more."""
    scaled, plain = of_width(32, Mup.full), of_width(32, Mup.none)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
        plain.load_state_dict(scaled.state_dict())
        for block in plain.blocks:
            block.mixer.qkv.weight[:32] /= math.sqrt(16)  # pyright: ignore[reportAttributeAccessIssue]
        expected, found = plain(TOKENS)[0], scaled(TOKENS)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("optimizer", [AdamWConfig, MuonConfig], ids=["adamw", "muon"])
@pytest.mark.parametrize("lr", [1e-3, 0.3])
def test_an_independent_decay_is_the_same_at_any_rate(optimizer: type[OptimConfig], lr: float) -> None:
    """Without a gradient a step at half the schedule takes off half of the decay."""
    model = of_width(64, Mup.simple)
    matrix = model.blocks[0].channel.down.weight  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    before = matrix.detach().clone()
    built = optimizer(lr=lr, weight_decay=1e-2, independent_decay=True).build(model)
    for group in built.param_groups:
        group["lr"] *= 0.5
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    torch.testing.assert_close(matrix.detach(), before * (1 - 0.5e-2), atol=0, rtol=1e-6)


def test_capped_logits_are_the_formula() -> None:
    torch.manual_seed(0)
    plain = DenseConfig(d_model=32, n_layers=1, init_std=1.0).build(31)
    capped = DenseConfig(d_model=32, n_layers=1, init_std=1.0, logit_cap=5.0).build(31)
    capped.load_state_dict(plain.state_dict())
    with torch.no_grad():
        raw, found = plain.logits(plain(TOKENS)[0]).double(), capped.logits(capped(TOKENS)[0]).double()
    assert raw.abs().max() > 10
    torch.testing.assert_close(found, 5 * torch.tanh(raw / 5), atol=1e-5, rtol=1e-5)


def test_normed_queries_and_keys_bound_scores() -> None:
    """|q k| / sqrt(K) <= sqrt(K), by Cauchy and Schwarz, however large the weights: they are normed before rotated."""
    torch.manual_seed(0)
    mixer = DenseConfig(d_model=32, n_heads=2, qk_norm=True).build(31).blocks[0].mixer
    assert isinstance(mixer, Attention) and mixer._rotary is not None
    with torch.no_grad():
        mixer.qkv.weight.normal_(std=100.0)
        q, k, _ = mixer._project(torch.randn(1, 20, 32))
        rows = DenseConfig(d_model=32, n_heads=2).build(31).rows(torch.zeros(1, 20, dtype=torch.int64))
        tables = rows.given[mixer._rotary[0]]
        turned = rotate(q, tables) @ rotate(k, tables).transpose(-1, -2) / math.sqrt(16)
        length = rotate(q, tables).norm(dim=-1)
    assert turned.abs().max() <= math.sqrt(16) * (1 + 1e-5)
    torch.testing.assert_close(length, torch.full_like(length, math.sqrt(16)))


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"mup": Mup.simple}, "model.tie_embeddings=false"),
        ({"mup_base": 0}, "model.mup_base=0"),
        ({"z_loss": -1.0}, "model.z_loss=-1.0 must be at least 0"),
        ({"logit_cap": 0.0}, "model.logit_cap=0.0 must be above 0"),
        ({"depth": 0}, "model.depth=0"),
    ],
)
def test_what_makes_no_sense_is_a_line(settings: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        DenseConfig(**settings)


def test_depth_says_the_widths() -> None:
    config = DenseConfig(depth=3, d_model=7, n_layers=9, n_heads=5)
    assert config == DenseConfig(d_model=192, n_layers=3, n_heads=3) and config.head_width() == 64
