"""algorithm=rloo against its equation, and a hand-worked group."""

import pytest

from rlx.algorithms.rloo import RlooConfig
from rlx.errors import ConfigError
from tests.algorithms import plain
from tests.algorithms.plain import Equation, completion, drawn
from tests.algorithms.rollouts import advantages_of, agree, step_of


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_are_the_equation(seed: int) -> None:
    rows = drawn(seed)
    agree(RlooConfig(), rows, Equation(how="sum").of(rows, plain.leave_one_out(rows)), extra=seed)


def test_the_divergence_is_in_the_rewards_that_are_compared() -> None:
    """k1 of whole completions, with the sampling policy's log-probabilities."""
    rows = drawn(4)
    found = advantages_of(RlooConfig(kl_coefficient=0.4), rows)
    for row, costs in zip(rows, plain.costed(rows, 0.4, plain.k1), strict=True):
        row.reward = sum(costs)
    assert [row[0] for row in found] == pytest.approx(plain.leave_one_out(rows))


def test_three_rows_by_hand() -> None:
    """Rewards 1, 0, 0: the others' means are 0, 1/2, 1/2. A token weighs its row's advantage over three rows."""
    rows = [completion(1.0, 2), completion(0.0, 1), completion(0.0, 4)]
    assert advantages_of(RlooConfig(), rows) == [[1.0] * 2, [-0.5], [-0.5] * 4]
    loss, gradient, _ = step_of(RlooConfig(), rows)
    assert loss == pytest.approx((-2 + 0.5 + 2) / 3)
    assert gradient == [pytest.approx([-1 / 3] * 2), pytest.approx([1 / 6]), pytest.approx([1 / 6] * 4)]


def test_a_divergence_by_hand() -> None:
    """Rewards 1 and 1; the first is half as likely under the reference, which costs ln 2 / 2 at 0.5."""
    rows = [completion(1.0), completion(1.0)]
    rows[0].reference = [rows[0].sampled[0] - 0.6931471805599453]
    found = advantages_of(RlooConfig(kl_coefficient=0.5), rows)
    assert found == [[pytest.approx(-0.34657359028)], [pytest.approx(0.34657359028)]]


def test_on_policy_the_gradient_is_that_of_whole_completions() -> None:
    """-A log p(completion), a mean over rows, as the paper's single action has it."""
    rows = drawn(1, apart=0.0)
    per_row = [-a * plain.sum_of(row.now) / len(rows) for a, row in zip(plain.leave_one_out(rows), rows, strict=True)]
    equation = plain.sum_of(per_row)
    level = step_of(RlooConfig(), rows)[0] - equation.item()  # the value of -A rho is not that of -A log p
    agree(RlooConfig(), rows, equation + level)


def test_one_sample_has_no_others() -> None:
    with pytest.raises(ConfigError, match="group_size=1: it compares"):
        RlooConfig(group_size=1)
