"""A small model with matrices in blocks and outside of them, norms and a bias, and gradients for it."""

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 12), nn.Linear(12, 8, bias=False)])
        self.norm = nn.LayerNorm(8, bias=False)
        self.head = nn.Linear(8, 7, bias=False)
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)


@pytest.fixture
def small() -> Callable[[], Small]:
    """Makes the same model every time."""

    def make() -> Small:
        torch.manual_seed(0)
        return Small()

    return make


def gradients(model: nn.Module, seed: int) -> None:
    """Fill in random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def walk() -> Callable[..., Iterator[dict[str, Tensor]]]:
    """Steps with the gradients of the seeds given; the parameters after each."""

    def steps(model: nn.Module, optimizers: list[torch.optim.Optimizer], seeds: Any) -> Iterator[dict[str, Tensor]]:
        for seed in seeds:
            gradients(model, seed)
            for optimizer in optimizers:
                optimizer.step()
            yield {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    return steps


@pytest.fixture
def saved() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A state through a file that only plain values may pass."""

    def through(state: dict[str, Any]) -> dict[str, Any]:
        file = BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    return through
