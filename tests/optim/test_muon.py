"""Muon on the blocks' matrices and AdamW on the rest, against torch's own two optimizers and the singular vectors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rlx.errors import ConfigError
from rlx.optim.muon import MuonConfig

MATRICES = {"blocks.0.weight", "blocks.1.weight"}


def test_parameters_move_as_torchs_do(small: Callable[[], nn.Module], walk: Callable[..., Any]) -> None:
    ours, theirs = small(), small()
    named = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    muon = torch.optim.Muon(
        [named[name] for name in sorted(MATRICES)],
        lr=1e-2,
        weight_decay=0.2,
        momentum=0.9,
        nesterov=True,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = [p for name, p in named.items() if name not in MATRICES]
    adamw = torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0, foreach=False, fused=False)
    config = MuonConfig(lr=1e-2, weight_decay=0.2, momentum=0.9, adamw_lr=2e-3)
    found, expected = walk(ours, [config.build(ours)], range(5)), walk(theirs, [muon, adamw], range(5))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


def test_a_step_is_the_gradients_singular_vectors(small: Callable[[], nn.Module], walk: Callable[..., Any]) -> None:
    """The first step without decay is about lr * 0.2 * sqrt(longer side) * U V^T: root mean square 0.2 lr."""
    model = small()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = MuonConfig(lr=0.1, weight_decay=0.0).build(model)
    (after,) = walk(model, [optimizer], [0])
    for name in MATRICES:
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None
        u, _, v = torch.linalg.svd(gradient, full_matrices=False)
        step = before[name] - after[name]
        assert step.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.25)
        assert torch.cosine_similarity(step.flatten(), (u @ v).flatten(), dim=0) > 0.97


class Stacked(nn.Module):
    """Matrices one upon the other, as experts hold them, wide and tall; one beside them, and other tensors."""

    stacks = ("wide", "tall")

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.wide = nn.Parameter(torch.randn(3, 6, 10, generator=generator))
        self.tall = nn.Parameter(torch.randn(3, 9, 4, generator=generator))
        self.blocks = nn.ParameterDict({"matrix": torch.ones(2, 2), "other": torch.ones(2, 2, 2)})


def parts(model: Stacked) -> list[tuple[str, nn.Parameter]]:
    return [("wide", model.wide), ("tall", model.tall)]


def test_stacked_matrices_move_as_each_would_alone() -> None:
    config = MuonConfig(lr=1e-2, weight_decay=0.2, momentum=0.9)
    model, generator = Stacked(), torch.Generator().manual_seed(1)
    alone = {f"{name}{n}": nn.Parameter(p[n].detach().clone()) for name, p in parts(model) for n in range(3)}
    ours = config.build(model)
    theirs = torch.optim.Muon(
        list(alone.values()), lr=1e-2, weight_decay=0.2, momentum=0.9, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(4):
        for name, parameter in parts(model):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            parameter.grad[2] = 0  # an expert that no token chose
            for n in range(3):
                alone[f"{name}{n}"].grad = parameter.grad[n].clone()
        if step == 2:
            state = ours.state_dict()
            ours = config.build(model)
            ours.load_state_dict(state)
        ours.step()
        theirs.step()
    for name, parameter in parts(model):
        for n in range(3):  # bfloat16 products of several matrices at once may round otherwise
            torch.testing.assert_close(parameter[n], alone[f"{name}{n}"], atol=2e-4, rtol=0)
    before = Stacked().wide
    assert (before[0] - model.wide[0]).abs().max() > 1e-2
    torch.testing.assert_close(model.wide[2], before[2] * (1 - 0.2 * 1e-2) ** 4)


def test_a_schedule_reaches_every_group(small: Callable[[], nn.Module]) -> None:
    model = small()
    optimizer = MuonConfig().build(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters() if p.requires_grad)


def test_only_the_blocks_matrices_decay(small: Callable[[], nn.Module]) -> None:
    model = small()
    optimizer = MuonConfig(lr=0.1, weight_decay=0.5).build(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), (0.95 if name in MATRICES else 1.0) * before[name], msg=name)


def test_a_saved_state_goes_on_bit_equal(
    small: Callable[[], nn.Module], walk: Callable[..., Any], saved: Callable[..., Any]
) -> None:
    """Rates changed by a schedule are part of the state."""
    config, model = MuonConfig(), small()
    optimizer = config.build(model)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    list(walk(model, [optimizer], range(3)))
    other = small()
    other.load_state_dict(model.state_dict())
    again = config.build(other)
    again.load_state_dict(saved(optimizer.state_dict()))
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in optimizer.param_groups]
    for one, two in zip(walk(model, [optimizer], range(3, 7)), walk(other, [again], range(3, 7)), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    for group in again.param_groups:
        group["lr"] = 0.0
    frozen = {name: p.detach().clone() for name, p in other.named_parameters()}
    (after,) = walk(other, [again], [9])
    assert all(torch.equal(after[name], frozen[name]) for name in after), "the groups are the loaded ones"


def test_a_closure_is_called_with_gradients(small: Callable[[], nn.Module]) -> None:
    model = small()
    optimizer = MuonConfig().build(model)

    def closure() -> torch.Tensor:
        loss = sum((p.square().sum() for p in model.parameters()), torch.zeros(()))
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lr": -1.0}, "optim.lr=-1.0"),
        ({"adamw_lr": 0.0}, "optim.adamw_lr=0.0"),
        ({"momentum": 1.0}, "optim.momentum=1.0"),
        ({"beta2": 1.5}, "beta2=1.5"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MuonConfig(**values)
