"""PPO's advantages against hand-worked numbers and plain loops over the sum of discounted errors; its critic's loss."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.algorithms.base import Totals
from rlx.algorithms.policy_gradient import KlEstimator, KlIn
from rlx.algorithms.ppo import PpoConfig, gae
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from tests.algorithms.written import written

MASKS = [".xxxx", "..xx.x", ".x", "..x..xx.x"]
"""A plain row, and rows with feedback between sampled tokens."""


def drawn(seed: int = 0, masks: list[str] = MASKS) -> RolloutBatch:
    """Rewards on all tokens, values on sampled ones and, where nothing should read them, far-off numbers."""
    batch = written(masks)
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(batch.tokens.shape, generator=generator, dtype=torch.float64)

    batch.rewards = normal()
    batch.values = torch.where(batch.loss_mask > 0, normal(), 1000.0)
    batch.logprobs = -normal().abs() * batch.loss_mask
    batch.reference_logprobs = -normal().abs()
    return batch


def by_loops(rewards: list[float], values: list[float], sampled: list[int], gamma: float, lam: float) -> list[float]:
    """Advantages of one row's sampled tokens: the sum of (gamma lambda)^k delta_{t+k} (arXiv 1506.02438, equation 16),
    where a token's reward is all that comes before the next is drawn."""
    ends = [*sampled[1:], len(rewards)]
    earned = [sum(rewards[t:end]) for t, end in zip(sampled, ends, strict=True)]
    worth = [values[t] for t in sampled] + [0.0]
    errors = [earned[n] + gamma * worth[n + 1] - worth[n] for n in range(len(sampled))]
    return [sum((gamma * lam) ** k * error for k, error in enumerate(errors[n:])) for n in range(len(errors))]


def advantages_of(batch: RolloutBatch, **settings: Any) -> Tensor:
    return PpoConfig(**{"whiten": False, **settings}).build().advantages(batch)


@pytest.mark.parametrize(
    ("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.9, 0.0), (0.0, 1.0), (1.0, 0.0)], ids=str
)
def test_advantages_are_the_sum_of_discounted_errors(gamma: float, lam: float) -> None:
    for seed in range(3):
        batch = drawn(seed)
        assert batch.values is not None
        found = advantages_of(batch, gamma=gamma, gae_lambda=lam)
        assert torch.equal(found, gae(batch.rewards, batch.values, batch.loss_mask, gamma, lam))
        for row in range(len(MASKS)):
            sampled = batch.loss_mask[row].nonzero().flatten().tolist()
            expected = by_loops(batch.rewards[row].tolist(), batch.values[row].tolist(), sampled, gamma, lam)
            assert found[row, sampled].tolist() == pytest.approx(expected, abs=1e-12)


def test_advantages_by_hand() -> None:
    """Two tokens with values 0.5 and 0.25, and a reward of 1 at the end: errors 0.5 * 0.25 - 0.5 = -0.375 and 0.75, and
    the first has half of half of the second's on top."""
    batch = written([".xx"], rewards=[1.0], values=[[0.0, 0.5, 0.25]])
    found = advantages_of(batch, gamma=0.5, gae_lambda=0.5)
    assert found.tolist() == [[0.0, -0.375 + 0.25 * 0.75, 0.75]]


def test_lambda_1_is_the_return_less_the_value_and_lambda_0_the_one_step_error() -> None:
    batch = drawn(masks=[".xxxx", ".xx", "..xxx"])
    assert batch.values is not None
    mask, values = batch.loss_mask, batch.values
    batch.rewards *= mask
    to_go = batch.rewards.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(advantages_of(batch, gae_lambda=1.0), (to_go - values) * mask)
    following = torch.nn.functional.pad(values * mask, (0, 1))[:, 1:]
    errors = batch.rewards + 0.7 * following - values
    torch.testing.assert_close(advantages_of(batch, gae_lambda=0.0, gamma=0.7), errors * mask)


def test_feedback_is_skipped() -> None:
    """As if it was not there: values and advantages pass over it, whatever stands on it."""
    apart, dense = drawn(masks=[".xx...x.x"]), written([".xxxx"])
    places = apart.loss_mask[0].nonzero().flatten()
    apart.rewards *= apart.loss_mask
    assert apart.values is not None
    dense.rewards[0, 1:], dense.values = apart.rewards[0, places], torch.zeros(1, 5, dtype=torch.float64)
    dense.values[0, 1:] = apart.values[0, places]
    settings = {"gamma": 0.9, "gae_lambda": 0.8}
    assert torch.equal(advantages_of(apart, **settings)[0, places], advantages_of(dense, **settings)[0, 1:])


def test_rewards_of_feedback_belong_to_the_sampled_token_before() -> None:
    batch = written([".xx...x"], rewards=[[5.0, 0.0, 1.0, 0.0, 0.5, 0.25, 2.0]], values=[[0.0] * 7])
    found = advantages_of(batch, gamma=0.5, gae_lambda=1.0)
    assert found.tolist() == [[0.0, 0.5 * (1.75 + 0.5 * 2), 1.75 + 0.5 * 2, 0.0, 0.0, 0.0, 2.0]]


def test_the_divergence_is_a_cost_of_each_sampled_token() -> None:
    batch = drawn(masks=[".xxx"])
    assert batch.reference_logprobs is not None
    k1 = (batch.logprobs - batch.reference_logprobs) * batch.loss_mask
    charged = replace(batch, rewards=batch.rewards - 0.3 * k1)
    torch.testing.assert_close(advantages_of(batch, kl_coefficient=0.3), advantages_of(charged))
    config = PpoConfig(kl_coefficient=0.3)
    assert (config.kl_in, config.kl_estimator) == (KlIn.reward, KlEstimator.k1)
    assert config.build().needs == {"reference", "values"} and PpoConfig().build().needs == {"values"}


def test_advantages_are_whitened_over_the_tokens_of_the_iteration() -> None:
    batch = drawn()
    mask, plain = batch.loss_mask.bool(), advantages_of(batch)
    found = advantages_of(batch, whiten=True)
    assert found[mask].mean().abs() < 1e-12 and found[mask].std().item() == pytest.approx(1.0, abs=1e-7)
    torch.testing.assert_close(found[mask], (plain[mask] - plain[mask].mean()) / plain[mask].std())
    assert PpoConfig().whiten


def test_a_critic_that_is_wrong_by_as_much_everywhere_whitens_away() -> None:
    """Equal returns less an equal value: no advantage, where dividing by the rounding error would make one."""
    masks = [".xxxx", ".xx", ".xxx"]
    batch = written(masks, rewards=[0.7, 0.7, 0.7], values=[[0.0, *[0.1] * 4]] * 3)
    for dtype in (torch.float64, torch.float32):
        kinds = {name: getattr(batch, name).to(dtype) for name in ("rewards", "values", "loss_mask")}
        assert advantages_of(replace(batch, **kinds), whiten=True).abs().max() == 0
        assert advantages_of(replace(batch, **kinds)).abs().max() > 0.5


def losses_of(
    batch: RolloutBatch, values: Tensor, now: Tensor | None = None, **settings: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    algorithm = PpoConfig(**settings).build()
    out = PolicyOutput(logprobs=batch.logprobs if now is None else now, values=values)
    return algorithm.losses(out, batch, algorithm.advantages(batch), Totals.of(batch, 8))


def test_the_critics_loss_by_hand() -> None:
    """Returns 1 for both tokens, old values 0. The first moved to 0.5, beyond the clip: (0.2 - 1)^2 counts, which has
    no gradient. The second moved to -0.1, within it: 1.1^2, with its gradient. Half their mean."""
    batch = written([".xx"], rewards=[1.0], values=[[0.0] * 3])
    values = torch.tensor([[9.0, 0.5, -0.1]], dtype=torch.float64, requires_grad=True)
    losses, metrics = losses_of(batch, values)
    assert losses["value"].item() == pytest.approx((0.64 + 1.21) / 4)
    losses["value"].backward()
    assert values.grad is not None
    assert values.grad.tolist() == [pytest.approx([0.0, 0.0, -1.1 / 2])]
    assert metrics["critic/clip_ratio"].item() == 0.5
    assert metrics["critic/value"].item() == pytest.approx(0.2)
    assert metrics["critic/error"].item() == pytest.approx((0.25 + 1.21) / 2)


@pytest.mark.parametrize("clip", [None, 0.05, 0.2, 1.5], ids=str)
@pytest.mark.parametrize("settings", [{}, {"gamma": 0.9, "gae_lambda": 0.6}, {"whiten": False}], ids=str)
def test_the_critics_loss_is_the_formula(clip: float | None, settings: dict[str, float]) -> None:
    """Towards the advantages before whitening plus the old value, whatever the policy says now."""
    gamma, lam = settings.get("gamma", 1.0), settings.get("gae_lambda", 1.0)
    for seed in range(3):
        batch = drawn(seed)
        assert batch.values is not None
        generator = torch.Generator().manual_seed(seed)
        values = batch.values + torch.randn(batch.tokens.shape, generator=generator, dtype=torch.float64)
        total, count = 0.0, 0
        for row in range(len(MASKS)):
            sampled = batch.loss_mask[row].nonzero().flatten().tolist()
            old = batch.values[row].tolist()
            advantages = by_loops(batch.rewards[row].tolist(), old, sampled, gamma, lam)
            for t, advantage in zip(sampled, advantages, strict=True):
                value, target = values[row, t].item(), advantage + old[t]
                errors = [(value - target) ** 2]
                if clip is not None:
                    errors.append((min(max(value, old[t] - clip), old[t] + clip) - target) ** 2)
                total, count = total + max(errors), count + 1
        losses, _ = losses_of(batch, values, batch.logprobs - 0.3, value_clip=clip, **settings)
        assert losses["value"].item() == pytest.approx(total / count / 2, rel=1e-12)


def test_the_policys_loss_is_the_clipped_surrogate() -> None:
    batch = drawn()
    generator = torch.Generator().manual_seed(5)
    now = batch.logprobs + torch.randn(batch.tokens.shape, generator=generator, dtype=torch.float64) / 3
    assert batch.values is not None
    losses, _ = losses_of(batch, batch.values, now, clip_low=0.1, clip_high=0.3)
    advantages = advantages_of(batch, whiten=True)
    expected = []
    for row, t in batch.loss_mask.nonzero().tolist():
        ratio, advantage = math.exp(now[row, t] - batch.logprobs[row, t]), advantages[row, t].item()
        expected.append(-min(ratio * advantage, min(max(ratio, 0.9), 1.3) * advantage))
    assert list(losses) == ["policy", "value"]
    assert losses["policy"].item() == pytest.approx(sum(expected) / len(expected))


def test_policy_and_critic_share_no_gradient() -> None:
    batch = drawn()
    assert batch.values is not None
    now, values = batch.logprobs.clone().requires_grad_(), batch.values.clone().requires_grad_()
    losses, _ = losses_of(batch, values, now)
    for name, own, other in (("policy", now, values), ("value", values, now)):
        mine, others = torch.autograd.grad(losses[name], (own, other), allow_unused=True, retain_graph=True)
        assert others is None and mine is not None and mine.abs().max() > 0


def test_rows_without_an_advantage_teach_the_critic() -> None:
    assert not PpoConfig().build().silent_at_zero


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"gamma": 1.1}, "gamma=1.1 and gae_lambda=1.0 must be in"),
        ({"gae_lambda": -0.1}, "gae_lambda=-0.1 must be in"),
        ({"value_clip": 0.0}, "value_clip=0.0 must be above 0; null"),
        ({"critic_lr": 0.0}, "critic_lr=0.0 must be above 0; null"),
        ({"critic_warmup": -1}, "critic_warmup=-1"),
        ({"clip_low": -0.1}, "clip_low=-0.1"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        PpoConfig(**values)
    assert "\n" not in str(error.value)


def test_one_sample_a_prompt_does() -> None:
    assert PpoConfig(group_size=1).build().needs == {"values"}
