"""The last line of the screen while a plan is carried out."""

import io
from collections.abc import Iterator

import pytest

from rlx.errors import RunError
from rlx.plans import ticker
from rlx.plans.drivers import driving
from rlx.plans.plan import Plan
from rlx.plans.ticker import Ticker
from tests.plans.made import planned, saved, write

pytestmark = pytest.mark.usefixtures("here")


class Output(io.StringIO):
    """A screen, or a file."""

    def __init__(self, live: bool) -> None:
        super().__init__()
        self.live = live

    def isatty(self) -> bool:
        return self.live


@pytest.fixture
def plan(here, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plan]:
    """One of two runs is finished; every look is due."""
    for name in ("LIVE_S", "QUIET_S", "SHARE"):
        monkeypatch.setattr(ticker, name, 0.0)
    runs = [planned(0, seconds=10.0), planned(1, seconds=10.0)]
    write(runs[0], "finished")
    made = saved(runs)
    with driving(made) as driver:
        driver.comes_to(runs[0])
        yield made


LINE = "made  ███████████████··············· 1/2  about 50s left  (1 running)"


def test_on_a_terminal_what_is_said_stands_above(plan: Plan) -> None:
    out = Output(live=True)
    shown = Ticker(plan, out)
    shown.say("begins")
    shown.tick(1)
    shown.say("run0: finished")
    shown.close()
    assert out.getvalue() == f"begins\n\r{LINE}\x1b[K\rrun0: finished\x1b[K\n{LINE}\r\x1b[K"


def test_elsewhere_every_line_stays(plan: Plan) -> None:
    out = Output(live=False)
    shown = Ticker(plan, out)
    shown.tick(1)
    shown.say("run0: finished")
    shown.close()
    assert out.getvalue() == f"{LINE}\nrun0: finished\n"


def test_looks_that_are_not_due_cost_nothing(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "QUIET_S", 60.0)
    monkeypatch.setattr(ticker, "standings", lambda *given: pytest.fail("looked"))
    Ticker(plan, Output(live=False)).tick(1)


@pytest.mark.parametrize("error", [OSError(116, "Stale file handle"), RunError("the disk is gone")])
def test_a_disk_that_does_not_answer_ends_nothing(plan: Plan, monkeypatch, error: Exception) -> None:
    def stale(*_: object) -> None:
        raise error

    shown = Ticker(plan, Output(live=True))
    before, due = ticker.standings, shown.due
    monkeypatch.setattr(ticker, "standings", stale)
    shown.tick(1)
    assert not shown.line and shown.due > due
    monkeypatch.setattr(ticker, "standings", before)
    shown.tick(1)
    assert shown.line == LINE


def test_a_screen_that_is_gone_ends_nothing(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Output):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    shown = Ticker(plan, Gone(live=True))
    shown.tick(1)
    shown.say("a line")
    shown.close()
