"""A Slurm of the tests' own, where there is one; and the commands that look after plans."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rlx.plans.__main__ import main
from rlx.plans.plan import Plan
from rlx.signals import stop
from tests.conftest import Done
from tests.plans.cluster import Cluster, missing
from tests.plans.made import of_all_states


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node that all tests share; it starts in half a second."""
    if reason := missing():
        pytest.skip(reason)
    with Cluster() as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the test's own, as the current one."""
    monkeypatch.chdir(tmp_path)
    stop.signal = None
    return tmp_path


@pytest.fixture
def plans(here: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Give a command of `python -m rlx.plans`: plans("status", "runs/plans/made")."""

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        code = main(arguments)
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def mixed(here: Path) -> Iterator[Plan]:
    """A run of each state: finished, running, failed, blocked, interrupted, stopped, absent."""
    with ExitStack() as stack:
        yield of_all_states(stack)
