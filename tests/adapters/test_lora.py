"""adapter=lora: what it names, and what it does to a decoder."""

import copy

import pytest
import torch

from rlx.adapters.lora import LoraConfig
from rlx.errors import ConfigError
from rlx.models.dense import DenseConfig
from rlx.models.moe import MoeConfig
from rlx.nn.experts import routed_layers
from rlx.nn.lora import StackedLora, attached, base_tensors, folded_tensors, is_adapted, without_adapters
from rlx.optim.adamw import AdamWConfig
from rlx.optim.muon import MuonConfig

SIZES = {"d_model": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 40, "init_std": 0.2}
TOKENS = torch.randint(0, 30, (2, 11), generator=torch.Generator().manual_seed(0))


def decoder(**fields):
    torch.manual_seed(0)
    return DenseConfig(**{**SIZES, **fields}).build(30)


def adapted(*targets, noise=0.3, **fields):
    """A decoder with an adapter, whose B is not 0 any more where there is noise."""
    model = decoder(**fields)
    LoraConfig(targets=list(targets), rank=3, alpha=5).attach(model)
    for each in attached(model):
        torch.nn.init.normal_(each.adapter.factors()[1], std=noise)
    return model


def logits(model):
    return model.logits(model(TOKENS)[0])


TARGETS = {"all": ["all"], "one of a fused layer": ["k"], "two of it": ["q", "v"], "the whole of it": ["qkv"],
           "up": ["up"], "out and down": ["out", "down"], "head": ["head"]}  # fmt: skip


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
def test_folded_is_the_same_function_and_fresh_is_the_base(targets):
    base, model = decoder(tie_embeddings=False), adapted(*targets, tie_embeddings=False)
    assert (logits(model) - logits(base)).abs().max() > 1e-2
    plain = without_adapters(model)
    assert not is_adapted(plain) and torch.equal(logits(plain), logits(base))
    plain.load_state_dict(folded_tensors(model))
    assert (logits(plain) - logits(model)).abs().max() < 2e-5
    fresh = adapted(*targets, noise=0.0, tie_embeddings=False)
    assert torch.equal(logits(fresh), logits(base))


def test_a_part_of_a_fused_layer_moves_only_its_rows():
    model = adapted("k")
    before, after = base_tensors(model), folded_tensors(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"blocks.0.mixer.qkv.weight", "blocks.1.mixer.qkv.weight"}
    name, lora = "blocks.1.mixer.qkv.weight", list(attached(model))[1].adapter
    a, b = lora.factors()
    expected = before[name].clone()
    expected[24:36] += 5 / 3 * b @ a  # keys stand below 4 heads of 6 queries each
    assert torch.allclose(after[name], expected, atol=1e-7)


def test_the_scale_of_rslora():
    plain, wide = LoraConfig(rank=4, alpha=6), LoraConfig(rank=4, alpha=6, rslora=True)
    found = []
    for config in (plain, wide):
        model = decoder()
        config.attach(model)
        found.append({each.adapter.strength.scale for each in attached(model)})
    assert found == [{6 / 4}, {6 / 2}]


def test_names_and_shapes_are_the_bases():
    base, model = decoder(), adapted("all")
    assert {name: tensor.shape for name, tensor in base_tensors(model).items()} == {
        name: tensor.shape for name, tensor in base.state_dict().items()
    }
    assert all(torch.equal(base.state_dict()[name], tensor) for name, tensor in base_tensors(model).items())


def test_all_is_every_linear_layer_of_the_blocks():
    parts = [each.part for each in attached(adapted("all"))]
    assert parts == 2 * ["q", "k", "v", "out", "gate", "up", "down"]


@pytest.mark.parametrize("optim", [AdamWConfig(lr=0.1), MuonConfig(lr=0.1)], ids=["adamw", "muon"])
@pytest.mark.parametrize("targets", [["all"], ["head"]], ids=lambda targets: targets[0])
def test_only_adapters_are_trained(optim, targets):
    model = adapted(*targets, noise=0.0, tie_embeddings=False)
    before = copy.deepcopy(model.state_dict())
    optimizer = optim.build(model)
    for _ in range(2):  # A has no gradient as long as B is 0
        logits(model).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved == {name for name in before if name not in base_tensors(model)} and moved
    kept = sum(value.numel() for state in _states(optimizer) for value in state.values() if torch.is_tensor(value))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert kept <= 2 * trained + len(moved)


def _states(optimizer):
    return [state for part in getattr(optimizer, "parts", [optimizer]) for state in part.state.values()]


def test_gradients_are_those_of_the_products():
    """d loss / d B = scale (d loss / d W) A^T and d loss / d A = scale B^T (d loss / d W), in float64."""
    model = adapted("q", "gate", "down").double()
    logits(model).logsumexp(-1).sum().backward()
    plain = without_adapters(model).double().requires_grad_(True)
    plain.load_state_dict(folded_tensors(model))
    logits(plain).logsumexp(-1).sum().backward()
    whole = dict(plain.named_parameters())
    for each in attached(model):
        (a, b), slope = each.adapter.factors(), whole[each.tensor].grad
        assert slope is not None and a.grad is not None and b.grad is not None
        slope = slope[each.rows]
        assert torch.allclose(b.grad, 5 / 3 * slope @ a.T, atol=1e-10)
        assert torch.allclose(a.grad, 5 / 3 * b.T @ slope, atol=1e-10)


WRONG = {
    "unknown": (["qq"], {}, "did you mean q?"),
    "one wrong": (["q", "gates"], {}, "did you mean gate?"),
    "of another model": (["experts"], {}, "experts"),
    "tied head": (["head"], {}, "tie_embeddings"),
}


@pytest.mark.parametrize("targets, fields, expected", WRONG.values(), ids=WRONG.keys())
def test_wrong_targets(targets, fields, expected):
    model = decoder(**fields)
    with pytest.raises(ConfigError, match=expected):
        LoraConfig(targets=targets).attach(model)
    assert not is_adapted(model) and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"alpha": -1.0}, {"targets": []}], ids=str)
def test_wrong_numbers(wrong):
    with pytest.raises(ConfigError, match=f"adapter.{next(iter(wrong))}"):
        LoraConfig(**wrong)


def test_equal_adapters_are_written_alike():
    assert LoraConfig(targets=["v", "q", "v"]) == LoraConfig(targets=["q", "v"])


def routed():
    torch.manual_seed(0)
    return MoeConfig(d_model=24, n_layers=2, n_heads=4, n_experts=4, d_expert=20, n_shared_experts=1).build(30)


ROUTED = {"experts": (["experts"], ["gate_up", "down"]), "gate_up of both": (["gate_up"], ["gate_up", "gate", "up"]),
          "down of both": (["down"], ["down", "down"]), "gate of the shared": (["gate"], ["gate"]),
          "all": (["all"], ["q", "k", "v", "out", "gate_up", "down", "gate", "up", "down"])}  # fmt: skip


@pytest.mark.parametrize("targets, expected", ROUTED.values(), ids=ROUTED.keys())
def test_names_of_experts(targets, expected):
    model = routed()
    LoraConfig(targets=targets).attach(model)
    parts = [each.part for each in attached(model)]
    assert sorted(parts) == sorted(2 * expected)


@pytest.mark.parametrize("target, near", [("expert", "experts"), ("gate_upp", "gate_up"), ("router", "no linear")])
def test_wrong_names_of_experts(target, near):
    with pytest.raises(ConfigError, match=near) as caught:
        LoraConfig(targets=["q", target]).attach(routed())
    assert "\n" not in str(caught.value)


def test_stacks_are_made_once_a_pass(monkeypatch):
    model, made = routed(), []
    LoraConfig(targets=["experts"]).attach(model)
    forward = StackedLora.forward
    monkeypatch.setattr(StackedLora, "forward", lambda self, weight: made.append(self) or forward(self, weight))
    logits(model).sum().backward()
    assert len(made) == len(set(made)) == 4


def test_biases_beside_a_frozen_router_stay():
    model, load = routed(), torch.tensor([9.0, 1.0, 1.0, 1.0])
    channel = routed_layers(model)[0]
    channel.balance_rate = 0.5
    channel.rebalance(load)
    moved = channel.bias.clone()
    assert moved.tolist() == [-0.5, 0.5, 0.5, 0.5]
    LoraConfig(targets=["q"]).attach(model)
    channel.rebalance(load)
    assert torch.equal(channel.bias, moved)


@pytest.mark.parametrize("optim", [AdamWConfig(lr=0.1), MuonConfig(lr=0.1)], ids=["adamw", "muon"])
def test_only_adapters_of_experts_are_trained(optim):
    model = routed()
    LoraConfig(targets=["experts"], rank=3).attach(model)
    before = copy.deepcopy(model.state_dict())
    optimizer = optim.build(model)
    for _ in range(2):
        logits(model).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad} and moved
    assert {type(part).__name__ for part in getattr(optimizer, "parts", [])} <= {"StackedMuon"}


def test_folded_experts_are_the_same_function_and_the_model_stays():
    model = routed()
    base = logits(model)
    LoraConfig(targets=["experts", "v"], rank=3, alpha=5).attach(model)
    for each in attached(model):
        torch.nn.init.normal_(each.adapter.factors()[1], std=0.3)
    adapted = logits(model)
    plain = without_adapters(model)
    assert not is_adapted(plain) and torch.equal(logits(plain), base) and torch.equal(logits(model), adapted)
    plain.load_state_dict(folded_tensors(model))
    assert (adapted - base).abs().max() > 1e-3 and (logits(plain) - adapted).abs().max() < 2e-5
