"""The table of a plan, live: redrawn on a terminal; elsewhere a line whenever the counts change."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlx.plans.drivers import drivers
from rlx.plans.plan import Plan
from rlx.plans.standing import over, standings
from rlx.plans.submissions import submissions
from rlx.plans.table import Screen, counts, table

LOOK_S = 2.0
"""Seconds between two looks."""
QUEUE_S = 10.0
"""The same where Slurm is asked: its controller serves many."""
SHARE = 10
"""A look takes at most one part in so many of the time, however many runs there are."""


def watch(folder: Path) -> int:
    """Show the plan until nothing more happens by itself, and leave its table on the screen."""
    live, before, text = sys.stdout.isatty(), {}, ""
    with _own_screen(live):
        while True:
            began = time.monotonic()
            plan = Plan.read(folder)
            found, by = standings(plan, before), drivers(folder)
            if live:
                _redraw(table(plan, found, by, screen=size_of_screen(), advice=False))
            elif (changed := counts(found)) != text:
                print(text := changed, flush=True)
            if over(found) and not by:
                break
            before = {standing.planned.run: standing for standing in found}
            _pause(time.monotonic() - began, QUEUE_S if submissions(folder) else LOOK_S)
    if live:
        print(table(plan, found, by, screen=size_of_screen()), flush=True)
    return 0


def size_of_screen() -> Screen:
    """Of the terminal, as far as there is one."""
    if not sys.stdout.isatty():
        return Screen()
    size = shutil.get_terminal_size()
    return Screen(size.columns, size.lines)


def _pause(took: float, least: float) -> None:
    time.sleep(max(least, SHARE * took))


@contextmanager
def _own_screen(live: bool) -> Iterator[None]:
    """The terminal's second screen: what was typed before is there again afterwards."""
    if not live:
        yield
        return
    os.write(sys.stdout.fileno(), b"\x1b[?1049h\x1b[?25l")
    try:
        yield
    finally:
        os.write(sys.stdout.fileno(), b"\x1b[?25h\x1b[?1049l")


def _redraw(text: str) -> None:
    """Over the old lines, each cleared to its end, so that nothing flickers."""
    lines = "\x1b[K\r\n".join(text.split("\n"))
    print(f"\x1b[H{lines}\x1b[K\x1b[J", end="", flush=True)
