"""`watch`: lines for a file, a screen of its own on a terminal, and an end by itself."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest

from rlx.plans.drivers import driving
from rlx.plans.plan import Plan
from rlx.plans.standing import standings
from rlx.plans.table import table
from rlx.runs.lease import Lease
from tests.conftest import Done, environment
from tests.plans.made import of_many, planned, saved, timed, write

FOLDER = "runs/plans/made"
pytestmark = pytest.mark.usefixtures("here")


def test_watch_prints_a_line_whenever_the_counts_change(plans: Callable[..., Done], monkeypatch) -> None:
    runs = [planned(0), planned(1)]
    plan = saved(runs)
    steps = iter([lambda: None, lambda: write(runs[0], "finished"), lambda: write(runs[1], "finished"), lambda: None])
    with ExitStack() as stack:
        stack.enter_context(driving(plan))

        def pause(took: float, least: float) -> None:
            next(steps, stack.close)()

        monkeypatch.setattr("rlx.plans.watch._pause", pause)
        done = plans("watch", FOLDER)
    assert done.code == 0
    assert done.out.splitlines() == ["2 queued", "1 queued, 1 finished", "2 finished"]


def test_watch_on_a_terminal_redraws_and_ends_by_itself() -> None:
    run = planned(0)
    write(run, "running", step=50)
    saved([run])
    lease = Lease.acquire(run.run)
    screen = on_terminal("watch", FOLDER, columns=60, rows=12)
    text = screen.until("50/100")
    assert "\x1b[?1049h" in text
    write(run, "finished")
    lease.release()
    last = screen.rest()
    assert screen.process.returncode == 0
    shown = last.rpartition("\x1b[?1049l")[2]  # what is left on the screen of the shell
    assert "1/1" in shown and "collect" in shown
    assert all(len(line) <= 60 for line in shown.splitlines()[:-1])


def test_ctrl_c_ends_watch_and_gives_the_screen_back() -> None:
    run = planned(0)
    write(run, "running", step=50)
    saved([run])
    with Lease.acquire(run.run):
        screen = on_terminal("watch", FOLDER)
        screen.until("50/100")
        screen.process.send_signal(signal.SIGINT)
        assert screen.rest().endswith("\x1b[?25h\x1b[?1049l") and screen.process.returncode == 130


class Screen:
    """A command on a terminal of its own."""

    def __init__(self, arguments: Sequence[str], columns: int, rows: int) -> None:
        self.master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlx.plans", *arguments],
            env={key: value for key, value in environment().items() if key not in ("COLUMNS", "LINES")},
            stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip
        os.close(terminal)

    def until(self, text: str) -> str:
        """What it shows until it shows this."""
        shown = ""
        while text not in shown:
            shown += self._read() or pytest.fail(f"ended with {shown!r}")
        return shown

    def rest(self) -> str:
        """What it shows until it ends."""
        shown = ""
        while more := self._read():
            shown += more
        self.process.wait(timeout=30)
        os.close(self.master)
        return shown

    def _read(self) -> str:
        try:
            return os.read(self.master, 1 << 16).decode(errors="replace")
        except OSError:  # what Linux says of a terminal that nobody writes to any more
            return ""


def on_terminal(*arguments: str, columns: int = 80, rows: int = 24) -> Screen:
    return Screen(arguments, columns, rows)


def test_a_look_at_a_thousand_runs_is_short() -> None:
    plan = of_many(1000, running=20)
    first: list = []
    assert timed(lambda: first.extend(standings(plan))) < 2
    assert timed(lambda: table(plan, first, most=40)) < 2
    before = {standing.planned.run: standing for standing in first}

    def look() -> None:
        again = Plan.read(plan.folder)
        table(again, standings(again, before), most=40)

    assert min(timed(look) for _ in range(3)) < 1
    assert standings(plan, before)[500] is first[500]  # finished runs are not read again
    assert standings(plan, before)[0] is not first[0]
