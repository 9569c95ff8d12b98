"""Warm-up, then the peak."""

import pytest

from rlx.errors import ConfigError
from rlx.optim.schedules.constant import ConstantConfig


def test_values_by_hand() -> None:
    schedule = ConstantConfig(warmup_steps=4)
    assert [schedule.factor(step, 8) for step in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_no_warmup() -> None:
    assert [ConstantConfig(warmup_steps=0).factor(step, 3) for step in range(3)] == [1.0, 1.0, 1.0]


def test_a_run_shorter_than_its_warmup() -> None:
    assert [ConstantConfig(warmup_steps=10).factor(step, 2) for step in range(2)] == [0.1, 0.2]


def test_warmup_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.warmup_steps=-1"):
        ConstantConfig(warmup_steps=-1)
