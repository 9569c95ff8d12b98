"""GRPO against its formula written as plain loops, and hand-worked numbers of the paper."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.algorithms.base import Normalization, Totals
from rlx.algorithms.grpo import GrpoConfig
from rlx.algorithms.policy_gradient import StdNormalization
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError

MAX_TOKENS = 7


def rollout(seed: int = 0, rows: int = 12, *, scale: float = 1.0, spread: float = 0.5) -> tuple[RolloutBatch, Tensor]:
    """A float64 rollout of groups of 3 to 5, and current log-probabilities about `spread` away from the recorded."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lengths = torch.randint(1, MAX_TOKENS + 1, (rows,), generator=generator)
    place = torch.arange(MAX_TOKENS + 2)
    mask = ((place >= 2) & (place < 2 + lengths[:, None])).double()
    old = -normal(rows, MAX_TOKENS + 2).abs()
    rewards = torch.zeros_like(mask)
    rewards[torch.arange(rows), lengths + 1] = scale * normal(rows)
    batch = RolloutBatch(
        tokens=torch.zeros(mask.shape, dtype=torch.int64),
        loss_mask=mask,
        logprobs=old * mask,
        rewards=rewards,
        group=torch.tensor([0, 1, 2] * (rows // 3)).sort().values[torch.randperm(rows, generator=generator)],
        turn=torch.zeros(mask.shape, dtype=torch.int64),
        finished=lengths < MAX_TOKENS,
        correct=rewards.sum(-1) > 0,
        reference_logprobs=old + 0.4 * normal(*old.shape),
        old_logprobs=old + 0.4 * normal(*old.shape),
    )
    return batch, old + spread * normal(*old.shape)


def by_loops(config: GrpoConfig, batch: RolloutBatch, now: Tensor, entropy: Tensor) -> tuple[float, list[list[float]]]:
    """Loss, and its derivative with respect to every log-probability, from the paper's equations."""
    rows, width = batch.tokens.shape
    rewards = [sum(row) for row in batch.rewards.tolist()]
    group, mask = batch.group.tolist(), batch.loss_mask.tolist()
    sampled, new, cap = batch.logprobs.tolist(), now.tolist(), config.importance_sampling_cap
    assert batch.reference_logprobs is not None and batch.old_logprobs is not None
    reference = batch.reference_logprobs.tolist()
    old = sampled if cap is None else batch.old_logprobs.tolist()
    counted = [int(sum(row)) for row in mask]
    loss, gradient = 0.0, [[0.0] * width for _ in range(rows)]
    for i in range(rows):
        siblings = [rewards[j] for j in range(rows) if group[j] == group[i]]
        centre = sum(siblings) / len(siblings)
        advantage = rewards[i] - centre
        if config.std_normalization is StdNormalization.group:
            variance = sum((r - centre) ** 2 for r in siblings) / (len(siblings) - 1)
            advantage /= math.sqrt(variance) + config.std_eps
        for t in range(width):
            if not mask[i][t]:
                continue
            weight = {
                Normalization.token: 1 / sum(counted),
                Normalization.sequence: 1 / counted[i] / rows,
                Normalization.constant: 1 / (rows * MAX_TOKENS),
                Normalization.sum: 1 / rows,
            }[config.normalization]
            ratio = math.exp(new[i][t] - old[i][t])
            clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
            value, slope = -ratio * advantage, -ratio * advantage
            if clipped * advantage < ratio * advantage:
                value, slope = -clipped * advantage, 0.0
            if cap is not None:
                correction = min(math.exp(old[i][t] - sampled[i][t]), cap)
                value, slope = correction * value, correction * slope
            towards = math.exp(reference[i][t] - new[i][t])
            value += config.kl_coefficient * (towards - 1 - (reference[i][t] - new[i][t]))
            slope += config.kl_coefficient * (1 - towards)
            value -= config.entropy_coefficient * entropy.tolist()[i][t]
            loss += weight * value
            gradient[i][t] = weight * slope
    return loss, gradient


def loss_of(
    config: GrpoConfig, batch: RolloutBatch, now: Tensor, entropy: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient with respect to the current log-probabilities."""
    algorithm, now = config.build(), now.clone().requires_grad_()
    out = PolicyOutput(logprobs=now, entropy=entropy)
    losses, _ = algorithm.losses(out, batch, algorithm.advantages(batch), Totals.of(batch, MAX_TOKENS))
    assert list(losses) == ["policy"]
    losses["policy"].backward()
    assert now.grad is not None
    return losses["policy"].detach(), now.grad


@pytest.mark.parametrize("normalization", list(Normalization), ids=lambda n: n.value)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"std_normalization": StdNormalization.none},
        {"std_eps": 0.5},
        {"clip_low": 0.1, "clip_high": 0.6},
        {"clip_low": 0.0, "clip_high": 0.0},
        {"kl_coefficient": 0.7},
        {"entropy_coefficient": 0.2, "kl_coefficient": 0.1},
        {"importance_sampling_cap": 1.2},
        {"importance_sampling_cap": 2.0, "entropy_coefficient": 0.2, "kl_coefficient": 0.1},
    ],
    ids=str,
)
def test_loss_and_gradient_are_the_formula(normalization: Normalization, settings: dict[str, Any]) -> None:
    config = GrpoConfig(normalization=normalization, **settings)
    for seed in range(3):
        batch, now = rollout(seed)
        entropy = now.abs()
        loss, gradient = loss_of(config, batch, now, entropy)
        expected, slopes = by_loops(config, batch, now, entropy)
        assert loss.item() == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64), atol=1e-12, rtol=0)


def test_clip_ratios_are_counted() -> None:
    config = GrpoConfig(clip_low=0.1, clip_high=0.3)
    batch, now = rollout()
    algorithm = config.build()
    advantages = algorithm.advantages(batch)
    _, metrics = algorithm.losses(PolicyOutput(logprobs=now), batch, advantages, Totals.of(batch, MAX_TOKENS))
    inside, ratio = batch.loss_mask.bool(), (now - batch.logprobs).exp()
    low = ((ratio < 0.9) & (advantages < 0))[inside].double().mean().item()
    high = ((ratio > 1.3) & (advantages > 0))[inside].double().mean().item()
    assert low > 0 and high > 0
    assert metrics["clip_ratio/low_mean"].item() == pytest.approx(low)
    assert metrics["clip_ratio/high_mean"].item() == pytest.approx(high)


@pytest.mark.parametrize("normalization", list(Normalization), ids=lambda n: n.value)
def test_first_update_is_reinforce(normalization: Normalization) -> None:
    """Where the policy is the sampling one, the gradient is that of -A log p, clipping inactive."""
    config = GrpoConfig(normalization=normalization, clip_low=0.0, clip_high=0.0)
    batch, _ = rollout()
    now = batch.logprobs.clone()
    _, gradient = loss_of(config, batch, now)
    advantages = config.build().advantages(batch)
    counted = batch.loss_mask.sum(-1, keepdim=True)
    weight = {
        Normalization.token: 1 / counted.sum(),
        Normalization.sequence: 1 / counted / len(now),
        Normalization.constant: torch.tensor(1 / len(now) / MAX_TOKENS, dtype=torch.float64),
        Normalization.sum: torch.tensor(1 / len(now), dtype=torch.float64),
    }[normalization]
    torch.testing.assert_close(gradient, -advantages * weight * batch.loss_mask, atol=1e-12, rtol=1e-12)


def test_scaled_rewards() -> None:
    """Ten times the rewards: the same step with the standard deviation, ten times the step without."""
    (one, now), (ten, _) = rollout(scale=1.0), rollout(scale=10.0)
    for std, factor in ((StdNormalization.group, 1.0), (StdNormalization.none, 10.0)):
        config = GrpoConfig(std_normalization=std, std_eps=0.0, normalization=Normalization.constant)
        torch.testing.assert_close(loss_of(config, ten, now)[1], factor * loss_of(config, one, now)[1])


def outcome(rewards: list[float]) -> RolloutBatch:
    """One group of one-token completions."""
    batch, _ = rollout(rows=3)
    batch = batch.rows(torch.zeros(len(rewards), dtype=torch.int64))
    batch.loss_mask = torch.zeros_like(batch.loss_mask)
    batch.loss_mask[:, 2] = 1
    batch.rewards = torch.zeros_like(batch.rewards)
    batch.rewards[:, 2] = torch.tensor(rewards, dtype=torch.float64)
    return batch


@pytest.mark.parametrize("size", [2, 4, 8, 64])
def test_a_single_success_is_weighted_up(size: int) -> None:
    """(G - 1) / sqrt(G) with Bessel's correction, and the failures share its negative."""
    found = GrpoConfig(std_eps=0.0).build().advantages(outcome([1.0] + [0.0] * (size - 1)))[:, 2]
    assert found[0].item() == pytest.approx((size - 1) / math.sqrt(size))
    assert found[1:].tolist() == pytest.approx([-1 / math.sqrt(size)] * (size - 1))


def test_two_samples_are_plus_and_minus_whatever_the_gap() -> None:
    for gap in (0.01, 1.0, 50.0):
        found = GrpoConfig(std_eps=0.0).build().advantages(outcome([3.0 + gap, 3.0]))[:, 2]
        assert found.tolist() == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)])


def test_the_default_eps() -> None:
    found = GrpoConfig().build().advantages(outcome([1.0, 0.0]))[0, 2].item()
    assert found == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4))


def test_rewards_of_several_turns_are_summed() -> None:
    batch = outcome([1.0, 0.0, 0.5])
    batch.rewards[1, 1] = 0.75
    expected = GrpoConfig().build().advantages(outcome([1.0, 0.75, 0.5]))
    torch.testing.assert_close(GrpoConfig().build().advantages(batch), expected)


def test_far_ratios_stay_finite() -> None:
    batch, now = rollout()
    for shift in (-500.0, 500.0):
        loss, gradient = loss_of(GrpoConfig(kl_coefficient=0.1), batch, now + shift)
        assert loss.isfinite() and gradient.isfinite().all()


def kl_of(policy: Tensor, reference: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The metric `kl` and the loss at coefficient 1 with no rewards, on one-token rows drawn from `policy`."""
    count = len(tokens)
    ones = torch.ones(count, 1, dtype=torch.float64)
    batch = RolloutBatch(
        tokens=tokens[:, None],
        loss_mask=ones,
        logprobs=policy.detach()[tokens][:, None],
        rewards=0 * ones,
        group=torch.zeros(count, dtype=torch.int64),
        turn=torch.zeros(count, 1, dtype=torch.int64),
        finished=torch.ones(count, dtype=torch.bool),
        correct=torch.ones(count, dtype=torch.bool),
        reference_logprobs=reference[tokens][:, None],
    )
    algorithm = GrpoConfig(kl_coefficient=1.0).build()
    assert algorithm.needs == {"reference"}
    out = PolicyOutput(logprobs=policy[tokens][:, None])
    losses, metrics = algorithm.losses(out, batch, algorithm.advantages(batch), Totals.of(batch, 1))
    return metrics["kl"], losses["policy"]


def test_k3_estimates_the_divergence() -> None:
    """Never negative, unbiased, and 0 at the reference; its gradient is that of the other direction."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(-1)
    policy = logits.log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum().item()

    each = torch.stack([kl_of(policy, reference, torch.tensor([token]))[0] for token in range(5)])
    assert each.min() >= 0
    assert kl_of(policy, policy.detach(), torch.arange(5))[0].abs() < 1e-12
    count = 20_000
    tokens = torch.multinomial(policy.detach().exp(), count, replacement=True, generator=generator)
    error = each[tokens].std() / count**0.5
    estimate, loss = kl_of(policy, reference, tokens)
    assert abs(estimate - exact) < 3 * error
    assert loss.item() == pytest.approx(estimate.item())

    losses = torch.stack([kl_of(policy, reference, torch.tensor([token]))[1] for token in range(5)])
    expected = (policy.detach().exp() * losses).sum()
    (found,) = torch.autograd.grad(expected, logits, retain_graph=True)
    forward = (reference.exp() * (reference - policy)).sum()
    torch.testing.assert_close(found, torch.autograd.grad(forward, logits)[0])


def test_importance_weights_by_hand() -> None:
    """Two tokens, sampled with probability 1/4: the trainer says 1/2 and 1/8, so the weights are 2 and 1/2."""
    batch = outcome([1.0, 0.0])
    batch.logprobs = torch.full_like(batch.logprobs, math.log(0.25)) * batch.loss_mask
    batch.old_logprobs = torch.tensor([[0.5], [0.125]], dtype=torch.float64).log() * batch.loss_mask
    now = batch.old_logprobs.clone()
    advantage, weights = 1 / math.sqrt(2), {1.0: (1.0, 0.5), 1.5: (1.5, 0.5), 2.5: (2.0, 0.5)}
    for cap, (first, second) in weights.items():
        config = GrpoConfig(importance_sampling_cap=cap, std_eps=0.0)
        loss, gradient = loss_of(config, batch, now)
        assert loss.item() == pytest.approx(-advantage * (first - second) / 2)
        assert gradient[:, 2].tolist() == pytest.approx([-advantage * first / 2, advantage * second / 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("cap", [1.0, 2.0])
def test_importance_weights_change_no_bit_where_sampler_and_trainer_agree(cap: float, dtype: torch.dtype) -> None:
    batch, now = rollout()
    batch.loss_mask, batch.rewards = batch.loss_mask.to(dtype), batch.rewards.to(dtype)
    batch.logprobs = batch.logprobs.to(dtype)
    batch.old_logprobs = batch.logprobs.clone()
    choices: tuple[dict[str, Any], ...] = ({}, {"kl_coefficient": 0.3})
    for settings in choices:
        plain = loss_of(GrpoConfig(**settings), batch, now.to(dtype))
        weighed = loss_of(GrpoConfig(importance_sampling_cap=cap, **settings), batch, now.to(dtype))
        assert all(torch.equal(one, other) for one, other in zip(plain, weighed, strict=True))


def test_a_ratio_beyond_the_clip_has_no_gradient_where_it_would_grow() -> None:
    """A ratio of 10: no gradient for a good token, the whole for a bad one; of 0.1: the other way round."""
    batch = outcome([1.0, 0.0])
    for ratio, silent in ((10.0, 0), (0.1, 1)):
        _, gradient = loss_of(GrpoConfig(), batch, batch.logprobs + math.log(ratio))
        assert gradient[silent, 2] == 0 and abs(gradient[1 - silent, 2]) > 0.01


def test_what_the_stage_must_supply() -> None:
    assert GrpoConfig().build().needs == frozenset()
    assert GrpoConfig(kl_coefficient=0.1).build().needs == {"reference"}
    assert GrpoConfig(importance_sampling_cap=1.0).build().needs == {"old_logprobs"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"group_size": 1}, "group_size=1: it compares"),
        ({"clip_low": -0.1}, "clip_low=-0.1"),
        ({"clip_low": 1.1}, "clip_low=1.1"),
        ({"clip_high": -0.1}, "clip_high=-0.1"),
        ({"std_eps": -1.0}, "std_eps=-1.0"),
        ({"kl_coefficient": -1.0}, "kl_coefficient=-1.0"),
        ({"importance_sampling_cap": 0.9}, "importance_sampling_cap=0.9 must be at least 1"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        GrpoConfig(**values)
    assert "\n" not in str(error.value)
