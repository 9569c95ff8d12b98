"""Progress on the screen: one line that redraws itself on a terminal, a line now and then elsewhere."""

import sys
import time
from contextlib import suppress
from typing import TextIO

QUIET_S = 10.0
"""Seconds between lines where the output is not a terminal."""
REDRAW_S = 0.2
"""Seconds between redraws on a terminal."""


def duration(seconds: float) -> str:
    """`45s`, `2m05s`, `1h02m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class Progress:
    """Steps done of a total, with the time left by the pace of this attempt."""

    def __init__(self, label: str, total: int, *, done: int = 0, out: TextIO | None = None) -> None:
        self.label, self.total, self.first = label, max(total, 1), done
        self.out = out or sys.stdout
        self.live = self.out.isatty()
        self.began = self.shown = time.monotonic()
        self.width = 0

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None:
        """Show that `done` steps are done; cheap when nothing is due on the screen. `total` corrects the total."""
        now = time.monotonic()
        self.total = max(total or self.total, done)
        if now - self.shown < (REDRAW_S if self.live else QUIET_S) and done < self.total:
            return
        self.shown = now
        self._show(self._line(done, note, now))

    def close(self) -> None:
        """End the line."""
        if self.live and self.width:
            with suppress(OSError):
                print(file=self.out, flush=True)
            self.width = 0

    def _line(self, done: int, note: str, now: float) -> str:
        fresh = done - self.first
        left = duration((now - self.began) / fresh * (self.total - done)) if fresh > 0 else "?"
        filled = round(20 * done / self.total)
        bar = "█" * filled + "·" * (20 - filled)
        return f"{self.label} {bar} {done}/{self.total}  {note}  {left} left"

    def _show(self, line: str) -> None:
        text = "\r" + line.ljust(self.width) if self.live else line + "\n"
        with suppress(OSError):  # a screen that is gone, or a file of it on a full disk, ends no run
            print(text, end="", file=self.out, flush=True)
        self.width = len(line)
