"""algorithm=grpo_lambda: which groups are penalised, by how much, and that the rest is GRPO."""

import math
from typing import Any

import pytest
import torch

from rlx.algorithms.grpo_lambda import GrpoLambdaConfig
from rlx.errors import ConfigError
from tests.algorithms import plain
from tests.algorithms.plain import Completion, Equation, completion
from tests.algorithms.rollouts import agree, batch_of


def penalties(config: GrpoLambdaConfig, rows: list[Completion]) -> list[float]:
    parts = config.build().shape(batch_of(rows), 99)
    assert list(parts) == ["length"]
    return parts["length"].tolist()


def solved(*counts: int, size: int = 4) -> list[Completion]:
    """Groups of `size`, so many right ones each, lengths 1, 2, 3, ... in every group."""
    return [completion(float(n < right), n + 1, group=group) for group, right in enumerate(counts) for n in range(size)]


def penalised(config: GrpoLambdaConfig, rows: list[Completion]) -> list[int]:
    """Numbers of the groups where a row loses something."""
    lost = zip(rows, penalties(config, rows), strict=True)
    return sorted({row.group for row, value in lost if value})


@pytest.mark.parametrize(
    ("share", "groups"),
    [(0.2, [3]), (0.01, [3]), (1e-12, [3]), (0.21, [1, 3]), (0.4, [1, 3]), (0.6, [1, 3, 4]), (1.0, [0, 1, 2, 3, 4])],
)
def test_groups_are_ranked(share: float, groups: list[int]) -> None:
    """Of five, those with the most right answers, ceil(5 share) and at least one: 0.2 is one of them."""
    assert penalised(GrpoLambdaConfig(penalized_share=share), solved(1, 3, 1, 4, 2)) == groups


def test_the_number_of_groups_is_rounded_up() -> None:
    """But not what is whole (0.28 * 25 is 7.000000000000001)."""
    for groups in range(1, 12):
        assert len(penalised(GrpoLambdaConfig(), solved(*[2] * groups, size=2))) == -(-groups // 5)
    assert len(penalised(GrpoLambdaConfig(penalized_share=0.28), solved(*[2] * 25, size=2))) == 7


def test_of_equal_groups_the_first_go_first() -> None:
    """By number, wherever their rows stand."""
    rows = solved(2, 4, 4, 1, 4)
    assert penalised(GrpoLambdaConfig(), rows) == penalised(GrpoLambdaConfig(), rows[::-1]) == [1]
    assert penalised(GrpoLambdaConfig(penalized_share=0.4), rows) == [1, 2]


def test_groups_above_a_share_of_right_answers() -> None:
    config = GrpoLambdaConfig(penalized_above=0.75)
    assert penalised(config, solved(1, 3, 2, 4, 0)) == [1, 3]
    assert penalised(config, solved(1, 2, 2, 2, 0)) == []
    third = [completion(float(n < 2), n + 1) for n in range(3)]
    assert penalised(GrpoLambdaConfig(penalized_above=2 / 3), third) == [0]


def test_penalties_by_hand() -> None:
    """Right answers of 2, 4 and 6 tokens: mean 4, standard deviation sqrt(8/3); a wrong one loses nothing."""
    rows = [completion(1.0, 2), completion(0.0, 7), completion(1.0, 4), completion(1.0, 6)]
    far = 2 / math.sqrt(8 / 3)
    wanted = [-0.6 / (1 + math.exp(far)), 0.0, -0.3, -0.6 / (1 + math.exp(-far))]
    assert penalties(GrpoLambdaConfig(), rows) == pytest.approx(wanted, rel=1e-12)
    assert penalties(GrpoLambdaConfig(length_penalty=0.3), rows) == pytest.approx([value / 2 for value in wanted])


def test_rewards_stay_between_1_less_the_penalty_and_1() -> None:
    for row, lost in zip(rows := solved(8, size=8), penalties(GrpoLambdaConfig(), rows), strict=True):
        assert 0.4 < row.reward + lost < 1


def test_lengths_moved_by_a_constant_cost_the_same() -> None:
    rows = solved(3)
    longer = [completion(row.reward, len(row) + 5) for row in rows]
    assert penalties(GrpoLambdaConfig(), longer) == pytest.approx(penalties(GrpoLambdaConfig(), rows), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_equal_lengths_lose_half_exactly(dtype: torch.dtype) -> None:
    """A standard deviation of 0 is no number's noise: for any group, any number of right answers, any length."""
    algorithm = GrpoLambdaConfig().build()
    for size, right, length in ((5, 3, 7), (7, 1, 29), (7, 5, 97), (11, 2, 25), (3, 1, 9), (15, 2, 1023), (6, 1, 1)):
        batch = batch_of([completion(float(n < right), length if n < right else 2 + n) for n in range(size)])
        batch.loss_mask, batch.rewards = batch.loss_mask.to(dtype), batch.rewards.to(dtype)
        found = algorithm.shape(batch, 99)["length"]
        assert found.dtype is dtype
        assert found.tolist() == [float(torch.tensor(-0.3, dtype=dtype))] * right + [0.0] * (size - right)


def test_lengths_may_cost_in_both_ways() -> None:
    rows = [completion(1.0, 8), completion(1.0, 2), completion(0.0, 8)]
    parts = GrpoLambdaConfig(overlong_share=0.5).build().shape(batch_of(rows), 8)
    assert sorted(parts) == ["length", "overlong"]
    assert parts["overlong"].tolist() == [-1.0, 0.0, -1.0]


def test_the_penalty_is_what_tells_solved_answers_apart() -> None:
    """All right: GRPO has nothing to say; here the shortest is pulled and the longest pushed."""
    rows = solved(4)
    for row, lost in zip(rows, penalties(GrpoLambdaConfig(), rows), strict=True):
        row.reward += lost
    equation = Equation(how="sequence").of(rows, plain.by_group(rows))
    for row in rows:
        row.reward = 1.0
    agree(GrpoLambdaConfig(), rows, equation)
    advantages = plain.by_group(rows, eps=1.0)
    assert advantages == [0.0] * 4


def test_groups_that_are_not_solved_are_grpo() -> None:
    """Their loss and gradient are those of right and wrong alone, beside a solved group that is penalised."""
    rows = [*solved(4), *[completion(float(n == 0), n + 1, group=1, ratio=1.1) for n in range(4)]]
    lost = penalties(GrpoLambdaConfig(penalized_share=0.5), rows)
    assert lost[4:] == [0.0] * 4
    for row, value in zip(rows, lost, strict=True):
        row.reward += value
    equation = Equation(how="sequence").of(rows, plain.by_group(rows))
    for row, value in zip(rows, lost, strict=True):
        row.reward -= value
    agree(GrpoLambdaConfig(penalized_share=0.5), rows, equation)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"length_penalty": -0.1}, "length_penalty=-0.1"),
        ({"penalized_share": 0.0}, "penalized_share=0.0 must be in"),
        ({"penalized_share": 1.1}, "penalized_share=1.1 must be in"),
        ({"penalized_above": 0.0}, "penalized_above=0.0 must be in"),
        ({"group_size": 1}, "group_size=1"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        GrpoLambdaConfig(**values)
    assert "\n" not in str(error.value)
