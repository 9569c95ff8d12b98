"""merge=upcycle: the function of the dense model, experts that are copies, means of the rest, and noise as asked."""

from itertools import product
from typing import Any

import pytest
import torch

from rlx.errors import ConfigError
from rlx.merges.upcycle import NoiseIs, Start, UpcycleConfig, feed_forward_width
from rlx.models.dense import DenseConfig
from rlx.models.hybrid import HybridConfig
from rlx.models.layers.attention import Position
from rlx.models.moe import MoeConfig
from tests.merges.whole import Model, architecture, logits, made, merged

SIZE: dict[str, Any] = {"d_model": 32, "n_layers": 3}
MODELS = {
    "tied": DenseConfig(**SIZE),
    "untied": DenseConfig(**SIZE, tie_embeddings=False, logit_cap=5.0, z_loss=1e-4),
    "grouped": DenseConfig(**SIZE, n_kv_heads=2, head_dim=12, qk_norm=True, d_ff=40),
    "pattern": DenseConfig(**SIZE, layers=["attention.nope", "attention.local", "attention+none"], window=4),
    "positions": DenseConfig(**SIZE, position=Position.coupled, max_position=9),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("n_experts", "top_k"), [(4, 2), (3, 3), (1, 1)])
def test_copies_keep_the_function(name: str, n_experts: int, top_k: int) -> None:
    dense = made(MODELS[name])
    result = merged(UpcycleConfig(n_experts=n_experts, top_k=top_k), dense)
    assert isinstance(result.config, MoeConfig) and (result.config.n_experts, result.config.top_k) == (n_experts, top_k)
    torch.testing.assert_close(logits(result), logits(dense), atol=1e-5, rtol=1e-5)
    for key, tensor in dense.weights.items():
        place = key.removesuffix(".weight") if ".channel." in key else key
        found = result.weights[place]
        assert all(torch.equal(each, tensor) for each in (found if ".channel." in key else [found])), key
    names = [each.name.replace("+mlp", "+experts") for each in dense.config.pattern()]
    assert [each.name for each in result.config.pattern()] == names
    mine, theirs = architecture(result.config).fields, architecture(dense.config).fields
    assert {key: mine[key] for key in theirs if key != "layers"} == {k: v for k, v in theirs.items() if k != "layers"}
    assert (result.config.layers is None) == (dense.config.layers is None)


def test_routers_are_normal_or_nothing() -> None:
    dense = made(DenseConfig(d_model=256, n_layers=2))
    first = merged(UpcycleConfig(n_experts=64), dense).weights
    routers = [first[f"blocks.{n}.channel.router"] for n in (0, 1)]
    for router in routers:
        assert router.shape == (64, 256) and abs(router.mean()) < 1e-3 and abs(router.std() - 0.02) < 5e-4
    assert not torch.equal(*routers), "each is drawn for itself"
    wide = merged(UpcycleConfig(n_experts=64, router_std=0.5), dense).weights["blocks.0.channel.router"]
    torch.testing.assert_close(wide, 25 * routers[0])
    nothing = merged(UpcycleConfig(router=Start.zero), dense)
    assert not any(nothing.weights[f"blocks.{n}.channel.{part}"].any() for n in (0, 1) for part in ("router", "bias"))
    torch.testing.assert_close(logits(nothing), logits(dense), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weights", [None, [3.0, 1.0]], ids=["equal", "weighted"])
def test_each_of_several_models_gives_its_own_feed_forward(weights: list[float] | None) -> None:
    models = [made(DenseConfig(**SIZE), seed) for seed in (1, 2)]
    result = merged(UpcycleConfig(n_experts=4, weights=weights), *models).weights
    a, b = (model.weights for model in models)
    share = 0.5 if weights is None else 0.75
    for key in a:
        if ".channel." not in key:
            expected = share * a[key].double() + (1 - share) * b[key].double()
            torch.testing.assert_close(result[key].double(), expected, atol=1e-6, rtol=1e-6)
            continue
        stack = result[key.removesuffix(".weight")]
        assert [torch.equal(stack[n], own[key]) for n, own in enumerate((a, a, b, b))] == [True] * 4, key


def spread(model: Model, dense: Model) -> dict[str, tuple[float, float]]:
    """Standard deviation of what was added to each stack, and of the dense weights."""
    found = {}
    for key, tensor in dense.weights.items():
        if ".channel." in key:
            stack = model.weights[key.removesuffix(".weight")]
            found[key] = ((stack - tensor).std().item(), tensor.std().item())
            assert not torch.equal(stack[0], stack[1]), "each expert has its own"
    return found


def test_noise_is_relative_to_the_weights_or_absolute() -> None:
    dense = made(DenseConfig(d_model=64, n_layers=2))
    with torch.no_grad():
        dense.decoder.blocks[0].channel.down.weight *= 10  # pyright: ignore
    relative = merged(UpcycleConfig(noise=0.1), dense)
    for added, own in spread(relative, dense).values():
        assert added == pytest.approx(0.1 * own, rel=0.02)
    absolute = merged(UpcycleConfig(noise=0.1, noise_is=NoiseIs.absolute), dense)
    for added, _ in spread(absolute, dense).values():
        assert added == pytest.approx(0.1, rel=0.02)
    again = merged(UpcycleConfig(noise=0.1), dense).weights
    assert all(torch.equal(tensor, again[key]) for key, tensor in relative.weights.items())


def test_layers_left_as_the_models_own_are_written_as_null() -> None:
    assert UpcycleConfig().architecture([architecture(DenseConfig(**SIZE))]).fields["layers"] is None


def test_the_width_left_null_is_the_models() -> None:
    for d_model, d_ff in product(range(8, 520, 8), (None, 33)):
        config = DenseConfig(d_model=d_model, n_heads=1, d_ff=d_ff)
        assert feed_forward_width(architecture(config)) == config.feed_forward_width()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"top_k": 9}, "merge.top_k=9 must be from 1 to merge.n_experts=8"),
        ({"top_k": 0}, "merge.top_k=0"),
        ({"n_experts": 4, "models": ["a", "b", "c"]}, "merge.n_experts=4 must be a multiple of the 3 models.*try 3"),
        ({"noise": -1.0}, "noise=-1.0 must be at least 0"),
        ({"weights": [1.0, -1.0], "models": ["a", "b"]}, "sum to 0"),
    ],
    ids=["most", "least", "multiple", "noise", "weights"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        UpcycleConfig(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            HybridConfig(**SIZE, layers=["gssm", "attention"]),
            "runs/a is model=hybrid with layers gssm.mlp,attention.mlp",
        ),
        (MoeConfig(**SIZE), "runs/a is model=moe with layers attention.experts"),
        (DenseConfig(**SIZE, layers=["attention+none"]), "is model=dense with layers attention.none"),
    ],
    ids=["hybrid", "moe", "none"],
)
def test_other_models_are_one_line(config: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        UpcycleConfig().architecture([architecture(config)])
    assert "\n" not in str(error.value)
