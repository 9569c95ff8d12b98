"""Adapters of stacks: a product for each expert, where a module holds its matrices as one parameter [E, O, I]."""

import copy
from typing import Any, ClassVar

import torch
from torch import nn

from rlx.nn.lora import Strength, attach, attached, base_tensors, folded_tensors, sites


class Stack(nn.Module):
    """Every expert on every token: [T, I] to [E, T, O]."""

    stacks: ClassVar[tuple[str, ...]] = ("up",)

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 5, 4))

    def forward(self, x):
        return torch.einsum("eoi,ti->eto", self.up, x)


def pair() -> tuple[Any, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(Stack())
    base = copy.deepcopy(model)
    (site,) = sites(model)
    assert (site.path, site.tensor, dict(site.parts)) == ("0.up", "0.up", {"up": 5})
    attach(model, [(site, ["up"])], Strength(2, 6.0))
    return base, model


def test_a_product_for_each_expert():
    base, model = pair()
    x = torch.randn(7, 4)
    assert torch.equal(model(x), base(x))
    (each,) = attached(model)
    a, b = each.adapter.factors()
    assert a.shape == (3, 2, 4) and b.shape == (3, 5, 2) and a.abs().max() <= 0.5  # 1 / sqrt(4 inputs)
    nn.init.normal_(b)
    expected = torch.stack([x @ (base[0].up[e] + 3 * b[e] @ a[e]).T for e in range(3)])
    torch.testing.assert_close(model(x), expected)
    assert torch.equal(base_tensors(model)["0.up"], base[0].up) and list(base_tensors(model)) == ["0.up"]
    torch.testing.assert_close(torch.einsum("eoi,ti->eto", folded_tensors(model)["0.up"], x), expected)


def test_only_the_products_are_trained():
    _, model = pair()
    (each,) = attached(model)
    nn.init.normal_(each.adapter.factors()[1])
    model(torch.randn(7, 4)).square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(trained) == 2 and all(factor.grad is not None for factor in each.adapter.factors())
