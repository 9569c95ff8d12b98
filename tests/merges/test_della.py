"""Kept by rank: the probabilities, and with the same numbers drawn mergekit's result."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges import della
from rlx.merges.consensus import Consensus, Divide, Rescale
from rlx.merges.della import DellaConfig
from rlx.merges.task_arithmetic import TaskArithmeticConfig
from rlx.merges.ties import TiesConfig
from tests.merges.tensors import close, drawn, masks, merged, mergekit, some

WEIGHTS = pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, 2.0, 0.7]], ids=["equal", "weighted"])


def chances(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """By rank within rows, entry by entry."""
    rows = delta.reshape(-1, delta.shape[-1]).abs()
    found = torch.empty_like(rows, dtype=torch.float64)
    for number, row in enumerate(rows):
        for place, size in enumerate(row):
            rank = (row < size).sum().item() / (len(row) - 1)
            found[number, place] = density - epsilon + 2 * epsilon * rank
    return found.view(delta.shape)


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 4), (9,)], ids=str)
def test_formula(shape: tuple[int, ...]) -> None:
    *inputs, base = some(4, *shape)
    by_rank = [chances(x - base, 0.4, 0.3) for x in inputs]
    kept = masks(3, *[chance.float() for chance in by_rank])
    deltas = [m * (x - base).double() / p for m, x, p in zip(kept, inputs, by_rank, strict=True)]
    settings = {"density": 0.4, "epsilon": 0.3, "scale": 0.5}
    linear = merged(DellaConfig(consensus=Consensus.linear, weights=[1.0, 2.0, 0.5], **settings), inputs, base, seed=3)
    close(linear, base + 0.5 * (deltas[0] + 2 * deltas[1] + 0.5 * deltas[2]), 3e-6)
    stack = torch.stack(deltas)
    agrees = (stack.sign() == stack.sum(dim=0).sign()) & (stack != 0)
    ties = (stack * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
    close(merged(DellaConfig(**settings), inputs, base, seed=3), base + 0.5 * ties, 3e-6)


@WEIGHTS
@pytest.mark.parametrize("rescale", [Rescale.l1, Rescale.none], ids=lambda value: value.name)
@pytest.mark.parametrize("shape", [(9, 11), (20,)], ids=str)
def test_it_is_mergekits(shape: tuple[int, ...], rescale: Rescale, weights: list[float]) -> None:
    *inputs, base = some(4, *shape)
    given = {"weight": weights, "density": 0.4, "epsilon": 0.3, "rescale": rescale is Rescale.l1}
    for consensus, name in ((Consensus.ties, "della"), (Consensus.linear, "della_linear")):
        config = DellaConfig(weights=weights, density=0.4, epsilon=0.3, rescale=rescale, consensus=consensus)
        with drawn(5):
            expected = mergekit(name, inputs, base, **given)
        close(merged(config, inputs, base, seed=5), expected, 3e-6)


@pytest.mark.parametrize("block", [1, 13, 100])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    *inputs, base = some(4, 9, 11)
    expected = merged(DellaConfig(), inputs, base)
    monkeypatch.setattr(della, "BLOCK", block)
    assert torch.equal(merged(DellaConfig(), inputs, base), expected)


def test_large_entries_are_kept_more_often() -> None:
    delta = torch.arange(1.0, 6.0)
    config = DellaConfig(density=0.5, epsilon=0.4, rescale=Rescale.none)
    kept = torch.stack([merged(config, [delta], torch.zeros(5), seed=seed) != 0 for seed in range(1000)])
    expected = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    assert ((kept.double().mean(dim=0) - expected).abs() < 5 * (0.25 / 1000) ** 0.5).all()


@WEIGHTS
def test_density_1_is_the_dense_rule(weights: list[float]) -> None:
    *inputs, base = some(4)
    found = merged(DellaConfig(weights=weights, density=1.0), inputs, base)
    assert torch.equal(found, merged(TiesConfig(weights=weights, density=1.0), inputs, base))
    linear = merged(DellaConfig(weights=weights, density=1.0, consensus=Consensus.linear), inputs, base)
    assert torch.equal(linear, merged(TaskArithmeticConfig(weights=weights), inputs, base))
    divided = DellaConfig(weights=weights, density=1.0, consensus=Consensus.linear, divide=Divide.weights)
    close(merged(divided, [inputs[0]] * 3, base), inputs[0])


@pytest.mark.parametrize("rescale", list(Rescale), ids=lambda value: value.name)
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (4, 1), (3, 1, 2)], ids=str)
def test_any_shape(shape: tuple[int, ...], rescale: Rescale) -> None:
    """A row of one entry, for which mergekit's rank is 0 / 0, has the density."""
    inputs = [torch.full(shape, float(number)) for number in (1, 2, 5)]
    assert merged(DellaConfig(rescale=rescale), inputs[1:], inputs[0]).isfinite().all()
    if shape == (4, 1):
        (kept,) = masks(0, torch.full(shape, 0.5))
        found = merged(DellaConfig(rescale=Rescale.none), inputs[1:2], inputs[0])
        assert torch.equal(found, inputs[0] + kept)


def test_scale_0_is_the_base_and_the_seed_matters() -> None:
    *inputs, base = some(4)
    assert torch.equal(merged(DellaConfig(scale=0.0), inputs, base), base)
    assert DellaConfig.draws and DellaConfig().consensus is Consensus.ties
    assert not torch.equal(merged(DellaConfig(), inputs, base, seed=1), merged(DellaConfig(), inputs, base, seed=2))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"density": 0.1, "epsilon": 0.1}, "give probabilities from 0 to 0.2; they must be above 0"),
        ({"density": 0.9, "epsilon": 0.2}, "give probabilities from 0.7 to 1.1"),
        ({"epsilon": -0.1}, "give probabilities from 0.6 to 0.4"),
        ({"density": -1.0}, "density=-1.0 must be above 0"),
    ],
    ids=["low", "high", "negative", "none"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        DellaConfig(**values)
    assert "\n" not in str(error.value)
    assert DellaConfig(density=0.9, epsilon=0.1).density == 0.9
