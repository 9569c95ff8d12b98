"""merge=experts: permuted experts are found again, whatever their order, and means are those asked for."""

from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.experts import By, ExpertsConfig, Match
from rlx.models.dense import DenseConfig
from rlx.models.folder import load_weights
from rlx.models.moe import MoeConfig
from tests.merges.whole import VOCABULARY, Model, architecture, logits, made, merged

E = 5
CONFIG = MoeConfig(
    d_model=32, n_layers=3, n_experts=E, n_shared_experts=1, layers=["attention+mlp", "attention", "attention"]
)
ROUTED = ("blocks.1.channel.", "blocks.2.channel.")
PARTS = ("router", "gate_up", "down", "bias")


def of(weights: dict[str, Tensor], config: MoeConfig = CONFIG) -> Model:
    model = Model(config, config.build(VOCABULARY))
    load_weights(model.decoder, weights, "here")
    return model


def model(seed: int) -> Model:
    """With biases that say which expert is chosen."""
    found = {name: tensor.clone() for name, tensor in made(CONFIG, seed).weights.items()}
    for layer in ROUTED:
        found[f"{layer}bias"] = torch.linspace(-0.1, 0.1, E).roll(seed)
    return of(found)


def permuted(start: Model, orders: dict[str, list[int]], noise: float = 0.0) -> Model:
    """The same function with its experts in another order, and noise on all of its weights."""
    generator = torch.Generator().manual_seed(3)
    found = {name: t + noise * torch.randn(t.shape, generator=generator) for name, t in start.weights.items()}
    for layer, order in orders.items():
        for part in PARTS:
            found[layer + part] = found[layer + part][order]
    return of(found)


ORDERS = {ROUTED[0]: [3, 0, 4, 1, 2], ROUTED[1]: [1, 2, 3, 4, 0]}


@pytest.mark.parametrize("by", By, ids=lambda by: by.name)
@pytest.mark.parametrize("count", [2, 3])
def test_a_permuted_copy_merged_with_the_model_is_the_model(by: By, count: int) -> None:
    start = model(0)
    other = permuted(start, ORDERS)
    torch.testing.assert_close(logits(other), logits(start), atol=1e-5, rtol=1e-5)
    models = [start, other, start][:count]
    result = merged(ExpertsConfig(by=by), *models, usage=[ones(each) for each in models])
    for name, tensor in start.weights.items():
        torch.testing.assert_close(result.weights[name], tensor, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits(result), logits(start), atol=1e-5, rtol=1e-5)


def ones(start: Model) -> dict[str, Tensor]:
    return {name: torch.ones(E) for name in start.weights if name.startswith(ROUTED)}


def test_by_their_numbers_it_is_the_plain_mean() -> None:
    models = [model(0), model(1)]
    result = merged(ExpertsConfig(match=Match.none, weights=[1.0, 3.0]), *models).weights
    first, second = (each.weights for each in models)
    for name, tensor in result.items():
        torch.testing.assert_close(tensor, 0.25 * first[name] + 0.75 * second[name], atol=1e-6, rtol=1e-6)


def test_pairs_are_those_with_the_largest_inner_products() -> None:
    """Against scipy, on models that have nothing in common; routers say nothing of what experts are."""
    models = [model(seed) for seed in (0, 1, 2)]
    with torch.no_grad():
        for each in models:
            each.decoder.get_parameter("blocks.1.channel.router").mul_(50)
    weights = [0.5, 0.3, 0.2]
    result = merged(ExpertsConfig(weights=weights), *models).weights
    first = models[0].weights
    for layer in ROUTED:
        orders = [list(range(E))]
        for other in models[1:]:
            both = [
                torch.cat([each[layer + part].flatten(1) for part in ("gate_up", "down")], 1).double()
                for each in (first, other.weights)
            ]
            orders.append(linear_sum_assignment((both[0] @ both[1].T).numpy(), maximize=True)[1].tolist())
        assert orders[1] != orders[0] and orders[2] != orders[0], "else nothing is tested"
        for part in PARTS:
            expected = sum(
                w * each.weights[layer + part][order].double()
                for w, each, order in zip(weights, models, orders, strict=True)
            )
            torch.testing.assert_close(result[layer + part].double(), expected, atol=1e-6, rtol=1e-6)
    for name, tensor in result.items():
        if not (name.startswith(ROUTED) and name.split(".")[-1] in PARTS):
            expected = sum(w * each.weights[name].double() for w, each in zip(weights, models, strict=True))
            torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=1e-6)


def test_noise_does_not_hide_the_order() -> None:
    start = model(0)
    other = permuted(start, ORDERS, noise=0.003)
    matched = merged(ExpertsConfig(), start, other)
    plain = merged(ExpertsConfig(match=Match.none), start, other)
    near, far = ((logits(each) - logits(start)).abs().mean() for each in (matched, plain))
    assert near < 0.3 * far


def test_usage_counts_beside_the_weights() -> None:
    start = model(0)
    other = permuted(start, ORDERS, noise=0.05)
    first = torch.tensor([30.0, 0.0, 10.0, 0.0, 60.0])
    second = torch.tensor([0.0, 5.0, 5.0, 0.0, 10.0])  # by the first one's numbers
    own = {layer + part: second[order] for layer, order in ORDERS.items() for part in PARTS}
    usage = [{name: first for name in own}, own]
    result = merged(ExpertsConfig(by=By.usage, weights=[1.0, 3.0]), start, other, usage=usage).weights
    ours, theirs = 0.25 * first / 100, 0.75 * second / 20
    share = torch.where(ours + theirs > 0, ours / (ours + theirs), torch.tensor(0.25))
    assert share.tolist()[:2] == [1.0, 0.0] and share[3] == 0.25, "used by one alone, by the other, by none"
    for layer in ROUTED:
        back = torch.tensor(ORDERS[layer]).argsort()
        for part in PARTS:
            a, b = start.weights[layer + part], other.weights[layer + part][back]
            expected = torch.stack([w * x + (1 - w) * y for w, x, y in zip(share, a, b, strict=True)])
            torch.testing.assert_close(result[layer + part], expected, atol=1e-6, rtol=1e-6)
    name = "embed.weight"
    torch.testing.assert_close(result[name], 0.25 * start.weights[name] + 0.75 * other.weights[name])


def test_statistics_are_gathered_only_where_they_are_read() -> None:
    assert (ExpertsConfig().gathers(), ExpertsConfig(by=By.usage).gathers()) == ("", "usage")


def test_a_layer_reads_what_its_matching_needs_and_no_more() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model(0).weights.items()}
    for match in Match:
        for output in ExpertsConfig(match=match).build().plan([shapes, shapes]):
            routed = output.name.startswith(ROUTED) and output.name.split(".")[-1] in PARTS
            names = {place.name for place in output.sources}
            stacks = {output.name.rpartition(".")[0] + part for part in (".gate_up", ".down")}
            assert names == ({output.name} | stacks if routed and match is Match.weights else {output.name})


@pytest.mark.parametrize(
    ("configs", "says"),
    [
        ([DenseConfig(d_model=32)] * 2, "for layers of experts, and runs/a has attention.mlp; try merge=linear"),
        ([CONFIG, MoeConfig(d_model=32, n_layers=3, layers=CONFIG.layers)], r"differ in model\.n_experts"),
    ],
    ids=["dense", "counts"],
)
def test_other_models_are_one_line(configs: list[Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        ExpertsConfig().architecture([architecture(config) for config in configs])
    assert "\n" not in str(error.value)


def test_weights_that_cancel_are_one_line() -> None:
    with pytest.raises(ConfigError, match="sum to 0"):
        ExpertsConfig(weights=[1.0, -1.0])
