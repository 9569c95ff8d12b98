"""Fine-tuning on verified samples: what is kept, and that it is imitation, and a policy gradient on successes."""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rlx.algorithms.base import Normalization, Totals
from rlx.algorithms.expert_iteration import ExpertIterationConfig
from rlx.algorithms.reinforce import Baseline, ReinforceConfig
from rlx.algorithms.rejection import Rejection, RejectionConfig, kept
from rlx.algorithms.rft import RftConfig
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from tests.algorithms.written import written

VOCAB = 4


def sampled(seed: int = 0, rows: int = 24, *, right: float = 0.5) -> tuple[RolloutBatch, Tensor]:
    """Rows of few tokens, so that many are equal, and logits [T, V] of a policy whose tokens depend on their place."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.randint(1, 3, (rows,), generator=generator).tolist()
    drawn = torch.randint(1, 4, (rows,), generator=generator).tolist()
    tokens = torch.randint(2, (rows, 5), generator=generator).tolist()
    batch = written(
        ["." * before + "x" * after for before, after in zip(given, drawn, strict=True)],
        tokens=[row[: before + after] for row, before, after in zip(tokens, given, drawn, strict=True)],
        correct=(torch.rand(rows, generator=generator) < right).tolist(),
        rewards=[0.0] * rows,
    )
    batch.rewards[:, -1] = batch.correct.double()
    width = batch.tokens.shape[1]
    return batch, torch.randn(width, VOCAB, generator=generator, dtype=torch.float64)


def gradient_of(algorithm: Any, batch: RolloutBatch, logits: Tensor) -> tuple[float, Tensor]:
    """The step's loss and its gradient with respect to the policy's logits."""
    logits = logits.clone().requires_grad_()
    batch = algorithm.select(batch)
    logs = logits.log_softmax(-1).expand(len(batch.tokens), -1, -1)
    out = PolicyOutput(logprobs=logs.gather(-1, batch.tokens[..., None]).squeeze(-1))
    losses, _ = algorithm.losses(out, batch, algorithm.advantages(batch), Totals.of(batch, 4))
    losses["policy"].backward()
    assert logits.grad is not None
    return losses["policy"].item(), logits.grad


def fine_tuning(batch: RolloutBatch, logits: Tensor) -> tuple[float, Tensor]:
    """The same of the mean cross-entropy of the sampled tokens, as supervised training has it."""
    logits = logits.clone().requires_grad_()
    targets = torch.where(batch.loss_mask > 0, batch.tokens, -100)
    loss = cross_entropy(logits.expand(len(targets), -1, -1).flatten(0, 1), targets.flatten())
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad


@pytest.mark.parametrize("config", [ExpertIterationConfig, RftConfig])
def test_with_everything_right_it_is_fine_tuning_on_samples(config: type[RejectionConfig]) -> None:
    batch, logits = sampled(right=1.1)
    for own in (True, False):
        loss, gradient = gradient_of(config(deduplicate=own).build(), batch, logits)
        distinct = batch.rows(kept(batch, own, None))
        assert (len(distinct.tokens) < len(batch.tokens)) == own
        expected, slope = fine_tuning(distinct, logits)
        assert loss == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(gradient, slope, atol=1e-12, rtol=0)


def test_it_is_a_reinforce_step_on_successes() -> None:
    """With duplicates, and advantages 1 for right completions and 0 for others; the one divides by the tokens of right
    rows, the other by all."""
    batch, logits = sampled()
    _, gradient = gradient_of(Rejection(RejectionConfig(deduplicate=False)), batch, logits)
    score = ReinforceConfig(baseline=Baseline.none, normalization=Normalization.token).build()
    _, other = gradient_of(score, batch, logits)
    share = batch.loss_mask[batch.correct].sum() / batch.loss_mask.sum()
    assert 0.2 < share < 0.8 and other.abs().max() > 1e-3
    torch.testing.assert_close(gradient * share, other, atol=1e-12, rtol=0)


def test_what_an_update_does_does_not_depend_on_the_wrong_rows() -> None:
    batch, logits = sampled()
    algorithm = Rejection(RejectionConfig())
    alone = batch.rows(batch.correct.nonzero().squeeze(1))
    assert torch.equal(gradient_of(algorithm, batch, logits)[1], gradient_of(algorithm, alone, logits)[1])


def test_the_verdict_decides_whatever_the_rewards_are() -> None:
    batch, _ = sampled()
    changed = replace(batch, rewards=-5 * batch.rewards)
    algorithm = Rejection(RejectionConfig())
    assert torch.equal(algorithm.select(changed).tokens, algorithm.select(batch).tokens)


def by_loops(batch: RolloutBatch, deduplicate: bool, most: int | None) -> list[int]:
    """Rows of every prompt in a list of its own, in the order that they came."""
    prompts: OrderedDict[str, list[tuple[str, int]]] = OrderedDict()
    for row, (tokens, mask) in enumerate(zip(batch.tokens.tolist(), batch.loss_mask.tolist(), strict=True)):
        first, last = mask.index(1), len(mask) - 1 - mask[::-1].index(1)
        own = prompts.setdefault(str(tokens[:first]), [])
        completion = str(tokens[first : last + 1])
        if deduplicate and any(completion == other for other, _ in own):
            continue
        own.append((completion, row))
    return sorted(row for own in prompts.values() for _, row in own[:most])


@pytest.mark.parametrize("most", [None, 1, 3], ids=str)
@pytest.mark.parametrize("deduplicate", [True, False], ids=["distinct", "all"])
def test_rows_kept_are_those_of_plain_loops(deduplicate: bool, most: int | None) -> None:
    for seed in range(5):
        batch, _ = sampled(seed, 60)
        found = kept(batch, deduplicate, most)
        assert found.dtype is torch.int64
        assert found.tolist() == by_loops(batch, deduplicate, most)
        config = RejectionConfig(deduplicate=deduplicate, max_per_prompt=most)
        right = batch.rows(batch.correct.nonzero().squeeze(1))
        chosen = Rejection(config).select(batch)
        assert torch.equal(chosen.tokens, right.tokens[by_loops(right, deduplicate, most)])
        assert torch.equal(Rejection(config).select(chosen).tokens, chosen.tokens), "what is kept is kept again"


def test_duplicates_are_equal_in_prompt_and_completion() -> None:
    """Not where the prompt ends elsewhere, a completion goes on, or another problem has the same answer; whatever group
    they are in, and whatever stands after the end."""
    batch = written(
        [".xx", ".xx", ".xx", "..x", ".xxx", ".xx", ".x"],
        tokens=[[1, 2, 3], [1, 2, 3, 9], [1, 2, 4], [1, 2, 3], [1, 2, 3, 3], [2, 2, 3], [1, 2]],
        group=[0, 1, 0, 0, 0, 2, 0],
    )
    assert kept(batch, True, None).tolist() == [0, 2, 3, 4, 5, 6]
    assert kept(batch, False, None).tolist() == list(range(7))
    assert kept(batch, True, 2).tolist() == [0, 2, 3, 5]
    assert kept(batch, False, 2).tolist() == [0, 1, 3, 5]


def test_a_prompt_ends_where_sampling_begins() -> None:
    """Feedback between sampled tokens is no part of it: completions of one prompt are counted together."""
    batch = written([".xx", ".x.x", ".x..x"], tokens=[[1, 2, 3], [1, 2, 7, 3], [1, 2, 7, 8, 3]])
    assert kept(batch, True, 1).tolist() == [0]


def test_rows_without_sampled_tokens_are_not_kept() -> None:
    batch, _ = sampled(right=1.1)
    batch.loss_mask[3] = 0
    chosen = Rejection(RejectionConfig(deduplicate=False)).select(batch)
    assert len(chosen.tokens) == 23 and chosen.loss_mask.any(-1).all()


def test_no_rows_are_kept_of_none() -> None:
    batch, _ = sampled()
    empty = batch.rows(torch.zeros(0, dtype=torch.int64))
    assert kept(empty, True, 1).tolist() == []
    assert len(Rejection(RejectionConfig()).select(replace(batch, correct=batch.correct & False)).tokens) == 0


def test_losses_are_of_the_step_whatever_its_parts() -> None:
    """A mean over the tokens of all rows: a long completion counts as its tokens do."""
    batch = written([".xxx", ".x"])
    now = torch.tensor([[-9.0, -1.0, -2.0, -3.0], [-9.0, -4.0, -8.0, -8.0]], dtype=torch.float64)
    algorithm = Rejection(RejectionConfig())
    losses, metrics = algorithm.losses(
        PolicyOutput(logprobs=now), batch, algorithm.advantages(batch), Totals.of(batch, 3)
    )
    assert losses["policy"].item() == pytest.approx(10 / 4) and metrics == {}


def test_rows_of_no_weight_may_be_left_out() -> None:
    algorithm = Rejection(RejectionConfig())
    assert algorithm.silent_at_zero and algorithm.needs == frozenset() and algorithm.unit == 1


@pytest.mark.parametrize("config", [ExpertIterationConfig, RftConfig])
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"round_iterations": 0}, "round_iterations=0 must be at least 1"),
        ({"buffer_rounds": 0}, "buffer_rounds=0 must be at least 1"),
        ({"batch_rows": 0}, "batch_rows=0 must be at least 1"),
        ({"max_per_prompt": 0}, "max_per_prompt=0 must be at least 1"),
        ({"minibatches": 2}, "minibatches=2: how many steps"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(config: type[RejectionConfig], values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        config(**values)
    assert "\n" not in str(error.value)
