"""Whether two mathematical expressions are equal, as math-verify finds it in a process of its own.

1. Text that a model wrote reaches a parser in that process only, and only LaTeX's: math-verify's reader of plain
   expressions is Python's `eval` and is not used. Before that its length, characters, nesting and numbers are checked.
2. A question has `LIMIT_S` seconds of the processor, so that a verdict does not hang on what else the machine does, and
   the process `MEMORY` bytes. One that overruns is killed by its own timer, its question answered with no, and another
   is started by the next question. math-verify's own limits use signals that only a main thread can have.
3. There is one such process in each of ours, started by the first question; threads take turns. It ends with us. The
   signals that ask a run to stop pass it by: a run that is stopped counts no answer as wrong for it.
4. An answer's LaTeX is read as it stands: operators that are not well formed (`\\sqrt3`) are mended in the gold answer
   alone, so that a model is not paid for them.
"""

import atexit
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlx.errors import ConfigError, RunError

LIMIT_S = 1.0
"""Seconds of processor time for one question."""
WAIT_S = 60.0
"""Seconds by the clock after which a process that neither answers nor ends is killed."""
MEMORY = 1 << 30
"""Bytes of address space of the process."""
DECIMALS = 14
"""Places to which math-verify compares values that it cannot compare exactly: an answer rounded to fewer is wrong."""
LONGEST = 300
"""Characters of the longest expression."""
NESTING = 12
"""Brackets of any kind inside of each other."""
_ALLOWED = re.compile(r"[A-Za-z0-9 \\{}()\[\]+\-*/^_=<>,.;:!'|&%]+")
_LONG_NUMBER = re.compile(r"[0-9]{61}")
_READY, _TRUE, _FALSE = b"ready\n", b"true\n", b"false\n"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def check_installed() -> None:
    """Raise ConfigError without math-verify; for tasks that have answers which are no numbers."""
    if find_spec("math_verify") is None:
        raise ConfigError(
            "answers that are no numbers are compared by math-verify; install it: pip install 'rlx[math]'"
        )


def same_expression(gold: str, answer: str) -> bool:
    """True when `answer` is equal to `gold`, both LaTeX or plain ASCII; the order matters (`1<x<2` is answered by the
    interval `(1,2)` and not the other way round). False for text that is no expression, or takes too long.

    Raises:
        RunError: the process does not start.
    """
    return is_readable(gold) and is_readable(answer) and _worker.same(gold, answer)


def is_readable(text: str) -> bool:
    """True for text that is handed to the parser: short, of the characters of formulas, with braces in order."""
    if len(text) > LONGEST or not _ALLOWED.fullmatch(text) or _LONG_NUMBER.search(text) or "\\boxed" in text:
        return False
    depth = braces = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        braces += (character == "{") - (character == "}")
        if depth > NESTING or braces < 0:
            return False
    return braces == 0


class _Worker:
    """The process that compares, started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def same(self, gold: str, answer: str) -> bool:
        question = json.dumps([gold, answer]).encode() + b"\n"
        with self._lock:
            try:
                for _ in range(2):  # again where the process was ended by others
                    if self._process is None:
                        self._start()
                    reply = self._ask(question)
                    if reply is not None:
                        return reply
            except BaseException:
                self.end(kill=True)  # its answer to this question is not for the next
                raise
        return False

    def _ask(self, question: bytes) -> bool | None:
        """The answer: False too from a process that overran, None from one that was lost."""
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            os.write(process.stdin.fileno(), question)
        except BrokenPipeError:
            self.end()
            return None
        line = self._line(process)
        if line is None:
            self.end(kill=True)
            return False
        if line:
            return line == _TRUE
        return False if self.end() == -signal.SIGPROF else None

    def _start(self) -> None:
        """Start the process and wait until it can answer."""
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the process inherits what is blocked here
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(LIMIT_S), str(MEMORY)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._line(self._process) != _READY:
            code = self.end(kill=True)
            raise RunError(f"the process that compares expressions does not start (exit code {code}); is there memory?")

    def _line(self, process: "subprocess.Popen[bytes]") -> bytes | None:
        """What the process writes next; empty when it ended, None when it takes too long."""
        assert process.stdout is not None
        ready, line, deadline = select.poll(), b"", time.monotonic() + WAIT_S
        ready.register(process.stdout, select.POLLIN)
        while not line.endswith(b"\n"):
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            read = os.read(process.stdout.fileno(), 64)
            if not read:
                return b""
            line += read
        return line

    def end(self, *, kill: bool = False) -> int:
        """Let the process end, or kill it; returns its exit code, minus the signal's number where one ended it."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()  # at which it ends
        process.stdout.close()
        if kill:
            process.kill()
        try:
            return process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def forget(self) -> None:
        """In a copy of this process: the other process is the original's."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.stdout.close()
            process.returncode = 0  # nothing to wait for


_worker = _Worker()


def _forked() -> None:
    global _worker
    old, _worker = _worker, _Worker()  # the lock may have been held by a thread that is not here
    old.forget()


def _serve(limit_s: float, memory: int) -> None:
    """Answer questions, one a line, until there are no more."""
    import resource

    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _compare("\\frac{x}{2}", "0.5x")
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    os.write(replies, _READY)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # nobody handles the signal: it ends the process
        same = _compare(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(replies, _TRUE if same else _FALSE)


def _compare(gold: str, answer: str) -> bool:
    verify: Any = import_module("math_verify").verify
    return bool(
        verify(_parse(gold, mend=True), _parse(answer, mend=False), float_rounding=DECIMALS, timeout_seconds=None)
    )


@lru_cache(maxsize=1 << 10)
def _parse(text: str, mend: bool) -> list[Any]:
    verifier: Any = import_module("math_verify")
    normal: Any = import_module("latex2sympy2_extended").NormalizationConfig
    normal = normal(basic_latex=True, units=True, malformed_operators=mend, nits=False, boxed="all", equations=False)
    latex = verifier.LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal)
    return verifier.parse(f"\\boxed{{{text}}}", [latex], parsing_timeout=None)


if __name__ == "__main__":
    _serve(float(sys.argv[1]), int(sys.argv[2]))
else:
    atexit.register(lambda: _worker.end(kill=True))
    os.register_at_fork(after_in_child=_forked)
