"""AdamW against the paper's update written out, and torch's own optimizer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlx.errors import ConfigError
from rlx.optim.adamw import AdamWConfig


def by_hand(start: Tensor, gradients: list[Tensor], config: AdamWConfig, decay: float) -> Tensor:
    """Algorithm 2 of the paper, float64."""
    x, mean, square = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
    for step, gradient in enumerate(gradients, start=1):
        g = gradient.double()
        mean = config.beta1 * mean + (1 - config.beta1) * g
        square = config.beta2 * square + (1 - config.beta2) * g * g
        x = x - config.lr * decay * x
        corrected = mean / (1 - config.beta1**step), square / (1 - config.beta2**step)
        x = x - config.lr * corrected[0] / (corrected[1].sqrt() + config.eps)
    return x


def test_parameters_move_as_the_paper_says(small: Callable[[], nn.Module], walk: Callable[..., Any]) -> None:
    config = AdamWConfig(lr=3e-2, weight_decay=0.3, beta1=0.8, beta2=0.9, eps=1e-6)
    model = small()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    given: dict[str, list[Tensor]] = {name: [] for name in start}
    optimizer = config.build(model)
    for _ in walk(model, [optimizer], range(6)):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                given[name].append(parameter.grad.clone())
    for name, parameter in model.named_parameters():
        decay = 0.3 if parameter.dim() >= 2 else 0.0
        expected = by_hand(start[name], given[name], config, decay)
        torch.testing.assert_close(parameter.detach().double(), expected, atol=2e-6, rtol=0, msg=name)
        assert torch.equal(parameter, start[name]) is (name == "frozen")


def test_parameters_move_as_torchs_do(small: Callable[[], nn.Module], walk: Callable[..., Any]) -> None:
    config, ours, theirs = AdamWConfig(lr=1e-2), small(), small()
    groups = [
        {"params": [p], "weight_decay": 0.1 if p.dim() >= 2 else 0.0} for p in theirs.parameters() if p.requires_grad
    ]
    plain = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    moved, expected = walk(ours, [config.build(ours)], range(5)), walk(theirs, [plain], range(5))
    for one, two in zip(moved, expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


def test_norms_and_biases_do_not_decay(small: Callable[[], nn.Module]) -> None:
    model = small()
    optimizer = AdamWConfig(lr=0.1, weight_decay=0.5).build(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.dim() >= 2 and name != "frozen" else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name], msg=name)


def test_a_saved_state_goes_on_bit_equal(
    small: Callable[[], nn.Module], walk: Callable[..., Any], saved: Callable[..., Any]
) -> None:
    config, model = AdamWConfig(), small()
    optimizer = config.build(model)
    list(walk(model, [optimizer], range(3)))
    other = small()
    other.load_state_dict(model.state_dict())
    again = config.build(other)
    again.load_state_dict(saved(optimizer.state_dict()))
    for one, two in zip(walk(model, [optimizer], range(3, 7)), walk(other, [again], range(3, 7)), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lr": 0.0}, "optim.lr=0.0"),
        ({"lr": float("nan")}, "optim.lr=nan"),
        ({"weight_decay": -0.1}, "optim.weight_decay=-0.1"),
        ({"beta1": 1.0}, "optim.beta1=1.0"),
        ({"beta2": -0.5}, "beta2=-0.5"),
        ({"eps": -1.0}, "optim.eps=-1.0"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        AdamWConfig(**values)
