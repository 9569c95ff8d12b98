"""Turns that are rewarded apart: what a turn's tokens are worth hangs on its own rewards and on no other turn's, for
every algorithm that does not take rows as wholes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.algorithms.base import AlgorithmConfig, Totals
from rlx.algorithms.grpo import GrpoConfig
from rlx.algorithms.gspo import GspoConfig
from rlx.algorithms.ppo import PpoConfig
from rlx.algorithms.reinforce import Baseline, ReinforceConfig
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.options import discover
from tests.algorithms.written import numbers, written

ROWS = [
    ".11.22..333.4",
    ".1.2",
    ".111.2.3",
    ".1..22.3.44",
    ".11.2",
    ".1.22.33",
    ".1..2.3.4",
    ".11.2",
    ".1.2",
]
"""The turn that each sampled token is of; what an environment says is a dot."""
GROUPS = [0, 0, 0, 0, 5, 5, 5, 2, 2]
UNDIVIDED = {"dpo", "npo", "expert_iteration", "rft", "grpo_lambda"}


def dialogues(seed: int = 0, rows: list[str] = ROWS) -> RolloutBatch:
    """Every turn's reward, drawn evenly, on its last token."""
    batch = written([row.translate(str.maketrans("1234", "xxxx")) for row in rows], group=GROUPS[: len(rows)])
    draw = torch.Generator().manual_seed(seed)
    width = batch.tokens.shape[1]
    batch.credit = numbers([[int(c) - 1 if c.isdigit() else -1 for c in row] for row in rows], width).long()
    batch.credit[torch.arange(width) >= torch.tensor([[len(row)] for row in rows])] = -1
    batch.rewards = torch.zeros_like(batch.loss_mask)
    for n, row in enumerate(rows):
        for turn in "1234":
            if turn in row:
                batch.rewards[n, row.rindex(turn)] = torch.rand((), generator=draw, dtype=torch.float64)
    for name in ("logprobs", "values", "reference_logprobs", "old_logprobs"):
        drawn = torch.randn(batch.tokens.shape, generator=draw, dtype=torch.float64)
        setattr(batch, name, -drawn.abs() * batch.loss_mask)
    return batch


def only(batch: RolloutBatch, turn: int) -> tuple[RolloutBatch, Tensor]:
    """Rows that have a turn, as if they had no other; and their numbers."""
    assert batch.credit is not None
    rows = (batch.credit == turn).any(-1).nonzero().squeeze(1)
    part = batch.rows(rows)
    own = batch.credit[rows] == turn
    return replace(part, loss_mask=part.loss_mask * own, rewards=part.rewards * own, credit=None), rows


def configs() -> list[Any]:
    more = [
        GrpoConfig(std_normalization=type(GrpoConfig().std_normalization).batch),
        PpoConfig(whiten=False, gamma=0.9, gae_lambda=0.8, kl_coefficient=0.1),
        ReinforceConfig(baseline=Baseline.batch),
    ]
    every = [(name, found.config()) for name, found in discover("algorithm").items()]
    every += [(f"{type(config).__name__}-{n}", config) for n, config in enumerate(more)]
    return [pytest.param(config, id=name) for name, config in every if not config.build().undivided]


def test_those_that_take_rows_as_wholes_say_so() -> None:
    found = {name: option.config().build().undivided for name, option in discover("algorithm").items()}
    assert {name for name, why in found.items() if why} == UNDIVIDED
    assert all(" whole " in found[name] for name in UNDIVIDED)


@pytest.mark.parametrize("config", configs())
@pytest.mark.parametrize("turn", range(4))
def test_a_turn_is_worth_what_its_own_rewards_say(config: AlgorithmConfig, turn: int) -> None:
    batch, other = dialogues(), dialogues(1)
    assert batch.credit is not None
    own = batch.credit == turn
    for name in ("logprobs", "values", "reference_logprobs", "old_logprobs"):
        setattr(other, name, getattr(batch, name))
    other.rewards = torch.where(own, batch.rewards, other.rewards)
    one, same = config.build().advantages(batch), config.build().advantages(other)
    assert torch.equal(one[own], same[own]) and one[own].abs().sum() > 0
    assert not torch.equal(one, same)
    other.rewards = torch.where(own, other.rewards + dialogues(2).rewards, batch.rewards)
    moved = config.build().advantages(other)
    assert torch.equal(one[~own], moved[~own]) and not torch.equal(one[own], moved[own])


@pytest.mark.parametrize("config", configs())
def test_a_turns_advantages_are_those_of_a_batch_that_has_no_other(config: AlgorithmConfig) -> None:
    batch = dialogues()
    assert batch.credit is not None
    found = config.build().advantages(batch)
    for turn in range(4):
        part, rows = only(batch, turn)
        torch.testing.assert_close(found[rows] * (batch.credit[rows] == turn), config.build().advantages(part))
    assert found[batch.loss_mask == 0].abs().sum() == 0


@pytest.mark.parametrize("config", configs())
def test_one_turn_in_every_row_is_no_credit_at_all(config: AlgorithmConfig) -> None:
    batch = dialogues(rows=[".111", ".1", ".11", ".1", ".111", ".1", ".1111", ".1", ".11"])
    expected = config.build().advantages(replace(batch, credit=None))
    torch.testing.assert_close(config.build().advantages(batch), expected)


def test_groups_are_of_the_rows_that_have_the_turn() -> None:
    """Rewards of turn 3 in the first group: 1, 0, 0.5 of three rows, whose mean is 0.5 and deviation 0.5."""
    batch = dialogues()
    assert batch.credit is not None
    for row, worth in ((0, 1.0), (2, 0.0), (3, 0.5)):
        batch.rewards[row, ROWS[row].rindex("3")] = worth
    found = GrpoConfig(std_eps=0.0).build().advantages(batch)
    assert [found[row, ROWS[row].index("3")].item() for row in (0, 2, 3)] == pytest.approx([1.0, -1.0, 0.0])
    alone = found[6, ROWS[6].index("4")]  # the only row of its group with a fourth turn
    assert alone == 0


def test_a_masked_row_counts_in_its_group_turn_by_turn() -> None:
    batch = dialogues()
    batch.finished = torch.tensor([False, *[True] * 8])
    assert batch.credit is not None
    config = GrpoConfig(mask_truncated=True)
    found = config.build().advantages(config.build().select(batch))
    whole = GrpoConfig().build().advantages(batch)
    assert torch.equal(found[1:], whole[1:]) and found[0].abs().sum() == 0 and whole[0].abs().sum() > 0


def test_the_discount_is_0_where_a_turn_ends() -> None:
    """Two turns of two tokens, values 0.5, 0.25 and 0.125, 2, rewards 1 and 4: errors 0.5 * 0.25 - 0.5 and 1 - 0.25 in
    the first, and nothing of the second turn's value or reward."""
    batch = dialogues(rows=[".11.22"])
    batch.values = numbers([[0, 0.5, 0.25, 0, 0.125, 2.0]], 6)
    batch.rewards = numbers([[0, 0, 1.0, 0, 0, 4.0]], 6)
    algorithm = PpoConfig(gamma=0.5, gae_lambda=0.5, whiten=False, value_clip=None).build()
    found = algorithm.advantages(batch)
    second = 0.5 * 2.0 - 0.125 + 0.25 * (4.0 - 2.0)
    assert found.tolist() == [[0, -0.375 + 0.25 * 0.75, 0.75, 0, second, 2.0]]
    values = batch.values + found
    out = PolicyOutput(logprobs=batch.logprobs, values=values)
    losses, metrics = algorithm.losses(out, batch, found, Totals.of(batch, 8))
    assert losses["value"] == 0, "the critic learns the returns of the turns"
    assert metrics["critic/value"] == pytest.approx((values * batch.loss_mask).sum().item() / 4)


def test_gspo_has_a_ratio_a_turn() -> None:
    """What the other turns are worth does not push a turn's tokens, and ratios are means over the turn."""
    config = GspoConfig(clip_low=1.0, clip_high=9.0)

    def gradient(batch: RolloutBatch) -> Tensor:
        algorithm = config.build()
        now = (batch.logprobs + 0.1 * torch.arange(batch.tokens.shape[1])).requires_grad_()
        losses, _ = algorithm.losses(
            PolicyOutput(logprobs=now), batch, algorithm.advantages(batch), Totals.of(batch, 9)
        )
        losses["policy"].backward()
        assert now.grad is not None
        return now.grad

    batch = dialogues()
    assert batch.credit is not None
    own = batch.credit == 1
    one, other = (
        gradient(batch),
        gradient(replace(batch, rewards=torch.where(own, batch.rewards, dialogues(3).rewards))),
    )
    assert torch.equal(one[own], other[own]) and not torch.equal(one, other)
    ratios = config.build().log_ratio(PolicyOutput(logprobs=batch.logprobs + torch.arange(13.0)), batch)
    assert ratios[0, 1:3].tolist() == pytest.approx([1.5, 1.5]) and ratios[0, 8:11].tolist() == pytest.approx([9.0] * 3)


def test_a_running_baseline_is_a_turns_own() -> None:
    algorithm, batch = ReinforceConfig(baseline_decay=0.5).build(), dialogues()
    assert batch.credit is not None
    algorithm.advantages(batch)
    means = [only(batch, turn)[0].rewards.sum(-1).mean().item() for turn in range(4)]
    assert algorithm.state()["baselines"] == pytest.approx(dict(enumerate(means)))
    resumed = ReinforceConfig(baseline_decay=0.5).build()
    resumed.restore(algorithm.state())
    after = dialogues(4)
    assert torch.equal(resumed.advantages(after), algorithm.advantages(after))
    found = resumed.advantages(after)[0, ROWS[0].index("4")]
    later = only(after, 3)[0].rewards.sum(-1)
    base = 0.5 * means[3] + 0.5 * later.mean()
    assert found.item() == pytest.approx((later[0] - base).item())


def test_padding_has_no_credit() -> None:
    batch = dialogues().padded(20, pad_id=0)
    assert batch.credit is not None and (batch.credit[:, 13:] == -1).all()
