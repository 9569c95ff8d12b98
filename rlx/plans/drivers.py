"""Processes that carry a plan out on this machine: who they are, what is yet to come, and asking them to stop.

Each has a folder `<plan>/drivers/<host>-<pid>` with its lease and the list of its runs, to which it adds those that it
has come to: so `status` tells a run that will still be made from one that nobody makes.
"""

import os
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rlx.errors import ConfigError, RunError
from rlx.plans.plan import Plan, PlannedRun
from rlx.plans.submissions import key_of
from rlx.runs.files import DRIVERS, TO_COME
from rlx.runs.lease import Holder, Lease, holder_of, is_held
from rlx.runs.processes import namespace

COMES, CAME = "+", "-"
"""How a line begins of a run that is to come, and of one that was come to."""


class Driver:
    """This process, as the others see it."""

    def __init__(self, folder: Path, runs: Sequence[PlannedRun]) -> None:
        self.path = folder / TO_COME
        self.path.write_text("".join(f"{COMES} {key_of(run.run)}\n" for run in runs))

    def comes_to(self, run: PlannedRun) -> None:
        """Say that a run was started, or need not be."""
        self._say(CAME, run)

    def puts_off(self, run: PlannedRun) -> None:
        """Say that a run which was come to is to come again."""
        self._say(COMES, run)

    def _say(self, mark: str, run: PlannedRun) -> None:
        with suppress(OSError), self.path.open("a") as file:  # a list for people ends no plan
            file.write(f"{mark} {key_of(run.run)}\n")


@contextmanager
def driving(plan: Plan) -> Iterator[Driver]:
    """Be known, while the block works, as a process that carries the plan out; several may, for different runs."""
    for folder in (plan.folder / DRIVERS).glob("*"):
        if holder_of(folder) is not None and not is_held(folder):  # of a process that was killed
            shutil.rmtree(folder, ignore_errors=True)
    folder = plan.folder / DRIVERS / f"{socket.gethostname()}-{os.getpid()}"
    with Lease.acquire(folder):
        try:
            yield Driver(folder, plan.runs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def drivers(plan: Path) -> list[Holder]:
    """The processes that carry the plan out now."""
    return [holder for holder in map(holder_of, _held(plan)) if holder is not None]


def to_come(plan: Path) -> set[str]:
    """Runs, as `key_of` their directories, that these processes have yet to come to."""
    found: set[str] = set()
    for folder in _held(plan):
        coming: set[str] = set()
        with suppress(OSError):  # it has just ended
            for line in (folder / TO_COME).read_text().splitlines():
                mark, _, run = line.partition(" ")
                (coming.add if mark == COMES else coming.discard)(run)
        found |= coming
    return found


def _held(plan: Path) -> list[Path]:
    return [folder for folder in sorted((plan / DRIVERS).glob("*")) if is_held(folder)]


def ask_to_stop(plan: Path) -> list[Holder]:
    """Send SIGTERM to all of them on this host, and return them.

    Raises:
        ConfigError: one is on another host, or in another container, where its number is another process's.
        RunError: one is another user's.
    """
    found = drivers(plan)
    for holder in found:
        if holder.host != socket.gethostname():
            raise ConfigError(f"the plan is carried out by {holder}; type the command there")
        if holder.namespace != namespace():
            raise ConfigError(f"the plan is carried out by {holder}, in another container; type the command there")
    for holder in found:
        try:
            os.kill(holder.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass  # it has just ended
        except PermissionError:
            raise RunError(f"{holder} is another user's process, and is not stopped; ask them to") from None
    return found
