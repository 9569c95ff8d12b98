"""What no layout of transformers can say is refused by its name, in every layout."""

from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.models.base import ModelConfig, Mup
from rlx.models.dense import DenseConfig
from rlx.models.gssm import GssmConfig
from rlx.models.layers.attention import Position
from rlx.models.layouts.base import layouts
from rlx.models.moe import MoeConfig

MODELS: dict[str, tuple[type[ModelConfig], dict[str, Any]]] = {
    "dense": (DenseConfig, {}),
    "moe": (MoeConfig, {}),
    "gssm": (GssmConfig, {"layers": ["gssm+none"]}),
}
ANY: list[dict[str, Any]] = [
    {"logit_cap": 30.0},
    {"mup": Mup.simple, "tie_embeddings": False},
    {"position": Position.coupled},
    {"position": Position.predicted},
    {"layers": ["attention.nope"]},
    {"layers": ["attention.local", "attention"], "window": 8},
]
OF_ATTENTION: list[dict[str, Any]] = [
    {"position": each} for each in (Position.nope, Position.alibi, Position.hard_alibi)
]
CASES = [(name, case) for name in MODELS for case in ANY] + [
    (name, case) for name in ("dense", "moe") for case in OF_ATTENTION
]


@pytest.mark.parametrize(("model", "settings"), CASES, ids=str)
def test_what_changes_logits_and_has_no_place_is_refused(model: str, settings: dict[str, Any]) -> None:
    cls, own = MODELS[model]
    (layout,) = [each for each in layouts() if each.option == model]
    layout.to_config(cls(**own), 9)
    name = next(iter(settings))
    with pytest.raises(ConfigError, match=f"{name}=.* has no place|a layer attention.* has no place"):
        layout.to_config(cls(**{**own, **settings}), 9)
