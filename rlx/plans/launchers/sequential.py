"""`hydra/launcher=sequential`: one run after the other, in this process.

A run that another process is making is put off, and so is what begins from it: the others come first, and then it is
waited for.
"""

import time
import traceback
from dataclasses import dataclass, field

from rlx.errors import RlxError, Stopped
from rlx.options import option
from rlx.plans.drivers import Driver, driving
from rlx.plans.launchers.base import (
    Hands,
    LauncherConfig,
    Outcome,
    block,
    made_elsewhere,
    may_finish,
    unfinished_parent,
)
from rlx.plans.plan import Plan, PlannedRun
from rlx.progress import duration

LOOK_S = 0.5
"""Seconds between two looks at runs that other processes make."""


@option("hydra/launcher", "sequential")
@dataclass(kw_only=True, slots=True)
class SequentialConfig(LauncherConfig):
    """One run after the other, in this process."""

    def carry_out(self, plan: Plan, hands: Hands, *, wait: bool = False) -> Outcome:
        with driving(plan) as driver:
            return Line(plan, hands, driver, {run.run for run in plan.runs}).work()


@dataclass(slots=True)
class Line:
    """The runs of a plan, as they are come to."""

    plan: Plan
    hands: Hands
    driver: Driver
    coming: set[str]
    """Directories of the runs that are still to come."""
    outcome: Outcome = field(default_factory=Outcome)
    told: set[str] = field(default_factory=set)
    """Runs of which was said that another process makes them."""

    def work(self) -> Outcome:
        """Every run, whatever became of the others.

        Raises:
            Stopped: this process was asked to stop.
        """
        began, total = time.monotonic(), len(self.plan.runs)
        waiting = [(run, f"[{number}/{total}] {run.title}") for number, run in enumerate(self.plan.runs, start=1)]
        while waiting:
            put_off = [(run, label) for run, label in waiting if not self._made(run, label)]
            if len(put_off) == len(waiting):
                if self.hands.stop():
                    raise Stopped
                time.sleep(LOOK_S)
            waiting = put_off
        finished = total - len(self.outcome.problems)
        print(f"{finished} of {total} runs finished, {duration(time.monotonic() - began)}", flush=True)
        return self.outcome

    def _made(self, run: PlannedRun, label: str) -> bool:
        """True when there is nothing more to do for the run: it was made, or failed, or cannot be made."""
        parent = unfinished_parent(run)
        if parent is not None and may_finish(run, self.coming):
            return False
        if parent is None and self._is_put_off(run, label):
            return False
        self.driver.comes_to(run)
        if parent is not None:
            self._fail(run, label, block(run, parent))
        elif not self._execute(run, label):
            self.driver.puts_off(run)
            return False
        self.coming.discard(run.run)
        return True

    def _execute(self, run: PlannedRun, label: str) -> bool:
        """Make the run; False when another process took it first."""
        try:
            self.hands.execute(run, label)
        except Stopped:
            raise
        except Exception as error:
            if self._is_put_off(run, label):
                return False
            if not isinstance(error, RlxError):
                traceback.print_exception(error)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._fail(run, f"{label}: failed", reason)
        return True

    def _is_put_off(self, run: PlannedRun, label: str) -> bool:
        """True while another process makes the run, which is told once."""
        maker = made_elsewhere(run.run)
        if maker is not None and run.run not in self.told:
            self.told.add(run.run)
            print(f"{label}: {maker} is making it; it is waited for", flush=True)
        return maker is not None

    def _fail(self, run: PlannedRun, what: str, reason: str) -> None:
        self.outcome.problems[run.run] = reason
        print(f"{what}: {reason}", flush=True)
