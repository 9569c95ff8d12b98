"""The base and the sum of deltas, against the formula and both tools."""

from itertools import permutations
from typing import Any

import pytest
import torch
from peft.utils import merge_utils

from rlx.errors import ConfigError
from rlx.merges.task_arithmetic import TaskArithmeticConfig
from tests.merges.tensors import close, merged, mergekit, some


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "as given"])
@pytest.mark.parametrize("scale", [1.0, 0.3, -1.0])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5], [0.5, -1.0, 3.0]], ids=["equal", "positive", "signed"])
def test_formula_and_mergekit(weights: list[float] | None, scale: float, normalize: bool) -> None:
    *inputs, base = some(4)
    given = weights or [1.0] * 3
    total = sum(w * (x.double() - base.double()) for w, x in zip(given, inputs, strict=True))
    expected = base.double() + scale * total / (sum(given) if normalize else 1.0)
    found = merged(TaskArithmeticConfig(weights=weights, scale=scale, normalize=normalize), inputs, base)
    close(found, expected)
    close(found, mergekit("task_arithmetic", inputs, base, weight=given, normalize=normalize, **{"lambda": scale}))


def test_it_is_pefts() -> None:
    *inputs, base = some(4)
    weights = [0.2, 0.5, 1.5]
    change = merge_utils.task_arithmetic([x - base for x in inputs], torch.tensor(weights))
    close(merged(TaskArithmeticConfig(weights=weights), inputs, base), base + change)


def test_one_model_can_be_taken_out() -> None:
    tuned, base = some(2)
    assert TaskArithmeticConfig.least == 1
    close(merged(TaskArithmeticConfig(weights=[-1.0]), [tuned], base), 2 * base - tuned)


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_one_hot_weights_give_that_model(chosen: int) -> None:
    *inputs, base = some(4)
    weights = [float(number == chosen) for number in range(3)]
    close(merged(TaskArithmeticConfig(weights=weights), inputs, base), inputs[chosen])


def test_scale_0_is_the_base_and_copies_are_the_model() -> None:
    *inputs, base = some(4)
    assert torch.equal(merged(TaskArithmeticConfig(scale=0.0), inputs, base), base)
    close(merged(TaskArithmeticConfig(normalize=True), [inputs[0]] * 3, base), inputs[0])


def test_order_of_the_models_changes_nothing() -> None:
    *inputs, base = some(4)
    weights = [0.2, 0.5, 0.3]
    expected = merged(TaskArithmeticConfig(weights=weights), inputs, base)
    for order in permutations(range(3)):
        config = TaskArithmeticConfig(weights=[weights[n] for n in order])
        close(merged(config, [inputs[n] for n in order], base), expected)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (3, 1, 2)], ids=str)
def test_any_shape(shape: tuple[int, ...]) -> None:
    inputs = [torch.full(shape, float(number)) for number in (1, 2, 5)]
    assert torch.equal(merged(TaskArithmeticConfig(), inputs[1:], inputs[0]), torch.full(shape, 6.0))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"weights": [1.0, -1.0], "normalize": True}, "sum to 0; change them, or set merge.normalize=false"),
        ({"weights": [1.0], "models": ["a", "b"]}, "has 1 numbers for 2 models"),
    ],
    ids=["cancel", "count"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        TaskArithmeticConfig(**values)
    assert "\n" not in str(error.value)
    assert TaskArithmeticConfig(weights=[1.0, -1.0]).shares(2) == [1.0, -1.0]
