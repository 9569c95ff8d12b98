"""DPO: its pairs, and its loss against a hand-worked pair and the formula on probabilities of whole completions."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.algorithms.base import Totals
from rlx.algorithms.dpo import DpoConfig
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from tests.algorithms.written import written

MASKS = ["..xxx", ".x", "..xx.x", "...x", ".xxxx", ".xx"]
"""Three pairs of unequal lengths, one with feedback inside."""


def pairs(seed: int = 0) -> tuple[RolloutBatch, Tensor]:
    """Right and wrong rows in turn, with a reference, and log-probabilities [B, T] of the current policy; nothing that
    stands on tokens that were not sampled is 0."""
    batch = written(MASKS, correct=[True, False] * 3)
    generator = torch.Generator().manual_seed(seed)
    now, batch.reference_logprobs = (
        -torch.rand(batch.tokens.shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return batch, now


def loss_of(batch: RolloutBatch, now: Tensor, beta: float = 0.1) -> tuple[float, Tensor, dict[str, Tensor]]:
    """Loss, its gradient with respect to the log-probabilities, metrics."""
    algorithm, now = DpoConfig(beta=beta).build(), now.clone().requires_grad_()
    totals = Totals.of(batch, 8)
    losses, metrics = algorithm.losses(PolicyOutput(logprobs=now), batch, algorithm.advantages(batch), totals)
    assert list(losses) == ["policy"]
    losses["policy"].backward()
    assert now.grad is not None
    return losses["policy"].item(), now.grad, metrics


def test_a_pair_by_hand() -> None:
    """The right completion has twice the reference's probability (1/2 * 1/2 against 1/2 * 1/4), the wrong one half of
    it (1/4 against 1/2). At beta=1 their ratio of ratios is 4: the loss is -log(4/5), and a preference of 1/5 that is
    still missing pushes the right tokens up and the wrong one down."""
    log = math.log
    batch = written(
        [".xx", ".x"],
        correct=[True, False],
        reference_logprobs=[[-9.0, log(1 / 2), log(1 / 4)], [-9.0, log(1 / 2)]],
    )
    now = torch.tensor([[-1.0, log(1 / 2), log(1 / 2)], [-1.0, log(1 / 4), -7.0]], dtype=torch.float64)
    loss, gradient, metrics = loss_of(batch, now, beta=1.0)
    assert loss == pytest.approx(log(5 / 4))
    assert gradient.tolist() == [pytest.approx([0.0, -0.2, -0.2]), pytest.approx([0.0, 0.2, 0.0])]
    expected = {"chosen": log(2), "rejected": -log(2), "margins": log(4), "accuracies": 1.0}
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {f"rewards/{name}": value for name, value in expected.items()}
    )
    loss, gradient, _ = loss_of(batch, now, beta=0.5)  # the square root of 4
    assert loss == pytest.approx(log(3 / 2))
    assert gradient.tolist() == [pytest.approx([0.0, -0.5 / 3, -0.5 / 3]), pytest.approx([0.0, 0.5 / 3, 0.0])]


@pytest.mark.parametrize("beta", [0.05, 1.0, 7.0])
def test_loss_and_gradient_are_the_formula(beta: float) -> None:
    """On probabilities of whole completions: -log of (p/ref)^beta over its sum with the wrong one's."""
    for seed in range(3):
        batch, now = pairs(seed)
        assert batch.reference_logprobs is not None
        ratio = []
        for row, mask in enumerate(MASKS):
            ratio.append(1.0)
            for t, letter in enumerate(mask):
                if letter == "x":
                    ratio[-1] *= math.exp(now[row, t]) / math.exp(batch.reference_logprobs[row, t])
        won = [r**beta / (r**beta + w**beta) for r, w in zip(ratio[0::2], ratio[1::2], strict=True)]
        loss, gradient, metrics = loss_of(batch, now, beta)
        assert loss == pytest.approx(-sum(math.log(share) for share in won) / 3, rel=1e-12)
        for row in range(6):
            push = beta * (1 - won[row // 2]) / 3 * (-1 if row % 2 == 0 else 1)
            torch.testing.assert_close(gradient[row], push * batch.loss_mask[row], atol=1e-12, rtol=0)
        assert metrics["rewards/accuracies"].item() == pytest.approx(sum(share > 0.5 for share in won) / 3)


def test_a_policy_at_the_reference_has_no_preference() -> None:
    batch, now = pairs()
    batch.reference_logprobs = now.clone()
    loss, gradient, metrics = loss_of(batch, now, beta=0.3)
    assert loss == pytest.approx(math.log(2))
    assert gradient.unique().tolist() == pytest.approx([-0.3 / 6, 0.0, 0.3 / 6])
    assert metrics["rewards/accuracies"] == 0 and metrics["rewards/margins"] == 0


def test_long_completions_count_by_their_sum() -> None:
    """No mean over tokens: half a nat on each of two tokens is a nat on one."""
    reference = [[0.0, 0.0, 0.0]] * 2
    for masks, gained in (
        ([".xx", ".x"], [[0.0, -0.5, -0.5], [0.0, -3.0]]),
        ([".x", ".x"], [[0.0, -1.0], [0.0, -3.0]]),
    ):
        batch = written(masks, correct=[True, False], reference_logprobs=[row[: len(masks[0])] for row in reference])
        now = torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.float64) for row in gained], True)
        assert loss_of(batch, now, beta=1.0)[0] == pytest.approx(math.log(1 + math.exp(-2)))


def test_pairs_are_one_to_one_within_a_prompt() -> None:
    """As many as the fewer of its right and wrong completions, the first with the first, each in one pair at most."""
    right = [False, True, True, False, True, True, False, False, True, False]
    group = [4, 4, 2, 4, 2, 4, 4, 2, 7, 9]
    batch = written([".x"] * 10, correct=right, group=group, rewards=[float(n) for n in range(10)])
    kept = DpoConfig().build().select(batch)
    assert kept.returns().tolist() == [2, 7, 1, 0, 5, 3]  # rows 8 and 9 are right and wrong, of two prompts
    assert kept.correct.tolist() == [True, False] * 3 and kept.group.tolist() == [2, 2, 4, 4, 4, 4]


def test_nothing_sampled_is_in_no_pair() -> None:
    batch = written([".x", ".x", ".x"], correct=[True, True, False], rewards=[1.0, 2.0, 3.0])
    batch.loss_mask[0] = 0
    assert DpoConfig().build().select(batch).returns().tolist() == [2, 3]


def test_equal_groups_give_no_pair() -> None:
    batch = written([".x"] * 4, correct=[True, True, False, False], group=[0, 0, 1, 1])
    assert len(DpoConfig().build().select(batch).tokens) == 0


def test_what_the_verifier_found_makes_pairs_whatever_the_rewards_are() -> None:
    batch = written([".x", ".x"], correct=[False, True], rewards=[5.0, -1.0])
    assert DpoConfig().build().select(batch).returns().tolist() == [-1.0, 5.0]
    changed = replace(batch, rewards=batch.rewards * 0)
    assert DpoConfig().build().select(changed).correct.tolist() == [True, False]


def test_advantages_are_signs() -> None:
    batch, _ = pairs()
    expected = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)[:, None] * batch.loss_mask
    assert torch.equal(DpoConfig().build().advantages(batch), expected)


def test_what_the_stage_must_know() -> None:
    algorithm = DpoConfig().build()
    assert algorithm.needs == {"reference"} and algorithm.unit == 2 and not algorithm.silent_at_zero


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"group_size": 1}, "group_size=1: it makes pairs"),
        ({"beta": 0.0}, "beta=0.0 must be above 0"),
        ({"beta": math.nan}, "beta=nan must be above 0"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        DpoConfig(**values)
    assert "\n" not in str(error.value)
