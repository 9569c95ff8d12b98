"""A process of its own for one run of a plan: how it is started, what it is bound to, and why it ended.

It is forked from a server (Python's forkserver). The server ends with the process that carries the plan out; a run
notices that too.
"""

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from rlx.errors import RlxError, RunError, Stopped
from rlx.plans.launchers.base import last_line_of
from rlx.plans.plan import PlannedRun
from rlx.runs.status import State, read_status

REQUESTS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Signals that ask to stop."""


@dataclass(slots=True)
class Worker:
    """A run's process, and what it occupies."""

    run: PlannedRun
    process: Any
    cores: list[int]
    gpu: str | None
    began: float = field(default_factory=time.monotonic)
    asked: float = -math.inf
    """When it was last asked to stop (monotonic seconds)."""


def start_worker(
    server: Any, command: Callable[[Sequence[str]], int], run: PlannedRun, log: Path, cores: list[int], gpu: str | None
) -> Worker:
    """Start a run's process.

    Args:
        server: multiprocessing's context.
        command: carries arguments of `rlx` out and returns the exit code; a function of a module.
        log: where it prints; added to.

    Raises:
        RunError: the server is gone.
    """
    process = server.Process(target=_child, args=(command, run.arguments, str(log), cores, gpu))
    try:
        with unheard():
            process.start()
    except (EOFError, OSError) as error:
        raise RunError(
            f"the server of processes ended ({type(error).__name__}); see above why, or take hydra/launcher=sequential"
        ) from error
    return Worker(run, process, cores, gpu)


@contextmanager
def unheard() -> Iterator[None]:
    """Processes that are started in the block hear no request to stop until they take it up.

    So the server that all are forked from does not die when a whole group of processes is asked to stop: the runs would
    go on, and this process would take them for dead.
    """
    resource_tracker.ensure_running()  # where it is started with the server, it lets SIGTERM through for both
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reason_of(run: PlannedRun, code: int | None, log: Path) -> str:
    """Why a run's process ended without finishing it, in a line."""
    status = read_status(run.run)
    if status.state in (State.failed, State.blocked) and status.reason:
        return status.reason
    if code == Stopped.exit_code:
        return "stopped on request"
    last = last_line_of(log)
    if code == RlxError.exit_code and last.startswith("rlx: "):
        return last.removeprefix("rlx: ")
    where = f"see {log}" if log.is_file() else "what it said is above"  # its process ended before it had a log
    return f"{_ending(code)}{f': {last}' if last else ''}; {where}"


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def _child(
    command: Callable[[Sequence[str]], int], arguments: Sequence[str], log: str, cores: list[int], gpu: str | None
) -> None:
    """The process of one run: bound to its cores and its GPU, with a log for a screen."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    with suppress(OSError, AttributeError):  # not every system lets a process choose
        os.sched_setaffinity(0, cores)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    sys.exit(command(arguments))


def _stop_when_alone() -> None:
    """A run whose plan's process was killed saves its state and stops: nobody could see it or cancel it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        print("the process that carries the plan out is gone", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
