"""NPO: its loss and weights against the formula on probabilities of whole completions, and its limits."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.algorithms.base import Totals
from rlx.algorithms.npo import NpoConfig
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from tests.algorithms.written import written

MASKS = ["..xxx", ".x", "..xx.x", "...x", ".xxxx"]


def drawn(seed: int = 0, correct: list[bool] | None = None) -> tuple[RolloutBatch, Tensor]:
    """Wrong rows, or `correct` ones, and log-probabilities [B, T] of the current policy."""
    batch = written(MASKS, correct=correct or [False] * 5)
    generator = torch.Generator().manual_seed(seed)
    now, batch.reference_logprobs = (
        -torch.rand(batch.tokens.shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return batch, now


def loss_of(batch: RolloutBatch, now: Tensor, **settings: Any) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Losses, the gradient of their sum with respect to the log-probabilities, metrics."""
    algorithm, now = NpoConfig(**settings).build(), now.clone().requires_grad_()
    losses, metrics = algorithm.losses(
        PolicyOutput(logprobs=now), batch, algorithm.advantages(batch), Totals.of(batch, 8)
    )
    torch.stack(list(losses.values())).sum().backward()
    assert now.grad is not None
    return {name: loss.detach() for name, loss in losses.items()}, now.grad, metrics


def ratios(batch: RolloutBatch, now: Tensor) -> list[float]:
    """Probability of each completion over the reference's."""
    assert batch.reference_logprobs is not None
    found = []
    for row, mask in enumerate(MASKS):
        found.append(1.0)
        for t, letter in enumerate(mask):
            if letter == "x":
                found[-1] *= math.exp(now[row, t]) / math.exp(batch.reference_logprobs[row, t])
    return found


@pytest.mark.parametrize("beta", [0.05, 1.0, 7.0])
def test_loss_and_gradient_are_the_formula(beta: float) -> None:
    """(2 / beta) log(1 + ratio^beta), and W = 2 p^beta / (p^beta + ref^beta) a token of the row, over the rows."""
    for seed in range(3):
        batch, now = drawn(seed)
        ratio = ratios(batch, now)
        losses, gradient, metrics = loss_of(batch, now, beta=beta)
        assert list(losses) == ["policy"]
        expected = sum(2 / beta * math.log(1 + each**beta) for each in ratio) / 5
        assert losses["policy"].item() == pytest.approx(expected, rel=1e-12)
        weights = [2 * each**beta / (each**beta + 1) for each in ratio]
        for row, weight in enumerate(weights):
            torch.testing.assert_close(gradient[row], weight / 5 * batch.loss_mask[row], atol=1e-12, rtol=0)
        assert metrics["npo/weight"].item() == pytest.approx(sum(weights) / 5)
        assert metrics["npo/log_ratio"].item() == pytest.approx(sum(map(math.log, ratio)) / 5)


def test_a_completion_by_hand() -> None:
    """Three times as likely as under the reference, at beta=1: 2 log 4, pushed down with a weight of 2 * 3/4."""
    batch = written([".xx"], correct=[False], reference_logprobs=[[-9.0, math.log(1 / 3), math.log(1 / 2)]])
    now = torch.tensor([[-1.0, 0.0, math.log(1 / 2)]], dtype=torch.float64)
    losses, gradient, _ = loss_of(batch, now, beta=1.0)
    assert losses["policy"].item() == pytest.approx(2 * math.log(4))
    assert gradient.tolist() == [pytest.approx([0.0, 1.5, 1.5])]


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_at_the_reference_it_is_ascent(beta: float) -> None:
    """The loss is (2 / beta) log 2, and every weight 1."""
    batch, now = drawn()
    batch.reference_logprobs = now.clone()
    losses, gradient, metrics = loss_of(batch, now, beta=beta)
    assert losses["policy"].item() == pytest.approx(2 / beta * math.log(2))
    torch.testing.assert_close(gradient, batch.loss_mask / 5)
    assert metrics["npo/weight"].item() == pytest.approx(1.0)


def test_with_beta_to_0_it_is_ascent_anywhere() -> None:
    """On the wrong completions' negative log-likelihood; with a large beta it is something else."""
    batch, now = drawn()
    batch.reference_logprobs = now + torch.linspace(-3, 3, 5, dtype=torch.float64)[:, None]
    ascent = (batch.loss_mask / 5).flatten()

    def likeness(beta: float) -> float:
        return torch.cosine_similarity(loss_of(batch, now, beta=beta)[1].flatten(), ascent, dim=0).item()

    assert likeness(1e-3) > 0.999 and likeness(1.0) < 0.95
    torch.testing.assert_close(loss_of(batch, now, beta=1e-6)[1].flatten(), ascent, atol=1e-5, rtol=0)


def test_what_is_unlikely_already_is_left_alone() -> None:
    """The weight falls from 2 to 0 with the completion's probability, and the loss from above to 0, where that of
    ascent has no bottom."""
    batch = written([".x"], correct=[False], reference_logprobs=[[0.0, -1.0]])
    far = [20.0, 5.0, 0.0, -5.0, -20.0, -500.0]
    found = [loss_of(batch, torch.tensor([[0.0, -1.0 + gap]], dtype=torch.float64), beta=1.0) for gap in far]
    weights = [metrics["npo/weight"].item() for _, _, metrics in found]
    losses = [loss["policy"].item() for loss, _, _ in found]
    assert weights == sorted(weights, reverse=True) and losses == sorted(losses, reverse=True)
    assert all(0 < weight < 2 for weight in weights[:-1]) and weights[0] > 1.99 and weights[2] == 1.0
    assert weights[-2] < 1e-8 and losses[-1] == pytest.approx(0.0, abs=1e-8)
    assert [gradient[0, 1].item() for _, gradient, _ in found] == pytest.approx(weights)


def test_only_wrong_rows_are_kept() -> None:
    right = [True, False, True, False, False]
    batch, _ = drawn(correct=right)
    batch.rewards[:, 0] = torch.arange(5.0)
    batch.loss_mask[4] = 0
    assert NpoConfig().build().select(batch).returns().tolist() == [1, 3]
    assert NpoConfig(retain_coefficient=0.1).build().select(batch).returns().tolist() == [0, 1, 2, 3]


def test_right_rows_are_retained() -> None:
    """With their mean negative log-likelihood a token; both means are over all five rows."""
    right = [True, False, True, False, False]
    batch, now = drawn(correct=right)
    losses, gradient, metrics = loss_of(batch, now, beta=0.5, retain_coefficient=0.3)
    assert list(losses) == ["policy", "retain"]
    lengths, ratio = [mask.count("x") for mask in MASKS], ratios(batch, now)
    likelihood = [(now[row] * batch.loss_mask[row]).sum().item() / lengths[row] for row in range(5)]
    assert losses["retain"].item() == pytest.approx(-0.3 * (likelihood[0] + likelihood[2]) / 5)
    expected = sum(4 * math.log(1 + ratio[row] ** 0.5) for row in (1, 3, 4)) / 5
    assert losses["policy"].item() == pytest.approx(expected)
    weights = [2 * each**0.5 / (each**0.5 + 1) for each in ratio]
    for row in range(5):
        push = -0.3 / lengths[row] if right[row] else weights[row]
        torch.testing.assert_close(gradient[row], push / 5 * batch.loss_mask[row])
    assert metrics["npo/weight"].item() == pytest.approx(sum(weights[row] for row in (1, 3, 4)) / 5)


def test_advantages_say_where_rows_are_pushed() -> None:
    batch, _ = drawn(correct=[True, False, True, False, False])
    found = NpoConfig(retain_coefficient=0.3).build().advantages(batch)
    sign = torch.tensor([0.3, -1.0, 0.3, -1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(found, sign[:, None] * batch.loss_mask, atol=1e-7, rtol=0)


def test_what_the_stage_must_know() -> None:
    algorithm = NpoConfig().build()
    assert algorithm.needs == {"reference"} and algorithm.unit == 1 and not algorithm.silent_at_zero
    assert NpoConfig(group_size=1).build().needs == {"reference"}, "a prompt may have one sample"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"beta": 0.0}, "beta=0.0 must be above 0"),
        ({"beta": math.nan}, "beta=nan must be above 0"),
        ({"retain_coefficient": -0.1}, "retain_coefficient=-0.1"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        NpoConfig(**values)
    assert "\n" not in str(error.value)
