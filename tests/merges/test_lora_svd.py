"""The cut sum against numpy's decomposition of the dense one."""

import numpy as np
import pytest
import torch

from rlx.errors import ConfigError
from rlx.merges.lora_svd import LoraSvdConfig, Scaling
from tests.merges.factors import STACKS, dense, distance, drawn, total

stacked = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
WEIGHTS = [0.75, -0.5]


def cut(whole: torch.Tensor, rank: int) -> torch.Tensor:
    u, values, vh = np.linalg.svd(whole.numpy(), full_matrices=False)
    values[..., rank:] = 0
    return torch.from_numpy((u * values[..., None, :]) @ vh)


@stacked
@pytest.mark.parametrize("rank", [None, 1, 4], ids=str)
def test_it_is_the_nearest_of_its_rank(stack: tuple[int, ...], rank: int | None) -> None:
    factors = drawn([2, 3], [2.0, 0.5], stack)
    found = LoraSvdConfig(rank=rank).build().combine(factors, WEIGHTS)
    assert found.a.shape[-2] == (rank or 3)
    torch.testing.assert_close(dense(found), cut(total(factors, WEIGHTS), rank or 3), atol=1e-5, rtol=1e-4)
    gram = found.a @ found.a.mT
    torch.testing.assert_close(gram, torch.eye(rank or 3).expand_as(gram), atol=1e-5, rtol=0)


@stacked
@pytest.mark.parametrize("rank", [5, 40], ids=["the sum's", "more"])
def test_the_sum_itself_at_full_rank(stack: tuple[int, ...], rank: int) -> None:
    factors = drawn([2, 3], [2.0, 0.5], stack)
    found = LoraSvdConfig(rank=rank).build().combine(factors, WEIGHTS)
    assert found.a.shape[-2] == 5
    torch.testing.assert_close(dense(found), total(factors, WEIGHTS), atol=1e-5, rtol=1e-5)


def test_ranks_above_the_width_of_the_matrix() -> None:
    factors = drawn([8, 8], [1.0, 1.0])
    found = LoraSvdConfig(rank=16).build().combine(factors, WEIGHTS)
    assert found.a.shape[-2] == 9
    torch.testing.assert_close(dense(found), total(factors, WEIGHTS), atol=1e-5, rtol=1e-5)


def test_the_scale_twice_is_wrong_by_the_scale() -> None:
    factors = drawn([2, 3], [2.0, 0.5])
    found = LoraSvdConfig(scaling=Scaling.twice, rank=5).build().combine(factors, WEIGHTS)
    expected = total(factors, [0.75 * 2.0, -0.5 * 0.5])
    torch.testing.assert_close(dense(found), expected, atol=1e-5, rtol=1e-5)
    assert distance(dense(found), total(factors, WEIGHTS)) > 0.5


def test_a_rank_below_one_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"merge\.rank=0 must be at least 1"):
        LoraSvdConfig(rank=0)
