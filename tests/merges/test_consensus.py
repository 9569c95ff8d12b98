"""What rules on deltas share, against the equations entry by entry."""

from itertools import product

import pytest
import torch
from torch import Tensor

from rlx.merges import base, consensus
from rlx.merges.consensus import Divide, Elect, Rescale, agreed, blocks, drop, keep_largest
from tests.merges.tensors import close, some


def sign(number: float) -> int:
    return (number > 0) - (number < 0)


def by_hand(column: list[float], weights: list[float], elect: Elect, divide: Divide) -> float:
    """One entry's result."""
    weighted = [w * d for w, d in zip(weights, column, strict=True)]
    voters = weighted if elect is Elect.weighted else column
    vote = sum(sign(v) for v in voters) if elect is Elect.count else sum(voters)
    elected = 1 if vote >= 0 else -1
    inside = [n for n, voter in enumerate(voters) if sign(voter) == elected]
    total = sum(weighted[n] for n in inside)
    divisor = {Divide.weights: sum(weights[n] for n in inside), Divide.count: len(inside), Divide.none: 1}[divide]
    return total / (divisor or 1)


@pytest.mark.parametrize("elect", list(Elect), ids=lambda value: value.name)
@pytest.mark.parametrize("divide", list(Divide), ids=lambda value: value.name)
@pytest.mark.parametrize(
    "weights",
    [[1.0, 1.0, 1.0], [0.2, 3.0, 1.0], [1.0, -0.5, 0.0], [1.0, -1.0, 0.5]],
    ids=["equal", "odd", "signed", "cancelling"],
)
def test_every_pattern_of_signs(weights: list[float], divide: Divide, elect: Elect) -> None:
    """All columns of three values from -2, -1, 0, 1 and 2, so that ties of the vote are there too."""
    columns = [list(column) for column in product([-2.0, -1.0, 0.0, 1.0, 2.0], repeat=3)]
    deltas = torch.tensor(columns, dtype=torch.float64).T.contiguous()
    expected = [by_hand(column, weights, elect, divide) for column in columns]
    close(agreed(list(deltas), weights, elect, divide), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("block", [1, 7, 30, 1000])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sums nor trims nor masks depend on how much is worked on at a time."""

    def results() -> list[Tensor]:
        deltas = [delta.flatten() for delta in some(3)]
        drawn = drop(
            deltas[0].clone(), ((place, 0.4) for place in blocks(30)), Rescale.inverse, torch.Generator().manual_seed(1)
        )
        trimmed = keep_largest(deltas[1].clone(), 0.3)
        return [agreed(deltas, [1.0, 2.0, 3.0], Elect.weighted, Divide.weights), drawn, trimmed]

    expected = results()
    assert base.BLOCK > 30
    monkeypatch.setattr(consensus, "BLOCK", block)
    assert all(torch.equal(one, other) for one, other in zip(results(), expected, strict=True))


@pytest.mark.parametrize(("density", "left"), [(1.0, 30), (0.5, 15), (0.34, 10), (0.04, 1), (0.001, 1)])
def test_the_largest_are_kept(density: float, left: int) -> None:
    delta = some(1)[0].flatten()
    found = keep_largest(delta.clone(), density)
    order = delta.abs().argsort(descending=True)
    assert torch.equal(found[order[:left]], delta[order[:left]]) and not found[order[left:]].any()


def test_equals_of_the_last_kept_are_kept() -> None:
    delta = torch.tensor([1.0, -2.0, 2.0, 2.0, 0.5, -3.0])
    assert keep_largest(delta, 0.34).tolist() == [0.0, -2.0, 2.0, 2.0, 0.0, -3.0]
    assert keep_largest(torch.zeros(5), 0.2).tolist() == [0.0] * 5


@pytest.mark.parametrize("rescale", list(Rescale), ids=lambda value: value.name)
def test_dropped_entries_are_made_up_for(rescale: Rescale) -> None:
    delta = some(1, 20_000)[0]
    found = drop(delta.clone(), ((place, 0.2) for place in blocks(20_000)), rescale, torch.Generator().manual_seed(0))
    left = found != 0
    assert abs(left.double().mean() - 0.2) < 4 * (0.16 / 20_000) ** 0.5
    factor = {Rescale.inverse: 5.0, Rescale.l1: (delta.abs().sum() / delta[left].abs().sum()).item(), Rescale.none: 1.0}
    close(found[left], delta[left] * factor[rescale], 3e-6)


def test_masks_are_those_of_uniform_numbers_below_the_probability() -> None:
    generator = torch.Generator().manual_seed(3)
    found = drop(torch.ones(50), [(slice(0, 50), torch.linspace(0, 1, 50))], Rescale.none, generator)
    drawn = torch.rand(50, generator=torch.Generator().manual_seed(3)) < torch.linspace(0, 1, 50)
    assert torch.equal(found, drawn.float())
    double = drop(torch.ones(50).double(), [(slice(0, 50), 0.5)], Rescale.none, generator.manual_seed(3))
    single = drop(torch.ones(50), [(slice(0, 50), 0.5)], Rescale.none, generator.manual_seed(3))
    assert torch.equal(double.float(), single), "whatever the dtype"


def test_nothing_kept_is_nothing() -> None:
    found = drop(torch.ones(4), [(slice(0, 4), 0.0)], Rescale.l1, torch.Generator())
    assert found.tolist() == [0.0] * 4
