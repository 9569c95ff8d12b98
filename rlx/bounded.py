"""A Python process beside ours for what may hang, eat memory or die: it answers questions, and is replaced when it is
lost.

1. A question is bytes that the process knows how to read, an answer one line, which is read as data: nothing that the
   process writes is ever unpickled or run. Threads take turns.
2. Where an answer takes too long the process is killed, with all that it has started: it leads a group of its own. The
   next question starts another.
3. It ends with us, also where we are killed: its questions end then, and `end_with_parent` heeds that even while it
   works on one. A copy of us (fork) starts one of its own.
4. The signals that ask a run to stop pass it by, so that an answer does not hang on them.
"""

import atexit
import importlib
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, BinaryIO

from rlx.errors import ConfigError, RunError

START_S = 60.0
"""Seconds by the clock that a process has to get ready."""
END_S = 5.0
"""Seconds by the clock that a process has to end by itself."""
LONGEST_LINE = 1 << 20
"""Bytes of the longest answer."""
READY = b"ready\n"
"""What a process writes first; another line says why it is not."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_all: "weakref.WeakSet[BoundedProcess]" = weakref.WeakSet()


class Overran(Exception):
    """An answer took too long; the process was killed."""


class Ended(Exception):
    """The process ended without an answer."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code
        """Its exit code, minus the signal's number where one ended it."""


class BoundedProcess:
    """`python -m <module>`, started by the first question.

    Args:
        module: it answers under `__name__ == "__main__"`, and imports little.
        purpose: what the process does, for errors: "compares expressions".
    """

    def __init__(self, module: str, purpose: str) -> None:
        self.module, self.purpose = module, purpose
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        _all.add(self)

    def arguments(self) -> Sequence[str]:
        """What stands after the module's name."""
        return ()

    def greeting(self) -> bytes:
        """What the process reads before it is ready."""
        return b""

    def ask(self, question: bytes, limit_s: float) -> bytes:
        """The line that answers a question within `limit_s` seconds by the clock; a start is not counted.

        Raises:
            Overran: it took longer.
            Ended: the process is gone, by what it was asked or by others.
            RunError: the process does not start.
        """
        with self._lock:
            try:
                if self._process is None:
                    self._start()
                return self._answer(question, limit_s)
            except BaseException:
                self.end(kill=True)  # its answer to this question is not for the next
                raise

    def _answer(self, question: bytes, limit_s: float) -> bytes:
        process, deadline = self._process, time.monotonic() + limit_s
        assert process is not None
        self._send(process, question, deadline)
        line = self._line(process, deadline)
        if line is None:
            raise Overran
        if not line.endswith(b"\n"):
            raise Ended(self.end(kill=len(line) > LONGEST_LINE))
        return line

    def _start(self) -> None:
        """Start the process and wait until it can answer."""
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each reserves address space
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the process inherits what is blocked here
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.module, *self.arguments()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
                env={**one_thread, **os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        deadline = time.monotonic() + START_S
        self._send(self._process, self.greeting(), deadline)
        line = self._line(self._process, deadline)
        if line != READY:
            code = self.end(kill=line is None)
            why = line.decode(errors="replace").strip() if line else ""
            why = f": {why}" if why else f" (exit code {code}); is there memory?"
            raise RunError(f"the process that {self.purpose} does not start{why}")

    def _send(self, process: "subprocess.Popen[bytes]", data: bytes, deadline: float) -> None:
        """Write all that the process takes in time; what it makes of the rest shows in its answer."""
        assert process.stdin is not None
        left, place = memoryview(data), process.stdin.fileno()
        ready = select.poll()
        ready.register(place, select.POLLOUT)
        with suppress(BrokenPipeError):
            while left and ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                left = left[os.write(place, left) :]

    def _line(self, process: "subprocess.Popen[bytes]", deadline: float) -> bytes | None:
        """What the process writes next; without a newline where it ended or wrote too much, None where it is late."""
        assert process.stdout is not None
        ready, line = select.poll(), b""
        ready.register(process.stdout, select.POLLIN)
        while not line.endswith(b"\n") and len(line) <= LONGEST_LINE:
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            read = os.read(process.stdout.fileno(), 1 << 16)
            if not read:
                break
            line += read
        return line

    def end(self, *, kill: bool = False) -> int:
        """Let the process end, or kill it, and what it has started in any case; returns its exit code, minus the
        signal's number where one ended it."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()  # at which it ends
        process.stdout.close()
        if not kill:
            _await_end(process.pid, time.monotonic() + END_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its number is not another's until `wait`
        return process.wait()

    def forget(self) -> None:
        """In a copy of this process: the other process is the original's."""
        self._lock = threading.Lock()  # the old one may have been held by a thread that is not here
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.stdout.close()
            process.returncode = 0  # nothing to wait for

    def __del__(self) -> None:
        self.end(kill=True)


def _await_end(pid: int, deadline: float) -> None:
    """Wait until a child has ended, and leave its exit code to be waited for."""
    pause = 0.001
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _end_all() -> None:
    for process in list(_all):
        process.end(kill=True)


def _forked() -> None:
    for process in list(_all):
        process.forget()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forked)


def packed(config: Any, otherwise: str) -> bytes:
    """A config object as the process reads it (`unpacked`), and where its class is found: a class from outside of rlx
    is imported there as it was here.

    Raises:
        ConfigError: the class is a script's own; the line ends with what to do `otherwise`.
    """
    name = type(config).__module__
    if name == "__main__":
        raise ConfigError(
            f"{type(config).__name__} is defined in a script, from where no other process can import it; move it to a "
            f"module, or {otherwise}"
        )
    module, package = sys.modules[name], sys.modules.get(name.rpartition(".")[0])
    home = {
        "path": list(sys.path),
        "module": name,
        "file": getattr(module, "__file__", None),
        "package_path": list(getattr(package, "__path__", [])),
    }
    return pickle.dumps(home) + pickle.dumps(config)


def unpacked(questions: BinaryIO) -> Any:
    """In the process: the object that was `packed`."""
    _go_home(pickle.load(questions))
    return pickle.load(questions)


def _go_home(home: Mapping[str, Any]) -> None:
    """Import what the asking process has imported: its path, its package's folders, the module that has the config."""
    sys.path[:] = home["path"]
    name = home["module"]
    try:
        if package := name.rpartition(".")[0]:
            folders = importlib.import_module(package).__path__
            for folder in home["package_path"]:
                if folder not in folders:
                    folders.append(folder)
        importlib.import_module(name)
    except ModuleNotFoundError:
        spec = spec_from_file_location(name, home["file"]) if home["file"] else None
        if spec is None or spec.loader is None:
            raise
        sys.modules[name] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """In the process: where its questions come from and where its answers go.

    Its standard input and output are nothing from then on, whatever is read and printed.
    """
    questions, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    return os.fdopen(questions, "rb"), os.fdopen(answers, "wb")


def end_with_parent(questions: BinaryIO) -> None:
    """In the process: end it, and all that it has started, once nobody can ask it any more."""

    def watch() -> None:
        closed = select.poll()
        closed.register(questions, 0)  # that the other end was closed is told in any case
        closed.poll()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def limit_memory(growth: int) -> None:
    """In the process: allow `growth` more bytes of address space. Does nothing without /proc (macOS)."""
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    limit, most = pages * os.sysconf("SC_PAGE_SIZE") + growth, resource.getrlimit(resource.RLIMIT_AS)[1]
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
