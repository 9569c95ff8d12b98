"""Rotary positions: what is rotated depends on distances alone."""

import cmath

import pytest
import torch

from rlx.nn.rope import rotary_tables, rotate

K = 16


def turned(x: torch.Tensor, position: int, theta: float = 10000.0) -> torch.Tensor:
    """One vector [K] turned by its position."""
    tables = rotary_tables(torch.tensor([[position]]), head_dim=K, theta=theta)
    return rotate(x[None, None, None], tables)[0, 0, 0]


@pytest.mark.parametrize("shift", [1, 7, 400])
def test_scores_depend_on_distance_alone(shift: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, K, generator=generator)
    for query, key in [(0, 0), (5, 3), (40, 2)]:
        here = turned(q, query) @ turned(k, key)
        there = turned(q, query + shift) @ turned(k, key + shift)
        torch.testing.assert_close(here, there, atol=2e-4, rtol=0)
    assert abs(turned(q, 5) @ turned(k, 3) - turned(q, 6) @ turned(k, 3)) > 1e-3


def test_rotation_keeps_lengths_and_leaves_the_first_position() -> None:
    x = torch.randn(K, generator=torch.Generator().manual_seed(1))
    assert torch.equal(turned(x, 0), x)
    torch.testing.assert_close(turned(x, 91).norm(), x.norm())


@pytest.mark.parametrize("theta", [100.0, 10000.0])
def test_pairs_are_complex_numbers_turned(theta: float) -> None:
    """The paper's form: (x_i + i x_{i+K/2}) exp(i position theta^(-2i/K))."""
    x = torch.randn(K, generator=torch.Generator().manual_seed(2))
    found = turned(x, 13, theta)
    for pair in range(K // 2):
        number = complex(x[pair], x[pair + K // 2]) * cmath.exp(1j * 13 * theta ** (-2 * pair / K))
        assert complex(found[pair], found[pair + K // 2]) == pytest.approx(number, abs=1e-5)


def test_dtype_is_kept() -> None:
    tables = rotary_tables(torch.arange(4)[None], head_dim=K, theta=10000.0)
    assert rotate(torch.ones(1, 2, 4, K, dtype=torch.bfloat16), tables).dtype is torch.bfloat16
