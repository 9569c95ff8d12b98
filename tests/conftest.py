"""The door in this process, and runs small enough for any machine."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

COUNTDOWN = ("task=countdown", "task.numbers=3", "task.trace=operations", "scale=smoke")
SMALL = ("stage.batch_tokens=256", "stage.row_tokens=64", "stage.val_tokens=256", "optim=muon", "trainer.threads=1")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


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
        try:
            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
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
