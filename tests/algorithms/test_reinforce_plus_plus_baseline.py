"""algorithm=reinforce_plus_plus_baseline against its equations, and hand-worked rows."""

import pytest

from rlx.algorithms.reinforce_plus_plus_baseline import ReinforcePlusPlusBaselineConfig
from rlx.errors import ConfigError
from tests.algorithms import plain
from tests.algorithms.plain import Equation, completion, drawn
from tests.algorithms.rollouts import advantages_of, agree


@pytest.mark.parametrize("beta", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(2))
def test_loss_and_gradient_are_the_equations(seed: int, beta: float) -> None:
    """The group's mean is that of outcomes, without the costs of divergence."""
    rows = drawn(seed)
    before = [row.reward for row in rows]
    for row, outcome in zip(rows, plain.centred(rows), strict=True):
        row.reward = outcome
    advantages = plain.whitened(plain.to_go(plain.costed(rows, beta, plain.k1)))
    for row, reward in zip(rows, before, strict=True):
        row.reward = reward
    config = ReinforcePlusPlusBaselineConfig(kl_coefficient=beta)
    agree(config, rows, Equation(how="token").of(rows, advantages), extra=seed)


def test_two_groups_by_hand() -> None:
    """Outcomes 1/2 once, -1/2 on three tokens, and 0, 0 of a group without a signal: mean -1/6, standard deviation
    sqrt((4/9 + 3 * 1/9 + 2 * 1/36) / 5) = sqrt(1/6). The group of equals is pulled by what is left of the mean."""
    rows = [completion(1.0, 1), completion(0.0, 3), completion(4.0, 1, group=1), completion(4.0, 1, group=1)]
    first, second, *equal = advantages_of(ReinforcePlusPlusBaselineConfig(), rows)
    root = 6**0.5
    assert first == pytest.approx([2 / 3 * root]) and second == pytest.approx([-1 / 3 * root] * 3)
    assert equal == [pytest.approx([root / 6])] * 2


def test_what_a_prompt_is_worth_does_not_matter() -> None:
    """Rewards of one group moved by a constant: nothing changes, where plain REINFORCE++ would."""
    rows = [completion(reward, 2, group=group) for reward, group in ((1.0, 0), (0.0, 0), (0.5, 1), (0.25, 1))]
    before = advantages_of(ReinforcePlusPlusBaselineConfig(), rows)
    for row in rows[2:]:
        row.reward += 8
    assert advantages_of(ReinforcePlusPlusBaselineConfig(), rows) == [pytest.approx(row) for row in before]


def test_one_sample_has_no_group() -> None:
    with pytest.raises(ConfigError, match="group_size=1: it compares"):
        ReinforcePlusPlusBaselineConfig(group_size=1)
