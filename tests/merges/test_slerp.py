"""Interpolation on the sphere against its equations in float64, scipy's slerp, and mergekit's three functions."""

from itertools import permutations
from typing import Any

import pytest
import scipy.spatial
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import BLOCK, normalised
from rlx.merges.slerp import Of, SlerpConfig
from rlx.merges.sphere import Per
from tests.merges.tensors import close, merged, mergekit, some

ROWS = pytest.mark.parametrize("per", list(Per), ids=lambda per: per.name)
SOURCES = pytest.mark.parametrize("of", list(Of), ids=lambda of: of.name)


def exponential(vectors: list[Tensor], weights: list[float]) -> Tensor:
    """The n-way form for flat float64 vectors, step by step."""
    units = [vector / vector.norm() for vector in vectors]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean = mean / mean.norm()
    tangent = sum(w * (u - (u @ mean) * mean) for w, u in zip(weights, units, strict=True))
    angle = tangent.norm()
    point = angle.cos() * mean + (angle.sin() * tangent / angle if angle > 0 else 0 * mean)
    return point * sum(w * v.norm() for w, v in zip(weights, vectors, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_two_unit_vectors_are_scipys(t: float, dtype: torch.dtype) -> None:
    units = [x / x.norm() for x in some(2, 40, dtype=torch.float64)]
    expected = scipy.spatial.geometric_slerp(units[0].numpy(), units[1].numpy(), t)
    found = merged(SlerpConfig(weight=t), [unit.to(dtype) for unit in units])
    close(found, torch.from_numpy(expected))


@pytest.mark.parametrize("t", [0.2, 0.5, 1.5])
def test_two_are_mergekits_slerp(t: float) -> None:
    first, second = some(2)
    close(merged(SlerpConfig(weight=t), [first, second]), mergekit("slerp", [second], first, t=t))
    near = first + 0.02 * second
    assert torch.cosine_similarity(first.flatten(), near.flatten(), dim=0) > 0.9995
    close(merged(SlerpConfig(weight=t), [first, near]), (1 - t) * first + t * near, 1e-7)


@SOURCES
@ROWS
@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 3.0]], ids=["equal", "weighted"])
def test_two_are_mergekits_nuslerp(weights: list[float], per: Per, of: Of) -> None:
    *inputs, base = some(3)
    found = merged(SlerpConfig(weights=weights, per=per, of=of, lerp_above=1.0), inputs, base)
    settings = {"weight": weights, "nuslerp_flatten": per is Per.tensor}
    close(found, mergekit("nuslerp", inputs, base if of is Of.deltas else None, **settings))


@SOURCES
@pytest.mark.parametrize("count", [3, 4, 7])
def test_more_are_mergekits_multislerp(count: int, of: Of) -> None:
    *inputs, base = some(count + 1)
    weights = [1.0 + number for number in range(count)]
    found = merged(SlerpConfig(weights=weights, of=of), inputs, base)
    close(found, mergekit("multislerp", inputs, base if of is Of.deltas else None, weight=weights), 3e-6)


@ROWS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_more_by_the_equations(dtype: torch.dtype, per: Per) -> None:
    inputs, weights = some(3, 4, 5, dtype=torch.float64), [0.2, 0.5, 0.3]
    if per is Per.tensor:
        expected = exponential([x.flatten() for x in inputs], weights).view(4, 5)
    else:
        expected = torch.stack([exponential([x[row] for x in inputs], weights) for row in range(4)])
    close(merged(SlerpConfig(weights=weights, per=per), [x.to(dtype) for x in inputs]), expected)


@SOURCES
@ROWS
@pytest.mark.parametrize("count", [2, 3])
def test_one_hot_weights_give_that_model(count: int, per: Per, of: Of) -> None:
    *inputs, base = some(count + 1)
    for chosen in range(count):
        weights = [2.0 * (number == chosen) for number in range(count)]
        found = merged(SlerpConfig(weights=weights, per=per, of=of), inputs, base)
        if count == 2 and of is Of.weights:
            assert torch.equal(found, inputs[chosen])
        close(found, inputs[chosen])


@ROWS
def test_order_of_the_models_changes_nothing(per: Per) -> None:
    for count in (2, 3):
        inputs, weights = some(count), [0.2, 0.5, 0.3][:count]
        expected = merged(SlerpConfig(weights=weights, per=per), inputs)
        for order in permutations(range(count)):
            config = SlerpConfig(weights=[weights[n] for n in order], per=per)
            close(merged(config, [inputs[n] for n in order]), expected)


def test_rows_stand_alone() -> None:
    inputs = some(2, 2, 3, 4)  # a stack of matrices: rows are along the last axis
    found = merged(SlerpConfig(weight=0.3, per=Per.row), inputs)
    one = merged(SlerpConfig(weight=0.3), [x[1, 2] for x in inputs])
    close(found[1, 2], one, 1e-7)
    flat = some(2, 9)
    config = SlerpConfig(weight=0.3, per=Per.row)
    assert torch.equal(merged(config, flat), merged(SlerpConfig(weight=0.3), flat)), "one axis is one row"


@ROWS
@pytest.mark.parametrize("count", [2, 3, 4])
def test_zeros_and_opposites_are_linear(count: int, per: Per) -> None:
    first = some(1)[0]
    zeros = [first, *[torch.zeros_like(first)] * (count - 1)]
    found = merged(SlerpConfig(per=per), zeros)
    assert found.isfinite().all()
    if count == 2:
        close(found, first / 2)
    assert torch.equal(merged(SlerpConfig(per=per), [0 * first] * count), 0 * first)
    opposite = [first, -first, *[2 * first, -3 * first][: count - 2]]
    if count != 3:
        close(merged(SlerpConfig(per=per, lerp_above=1.0), opposite), sum(opposite, 0 * first) / count)
    assert merged(SlerpConfig(per=per), opposite).isfinite().all()


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (1, 1), (3, 1, 2)], ids=str)
@ROWS
@pytest.mark.parametrize("count", [2, 3])
def test_any_shape(count: int, per: Per, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for _ in range(count)]
    assert merged(SlerpConfig(per=per), inputs).isfinite().all()


@ROWS
def test_more_entries_than_a_block(per: Per) -> None:
    """Rows longer than a block, and more rows than fit into one."""
    for shape in ((3, BLOCK + 5), (2 * BLOCK // 100 + 3, 100)):
        inputs = [torch.sin(torch.arange(shape[0] * shape[1]).mul(step)).view(shape) for step in (1.0, 1.7, 2.9)]
        found = merged(SlerpConfig(per=per), inputs)
        if per is Per.tensor:
            close(found.flatten(), exponential([x.double().flatten() for x in inputs], [1 / 3] * 3))
        else:
            last = exponential([x[-1].double() for x in inputs], [1 / 3] * 3)
            close(found[-1], last)


def test_transposed_tensors() -> None:
    inputs = some(3)
    close(merged(SlerpConfig(), [x.T for x in inputs]), merged(SlerpConfig(), inputs).T)
    mixed = [inputs[0], inputs[1].T.contiguous().T, inputs[2]]
    close(merged(SlerpConfig(per=Per.row), mixed), merged(SlerpConfig(per=Per.row), inputs))


def test_a_base_is_needed_for_deltas_alone() -> None:
    assert not SlerpConfig().needs_base
    assert SlerpConfig(of=Of.deltas).needs_base


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lerp_above": 1.5}, "lerp_above=1.5 must be from 0 to 1"),
        ({"weights": [1.0, -1.0], "models": ["a", "b"]}, "sum to 0; change them$"),
        ({"weights": [1.0, -1.0]}, "sum to 0; change them$"),
    ],
    ids=["cosine", "cancel", "unnamed"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        SlerpConfig(**values)
    assert "\n" not in str(error.value)


def test_weights_are_shares() -> None:
    inputs = some(2)
    assert normalised([1.0, 3.0]) == [0.25, 0.75]
    assert torch.equal(merged(SlerpConfig(weights=[1.0, 3.0]), inputs), merged(SlerpConfig(weight=0.75), inputs))
