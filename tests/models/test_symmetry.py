"""Units in another order: the function stays, for every mixer that there is."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.models.base import ModelConfig, kinds
from rlx.models.folder import weights_of
from rlx.models.symmetry import RESIDUAL, Group, Order, permuted, symmetry_of
from rlx.nn.decoder import Decoder
from rlx.options import discover

VOCAB = 13
MODELS: dict[str, dict[str, Any]] = {
    "dense": {"name": "dense"},
    "untied": {"name": "dense", "tie_embeddings": False},
    "grouped": {"name": "dense", "n_heads": 4, "n_kv_heads": 2, "qk_norm": True},
    "alibi": {"name": "dense", "position": "alibi"},
    "hard alibi": {"name": "dense", "position": "hard_alibi", "n_heads": 4},
    "coupled": {"name": "dense", "position": "predicted", "max_position": 20},
    "moe": {"name": "moe", "n_experts": 4, "d_expert": 6, "n_shared_experts": 2, "balance_rate": 0.1},
    "hybrid": {
        "name": "hybrid",
        "n_layers": 6,
        "layers": ["attention", "gssm", "delta", "lstm", "iha", "gssm+experts"],
    },
    "no channels": {"name": "hybrid", "layers": ["gssm+none"], "d_ff": None},
}


def model_of(case: str, seed: int = 0) -> Decoder:
    """A small model whose norms, biases and other vectors are drawn too."""
    torch.manual_seed(seed)
    fields = dict(MODELS[case])
    cls = discover("model")[fields.pop("name")].config
    if "position" in fields:
        fields["position"] = type(cls().position)(fields["position"])
    config: ModelConfig = cls(**{"d_model": 16, "n_layers": 2, "init_std": 0.3, "d_ff": 24, **fields})
    model = config.build(VOCAB)
    with torch.no_grad():
        for tensor in weights_of(model).values():
            if tensor.dim() == 1:
                tensor.add_(0.3 * torch.randn(tensor.shape))
    return model.eval()


def drawn(group: Group) -> Order:
    inner = torch.stack([torch.randperm(group.inner) for _ in range(group.units)]) if group.inner > 1 else None
    return Order(torch.randperm(group.units), inner)


def outputs(model: Decoder) -> Tensor:
    tokens = torch.randint(0, VOCAB, (2, 9), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.logits(model(tokens, places=None if model.places is None else tokens)[0])


@pytest.mark.parametrize("case", MODELS)
def test_the_function_stays(case: str) -> None:
    model, found = model_of(case), symmetry_of(model_of(case))
    before, tensors = outputs(model), weights_of(model)
    assert found.parts.keys() == tensors.keys()
    torch.manual_seed(1)
    for group in found.groups:
        orders = {group: drawn(found.groups[group])}
        assert any(not torch.equal(permuted(x, found.parts[name], orders), x) for name, x in tensors.items()), group
    orders = {name: drawn(group) for name, group in found.groups.items()}
    new = model_of(case, seed=3)
    own = weights_of(new)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(permuted(tensor, found.parts[name], orders))
    torch.testing.assert_close(outputs(new), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "groups"),
    [
        ("dense", {"mixer": Group(4), "channel": Group(24)}),
        ("grouped", {"mixer": Group(2, 2), "channel": Group(24)}),
        ("alibi", {"channel": Group(24)}),
        ("hard alibi", {"channel": Group(24)}),
        ("moe", {"mixer": Group(4), "channel": Group(4, 6), "channel.shared": Group(12)}),
        ("no channels", {}),
    ],
)
def test_groups(case: str, groups: dict[str, Group]) -> None:
    found = symmetry_of(model_of(case)).groups
    expected = {f"blocks.{layer}.{name}": group for layer, (name, group) in product(range(2), groups.items())}
    assert found == {RESIDUAL: Group(16), **expected}


def test_every_mixer_is_among_the_models() -> None:
    configs = [discover("model")[fields["name"]].config for fields in MODELS.values()]
    layers = [each for fields in MODELS.values() for each in fields.get("layers", [])]
    seen = {name for config in configs for name in config.plain.split("+")} | {
        n for each in layers for n in each.split("+")
    }
    assert set(kinds()) <= seen
