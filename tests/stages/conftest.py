"""A door that composes a command once: what takes longest in the smallest runs is Hydra."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlx.stages.base import RunStageConfig, place_of
from tests.conftest import Done


@pytest.fixture
def door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], composed: dict
) -> Callable[..., Done]:
    """As the fixture `rlx`; a command given again, in this test or another, is carried out without composing it."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from rlx.cli import _compose, _report
    from rlx.signals import stop
    from rlx.store import register

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # a process that dies loses nothing of what it wrote
    monkeypatch.setattr("rlx.runs.run.git_state", dict)  # four processes a run

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["rlx", *arguments])
        stop.signal = None
        capfd.readouterr()
        code = 0
        try:
            if arguments not in composed:
                GlobalHydra.instance().clear()
                register()
                with initialize_config_module("rlx.conf", version_base="1.3"):
                    composed[arguments] = _compose(list(arguments))
            config, context = composed[arguments]
            config = copy.deepcopy(config)
            config.stage.carry_out(config, context)
        except BaseException as error:
            code = _report(error)
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def composed() -> dict:
    """Configs and contexts by command."""
    return {}


@pytest.fixture
def asked(rlx, monkeypatch) -> Callable[..., tuple[str, Any]]:
    """The directory and typed config of a command that is not carried out."""

    def ask(*arguments: str) -> tuple[str, Any]:
        seen = []
        with monkeypatch.context() as patch:
            patch.setattr(RunStageConfig, "carry_out", lambda _, *given: seen.append(given))
            done = rlx(*arguments)
        assert seen, done.err
        ((config, context),) = seen
        return str(place_of(config, context)), config

    return ask
