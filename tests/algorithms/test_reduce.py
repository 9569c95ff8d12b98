"""Group statistics and reductions against plain loops."""

from statistics import mean, stdev

import pytest
import torch

from rlx.algorithms.base import Normalization, Totals, group_mean, group_std, reduce

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


@pytest.mark.parametrize("normalization", list(Normalization), ids=lambda n: n.value)
def test_nothing_sampled_is_no_loss(normalization: Normalization) -> None:
    nothing = torch.zeros(2, 3)
    assert reduce(torch.ones(2, 3), nothing, normalization, Totals(rows=0, tokens=0.0, max_tokens=5)) == 0
