"""algorithm=dapo against its equations: clip-higher, a mean over tokens, what is cut, and rewards that fall."""

import pytest

from rlx.algorithms.dapo import DapoConfig
from rlx.algorithms.grpo import GrpoConfig
from rlx.algorithms.grpo_lambda import GrpoLambdaConfig
from rlx.algorithms.policy_gradient import StdNormalization
from rlx.errors import ConfigError
from tests.algorithms import plain
from tests.algorithms.plain import LONGEST, Completion, Equation, completion, drawn
from tests.algorithms.rollouts import advantages_of, agree, batch_of, gradient_of


def punished(row: Completion, cache: float) -> float:
    """Equation 13."""
    if not row.finished or len(row) > LONGEST:
        return -1.0
    if len(row) <= LONGEST - cache:
        return 0.0
    return ((LONGEST - cache) - len(row)) / cache


@pytest.mark.parametrize("share", [0.2, 0.6])
@pytest.mark.parametrize("seed", range(2))
def test_loss_and_gradient_are_the_equations(seed: int, share: float) -> None:
    """Punishments are in the rewards that are compared; rows that were cut are compared and then left out."""
    rows = drawn(seed)
    assert not all(row.finished for row in rows)
    before = [row.reward for row in rows]
    for row in rows:
        row.reward += punished(row, share * LONGEST)
    advantages = plain.by_group(rows)
    for row, reward in zip(rows, before, strict=True):
        row.reward = reward
    left = [(row, a) for row, a in zip(rows, advantages, strict=True) if row.finished]
    equation = Equation(how="token", high=0.28).of(*zip(*left, strict=True))
    agree(DapoConfig(overlong_share=share), rows, equation, extra=seed)


def test_four_rows_by_hand() -> None:
    """At most 10 tokens, the last 2 of which cost 1/2 each: rewards 1, 1/2, 0 and -1 (cut), of mean 1/8."""
    rows = [completion(1.0, 3), completion(1.0, 9), completion(0.0, 4), completion(0.0, 10, finished=False)]
    algorithm = DapoConfig(std_normalization=StdNormalization.none).build()
    batch = batch_of(rows)
    batch.rewards[range(4), [3, 10, 6, 10]] += algorithm.shape(batch, 10)["overlong"]
    found = algorithm.advantages(algorithm.select(batch))
    assert found.amax(-1).tolist() == pytest.approx([0.875, 0.375, 0.0, 0.0])
    assert found.amin(-1).tolist() == pytest.approx([0.0, 0.0, -0.125, 0.0])


def test_a_good_token_may_grow_by_28_percent() -> None:
    """And no more; GRPO's limit is 20."""
    for config, limit in ((DapoConfig(), 1.28), (GrpoConfig(), 1.2)):
        for ratio, moves in ((limit - 0.001, True), (limit + 0.001, False)):
            assert bool(gradient_of(config, [completion(1.0, ratio=ratio), completion(0.0)])[0][0]) == moves
    for ratio, moves in ((0.801, True), (0.799, False)):
        assert bool(gradient_of(DapoConfig(), [completion(1.0), completion(0.0, ratio=ratio)])[1][0]) == moves


def test_both_treatments_can_be_left_out() -> None:
    rows = drawn()
    config = DapoConfig(overlong_share=None, mask_truncated=False)
    agree(config, rows, Equation(how="token", high=0.28).of(rows, plain.by_group(rows)))


def test_right_answers_that_are_long_lose_to_short_ones() -> None:
    """All right: nothing to learn from the verdicts, and the long one is pushed away."""
    short, long = advantages_of(DapoConfig(), [completion(1.0, 2), completion(1.0, LONGEST)])
    assert short[0] > 0 > long[0]


def test_prompts_are_drawn_until_they_differ() -> None:
    """A setting that the stage reads; the algorithm that lives of solved prompts refuses it."""
    assert DapoConfig().dynamic_sampling and not GrpoConfig().dynamic_sampling
    with pytest.raises(ConfigError, match="dynamic_sampling drops the prompts that are solved"):
        GrpoLambdaConfig(dynamic_sampling=True)
    assert DapoConfig().build().needs == frozenset()
