"""What every merge method of whole weights promises, run over all options of `merge=` on small state dicts.

A method whose result is not one tensor for each of the first parent's (layers stacked, experts made of MLPs) is in
`OTHER_PLANS`, with the reason; its own test says what it promises instead.
"""

import zlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, MergeConfig
from rlx.options import discover

SETTINGS: dict[str, dict[str, Any]] = {}
"""Values that a method needs to be built here, where its defaults do not do."""
OTHER_PLANS: dict[str, str] = {
    "average": "its tensors are those of one run's checkpoints, which have to be named",
    "grow": "layers are added",
    "passthrough": "layers are those of its slices",
    "upcycle": "feed-forwards become experts",
}
"""Methods whose plan is not the identity, and why."""
SHAPES = {"embed.weight": (7, 4), "blocks.0.mixer.out.weight": (4, 4), "norm.weight": (4,)}
Weights = dict[str, Tensor]


def variants() -> list[Any]:
    found = {name: option.config for name, option in discover("merge").items() if name not in OTHER_PLANS}
    return [
        pytest.param(config(**SETTINGS.get(name, {})), id=name)
        for name, config in found.items()
        if not config.of_adapters
    ]


@pytest.fixture(params=variants())
def config(request: pytest.FixtureRequest) -> MergeConfig:
    return request.param


def parent(seed: int, dtype: torch.dtype = torch.float32) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in SHAPES.items()
    }


def counts(config: MergeConfig, *wanted: int) -> list[int]:
    """Those numbers of parents that the method takes."""
    return [n for n in wanted if n >= config.least and (config.most is None or n <= config.most)]


def shapes_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def statistics(config: MergeConfig, number: int, tensor: Tensor) -> Tensor | None:
    """Something of the kind that the stage gathers."""
    generator = torch.Generator().manual_seed(100 + number)
    if config.statistics == "fisher":
        return torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
    if config.statistics == "inputs" and tensor.dim() == 2:
        inputs = torch.randn(50, tensor.shape[1], generator=generator).to(tensor.dtype)
        return inputs.T @ inputs
    return None


def merged(config: MergeConfig, parents: list[Weights], base: Weights | None = None) -> Weights:
    """As the stage does it, with a base that all the parents' tests share."""
    method, base = config.build(), base or parent(99, next(iter(parents[0].values())).dtype)
    out = {}
    for output in method.plan([shapes_of(weights) for weights in parents]):
        given = Given(
            tensors=[parents[place.parent][place.name].clone() for place in output.sources],
            base=base[output.name].clone() if config.needs_base else None,
            statistics=[
                statistics(config, place.parent, parents[place.parent][place.name]) for place in output.sources
            ],
            norms=[1.0 + place.parent for place in output.sources],
            generator=torch.Generator().manual_seed(zlib.crc32(output.name.encode())),
        )
        out[output.name] = method.tensor(output, given)
        assert tuple(out[output.name].shape) == output.shape
    return out


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_copies_of_the_base_give_the_base(config: MergeConfig, count: int, dtype: torch.dtype) -> None:
    weights = parent(0, dtype)
    for number in counts(config, count):
        for name, tensor in merged(config, [weights] * number, base=weights).items():
            torch.testing.assert_close(tensor, weights[name], atol=1e-6, rtol=1e-6)


def test_keys_shapes_and_dtypes_are_kept(config: MergeConfig) -> None:
    for dtype in (torch.float32, torch.float64):
        for count in counts(config, 2, 3):
            first = parent(0, dtype)
            found = merged(config, [first, *(parent(seed, dtype) for seed in range(1, count))])
            assert list(found) == list(first), "in the first parent's order"
            for name, tensor in found.items():
                assert (tensor.shape, tensor.dtype) == (first[name].shape, dtype), name
                assert tensor.isfinite().all()


def test_same_parents_same_result(config: MergeConfig) -> None:
    (count,) = counts(config, 2)
    parents = [parent(seed) for seed in range(count)]
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
