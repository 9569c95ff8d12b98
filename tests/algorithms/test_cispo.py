"""algorithm=cispo against its equation, and what its clip does that PPO's does not."""

import math

import pytest
import torch

from rlx.algorithms.cispo import CispoConfig
from rlx.algorithms.grpo import GrpoConfig
from rlx.errors import ConfigError
from tests.algorithms import plain
from tests.algorithms.plain import Completion, completion, drawn
from tests.algorithms.rollouts import agree, gradient_of, step_of


def equation(rows: list[Completion], least: float, most: float) -> torch.Tensor:
    """Mean over tokens of -w A log p, the weight w from `least` to `most` and a constant."""
    losses = []
    for a, row in zip(plain.by_group(rows), rows, strict=True):
        weights = [
            min(max(math.exp(now.item() - old), least), most) for now, old in zip(row.now, row.sampled, strict=True)
        ]
        losses.append([-weight * a * now for weight, now in zip(weights, row.now, strict=True)])
    return plain.reduced(losses, "token")


@pytest.mark.parametrize("seed", range(2))
def test_loss_and_gradient_are_the_equation(seed: int) -> None:
    rows = drawn(seed, apart=1.5)
    ratios = [math.exp(now.item() - old) for row in rows for now, old in zip(row.now, row.sampled, strict=True)]
    assert max(ratios) > 5 and min(ratios) < 0.2
    agree(CispoConfig(), rows, equation(rows, 0.0, 5.0), extra=seed)
    agree(CispoConfig(clip_low=0.2, clip_high=0.28), rows, equation(rows, 0.8, 1.28), extra=seed)


def test_a_token_beyond_the_clip_keeps_a_gradient() -> None:
    """A good token ten times as likely as it was: PPO drops it, here it weighs five times (its cap)."""
    rows = [completion(1.0, ratio=10.0), completion(0.0)]
    advantage = 1 / math.sqrt(2)
    assert gradient_of(GrpoConfig(), rows)[0] == [0.0]
    found = gradient_of(CispoConfig(std_eps=0.0), rows)
    assert found == [[pytest.approx(-5 * advantage / 2)], [pytest.approx(advantage / 2)]]


def test_a_token_that_became_rare_weighs_as_little() -> None:
    """There is no lower bound: a bad token at a hundredth weighs a hundredth, where PPO drops it."""
    rows = [completion(1.0), completion(0.0, ratio=0.01)]
    assert gradient_of(CispoConfig(std_eps=0.0), rows)[1] == [pytest.approx(0.01 / math.sqrt(2) / 2)]
    assert gradient_of(GrpoConfig(), rows)[1] == [0.0]


def test_clipped_weights_are_counted() -> None:
    rows = [completion(1.0, 2, ratio=5.1), completion(0.0, 2, ratio=0.01)]
    _, _, metrics = step_of(CispoConfig(), rows)
    assert metrics["clip_ratio/high_mean"].item() == 0.5 and metrics["clip_ratio/low_mean"].item() == 0
    _, _, metrics = step_of(CispoConfig(clip_low=0.5, clip_high=5.0), rows)
    assert metrics["clip_ratio/high_mean"].item() == 0 and metrics["clip_ratio/low_mean"].item() == 0.5


def test_dual_clip_is_refused() -> None:
    with pytest.raises(ConfigError, match="cispo's weights are clipped already"):
        CispoConfig(dual_clip=6.0)
