"""The mean on the sphere against its iteration in float64, its defining property, and mergekit's function."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.karcher import KarcherConfig
from rlx.merges.sphere import Per
from tests.merges.tensors import close, merged, mergekit, some

ROWS = pytest.mark.parametrize("per", list(Per), ids=lambda per: per.name)


def pull(mean: Tensor, units: list[Tensor], weights: list[float]) -> Tensor:
    """sum w log_m(u): 0 at the mean."""
    total = torch.zeros_like(mean)
    for weight, unit in zip(weights, units, strict=True):
        angle = (mean @ unit).clamp(-1, 1).acos()
        total += weight * (angle / angle.sin() if angle > 0 else 0.0) * (unit - (mean @ unit) * mean)
    return total


def iterated(vectors: list[Tensor], weights: list[float], steps: int) -> Tensor:
    """The iteration on flat float64 vectors."""
    units = [vector / vector.norm() for vector in vectors]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean = mean / mean.norm()
    for _ in range(steps):
        tangent = pull(mean, units, weights)
        mean = tangent.norm().cos() * mean + tangent.norm().sin() * tangent / tangent.norm()
    return mean * sum(w * v.norm() for w, v in zip(weights, vectors, strict=True))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_it_is_mergekits(count: int) -> None:
    for spread in (1.0, 0.1):
        inputs = [x * spread + 1 for x in some(count)]
        close(merged(KarcherConfig(), inputs), mergekit("karcher", inputs), 2e-6)


@ROWS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_iterations(steps: int, dtype: torch.dtype, per: Per) -> None:
    inputs, weights = some(3, 4, 5, dtype=torch.float64), [0.2, 0.5, 0.3]
    if per is Per.tensor:
        expected = iterated([x.flatten() for x in inputs], weights, steps).view(4, 5)
    else:
        expected = torch.stack([iterated([x[row] for x in inputs], weights, steps) for row in range(4)])
    config = KarcherConfig(weights=[2.0, 5.0, 3.0], per=per, iterations=steps, tolerance=1e-13)
    close(merged(config, [x.to(dtype) for x in inputs]), expected)


def test_nothing_pulls_at_the_mean() -> None:
    inputs, weights = some(4, dtype=torch.float64), [0.1, 0.2, 0.3, 0.4]
    config = KarcherConfig(weights=weights, iterations=200, tolerance=1e-12)
    found = merged(config, inputs).flatten()
    units = [(x / x.norm()).flatten() for x in inputs]
    assert pull(found / found.norm(), units, weights).norm() < 1e-10
    length = sum(w * x.norm() for w, x in zip(weights, inputs, strict=True))
    assert abs(found.norm() / length - 1) < 1e-12
    few = merged(KarcherConfig(weights=weights, iterations=1), inputs).flatten()
    assert pull(few / few.norm(), units, weights).norm() > 1e-4, "more steps come nearer"


def test_the_tolerance_ends_it() -> None:
    inputs = some(3, dtype=torch.float64)
    start = merged(KarcherConfig(iterations=0), inputs)
    close(merged(KarcherConfig(tolerance=0.9), inputs), start)
    units = [x / x.norm() for x in inputs]
    mean = sum(units) / sum(units).norm()
    close(start, mean * sum(x.norm() for x in inputs) / 3)


@ROWS
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_one_hot_weights_give_that_model(chosen: int, per: Per) -> None:
    inputs = some(3)
    weights = [float(number == chosen) for number in range(3)]
    close(merged(KarcherConfig(weights=weights, per=per), inputs), inputs[chosen])


@ROWS
def test_order_of_the_models_changes_nothing(per: Per) -> None:
    inputs, weights = some(3), [0.2, 0.5, 0.3]
    expected = merged(KarcherConfig(weights=weights, per=per), inputs)
    for order in permutations(range(3)):
        config = KarcherConfig(weights=[weights[n] for n in order], per=per)
        close(merged(config, [inputs[n] for n in order]), expected)


@ROWS
def test_zeros_have_no_direction(per: Per) -> None:
    first, second, zero = *some(2), torch.zeros(5, 6)
    both = merged(KarcherConfig(per=per), [first, second])
    close(merged(KarcherConfig(per=per), [first, zero, second]), both * 2 / 3)
    assert torch.equal(merged(KarcherConfig(per=per), [zero, zero]), zero)
    close(merged(KarcherConfig(weight=0.0), [zero, first]), zero)
    three, once = some(3), KarcherConfig(per=per, iterations=1)
    close(merged(once, [*three, zero]), merged(once, three) * 3 / 4)


def test_opposites_are_finite() -> None:
    first = some(1)[0]
    close(merged(KarcherConfig(), [first, -first]), first)
    close(mergekit("karcher", [first, -first]), first)
    assert merged(KarcherConfig(), [first, -first, 2 * first]).isfinite().all()
    rows = some(1, 300, 7)[0]
    close(merged(KarcherConfig(per=Per.row, weight=0.25), [rows, -rows.mul(1.7)]), rows * (0.75 + 0.25 * 1.7), 1e-5)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (3, 1, 2)], ids=str)
@ROWS
def test_any_shape(per: Per, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for _ in range(3)]
    assert merged(KarcherConfig(per=per), inputs).isfinite().all()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"iterations": -1}, "iterations=-1 must be at least 0"),
        ({"tolerance": 0.0}, "tolerance=0.0 must be above 0"),
        ({"weights": [1.0, -0.5], "models": ["a", "b"]}, "must not be negative"),
        ({"weight": 1.5, "models": ["a", "b"]}, "must not be negative"),
        ({"weights": [0.0, 0.0], "models": ["a", "b"]}, "sum to 0; change them$"),
    ],
    ids=["steps", "tolerance", "negative", "beyond", "none"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        KarcherConfig(**values)
    assert "\n" not in str(error.value)
