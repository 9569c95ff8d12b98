"""What all policy gradients share: divergences, signs, clips, weights, lengths, and known mistakes."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.algorithms.base import Normalization, Totals
from rlx.algorithms.cispo import CispoConfig
from rlx.algorithms.dr_grpo import DrGrpoConfig
from rlx.algorithms.grpo import GrpoConfig
from rlx.algorithms.gspo import GspoConfig
from rlx.algorithms.policy_gradient import (
    KlEstimator,
    KlIn,
    PolicyGradientConfig,
    Signs,
    StdNormalization,
    divergence,
    overlong,
)
from rlx.algorithms.reinforce import Baseline, ReinforceConfig
from rlx.algorithms.reinforce_plus_plus import ReinforcePlusPlusConfig
from rlx.algorithms.reinforce_plus_plus_baseline import ReinforcePlusPlusBaselineConfig
from rlx.algorithms.rloo import RlooConfig
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from tests.algorithms import plain
from tests.algorithms.plain import Completion, completion, drawn
from tests.algorithms.rollouts import advantages_of, batch_of, gradient_of, step_of

# -- divergence


@pytest.fixture
def logits() -> Tensor:
    """Of a policy over five symbols."""
    return torch.tensor([0.4, -1.1, 0.9, 0.0, -0.3], dtype=torch.float64, requires_grad=True)


REFERENCE = torch.tensor([-0.2, 0.5, 0.3, -0.9, 0.1], dtype=torch.float64).log_softmax(-1)


def symbol(policy: Tensor, token: int) -> RolloutBatch:
    """One completion of one token drawn from `policy` [5], worth nothing."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return RolloutBatch(
        tokens=torch.tensor([[token]]),
        loss_mask=one,
        logprobs=policy.detach()[token].view(1, 1),
        rewards=0 * one,
        group=torch.zeros(1, dtype=torch.int64),
        turn=torch.zeros(1, 1, dtype=torch.int64),
        finished=torch.ones(1, dtype=torch.bool),
        correct=torch.zeros(1, dtype=torch.bool),
        reference_logprobs=REFERENCE[token].view(1, 1),
    )


def expected(config: PolicyGradientConfig, policy: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and metric `kl`, as expected over the symbols that the policy draws."""
    assert "reference" in config.build().needs
    losses, metrics = [], []
    for token in range(5):
        algorithm, batch = config.build(), symbol(policy, token)
        out = PolicyOutput(logprobs=policy[token].view(1, 1))
        loss, metric = algorithm.losses(out, batch, algorithm.advantages(batch), Totals.of(batch, 1))
        losses.append(loss["policy"])
        metrics.append(metric["kl"])
    chance = policy.detach().exp()
    return (chance * torch.stack(losses)).sum(), (chance * torch.stack(metrics)).sum()


def divergence_of(one: Tensor, other: Tensor) -> Tensor:
    return (one.exp() * (one - other)).sum()


@pytest.mark.parametrize("estimator", list(KlEstimator), ids=lambda e: e.value)
def test_estimates_against_the_exact_divergence(logits: Tensor, estimator: KlEstimator) -> None:
    """k1 and k3 are right on average, k2 is half the mean square; only k1 is ever negative."""
    policy = logits.log_softmax(-1)
    config = ReinforceConfig(kl_coefficient=1.0, kl_estimator=estimator, kl_in=KlIn.reward)
    exact = divergence_of(policy, REFERENCE).item()
    half_square = ((policy.exp() * (policy - REFERENCE).square()).sum() / 2).item()
    wanted = half_square if estimator is KlEstimator.k2 else exact
    assert expected(config, policy)[1].item() == pytest.approx(wanted, rel=1e-12)
    each = divergence(REFERENCE - policy.detach(), estimator)
    assert (each.min() < 0) == (estimator is KlEstimator.k1)
    assert divergence(torch.zeros(3), estimator).tolist() == [0.0] * 3
    generator = torch.Generator().manual_seed(0)
    tokens = torch.multinomial(policy.detach().exp(), 20_000, replacement=True, generator=generator)
    assert abs(each[tokens].mean() - wanted) < 3 * each[tokens].std() / len(tokens) ** 0.5


@pytest.mark.parametrize(
    ("estimator", "place", "of"),
    [
        (KlEstimator.k2, KlIn.loss, lambda policy: divergence_of(policy, REFERENCE)),
        (KlEstimator.k3, KlIn.loss, lambda policy: divergence_of(REFERENCE, policy)),
        (KlEstimator.k1, KlIn.reward, lambda policy: divergence_of(policy, REFERENCE)),
    ],
    ids=["k2 in the loss", "k3 in the loss is the other direction's", "k1 in the reward"],
)
def test_gradients_are_those_of_a_divergence(
    logits: Tensor, estimator: KlEstimator, place: KlIn, of: Callable[[Tensor], Tensor]
) -> None:
    policy = logits.log_softmax(-1)
    config = ReinforceConfig(kl_coefficient=0.7, kl_estimator=estimator, kl_in=place, baseline=Baseline.none)
    (found,) = torch.autograd.grad(expected(config, policy)[0], logits, retain_graph=True)
    (exact,) = torch.autograd.grad(0.7 * of(policy), logits)
    assert exact.abs().max() > 0.05
    assert found.tolist() == pytest.approx(exact.tolist(), abs=1e-12)


def test_k1_in_the_loss_has_no_gradient_and_is_refused(logits: Tensor) -> None:
    policy = logits.log_softmax(-1)
    loss = (policy.detach().exp() * divergence(REFERENCE - policy, KlEstimator.k1)).sum()
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-12
    for made in (GrpoConfig, RlooConfig):
        with pytest.raises(ConfigError, match="kl_estimator=k1 has no gradient in the loss"):
            made(kl_coefficient=0.1, kl_estimator=KlEstimator.k1, kl_in=KlIn.loss)


@pytest.mark.parametrize("estimate", [plain.k1, plain.k2, plain.k3], ids=["k1", "k2", "k3"])
def test_a_cost_in_the_reward(estimate: Any) -> None:
    """Of the policy that sampled, summed over a row's tokens, before rewards are compared."""
    rows = drawn(3)
    config = GrpoConfig(kl_coefficient=0.3, kl_in=KlIn.reward, kl_estimator=KlEstimator[estimate.__name__])
    found = advantages_of(config, rows)
    for row, costs in zip(rows, plain.costed(rows, 0.3, estimate), strict=True):
        row.reward = sum(costs)
    assert [row[0] for row in found] == pytest.approx(plain.by_group(rows))


def test_what_the_stage_must_supply() -> None:
    assert GrpoConfig().build().needs == frozenset()
    assert GrpoConfig(kl_coefficient=0.1).build().needs == {"reference"}
    assert RlooConfig(kl_coefficient=0.1).build().needs == {"reference"}
    assert GrpoConfig(importance_sampling_cap=1.0).build().needs == {"old_logprobs"}


def test_rows_without_advantage_are_silent_unless_the_loss_has_more_in_it() -> None:
    assert GrpoConfig().build().silent_at_zero
    assert not GrpoConfig(kl_coefficient=0.1).build().silent_at_zero
    assert not GrpoConfig(entropy_coefficient=0.1).build().silent_at_zero
    assert GrpoConfig(kl_coefficient=0.1, kl_in=KlIn.reward).build().silent_at_zero


# -- signs, clips, weights


def test_negative_and_positive_samples_alone() -> None:
    """NSR and PSR: the group's own advantages, those of right rows 0 or those of wrong ones; together they are all."""
    rows = [completion(float(right), 2) for right in (1, 0, 0, 1, 0)]
    signs = (Signs.both, Signs.negative, Signs.positive)
    both, negative, positive = (gradient_of(GrpoConfig(signs=sign), rows) for sign in signs)
    for row, whole, minus, plus in zip(rows, both, negative, positive, strict=True):
        assert minus == ([0.0, 0.0] if row.correct else whole)
        assert plus == (whole if row.correct else [0.0, 0.0])
        assert all(value < 0 if row.correct else value > 0 for value in whole)


@pytest.mark.parametrize(
    ("ratio", "value", "slope"),
    [(10.0, 3.0, 0.0), (2.0, 2.0, 2.0), (0.5, 0.8, 0.0)],
    ids=["far above", "above", "below"],
)
def test_dual_clip_by_hand(ratio: float, value: float, slope: float) -> None:
    """A bad token (A = -1) beside a good one (A = 1) at ratio 1, c = 3; a good one is never limited by it."""
    config = DrGrpoConfig(dual_clip=3.0, normalization=Normalization.sum)
    loss, gradient, _ = step_of(config, [completion(2.0), completion(0.0, ratio=ratio)])
    assert loss == pytest.approx((-1 + value) / 2)
    assert gradient == [[-0.5], [pytest.approx(slope / 2)]]
    loss, gradient, _ = step_of(replace(config, clip_high=1.9), [completion(2.0, ratio=10.0), completion(0.0)])
    assert loss == pytest.approx((-2.9 + 1) / 2) and gradient == [[0.0], [0.5]]


def test_without_dual_clip_a_bad_token_has_no_limit() -> None:
    loss, gradient, _ = step_of(
        DrGrpoConfig(normalization=Normalization.sum), [completion(2.0), completion(0.0, ratio=10.0)]
    )
    assert loss == pytest.approx((-1 + 10) / 2) and gradient[1] == [pytest.approx(5.0)]


def test_a_ratio_beyond_the_clip_has_no_gradient_where_it_would_grow() -> None:
    """A ratio of 10: no gradient for a good token, the whole for a bad one; of 0.1: the other way round."""
    for ratio, silent in ((10.0, 0), (0.1, 1)):
        found = gradient_of(GrpoConfig(), [completion(1.0, ratio=ratio), completion(0.0, ratio=ratio)])
        assert found[silent] == [0.0] and abs(found[1 - silent][0]) > 0.01


def test_far_ratios_stay_finite() -> None:
    for shift in (-900.0, 900.0):  # e^900 is beyond float64
        rows = drawn()
        for row in rows:
            row.now = [plain.scalar(value.item() + shift) for value in row.now]
        for config in (GrpoConfig(kl_coefficient=0.1), GspoConfig(), CispoConfig()):
            loss, gradient, _ = step_of(config, rows)
            assert math.isfinite(loss) and all(math.isfinite(slope) for row in gradient for slope in row)


WEIGHED = [GrpoConfig, CispoConfig, RlooConfig, ReinforceConfig, ReinforcePlusPlusConfig]
by_config = pytest.mark.parametrize("made", WEIGHED, ids=lambda made: made.__name__)


@by_config
@pytest.mark.parametrize("cap", [1.0, 1.5, 2.5])
def test_importance_weights_by_hand(made: Any, cap: float) -> None:
    """Tokens sampled with probability 1/4; the trainer says 1/2 and 1/8: weights 2 (at most the cap) and 1/2, on the
    policy's term and on no other."""
    rows = [completion(1.0), completion(0.0)]
    for row, probability in zip(rows, (0.5, 0.125), strict=True):
        row.trainer = [math.log(probability)]
        row.now = [plain.scalar(math.log(probability))]
        row.reference = [math.log(probability / 2)]
    more = {"kl_estimator": KlEstimator.k3, "kl_in": KlIn.loss, "kl_coefficient": 0.1}
    for settings, cost in (({}, 0.0), (more, 0.1 * (1 - 0.5) / 2)):
        good, bad = (row[0] for row in advantages_of(made(**settings), rows))
        found = gradient_of(made(importance_sampling_cap=cap, **settings), rows)
        wanted = [-good * min(2.0, cap) / 2 + cost, -bad * 0.5 / 2 + cost]
        assert [slope for (slope,) in found] == pytest.approx(wanted)


@by_config
@pytest.mark.parametrize("cap", [1.0, 2.0])
def test_importance_weights_change_no_bit_where_sampler_and_trainer_agree(made: Any, cap: float) -> None:
    rows = drawn()
    for row in rows:
        row.trainer = list(row.sampled)
    for settings in ({}, {"kl_estimator": KlEstimator.k3, "kl_in": KlIn.loss, "kl_coefficient": 0.3}):
        plainly, weighed = (step_of(made(**settings, **more), rows) for more in ({}, {"importance_sampling_cap": cap}))
        assert plainly[:2] == weighed[:2]


# -- lengths


def test_overlong_by_hand() -> None:
    """L = 20 and C = 8: nothing up to 12 tokens, -1/8 a token from there, -1 at 20 and for what is cut."""
    lengths = {1: 0.0, 11: 0.0, 12: 0.0, 13: -0.125, 16: -0.5, 19: -0.875, 20: -1.0, 23: -1.0}
    rows = [completion(1.0, length) for length in lengths]
    cut = [completion(0.0, 20, finished=False), completion(1.0, 5, finished=False)]
    assert overlong(batch_of([*rows, *cut]), 20, 0.4).tolist() == pytest.approx([*lengths.values(), -1.0, -1.0])
    for row in rows:
        assert overlong(batch_of([row]), 20, 0.4).item() == pytest.approx(min(0, max(-1, (12 - len(row)) / 8)))


def test_overlong_is_a_part_of_the_reward_where_it_is_asked_for() -> None:
    batch = batch_of([completion(1.0, 6), completion(1.0, 7), completion(0.0, 3)])
    assert GrpoConfig().build().shape(batch, 8) == {}
    (name, part), *none = GrpoConfig(overlong_share=0.5, overlong_penalty=2.0).build().shape(batch, 8).items()
    assert name == "overlong" and not none
    assert part.tolist() == pytest.approx([-1.0, -1.5, 0.0])


@pytest.mark.parametrize("normalization", list(Normalization), ids=lambda n: n.value)
def test_what_is_cut_counts_in_its_group_and_is_not_trained_on(normalization: Normalization) -> None:
    """The group's mean is that of all three; the denominators are those of the two that are left."""
    rows = [completion(1.0, 2), completion(0.0, 3), completion(0.0, 7, finished=False)]
    config = DrGrpoConfig(normalization=normalization, mask_truncated=True)
    assert advantages_of(config, rows) == [
        pytest.approx([2 / 3] * 2),
        pytest.approx([-1 / 3] * 3),
        [0.0] * 7,
    ]
    weights = {
        Normalization.token: [1 / 5, 1 / 5],
        Normalization.sequence: [1 / 2 / 2, 1 / 3 / 2],
        Normalization.constant: [1 / 2 / 7] * 2,
        Normalization.sum: [1 / 2] * 2,
    }[normalization]
    first, second, third = gradient_of(config, rows)
    assert first == pytest.approx([-2 / 3 * weights[0]] * 2)
    assert second == pytest.approx([1 / 3 * weights[1]] * 3)
    assert third == [0.0] * 7
    kept = gradient_of(replace(config, mask_truncated=False), rows)
    assert kept[2][0] > 0


def test_what_is_cut_and_masked_is_not_in_the_deviation_of_the_batch() -> None:
    """But in its group's mean: 1, 0 and 0 less 1/3, over the deviation of 1, 0, 2 and 2 alone."""
    rows = [completion(reward, group=group) for reward, group in ((1.0, 0), (0.0, 0), (2.0, 1), (2.0, 1))]
    cut = completion(0.0, finished=False)
    config = GrpoConfig(std_normalization=StdNormalization.batch, std_eps=0.0, mask_truncated=True)
    deviation = math.sqrt(2.75 / 3)
    found = advantages_of(config, [*rows, cut])
    assert [a for (a,) in found] == pytest.approx([2 / 3 / deviation, -1 / 3 / deviation, 0.0, 0.0, 0.0])


def push(normalization: Normalization, length: int) -> float:
    """How hard a wrong answer of `length` tokens is pushed away as a whole, beside a right one of two tokens."""
    _, wrong = gradient_of(DrGrpoConfig(normalization=normalization), [completion(1.0, 2), completion(0.0, length)])
    return sum(wrong)


def test_only_a_mean_over_rows_lets_long_wrong_answers_off() -> None:
    """A wrong answer of six tokens instead of two: three times the push where tokens count alike, the same by
    sequence, so that each of its tokens is pushed a third as hard; by token, every other row is pushed less too."""
    for normalization in (Normalization.constant, Normalization.sum):
        assert push(normalization, 6) == pytest.approx(3 * push(normalization, 2))
    assert push(Normalization.sequence, 6) == pytest.approx(push(Normalization.sequence, 2))
    assert push(Normalization.token, 6) == pytest.approx(3 * push(Normalization.token, 2) * 4 / 8)


def test_the_constant_is_the_limit_and_not_the_width_of_the_batch() -> None:
    """Neither padding nor longer rows elsewhere change what a token weighs; the limit does."""
    rows, config = [completion(1.0, 2), completion(0.0, 3)], DrGrpoConfig()
    found = gradient_of(config, rows)
    assert found[0] == pytest.approx([-0.5 / 2 / plain.LONGEST] * 2)
    assert gradient_of(config, rows, extra=9) == found
    assert gradient_of(config, [rows[0], completion(0.0, 6)])[0] == found[0]
    assert gradient_of(config, rows, longest=14)[0] == pytest.approx([value / 2 for value in found[0]])


@pytest.mark.parametrize("normalization", list(Normalization), ids=lambda n: n.value)
def test_the_loss_on_policy_is_no_measure_of_progress(normalization: Normalization) -> None:
    """By sequence, and by row of equal lengths, it is 0 whatever was learnt; else it is what lengths make of it."""
    rows = [completion(1.0, 2), completion(0.0, 6)]
    loss = step_of(DrGrpoConfig(normalization=normalization), rows)[0]
    by_hand = {"sequence": 0.0, "token": 2 / 8, "constant": 2 / 2 / plain.LONGEST, "sum": 2 / 2}
    assert loss == pytest.approx(by_hand[normalization.value], abs=1e-12)


def test_the_end_mark_is_pushed_as_any_token() -> None:
    """Rows of two tokens, the second of which ends them: it has the gradient of the first."""
    for config in (GrpoConfig(), DrGrpoConfig(), RlooConfig(), ReinforceConfig(), GspoConfig(), CispoConfig()):
        for first, end in gradient_of(config, [completion(1.0, 2), completion(0.0, 2)]):
            assert first == end != 0


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 1000.1, -3.3])
@pytest.mark.parametrize("size", [3, 7, 8])
def test_rewards_that_differ_by_rounding_are_equal(reward: float, size: int) -> None:
    """Noise of sums over an eps of 1e-9 would be advantages of about 1."""
    rows = [completion(reward * (1 + n * 2e-16)) for n in range(size)]
    for made in (GrpoConfig, GspoConfig, CispoConfig):
        assert advantages_of(made(std_eps=1e-12), rows) == [[0.0]] * size
    others = (RlooConfig(), ReinforcePlusPlusConfig(), ReinforcePlusPlusBaselineConfig(), ReinforceConfig())
    for config in others:
        assert advantages_of(config, rows) == [[0.0]] * size


def test_a_prompt_drawn_twice_is_two_groups() -> None:
    """Group numbers decide, not the prompts' tokens: each has a mean of its own."""
    rows = [completion(reward, group=group) for reward, group in ((1.0, 0), (0.0, 0), (1.0, 1), (1.0, 1))]
    assert advantages_of(DrGrpoConfig(), rows) == [[0.5], [-0.5], [0.0], [0.0]]


def test_rewards_of_several_turns_are_summed() -> None:
    batch, other = (batch_of([completion(r, 3) for r in (1.0, worth, 0.5)]) for worth in (0.0, 0.75))
    batch.rewards[1, 1] = 0.75
    algorithm = GrpoConfig().build()
    assert torch.equal(algorithm.advantages(batch), algorithm.advantages(other))


def test_metrics_are_means_over_sampled_tokens() -> None:
    rows = drawn(1)
    _, _, metrics = step_of(GrpoConfig(kl_coefficient=0.2), rows, extra=2)
    each = [
        plain.k3(reference - now.item()) for row in rows for reference, now in zip(row.reference, row.now, strict=True)
    ]
    assert metrics["kl"].item() == pytest.approx(sum(each) / len(each))


def test_a_group_that_is_cut_throughout_is_no_loss() -> None:
    rows: list[Completion] = [completion(1.0, 3, finished=False), completion(0.0, 2, finished=False)]
    for made in (GrpoConfig, DrGrpoConfig, RlooConfig, ReinforceConfig, ReinforcePlusPlusConfig, GspoConfig):
        loss, gradient, _ = step_of(made(mask_truncated=True), rows)
        assert loss == 0 and gradient == [[0.0] * 3, [0.0] * 2]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kl_coefficient": -1.0}, "kl_coefficient=-1.0"),
        ({"importance_sampling_cap": 0.9}, "importance_sampling_cap=0.9 must be at least 1"),
        ({"overlong_share": 0.0}, "overlong_share=0.0 must be in"),
        ({"overlong_share": 1.1}, "overlong_share=1.1 must be in"),
        ({"overlong_penalty": -1.0}, "overlong_penalty=-1.0"),
        ({"max_draws": 0}, "max_draws=0"),
        ({"dynamic_sampling": True, "group_size": 1}, "group_size=1: it asks for right and wrong"),
        ({"reference_every": 0, "kl_coefficient": 0.1}, "reference_every=0"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        ReinforceConfig(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [
    GrpoConfig(kl_coefficient=0.5, kl_in=KlIn.reward, kl_estimator=KlEstimator.k1,
               std_normalization=StdNormalization.none),
    RlooConfig(kl_coefficient=0.5),
], ids=["grpo", "rloo"])  # fmt: skip
@pytest.mark.parametrize("credit", [False, True])
@pytest.mark.parametrize("truncated", [False, True])
def test_a_masked_row_is_charged_for_its_divergence_too(config: Any, credit: bool, truncated: bool) -> None:
    """Of two rows with the same rewards and divergences neither is better, whichever of them is trained on; of two
    that differ in the masked one's divergence alone, that is the difference."""

    def advantages(gap: float) -> Tensor:
        blank: Any = dict(now=[], reference=[0.0] * 2, trainer=[0.0] * 2, entropy=[0.0] * 2)
        ends = (True, not truncated)
        batch = batch_of([Completion(group=0, reward=1.0, sampled=[-1.0] * 2, finished=end, **blank) for end in ends])
        batch.reference_logprobs = torch.where(batch.loss_mask > 0, batch.logprobs - 0.5, 7.0)
        batch.reference_logprobs[1] = torch.where(batch.loss_mask[1] > 0, batch.logprobs[1] - gap, 7.0)
        batch.credit = torch.where(batch.loss_mask > 0, batch.loss_mask.cumsum(-1).long() - 1, -1) if credit else None
        settings = replace(config, mask_truncated=truncated)
        algorithm = settings.build()
        assert algorithm.charges
        batch = algorithm.select(batch) if truncated else batch.masked(torch.tensor([True, False]))
        return algorithm.advantages(batch)

    assert (advantages(0.5) == 0).all()
    found = advantages(1.5)  # the masked row costs 0.5 * 1 nat more for each of the 2 tokens: of a row, or of a turn
    worth = (0.5 if credit else 1.0) * (0.5 if isinstance(config, GrpoConfig) else 1.0)
    assert (found[1] == 0).all() and found[0][found[0] != 0].tolist() == pytest.approx([worth, worth])
