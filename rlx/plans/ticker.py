"""How far a plan is, in the last line of the screen, while this process carries it out; what it says stands above."""

import sys
import time
from contextlib import suppress
from typing import TextIO

from rlx.errors import RlxError
from rlx.plans.plan import Plan
from rlx.plans.standing import Standing, standings
from rlx.plans.table import headline

LIVE_S = 1.0
"""Seconds between two looks where the output is a terminal."""
QUIET_S = 60.0
"""The same elsewhere."""
SHARE = 20
"""A look takes at most one part in so many of the time, however many runs there are."""


class Ticker:
    """Reads the plan's runs now and then, and shows how many are finished, how many run, and the time left."""

    def __init__(self, plan: Plan, out: TextIO | None = None) -> None:
        self.plan, self.out = plan, out or sys.stdout
        self.live = self.out.isatty()
        self.due = time.monotonic() + (LIVE_S if self.live else QUIET_S)
        self.before: dict[str, Standing] = {}
        self.line = ""

    def tick(self, at_once: int) -> None:
        """Show how far the plan is, when that is due; so many runs have a process now."""
        began = time.monotonic()
        if began < self.due:
            return
        with suppress(OSError, RlxError):  # a disk that does not answer now ends no run
            self._look(at_once)
        now = time.monotonic()
        self.due = now + max(LIVE_S if self.live else QUIET_S, SHARE * (now - began))

    def _look(self, at_once: int) -> None:
        found = standings(self.plan, self.before)
        self.before = {standing.planned.run: standing for standing in found}
        line = f"{headline(self.plan, found, at_once)}  ({at_once} running)"
        if self.live:
            self._print(f"\r{line}\x1b[K", end="")
        else:
            self._print(line)
        self.line = line

    def say(self, line: str) -> None:
        """A line that stays."""
        self._print(f"\r{line}\x1b[K\n{self.line}" if self.live and self.line else line, end=self._end())

    def close(self) -> None:
        """Take the last line away."""
        if self.live and self.line:
            self._print("\r\x1b[K", end="")
        self.line = ""

    def _end(self) -> str:
        return "" if self.live and self.line else "\n"

    def _print(self, text: str, end: str = "\n") -> None:
        with suppress(OSError):  # a screen that is gone ends no run
            print(text, end=end, file=self.out, flush=True)
