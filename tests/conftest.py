"""The door in this process, and runs small enough for any machine."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COUNTDOWN = ("task=countdown", "task.numbers=3", "task.trace=operations", "scale=smoke")
SMALL = ("stage.batch_tokens=256", "stage.row_tokens=64", "stage.val_tokens=256", "optim=muon", "trainer.threads=1")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, then those with many: what begins last keeps one process busy alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    count = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -count[item.path]))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose most of their time where the cores are shared."""
    torch = sys.modules.get("torch")  # not imported for tests that do without it
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What runs keep for others is kept for this session alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def rlx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Give a command to the door, in an empty folder of the test's own: rlx("stage=pretrain", ...)."""
    from hydra.core.global_hydra import GlobalHydra

    from rlx.cli import main
    from rlx.signals import stop

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["rlx", *arguments])
        GlobalHydra.instance().clear()
        stop.signal = None
        capfd.readouterr()
        code = 0
        loggers = [logging.getLogger(), logging.getLogger("hydra")]
        kept = [(logger.handlers[:], logger.level) for logger in loggers]
        try:
            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:  # `--info` has Hydra write to this test's standard error, which is closed when the next one runs
            for logger, (handlers, level) in zip(loggers, kept, strict=True):
                logger.handlers[:] = handlers
                logger.setLevel(level)
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def hydra_started() -> Any:
    """Hydra as `compose` wants it, started once: finding and reading its files is most of the smallest runs."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from rlx.store import register

    GlobalHydra.instance().clear()
    register()
    initialize_config_module("rlx.conf", version_base="1.3")
    return GlobalHydra.instance().hydra


@pytest.fixture
def door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], hydra_started: Any
) -> Callable[..., Done]:
    """As `rlx`, several times faster, for one run a command: without flags, sweeps, flushes to the disk, and git."""
    from hydra.core.global_hydra import GlobalHydra

    from rlx.cli import _compose, _report
    from rlx.signals import stop

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # a process that dies loses nothing of what it wrote
    monkeypatch.setattr("rlx.runs.run.git_state", dict)  # four processes a run

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["rlx", *arguments])
        GlobalHydra.instance().clear()
        GlobalHydra.instance().initialize(hydra_started)
        stop.signal = None
        capfd.readouterr()
        code = 0
        try:
            config, context = _compose(arguments)
            config.stage.carry_out(config, context)
        except BaseException as error:
            code = _report(error)
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def only(pattern: str) -> Path:
    """The one path here that matches."""
    (found,) = Path().glob(pattern)
    return found


def command(*arguments: str) -> list[str]:
    """A command line that starts the door in a process of its own."""
    return [sys.executable, "-m", "rlx.cli", *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that imports this checkout."""
    root = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": root, "PYTHONWARNINGS": "ignore", **more}


def without_clock(rows: Sequence[dict]) -> list[dict]:
    """Metrics rows without the columns that tell the time."""
    return [{k: v for k, v in row.items() if k != "wall" and not k.startswith("timing_s/")} for row in rows]
