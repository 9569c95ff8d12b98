"""Between base and mean: against the formula in float64, the sheet's values of t, and mergekit."""

from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.model_stock import ModelStockConfig
from rlx.merges.sphere import Per
from tests.merges.tensors import close, merged, mergekit, some

ROWS = pytest.mark.parametrize("per", list(Per), ids=lambda per: per.name)


def formula(inputs: list[Tensor], base: Tensor, clamp: bool) -> Tensor:
    """Of flat float64 vectors."""
    deltas = [x - base for x in inputs]
    pairs = [a @ b / (a.norm() * b.norm()) for a, b in combinations(deltas, 2)]
    cosine = sum(pairs) / len(pairs)
    cosine = cosine.clamp(min=0) if clamp else cosine
    t = len(inputs) * cosine / (1 + (len(inputs) - 1) * cosine)
    return t * sum(inputs) / len(inputs) + (1 - t) * base


def near(count: int, *shape: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """Parents whose deltas have a part in common, and their base."""
    *inputs, common, base = some(count + 2, *shape, dtype=dtype)
    return [base + common + x for x in inputs], base


@ROWS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("clamp", [True, False], ids=["clamped", "free"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_formula(count: int, clamp: bool, dtype: torch.dtype, per: Per) -> None:
    inputs, base = near(count, 4, 8)
    if per is Per.tensor:
        expected = formula([x.flatten() for x in inputs], base.flatten(), clamp).view(4, 8)
    else:
        expected = torch.stack([formula([x[row] for x in inputs], base[row], clamp) for row in range(4)])
    found = merged(ModelStockConfig(per=per, clamp=clamp), [x.to(dtype) for x in inputs], base.to(dtype))
    close(found, expected, 3e-6 if dtype == torch.float32 else None)


@ROWS
@pytest.mark.parametrize("count", [2, 4])
def test_it_is_mergekits(count: int, per: Per) -> None:
    inputs, base = near(count, dtype=torch.float32)
    found = merged(ModelStockConfig(per=per, clamp=False), inputs, base)
    close(found, mergekit("model_stock", inputs, base, filter_wise=per is Per.row), 3e-6)


@pytest.mark.parametrize(
    ("count", "cosine", "t"), [(2, 0.0, 0.0), (2, 0.5, 2 / 3), (2, 1.0, 1.0), (4, 0.25, 4 / 7), (3, 1.0, 1.0)]
)
def test_values_of_t(count: int, cosine: float, t: float) -> None:
    """Vectors with that cosine between any two: a common part and one of each one's own."""
    own, common = torch.eye(count + 1, dtype=torch.float64)[1:], torch.eye(count + 1, dtype=torch.float64)[0]
    inputs = list(cosine**0.5 * common + (1 - cosine) ** 0.5 * own)
    found = merged(ModelStockConfig(), inputs, torch.zeros(count + 1, dtype=torch.float64))
    close(found, t * torch.stack(inputs).mean(dim=0))


def test_short_deltas_count_like_long_ones() -> None:
    inputs, base = near(3)
    small = [(x - base) * 1e-6 for x in inputs]
    found = merged(ModelStockConfig(), small, torch.zeros_like(base))
    close(found * 1e6, merged(ModelStockConfig(), inputs, base) - base, 1e-9)


@ROWS
def test_copies_are_the_model_and_what_did_not_move_the_base(per: Per) -> None:
    model, base = some(2)
    close(merged(ModelStockConfig(per=per), [model] * 3, base), model)
    assert torch.equal(merged(ModelStockConfig(per=per), [base, base], base), base)
    assert torch.equal(merged(ModelStockConfig(per=per), [model, base], base), base), "cosine with nothing is 0"


def test_opposite_deltas() -> None:
    delta, base = some(2, dtype=torch.float64)
    parents = [base + delta, base - 2 * delta]
    for clamp in (True, False):
        close(merged(ModelStockConfig(clamp=clamp), parents, base), base)
    apart = [base + delta, base - delta + 0.5 * delta.flip(0)]
    assert torch.equal(merged(ModelStockConfig(), apart, base), base)
    flat = formula([x.flatten() for x in apart], base.flatten(), False)
    close(merged(ModelStockConfig(clamp=False), apart, base), flat.view(5, 6))


@ROWS
def test_order_of_the_models_changes_nothing(per: Per) -> None:
    inputs, base = near(3, dtype=torch.float32)
    expected = merged(ModelStockConfig(per=per), inputs, base)
    for order in permutations(inputs):
        close(merged(ModelStockConfig(per=per), list(order), base), expected)


@ROWS
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (3, 1, 2)], ids=str)
def test_any_shape(shape: tuple[int, ...], per: Per) -> None:
    inputs = [torch.full(shape, float(number)) for number in (1, 2, 5)]
    close(merged(ModelStockConfig(per=per), inputs[1:], inputs[0]), torch.full(shape, 3.5))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"weights": [1.0, 2.0]}, "merge.weights is not used: the parents of merge=model_stock count alike"),
        ({"weight": 0.5}, "merge.weight is not used"),
    ],
    ids=["weights", "weight"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        ModelStockConfig(**values)
    assert "\n" not in str(error.value)
    assert (ModelStockConfig.least, ModelStockConfig.needs_base) == (2, True)
