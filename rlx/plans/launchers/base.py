"""What every launcher has: fields, and how it carries a plan out."""

import os
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from rlx.errors import BusyError, ConfigError
from rlx.options import option_of, plain_value
from rlx.plans.plan import Plan, PlannedRun
from rlx.runs.files import LOGS
from rlx.runs.lease import Lease, holder_of, is_held
from rlx.runs.status import State, state_of, write_status

_UNSEEN = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?|[\x00-\x1f\x7f-\x9f]")
"""Escape sequences (colours, titles), and other characters of control."""
END = 1 << 13
"""Bytes of a log that are looked at, from its end."""


@dataclass(slots=True, kw_only=True)
class Hands:
    """What carries one run out; the door and `python -m rlx.plans` give it."""

    execute: Callable[[PlannedRun, str], None]
    """Makes a run in this process; the text is what its progress lines begin with. Raises what the run raises."""
    command: Callable[[Sequence[str]], int]
    """Makes what arguments of `rlx` say, in another process, and returns the exit code; a function of a module."""
    stop: Callable[[], bool]
    """True when this process was asked to stop."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a plan."""

    problems: dict[str, str] = field(default_factory=dict)
    """Run directory → why it did not finish, in a line."""
    ended: bool = True
    """False: the runs go on elsewhere."""


@dataclass(kw_only=True, slots=True)
class LauncherConfig:
    """Fields that every launcher has."""

    _target_: str = "hydra_plugins.rlx.PlanLauncher"
    elsewhere: ClassVar[bool] = False
    """Runs go on when this process has ended, unless it is told to wait."""

    def check(self, runs: Sequence[PlannedRun]) -> None:
        """Raise RlxError where the runs cannot be carried out here; called before anything is written."""

    def carry_out(self, plan: Plan, hands: Hands, *, wait: bool = False) -> Outcome:
        """Make the runs of a plan that are not finished, parents first.

        Args:
            wait: return when all have ended, even where they are made elsewhere.

        Raises:
            Stopped: this process was asked to stop.
            RunError: the plan cannot be launched here.
        """
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What plan.json says of it."""
        values = {each.name: plain_value(getattr(self, each.name)) for each in fields(self) if each.name[0] != "_"}
        return {"option": option_of(self).name.rpartition("/")[2], **values}

    @classmethod
    def check_least(cls, least: int, **values: int | None) -> None:
        """Raise ConfigError for a value that is given and smaller."""
        for name, value in values.items():
            if value is not None and value < least:
                raise ConfigError(f"hydra.launcher.{name}={value} must be at least {least}")


def unfinished_parent(run: PlannedRun) -> str | None:
    """The first parent that is not finished, with its state, or None."""
    for parent in run.parents:
        state = state_of(parent)
        if state is not State.finished:
            return f"{parent} is {'not started' if state is State.absent else state.value}"
    return None


def log_of(run: PlannedRun, plan: Path) -> Path:
    """Where the run's own process prints, when it is made on this machine."""
    return plan / LOGS / f"{Path(run.run).parent.name}-seed{run.seed}.log"


def shown(line: str) -> str:
    """A line as a terminal leaves it: what stood before a carriage return is overwritten, and nothing is in colour."""
    return _UNSEEN.sub("", line.rstrip().rpartition("\r")[2].replace("\t", " ")).strip()


def last_line_of(log: Path) -> str:
    """The last line of a log that is not blank, as `shown`; empty where there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - END))
            printed = file.read().decode(errors="replace")
    except OSError:
        return ""
    return next(filter(None, map(shown, reversed(printed.split("\n")))), "")


def made_elsewhere(run: str) -> str | None:
    """Which process makes a run now, or None; asked of runs that this process is not at work on."""
    return str(holder_of(run)) if is_held(run) else None


def may_finish(run: PlannedRun, coming: Container[str]) -> bool:
    """True while each unfinished parent is one that is still to come, or in the making by another process."""
    return all(
        parent in coming or state_of(parent) is State.finished or made_elsewhere(parent) is not None
        for parent in run.parents
    )


def block(run: PlannedRun, parent: str) -> str:
    """Write that a run waits for its parent, unless another process works on it; returns the reason."""
    reason = f"blocked: {parent}"
    try:
        with Lease.acquire(run.run):
            if state_of(run.run) is not State.finished:
                write_status(run.run, State.blocked, f"{parent}, and this run begins from it")
    except BusyError:
        pass
    return reason
