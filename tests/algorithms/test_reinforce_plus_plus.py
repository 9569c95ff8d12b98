"""algorithm=reinforce_plus_plus against its equations, and hand-worked rows."""

import pytest

from rlx.algorithms.reinforce_plus_plus import ReinforcePlusPlusConfig
from tests.algorithms import plain
from tests.algorithms.plain import Equation, completion, drawn
from tests.algorithms.rollouts import advantages_of, agree


@pytest.mark.parametrize("beta", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(2))
def test_loss_and_gradient_are_the_equations(seed: int, beta: float) -> None:
    rows = drawn(seed)
    advantages = plain.whitened(plain.to_go(plain.costed(rows, beta, plain.k1)))
    agree(ReinforcePlusPlusConfig(kl_coefficient=beta), rows, Equation(how="token").of(rows, advantages), extra=seed)


def test_two_rows_by_hand() -> None:
    """One token worth 1 and three worth 0: mean 1/4, standard deviation sqrt((9 + 3) / 16 / 3) = 1/2. Whitening is over
    tokens, so that the short row is pulled three times as hard as one of two rows would be."""
    found = advantages_of(ReinforcePlusPlusConfig(), [completion(1.0, 1), completion(0.0, 3)])
    assert found == [pytest.approx([1.5]), pytest.approx([-0.5] * 3)]


def test_a_cost_counts_from_its_token_back() -> None:
    """The first row's second token costs 1/2 * 0.4: its returns to go are 0.8, 0.8, 1; the other's are 0."""
    rows = [completion(1.0, 3), completion(0.0, 1)]
    rows[0].reference[1] -= 0.4
    found = advantages_of(ReinforcePlusPlusConfig(kl_coefficient=0.5), rows)
    assert found == [pytest.approx(row) for row in plain.whitened([[0.8, 0.8, 1.0], [0.0]])]


def test_a_prompt_may_have_one_sample() -> None:
    assert ReinforcePlusPlusConfig(group_size=1).group_size == 1
    rows = [completion(1.0, 2, group=0), completion(0.0, 2, group=1)]
    first, second = advantages_of(ReinforcePlusPlusConfig(group_size=1), rows)
    assert first == pytest.approx([0.75**0.5] * 2) and second == pytest.approx([-(0.75**0.5)] * 2)
