"""What tests of stages share."""

from collections.abc import Callable
from typing import Any

import pytest

from rlx.stages.base import RunStageConfig, place_of


@pytest.fixture
def asked(door, monkeypatch) -> Callable[..., tuple[str, Any]]:
    """The directory and typed config of a command that is not carried out."""

    def ask(*arguments: str) -> tuple[str, Any]:
        seen = []
        with monkeypatch.context() as patch:
            patch.setattr(RunStageConfig, "carry_out", lambda _, *given: seen.append(given))
            done = door(*arguments)
        assert seen, done.err
        ((config, context),) = seen
        return str(place_of(config, context)), config

    return ask
