"""algorithm=grpo against its equations written as plain loops, and hand-worked numbers of the paper."""

import math
from typing import Any

import pytest
from torch.autograd import grad

from rlx.algorithms.base import Normalization
from rlx.algorithms.grpo import GrpoConfig
from rlx.algorithms.policy_gradient import KlEstimator, StdNormalization
from rlx.errors import ConfigError
from tests.algorithms import plain
from tests.algorithms.plain import Equation, completion, drawn
from tests.algorithms.rollouts import advantages_of, agree, gradient_of, step_of

every_normalization = pytest.mark.parametrize("normalization", list(Normalization), ids=lambda n: n.value)


@every_normalization
@pytest.mark.parametrize(
    ("settings", "equation"),
    [
        ({}, {}),
        ({"clip_low": 0.1, "clip_high": 0.6}, {"low": 0.1, "high": 0.6}),
        ({"clip_low": 0.0, "clip_high": 0.0}, {"low": 0.0, "high": 0.0}),
        ({"dual_clip": 1.5}, {"dual": 1.5}),
        ({"kl_coefficient": 0.7}, {"beta": 0.7}),
        ({"kl_coefficient": 0.7, "kl_estimator": KlEstimator.k2}, {"beta": 0.7, "estimate": plain.k2}),
        ({"entropy_coefficient": 0.2, "kl_coefficient": 0.1}, {"entropy": 0.2, "beta": 0.1}),
        ({"importance_sampling_cap": 1.2}, {"cap": 1.2}),
        (
            {"importance_sampling_cap": 2.0, "entropy_coefficient": 0.2, "kl_coefficient": 0.1},
            {"cap": 2.0, "entropy": 0.2, "beta": 0.1},
        ),
    ],
    ids=["plain", "clip", "no room", "dual clip", "k3", "k2", "entropy and k3", "weights", "all"],
)
def test_loss_and_gradient_are_the_equation(
    normalization: Normalization, settings: dict[str, Any], equation: dict[str, Any]
) -> None:
    for seed in range(2):
        rows = drawn(seed)
        found = Equation(how=normalization.value, **equation).of(rows, plain.by_group(rows))
        agree(GrpoConfig(normalization=normalization, **settings), rows, found, extra=seed)


def test_what_is_usual() -> None:
    """The paper's mean over rows of means over tokens, the group's standard deviation, no divergence."""
    rows = drawn()
    agree(GrpoConfig(), rows, Equation(how="sequence").of(rows, plain.by_group(rows)))


@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.5])
@pytest.mark.parametrize(
    ("std", "advantages"),
    [
        (StdNormalization.none, lambda rows, eps: plain.centred(rows)),
        (StdNormalization.group, plain.by_group),
        (StdNormalization.batch, plain.by_batch),
    ],
    ids=lambda value: getattr(value, "value", ""),
)
def test_what_advantages_are_divided_by(std: StdNormalization, advantages: Any, eps: float) -> None:
    rows, none = drawn(2), std is StdNormalization.none
    found = advantages_of(GrpoConfig(std_normalization=std, std_eps=1e-4 if none else eps), rows)
    assert [row[0] for row in found] == pytest.approx(advantages(rows, eps))
    assert all(len(set(row)) == 1 for row in found), "one advantage a row"


def test_two_groups_by_hand() -> None:
    """Rewards 3, 1 and 5, 5: standard deviations sqrt(2), none, and of all four sqrt(11/3)."""
    rows = [completion(reward, 2, group=group) for reward, group in ((3.0, 8), (5.0, 4), (1.0, 8), (5.0, 4))]
    for std, scale in (("none", 1.0), ("group", 1 / math.sqrt(2)), ("batch", 1 / math.sqrt(11 / 3))):
        eps = {} if std == "none" else {"std_eps": 0.0}
        found = advantages_of(GrpoConfig(std_normalization=StdNormalization[std], **eps), rows)
        assert [row[0] for row in found] == pytest.approx([scale, 0.0, -scale, 0.0])


def test_clip_ratios_are_counted() -> None:
    """Of seven tokens two are beyond the clip on the side that counts, one of them low."""
    rows = [completion(1.0, 3), completion(0.0, 4)]
    for row, ratios in zip(rows, ([1.31, 0.5, 1.29], [1.4, 0.89, 0.91, 1.0]), strict=True):
        row.now = [plain.scalar(old + math.log(ratio)) for old, ratio in zip(row.sampled, ratios, strict=True)]
    _, _, metrics = step_of(GrpoConfig(clip_low=0.1, clip_high=0.3), rows)
    assert metrics["clip_ratio/low_mean"].item() == pytest.approx(1 / 7)
    assert metrics["clip_ratio/high_mean"].item() == pytest.approx(1 / 7)


@every_normalization
def test_first_update_is_reinforce(normalization: Normalization) -> None:
    """Where the policy is the sampling one, the gradient is that of -A log p, whatever the clip."""
    rows = drawn(apart=0.0)
    advantages = plain.by_group(rows)
    loss = plain.reduced(
        [[-a * value for value in row.now] for a, row in zip(advantages, rows, strict=True)], normalization.value
    )
    expected = [slope.item() for slope in grad(loss, [value for row in rows for value in row.now])]
    found = gradient_of(GrpoConfig(normalization=normalization, clip_low=0.0, clip_high=0.0), rows)
    assert [value for row in found for value in row] == pytest.approx(expected, rel=1e-12)


def test_scaled_rewards() -> None:
    """Ten times the rewards: the same step with the standard deviation, ten times the step without."""
    for std, factor in ((StdNormalization.group, 1.0), (StdNormalization.batch, 1.0), (StdNormalization.none, 10.0)):
        config = GrpoConfig(std_normalization=std, **({} if factor == 10 else {"std_eps": 0.0}))
        one, ten = (gradient_of(config, drawn(scale=scale)) for scale in (1.0, 10.0))
        for small, large in zip(one, ten, strict=True):
            assert large == pytest.approx([factor * value for value in small])


@pytest.mark.parametrize("size", [2, 4, 8, 64])
def test_a_single_success_is_weighted_up(size: int) -> None:
    """(G - 1) / sqrt(G) with Bessel's correction, and the failures share its negative."""
    rows = [completion(1.0), *[completion(0.0) for _ in range(size - 1)]]
    ((first,), *others) = advantages_of(GrpoConfig(std_eps=0.0), rows)
    assert first == pytest.approx((size - 1) / math.sqrt(size))
    assert [a for (a,) in others] == pytest.approx([-1 / math.sqrt(size)] * (size - 1))


def test_two_samples_are_plus_and_minus_whatever_the_gap() -> None:
    for gap in (0.01, 1.0, 50.0):
        found = advantages_of(GrpoConfig(std_eps=0.0), [completion(3.0 + gap), completion(3.0)])
        assert [a for (a,) in found] == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)])


def test_the_default_eps() -> None:
    ((found,), _) = advantages_of(GrpoConfig(), [completion(1.0), completion(0.0)])
    assert found == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4), rel=1e-9)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"group_size": 1}, "group_size=1: it compares"),
        ({"clip_low": -0.1}, "clip_low=-0.1"),
        ({"clip_low": 1.1}, "clip_low=1.1"),
        ({"clip_high": -0.1}, "clip_high=-0.1"),
        ({"dual_clip": 1.2}, "dual_clip=1.2 must be above 1"),
        ({"std_eps": -1.0}, "std_eps=-1.0"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        GrpoConfig(**values)
    assert "\n" not in str(error.value)
