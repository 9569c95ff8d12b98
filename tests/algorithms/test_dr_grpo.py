"""algorithm=dr_grpo against its equation, and a hand-worked step."""

import pytest

from rlx.algorithms.dr_grpo import DrGrpoConfig
from rlx.algorithms.rloo import RlooConfig
from tests.algorithms import plain
from tests.algorithms.plain import Equation, completion, drawn
from tests.algorithms.rollouts import agree, gradient_of, step_of


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_are_the_equation(seed: int) -> None:
    rows = drawn(seed)
    agree(DrGrpoConfig(), rows, Equation(how="constant").of(rows, plain.centred(rows)), extra=seed)


def test_two_rows_by_hand() -> None:
    """Rewards 1 and 0, of 2 and 4 tokens, at most 7: advantages 1/2 and -1/2, every token over 2 * 7."""
    loss, gradient, _ = step_of(DrGrpoConfig(), [completion(1.0, 2), completion(0.0, 4)])
    assert loss == pytest.approx((-2 / 2 + 4 / 2) / 14)
    assert gradient == [pytest.approx([-1 / 28] * 2), pytest.approx([1 / 28] * 4)]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_rloo_is_the_same_times_g_over_g_less_1(size: int) -> None:
    """On one normalization: leaving a row out of its own mean stretches the distance from it."""
    rows = drawn(size, sizes=(size, size))
    one, other = DrGrpoConfig(), RlooConfig(normalization=DrGrpoConfig().normalization)
    for mine, its in zip(gradient_of(one, rows), gradient_of(other, rows), strict=True):
        assert its == pytest.approx([size / (size - 1) * value for value in mine], rel=1e-9)


def test_hard_and_easy_prompts_weigh_as_they_are() -> None:
    """One right of eight: 7/8 for it, where GRPO has (G - 1) / sqrt(G) = 2.47."""
    gradient = gradient_of(DrGrpoConfig(), [completion(1.0), *[completion(0.0) for _ in range(7)]])
    assert gradient == [[pytest.approx(-7 / 8 / 8 / 7)], *[[pytest.approx(1 / 8 / 8 / 7)]] * 7]
