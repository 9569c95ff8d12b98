"""merge=average: weights from the derivation in float64, and a run of gradient steps that they stand for."""

from math import cos, pi, sqrt
from typing import Any

import pytest
import torch

from rlx.errors import ConfigError
from rlx.merges.average import AverageConfig, Decay, shares_of
from rlx.merges.base import Given, Output, Place

RATES = {
    Decay.linear: lambda u: 1 - u,
    Decay.cosine: lambda u: 0.5 + 0.5 * cos(pi * u),
    Decay.sqrt: lambda u: 1 - sqrt(u),
}
STEPS = {"even": [100, 200, 300, 400, 500], "uneven": [10, 20, 50, 130, 500], "two": [3, 9], "zero": [0, 5, 10]}


def mean(steps: list[int], tensors: list[torch.Tensor], **settings: Any) -> torch.Tensor:
    output = Output("w", tuple(tensors[0].shape), tuple(Place(n, "w") for n in range(len(tensors))))
    return AverageConfig(steps=steps, **settings).build().tensor(output, Given(tensors=tensors))


def some(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 6, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_equal_is_the_plain_mean(steps: list[int]) -> None:
    tensors = some(len(steps))
    expected = torch.stack(tensors).double().mean(0)
    torch.testing.assert_close(mean(steps, tensors).double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_exponential_is_the_moving_average(steps: list[int], factor: float) -> None:
    tensors = some(len(steps))
    average = tensors[0].double()
    for tensor in tensors[1:]:
        average = factor * average + (1 - factor) * tensor.double()
    found = mean(steps, tensors, decay=Decay.exponential, factor=factor)
    torch.testing.assert_close(found.double(), average, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("decay", RATES, ids=lambda decay: decay.name)
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_a_decay_is_training_on_with_less_of_each_update(decay: Decay, steps: list[int]) -> None:
    tensors, count = some(len(steps)), len(steps)
    whole = (steps[-1] - steps[0]) * count / (count - 1)
    expected = tensors[0].double()
    for before, after, step in zip(tensors, tensors[1:], steps[1:], strict=False):
        rate = RATES[decay]((step - steps[0]) / whole)
        expected = expected + rate * (after.double() - before.double())
    torch.testing.assert_close(mean(steps, tensors, decay=decay).double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("decay", Decay, ids=lambda decay: decay.name)
@pytest.mark.parametrize("steps", [*STEPS.values(), [7]], ids=[*STEPS, "one"])
def test_shares_are_those_of_a_mean(decay: Decay, steps: list[int]) -> None:
    shares = shares_of(steps, decay, 0.7)
    assert len(shares) == len(steps) and min(shares) >= 0 and sum(shares) == pytest.approx(1)
    (same,) = {round(value, 6) for value in mean(steps, [torch.ones(3)] * len(steps), decay=decay).tolist()}
    assert same == 1


def test_linear_of_even_steps_is_the_plain_mean() -> None:
    assert shares_of([5, 10, 15, 20], Decay.linear, 0.9) == pytest.approx([0.25] * 4)
    uneven = shares_of([0, 30, 40, 60], Decay.linear, 0.9)
    assert uneven == pytest.approx([30 / 80, 10 / 80, 20 / 80, 20 / 80]), "each by the interval that follows it"


@pytest.mark.parametrize("decay", RATES, ids=lambda decay: decay.name)
def test_it_is_gradient_descent_with_a_falling_rate(decay: Decay) -> None:
    """Where gradients do not depend on the weights, a decay of the rate and the merge end in the same place."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    path = torch.cat([torch.zeros(1, 3).double(), -0.1 * gradients.cumsum(0)])
    steps = list(range(0, 41, 10))
    decayed = path[0].clone()
    for step, gradient in enumerate(gradients):
        end = (step // 10 + 1) / len(steps)  # where its interval ends, in the whole decay
        decayed -= 0.1 * RATES[decay](end) * gradient
    torch.testing.assert_close(mean(steps, [path[step] for step in steps], decay=decay), decayed)


def test_a_run_is_spelled_out_by_its_checkpoints() -> None:
    there = [100, 200, 300, 400]
    config = AverageConfig(models=["runs/a/seed0"], last=2, decay=Decay.cosine)
    found = config.spelled(there)
    assert found.models == ["runs/a/seed0@300", "runs/a/seed0@400"] and found.steps == [300, 400]
    assert found.decay is Decay.cosine and config.models == ["runs/a/seed0"] and config.steps is None
    named = AverageConfig(models=["a"], steps=[100, 400]).spelled(there)
    assert named.models == ["a@100", "a@400"]
    assert (config.count(), found.count(), named.count()) == (2, 2, 2)
    assert AverageConfig(models=["a@b/seed0"], last=1).spelled(there).models == ["a@b/seed0@400"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"models": ["a"], "steps": [100, 150, 200]}, "a has no checkpoint at step 150; there are steps 100, 200"),
        ({"models": ["a"], "last": 3}, "a has fewer than merge.last=3; there are steps 100, 200"),
        ({"models": ["a@200"], "last": 1}, "takes a run and its steps from merge.steps or merge.last, got a@200"),
        ({"models": ["hf:a"], "last": 1}, "got hf:a"),
    ],
    ids=["step", "last", "checkpoint", "folder"],
)
def test_what_is_not_there_is_one_line(values: dict[str, Any], says: str) -> None:
    config = AverageConfig(**values)
    with pytest.raises(ConfigError, match=says) as error:
        config.spelled([100, 200])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "neither of them is given"),
        ({"steps": [1], "last": 2}, "both of them is given"),
        ({"last": 0}, "merge.last=0 must be at least 1"),
        ({"steps": []}, r"merge.steps=\[\] must be steps in order"),
        ({"steps": [2, 1]}, "must be steps in order, each once"),
        ({"steps": [1, 1]}, "must be steps in order, each once"),
        ({"steps": [-1, 1]}, "must be steps in order"),
        ({"last": 2, "factor": 1.0}, "merge.factor=1.0 must be at least 0 and below 1"),
        ({"last": 2, "weights": [1.0], "models": ["a"]}, "merge.weights says nothing to merge=average"),
    ],
    ids=["neither", "both", "last", "none", "order", "twice", "negative", "factor", "weights"],
)
def test_wrong_values_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        AverageConfig(**values)
    assert "\n" not in str(error.value)
