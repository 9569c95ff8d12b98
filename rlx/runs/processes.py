"""Is a process still there: by its number and start time, so that a reused number is not taken for it."""

import os
from pathlib import Path


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the third (state) on; None without such a process or without /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the second field is the program's name, which may hold spaces and brackets


def start_time(pid: int) -> str:
    """When the process began, in clock ticks since boot (field 22 of its stat); empty where that is not known."""
    fields = _stat(pid)
    return fields[19] if fields and len(fields) > 19 else ""


def is_alive(pid: int, started: str = "") -> bool:
    """True when the process runs on this host (and began at `started`, where both times are known).

    A zombie, killed but not yet reaped by its parent, is dead: it will write nothing more.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # someone else's process, and there
    fields = _stat(pid)
    if fields and fields[0] in "ZX":
        return False
    began = start_time(pid)
    return not (started and began) or started == began


def namespace() -> str:
    """Name of this process's pid namespace: numbers of two containers on one host do not compare; empty if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
