"""What every merge method promises, run over all options of `merge=` on small state dicts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import MergeConfig
from rlx.options import discover

SETTINGS: dict[str, dict[str, Any]] = {}
"""Values that a method needs to be built here, where its defaults do not do."""
SHAPES = {"embed.weight": (7, 4), "blocks.0.mixer.out.weight": (4, 4), "norm.weight": (4,)}
Weights = dict[str, Tensor]


def variants() -> list[Any]:
    return [
        pytest.param(option.config(**SETTINGS.get(name, {})), id=name) for name, option in discover("merge").items()
    ]


@pytest.fixture(params=variants())
def config(request: pytest.FixtureRequest) -> MergeConfig:
    return request.param


def parent(seed: int, dtype: torch.dtype = torch.float32) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def shapes_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def merged(config: MergeConfig, parents: list[Weights]) -> Weights:
    method = config.build()
    out = {}
    for output in method.plan([shapes_of(weights) for weights in parents]):
        inputs = [weights[name] for weights, name in zip(parents, output.sources, strict=True)]
        out[output.name] = method.tensor(output, inputs)
    return out


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["fp32", "fp64", "bf16"])
def test_copies_give_the_copy(config: MergeConfig, count: int, dtype: torch.dtype) -> None:
    weights = parent(0, dtype)
    exact = count in (1, 2, 4) or dtype is torch.bfloat16  # 1/2 and 1/4 are exact; bfloat16 rounds the error away
    for name, tensor in merged(config, [weights] * count).items():
        if exact:
            assert torch.equal(tensor, weights[name]), name
        torch.testing.assert_close(tensor, weights[name], atol=1e-7, rtol=3e-7)


def test_keys_shapes_and_dtypes_are_kept(config: MergeConfig) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        first = parent(0, dtype)
        found = merged(config, [first, parent(1, dtype), parent(2, dtype)])
        assert list(found) == list(first), "in the first parent's order"
        for name, tensor in found.items():
            assert (tensor.shape, tensor.dtype) == (first[name].shape, dtype), name
            assert tensor.isfinite().all()


def test_parents_are_left_alone(config: MergeConfig) -> None:
    parents = [parent(seed) for seed in range(3)]
    found = merged(config, parents)
    for seed, weights in enumerate(parents):
        for name, tensor in parent(seed).items():
            assert torch.equal(weights[name], tensor), name
            assert found[name].data_ptr() != weights[name].data_ptr()


def test_same_parents_same_result(config: MergeConfig) -> None:
    parents = [parent(seed) for seed in range(3)]
    again = merged(config, parents)
    assert all(torch.equal(tensor, again[name]) for name, tensor in merged(config, parents).items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"norm.weight": None}, "parent 2 of the merge has no tensor norm.weight"),
        ({"more.weight": torch.zeros(1)}, "parent 1 of the merge has no tensor more.weight"),
        ({"norm.weight": torch.zeros(5)}, r"norm.weight is \(4,\) in parent 1 and \(5,\) in parent 2"),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_a_mismatch_names_the_tensor(config: MergeConfig, change: dict[str, Any], says: str) -> None:
    other = {name: tensor for name, tensor in {**parent(1), **change}.items() if tensor is not None}
    with pytest.raises(ConfigError, match=says) as error:
        merged(config, [parent(0), other])
    assert "\n" not in str(error.value)


def test_models_may_be_named(config: MergeConfig) -> None:
    named = replace(config, models=["runs/a", "runs/b"])
    assert merged(named, [parent(0), parent(1)]).keys() == SHAPES.keys()
