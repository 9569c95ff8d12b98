"""Assignments against scipy's."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from rlx.merges.assignment import best_assignment


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 33, 64])
@pytest.mark.parametrize("kind", ["normal", "whole", "equal", "outer", "far"])
def test_it_is_the_best(count: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(count)
    gains = torch.randn(count, count, generator=generator, dtype=torch.float64)
    ramp = torch.arange(count).double()
    gains = {
        "normal": gains,
        "whole": (2 * gains).round(),
        "equal": torch.ones(count, count),
        "outer": torch.outer(ramp, ramp.flip(0)),
        "far": gains * 1e6 - 1e9,
    }[kind]
    found = best_assignment(gains)
    assert sorted(found) == list(range(count))
    rows, columns = linear_sum_assignment(gains.numpy(), maximize=True)
    best = gains[torch.from_numpy(rows), torch.from_numpy(columns)].sum()
    torch.testing.assert_close(gains[torch.arange(count), found].sum(), best, atol=1e-9, rtol=1e-12)


def test_a_permutation_is_found() -> None:
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert best_assignment(torch.eye(20)[order]) == order.tolist()
