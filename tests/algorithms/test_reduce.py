"""Group statistics, whitening and reductions against plain loops."""

import math
from statistics import mean, stdev

import pytest
import torch

from rlx.algorithms.base import (
    Normalization,
    Totals,
    group_mean,
    group_std,
    importance_weights,
    listed,
    reduce,
    whitened,
)
from tests.algorithms import plain
from tests.algorithms.plain import completion, drawn
from tests.algorithms.rollouts import batch_of, per_row

VALUES = [0.0, 1.0, 0.25, -3.0, 2.0, 1.0, 1.0, 7.5]
GROUP = [5, 5, -1, 5, -1, 9, -1, 2**40]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_group_statistics(dtype: torch.dtype) -> None:
    values, group = torch.tensor(VALUES, dtype=dtype), torch.tensor(GROUP)
    members = {number: [v for v, g in zip(VALUES, GROUP, strict=True) if g == number] for number in GROUP}
    found, count = group_mean(values, group)
    assert found.dtype is dtype
    assert count.tolist() == [len(members[number]) for number in GROUP]
    assert found.tolist() == pytest.approx([mean(members[number]) for number in GROUP], rel=1e-6)
    spread = [stdev(members[number]) if len(members[number]) > 1 else 0.0 for number in GROUP]
    assert group_std(values, group).tolist() == pytest.approx(spread, rel=1e-6)


def test_reductions_by_hand() -> None:
    per_token = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    totals = Totals(rows=2, tokens=3.0, max_tokens=5)
    assert reduce(per_token, mask, Normalization.token, totals).item() == pytest.approx(7 / 3)
    assert reduce(per_token, mask, Normalization.sequence, totals).item() == pytest.approx((1.5 + 4) / 2)
    assert reduce(per_token, mask, Normalization.constant, totals).item() == pytest.approx(7 / 10)
    assert reduce(per_token, mask, Normalization.sum, totals).item() == pytest.approx(7 / 2)


def test_totals_are_of_sampled_tokens_and_of_rows_that_have_some() -> None:
    batch = batch_of([completion(1.0, 3), completion(0.0, 2), completion(0.0, 4)])
    batch.loss_mask[2] = 0
    assert Totals.of(batch, 9) == Totals(rows=2, tokens=5.0, max_tokens=9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_whitened_over_all_tokens(dtype: torch.dtype, offset: float) -> None:
    """Mean 0 and standard deviation 1 with Bessel's correction; prompts and padding stay 0 and are not counted."""
    rows = drawn(1)
    values = [[offset + value for value in row.entropy] for row in rows]
    batch = batch_of(rows, extra=2)
    table = torch.full_like(batch.loss_mask, -77.0)
    table[batch.loss_mask > 0] = torch.tensor([value for row in values for value in row], dtype=torch.float64)
    found = whitened(table.to(dtype), batch.loss_mask.to(dtype))
    assert found.dtype is dtype
    exact = offset == 0 or dtype is torch.float64
    for mine, wanted in zip(per_row(found, rows), plain.whitened(values), strict=True):
        assert mine == pytest.approx(wanted, abs=1e-5 if exact else 1e-2)


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_equal_values_are_whitened_to_nothing(value: float, dtype: torch.dtype) -> None:
    values = torch.full((3, 7), value, dtype=dtype)
    for count in range(8):  # 14 to 21 tokens: some sums round
        mask = torch.ones(3, 7, dtype=dtype)
        mask[1, count:] = 0
        assert whitened(values, mask).abs().sum() == 0
    assert whitened(values, torch.zeros_like(values)).abs().sum() == 0


def test_importance_weights_are_capped_and_finite() -> None:
    batch = batch_of([completion(1.0, 4)])
    batch.old_logprobs = batch.logprobs + torch.tensor([0.0, 0.0, 0.5, -0.5, 900.0])
    weights = importance_weights(batch, 1.5)[0].tolist()
    assert weights == pytest.approx([1.0, 1.0, 1.5, 0.6065306597, 1.5])
    for far, weight in ((900, math.exp(20)), (-900, math.exp(-20))):
        batch.old_logprobs = batch.logprobs + far
        assert importance_weights(batch, 1e30)[0].tolist() == pytest.approx([weight] * 5)


def test_numbers_as_lists() -> None:
    assert listed(torch.tensor([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert listed(torch.zeros(0)) == []


@pytest.mark.parametrize("normalization", list(Normalization), ids=lambda n: n.value)
def test_nothing_sampled_is_no_loss(normalization: Normalization) -> None:
    nothing = torch.zeros(2, 3)
    assert reduce(torch.ones(2, 3), nothing, normalization, Totals(rows=0, tokens=0.0, max_tokens=5)) == 0
