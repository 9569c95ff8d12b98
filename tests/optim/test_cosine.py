"""Half a cosine, by hand and against torch's scheduler."""

import math

import pytest
import torch

from rlx.errors import ConfigError
from rlx.optim.schedules.cosine import CosineConfig


def test_values_by_hand() -> None:
    schedule = CosineConfig(warmup_steps=2, floor=0.2)
    found = [schedule.factor(step, 10) for step in (0, 1, 2, 4, 6, 8, 10, 11)]
    quarter = 0.2 + 0.8 * 0.5 * (1 + math.sqrt(0.5))
    assert found == pytest.approx([0.5, 1.0, 1.0, quarter, 0.6, 1.2 - quarter, 0.2, 0.2])


def test_values_are_torchs() -> None:
    schedule = CosineConfig(warmup_steps=0, floor=0.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=25)
    for step in range(25):
        assert schedule.factor(step, 25) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_it_never_rises_after_warmup() -> None:
    schedule = CosineConfig(warmup_steps=5)
    values = [schedule.factor(step, 40) for step in range(5, 60)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0 and values[-1] == pytest.approx(0.1)


def test_a_run_no_longer_than_its_warmup_is_finite() -> None:
    for total in (1, 20):
        assert all(0 < CosineConfig(warmup_steps=20).factor(step, total) <= 1 for step in range(25))


@pytest.mark.parametrize("floor", [-0.1, 1.1])
def test_floor_is_checked(floor: float) -> None:
    with pytest.raises(ConfigError, match=f"schedule.floor={floor}"):
        CosineConfig(floor=floor)
