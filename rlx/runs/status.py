"""The `status` file: how far a run got, in one JSON object, for people, plans and launchers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from rlx.runs.files import STATUS, StrPath, explained, write_json
from rlx.runs.lease import is_held


class State(Enum):
    """Where a run stands. The last two are found, never written."""

    running = "running"
    finished = "finished"
    stopped = "stopped"
    """Asked to stop, and saved what it needs to go on."""
    failed = "failed"
    blocked = "blocked"
    """A parent is not finished."""
    absent = "absent"
    """Nothing was ever started here."""
    interrupted = "interrupted"
    """Says running, and no live process holds its lease."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the file says."""

    state: State
    reason: str = ""
    """One line for people; empty when there is nothing to say."""
    extra: Mapping[str, Any] = field(default_factory=dict)


def write_status(folder: StrPath, state: State, reason: str = "", **extra: Any) -> None:
    """Replace the status of a run directory; `extra` are more JSON values (step, attempt ...).

    Raises:
        ValueError: a state that is found, never written.
        RunError: the disk is full or cannot be written.
    """
    if state in (State.absent, State.interrupted):
        raise ValueError(f"{state.value} is found, never written")
    write_json(Path(folder) / STATUS, {"state": state.value, "reason": reason, **extra})


def read_status(folder: StrPath) -> Status:
    """What the file says: absent without one, failed with a reason when it is damaged.

    Raises:
        RunError: the path cannot be one (its name is too long, say).
    """
    path = Path(folder) / STATUS
    with explained(path):
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return Status(State.absent)
    try:
        read = json.loads(text)
        state, reason = State(read.pop("state")), str(read.pop("reason", ""))
        return Status(state, reason, read)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return Status(State.failed, f"{path} is damaged")


def state_of(folder: StrPath) -> State:
    """Where the run stands now: `running` counts as `interrupted` when no live process holds the lease."""
    state = read_status(folder).state
    if state is not State.running or is_held(folder):
        return state
    again = read_status(folder).state  # it may have ended between the two looks
    return State.interrupted if again is State.running else again
