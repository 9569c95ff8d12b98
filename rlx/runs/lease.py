"""The lease on a run directory: one process writes it at a time.

`lease.json` says who holds it; its modification time is the heartbeat, renewed by a thread. It is written under
another name and linked to its own, which fails where there is one, so it is never seen half written. There is no flock
(it does not hold on many cluster file systems). A lease is broken, with a notice, when

1. its process is gone (same host and pid namespace: the number and the start time are compared), or
2. it belongs to this very Slurm job, from another host or container (Slurm ended the old process before it requeued
   the job; a process that still runs on this host is not taken over, whatever its job), or
3. it is held elsewhere and its heartbeat is older than `STALE_S`, by the file system's own clock.

To break it, a process first takes `.lease-break-<token>`, which only one can, looks again, and renames the stale file
away. So a slow process that judged an old lease cannot remove the new one made in the meantime. The marker is a lease
too: that of a process that died with it is broken in the same way.
"""

import errno
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rlx.errors import BusyError, RunError
from rlx.runs.files import LEASE, StrPath, explained, temporary_path
from rlx.runs.processes import is_alive, namespace, start_time

HEARTBEAT_S = 15.0
"""Seconds between two renewals."""
STALE_S = 120.0
"""Seconds without a renewal after which a lease held elsewhere is taken for dead."""
PATIENCE_S = 5.0
"""Seconds to wait for another process that is just taking or breaking the lease."""
_BREAK = ".lease-break-"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say."""
_TEXTS = ("host", "started", "namespace", "job", "token")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease; all empty when its file cannot be read (its owner is just writing it, or died doing so)."""

    host: str = ""
    pid: int = 0
    started: str = ""
    """Start of the process in clock ticks since boot; empty where /proc is missing."""
    namespace: str = ""
    """The pid namespace; numbers of two containers do not compare."""
    job: str = ""
    """SLURM_JOB_ID, or empty."""
    token: str = ""
    """Unique to this lease."""

    @classmethod
    def here(cls) -> "Holder":
        """This process, with a new token."""
        pid = os.getpid()
        job = os.environ.get("SLURM_JOB_ID", "")
        return cls(socket.gethostname(), pid, start_time(pid), namespace(), job, uuid.uuid4().hex)

    def __str__(self) -> str:
        job = f" (Slurm job {self.job})" if self.job else ""
        return f"pid {self.pid} on {self.host}{job}"


class Lease:
    """A lease held by this process; use as a context manager, or call `release`."""

    def __init__(self, path: Path, holder: Holder, interval: float) -> None:
        self._path = path
        self._holder = holder
        self._lost = threading.Event()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(interval,), name="rlx-lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls, folder: StrPath, *, notice: Callable[[str], None] | None = None, interval: float = HEARTBEAT_S
    ) -> "Lease":
        """Take the lease of a run directory, which is made if it is not there.

        Args:
            notice: given one line when a stale lease is broken; standard error by default.
            interval: seconds between heartbeats.

        Raises:
            BusyError: another process holds it; the line says which and how to see it.
            RunError: the folder cannot be written.
        """
        path, mine = Path(folder) / LEASE, Holder.here()
        deadline = time.monotonic() + PATIENCE_S
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            while not _create(path, mine):
                if _make_way(path, mine, notice or _to_stderr):
                    continue
                if time.monotonic() > deadline:
                    raise BusyError(f"{path.parent} is being taken by another process; try again in a minute")
                time.sleep(0.05)
            _sweep(path.parent)
        return cls(path, mine, interval)

    @property
    def lost(self) -> bool:
        """True once the heartbeat found the file replaced or gone; costs nothing, at most `interval` seconds old."""
        return self._lost.is_set()

    def is_ours(self) -> bool:
        """Read the file now: True while no other process took the lease over."""
        return self._touch() and not self.lost

    def ensure_held(self) -> None:
        """Read the file now (before a checkpoint, say).

        Raises:
            RunError: the lease is another's now, or gone; this process must write no more.
        """
        if not self.is_ours():
            found = _look(self._path)
            owner = f"taken over by {found[0]}" if found and found[0].pid else "removed"
            raise RunError(f"the lease of {self._path.parent} was {owner}; this process stops without writing more")

    def release(self) -> None:
        """Stop the heartbeat and remove the file, if it is still ours. Calling it again does nothing."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        found = _look(self._path)
        if found is not None and found[0].token == self._holder.token:
            with suppress(OSError):
                self._path.unlink()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _renew(self, interval: float) -> None:
        while not self._released.wait(interval):
            if not self._touch():
                return

    def _touch(self) -> bool:
        """Renew the heartbeat of our own file; False when it is no longer ours. A disk that hangs is not a loss."""
        try:
            with open(self._path, "rb") as file:
                if _parse(file.read()).token == self._holder.token:
                    os.utime(file.fileno() if os.utime in os.supports_fd else self._path)
                    return True
        except FileNotFoundError:
            pass
        except OSError:
            return True
        self._lost.set()
        return False


def is_held(folder: StrPath) -> bool:
    """True when a run directory has a lease that would not be broken; reads only, by this host's clock."""
    found = _look(Path(folder) / LEASE)
    if found is None:
        return False
    holder, renewed = found
    return _reason_to_break(holder, time.time() - renewed, Holder.here(), own_job=False) is None


def holder_of(folder: StrPath) -> Holder | None:
    """Who the lease file names, dead or alive; None without a file."""
    found = _look(Path(folder) / LEASE)
    return found[0] if found else None


def _create(path: Path, mine: Holder) -> bool:
    """Make the file with its content; False when there is one."""
    data = json.dumps(asdict(mine)).encode()
    written = temporary_path(path.with_name(f"{path.name}-{uuid.uuid4().hex}"))
    _write_new(written, data)
    try:
        os.link(written, path)
        return True
    except (FileExistsError, FileNotFoundError):  # ours is not found where the holder, on another host, tidied up
        return _links(written) > 1  # NFS repeats a request whose answer was lost, and then finds our own file
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    finally:
        with suppress(OSError):
            written.unlink()
    try:
        _write_new(path, data)
        return True
    except FileExistsError:
        return False


def _links(path: Path) -> int:
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that was not there, and flush it; none is left where that fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def _make_way(path: Path, mine: Holder, notice: Callable[[str], None]) -> bool:
    """Break the lease if it may be broken. True: try to create it now; False: another is at it, wait a little."""
    found = _look(path)
    if found is None:
        return True
    holder, renewed = found
    age = _file_system_now(path.parent) - renewed
    reason = _reason_to_break(holder, age, mine)
    if reason is None and holder.token:
        raise BusyError(_busy(path.parent, holder, age, mine))
    if reason is None or not _break(path, found):
        return False
    notice(f"{path.parent}: breaking the lease of {holder}: {reason}")
    return True


def _reason_to_break(holder: Holder, age: float, mine: Holder, own_job: bool = True) -> str | None:
    """Why this lease may be broken, or None while it must be respected. `age` is the heartbeat's, in seconds."""
    silent = f"no heartbeat for {age:.0f} s" if age > STALE_S else None
    if not holder.token:
        return silent
    if (holder.host, holder.namespace) == (mine.host, mine.namespace):
        if not is_alive(holder.pid, holder.started):
            return "its process is gone"
        return None if holder.started else silent
    if own_job and mine.job and holder.job == mine.job:
        return "it is this Slurm job's own"
    return silent


def _break(path: Path, stale: tuple[Holder, float]) -> bool:
    """Rename the stale file away; False when another process is breaking it, or it is renewed or new by now."""
    marker, mine = path.with_name(_BREAK + (stale[0].token or "unreadable")), Holder.here()
    if not _create(marker, mine):
        _break_marker(marker, mine)
        return False
    try:
        if _look(path) != stale:
            return False
        away = temporary_path(path.with_name(f"{LEASE}-{uuid.uuid4().hex}"))
        os.rename(path, away)
        away.unlink()
        return True
    except FileNotFoundError:
        return False
    finally:
        with suppress(OSError):
            marker.unlink()


def _break_marker(marker: Path, mine: Holder) -> None:
    """Take away the marker of a process that died while breaking a lease."""
    found = _look(marker)
    if found is not None:
        age = _file_system_now(marker.parent) - found[1]
        if _reason_to_break(found[0], age, mine) is not None:
            _break(marker, found)


def _sweep(folder: Path) -> None:
    """Remove markers of breakers that died; the leases they meant are gone, since this process holds a new one."""
    for marker in folder.glob(_BREAK + "*"):
        with suppress(OSError):
            marker.unlink()


def _look(path: Path) -> tuple[Holder, float] | None:
    """The holder and the time of its heartbeat (seconds since the epoch); None without a file.

    The file is opened before its time is read: network file systems refresh their caches on opening.
    """
    try:
        with open(path, "rb") as file:
            return _parse(file.read()), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _parse(data: bytes) -> Holder:
    try:
        read = json.loads(data)
        pid = int(read.pop("pid"))
        return Holder(pid=pid, **{name: str(read[name]) for name in _TEXTS})
    except (ValueError, KeyError, TypeError, AttributeError):
        return Holder()


def _file_system_now(folder: Path) -> float:
    """The time that the file system itself stamps, so that clocks of two hosts need not agree."""
    probe = temporary_path(folder / f"clock-{uuid.uuid4().hex}")
    try:
        with open(probe, "xb") as file:
            return os.fstat(file.fileno()).st_mtime
    finally:
        with suppress(OSError):
            probe.unlink()


def _busy(folder: Path, holder: Holder, age: float, mine: Holder) -> str:
    see = f"ps -fp {holder.pid}" if holder.host == mine.host else f"ssh {holder.host} ps -fp {holder.pid}"
    see = f"squeue -j {holder.job}" if holder.job else see
    return f"{folder} is in use by {holder}, heartbeat {max(age, 0):.0f} s ago; see it with `{see}`"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
