"""`model.layers`: which layers a model has, however they are written; `model=hybrid` has the settings of all."""

from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.models.base import kinds
from rlx.models.dense import DenseConfig
from rlx.models.hybrid import HybridConfig
from rlx.models.layers.attention import Position

VARIANTS: list[dict[str, Any]] = [
    {"layers": ["attention.local", "attention"], "window": 5},
    {"layers": ["attention", "attention+none", "attention.nope"]},
    {"layers": ["iha.local", "attention", "iha+none"], "window": 5},
    {"layers": ["gssm+none", "attention.local", "delta"], "window": 7},
    {"layers": ["attention+experts", "mlp", "attention.nope+experts"], "n_experts": 4},
    {"layers": ["attention.alibi.local", "attention.hard_alibi.local", "attention"], "window": 4, "n_kv_heads": 2},
]
"""Settings that the contract of mixers is tested with."""


def names(**settings: Any) -> list[str]:
    return [layer.name for layer in HybridConfig(**settings).pattern()]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, ["attention+mlp"] * 5),
        (["attention+none"], ["attention+none"] * 5),
        (["attention*2", "attention.nope"], [*["attention+mlp"] * 2, "attention.nope+mlp", *["attention+mlp"] * 2]),
        (["mlp", " attention.local + none "], ["attention+mlp", "attention.local+none"] * 2 + ["attention+mlp"]),
    ],
    ids=["left out", "one", "counted", "channel mixer alone, spaces"],
)  # fmt: skip
def test_layers_are_repeated(layers: list[str] | None, expected: list[str]) -> None:
    window = 8 if "local" in str(layers) else None
    assert names(layers=layers, n_layers=5, window=window) == expected


def test_equal_models_are_equal_configs() -> None:
    """So that they are one run."""
    assert DenseConfig(layers=["attention*3"]) == DenseConfig(layers=["attention+mlp"]) == DenseConfig()
    long, short = ["attention.nope", "attention", "attention.nope", "mlp"], ["attention.nope", "attention"]
    assert DenseConfig(layers=long) == DenseConfig(layers=short)
    assert DenseConfig(layers=short).layers == ["attention.nope+mlp", "attention+mlp"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layers": ["atention"]}, "names atention, which is no mixer; did you mean attention"),
        ({"layers": ["attention+attention"]}, "names attention, which is no channel mixer"),
        ({"layers": ["mlp+mlp"]}, "names mlp, which is no token mixer"),
        ({"layers": ["attention.lokal"]}, "attention has no .lokal; did you mean local"),
        ({"layers": ["[attention,mlp]*4"]}, "expected <mixer>"),
        ({"layers": ["attention*0"]}, "expected <mixer>"),
        ({"layers": []}, "is empty"),
        ({"layers": ["attention*3", "attention.nope"], "n_layers": 2}, "names 4 layers, model.n_layers=2"),
        ({"layers": ["attention.local"]}, "model.window=64"),
        ({"window": 5}, "model.window=5 is what .local layers attend, and there are none"),
        ({"hard_heads": 2}, "model.hard_heads=2 is for hard_alibi layers"),
        ({"pseudo_heads": 4}, "model.pseudo_heads=4 is for none of the layers, which are attention.mlp; leave it out"),
        ({"layers": ["gssm"], "position": Position.alibi}, "model.position=alibi is for none of the layers"),
        ({"layers": ["gssm+none"], "n_heads": 8}, "model.n_heads=8 is for none of the layers, which are gssm.none"),
        ({"layers": ["attention.local"], "window": 0}, "model.window=0 must be at least 1"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_wrong_layers_are_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        HybridConfig(**settings)
    assert "\n" not in str(error.value)


def test_ids_are_embedded_whatever_the_layers_are() -> None:
    assert HybridConfig(layers=["gssm"], position=Position.coupled, max_position=9).largest_place() == 9


def test_depth_gives_heads_to_layers_that_have_them() -> None:
    assert HybridConfig(layers=["gssm"], depth=2) == HybridConfig(layers=["gssm"], n_layers=2, d_model=128)
    assert HybridConfig(depth=2) == HybridConfig(n_layers=2, d_model=128, n_heads=2)


def test_it_has_the_settings_of_all_mixers() -> None:
    for kind in kinds().values():
        assert isinstance(HybridConfig(), kind.fields)
        assert HybridConfig.tensor_free >= kind.fields.tensor_free


def test_positions_of_layers() -> None:
    """A word behind a layer's name goes before `model.position`."""
    found = HybridConfig(layers=["attention", "attention.nope", "attention.alibi"], position=Position.hard_alibi)
    assert [found.position_of(layer).value for layer in found.pattern()[:3]] == ["hard_alibi", "nope", "alibi"]
    coupled = HybridConfig(layers=["attention", "attention.alibi"], position=Position.coupled)
    assert [coupled.position_of(layer).value for layer in coupled.pattern()[:2]] == ["nope", "alibi"]
    assert (
        HybridConfig(n_heads=16).hard_head_count() == 8
        and HybridConfig(position=Position.hard_alibi, hard_heads=3).hard_head_count() == 3
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layers": ["attention.alibi.nope"]}, "it can be one of alibi, nope"),
        ({"position": Position.hard_alibi, "hard_heads": 5}, "model.hard_heads=5 must be 1 to model.n_heads=4"),
        ({"position": Position.hard_alibi, "n_heads": 1}, "model.hard_heads=0 must be 1 to model.n_heads=1"),
        (
            {"position": Position.alibi, "layers": ["attention", "iha"]},
            "model.position=alibi is not for iha layers; take",
        ),
        ({"max_position": 0}, "model.max_position=0 must be at least 1"),
        ({"position_weight": -1.0}, "model.position_weight=-1.0 must be at least 0"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_wrong_positions_are_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        HybridConfig(**settings)
    assert "\n" not in str(error.value)
