"""RegMean against the least squares that it solves, by numpy in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, Output, Place
from rlx.merges.linear import LinearConfig
from rlx.merges.regmean import RegMeanConfig


def merged(inputs: list[Tensor], grams: list[Tensor | None], **settings: Any) -> Tensor:
    output = Output("w", tuple(inputs[0].shape), tuple(Place(n, "w") for n in range(len(inputs))))
    return RegMeanConfig(**settings).build().tensor(output, Given(tensors=inputs, statistics=grams))


def some(count: int, *shape: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


def least_squares(xs: list[Tensor], ws: list[Tensor], weights: list[float]) -> Tensor:
    """argmin over W of sum w ||X W^T - X W_i^T||^2, by stacking the rows."""
    left = np.concatenate([w**0.5 * x.double().numpy() for w, x in zip(weights, xs, strict=True)])
    right = np.concatenate(
        [w**0.5 * (x.double() @ own.double().T).numpy() for w, x, own in zip(weights, xs, ws, strict=True)]
    )
    return torch.from_numpy(np.linalg.lstsq(left, right, rcond=None)[0].T)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 2.0, 0.1]], ids=["equal", "unequal"])
def test_it_is_the_least_squares_solution(weights: list[float]) -> None:
    xs, ws = some(3, 40, 6), some(3, 5, 6, seed=1)
    found = merged(ws, [x.T @ x for x in xs], weights=weights, shrink=1.0, ridge=0.0)
    torch.testing.assert_close(found.double(), least_squares(xs, ws, weights), atol=1e-5, rtol=1e-5)


def test_shrinking_is_of_what_is_off_the_diagonal() -> None:
    xs, ws = some(2, 40, 6), some(2, 5, 6, seed=1)
    grams = [x.T @ x for x in xs]
    kept = torch.full((6, 6), 0.9).fill_diagonal_(1.0)
    expected = merged(ws, [gram * kept for gram in grams], shrink=1.0, ridge=0.0)
    torch.testing.assert_close(merged(ws, list(grams), ridge=0.0), expected, atol=1e-5, rtol=1e-5)
    alone = [gram.diagonal() for gram in grams]
    columns = (alone[0] * ws[0] + alone[1] * ws[1]) / (alone[0] + alone[1])
    torch.testing.assert_close(merged(ws, list(grams), shrink=0.0, ridge=0.0), columns, atol=1e-5, rtol=1e-5)


def test_equal_inputs_give_the_weighted_mean() -> None:
    ws = some(2, 5, 6)
    mean = 0.25 * ws[0] + 0.75 * ws[1]
    torch.testing.assert_close(merged(ws, [torch.eye(6)] * 2, weights=[1.0, 3.0]), mean)
    linear = LinearConfig(weights=[1.0, 3.0]).mean(Given(tensors=ws))
    assert torch.equal(merged(ws, [None, None], weights=[1.0, 3.0]), linear), "no linear layer"


def test_equal_parents_give_the_parent() -> None:
    (w,) = some(1, 5, 6)
    xs = some(2, 3, 6, seed=1)  # fewer tokens than inputs
    torch.testing.assert_close(merged([w, w], [x.T @ x for x in xs]), w, atol=1e-6, rtol=1e-6)


def test_layers_that_saw_too_little() -> None:
    """Directions that no parent's inputs have keep the weighted mean; those that they have are solved for."""
    ws, nothing = some(2, 5, 6), torch.zeros(6, 6)
    mean = 0.25 * ws[0] + 0.75 * ws[1]
    torch.testing.assert_close(merged(ws, [nothing, nothing], weights=[1.0, 3.0]), mean)
    only = torch.zeros(6, 6)
    only[0, 0] = 10.0
    found = merged(ws, [only, nothing], weights=[1.0, 3.0])
    torch.testing.assert_close(found[:, 1:], mean[:, 1:])
    torch.testing.assert_close(found[:, 0], ws[0][:, 0], atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"do not span its width; take more merge.stat_tokens") as error:
        merged(ws, [only, nothing], ridge=0.0)
    assert "\n" not in str(error.value)


def test_a_stack_is_solved_matrix_by_matrix() -> None:
    ws, xs = some(2, 3, 5, 6), some(2, 3, 40, 6, seed=1)
    xs[0][1] = 0  # an expert that this parent sends nothing to is the other's
    grams = [x.transpose(1, 2) @ x for x in xs]
    found = merged(ws, list(grams))
    for number in range(3):
        torch.testing.assert_close(found[number], merged([w[number] for w in ws], [g[number] for g in grams]))
    torch.testing.assert_close(found[1], ws[1][1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"weights": [1.0, -1.0]}, "must be at least 0"),
        ({"shrink": 1.5}, "merge.shrink=1.5 must be 0 to 1"),
        ({"ridge": -1.0}, "merge.ridge=-1.0 must be at least 0"),
    ],
    ids=["negative", "shrink", "ridge"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        RegMeanConfig(**values)
    assert "\n" not in str(error.value)
