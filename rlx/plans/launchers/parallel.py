"""`hydra/launcher=parallel`: several runs at once on this machine, each in a process of its own.

1. A run starts when all its parents are finished and a slot is free. A slot is a share of the cores, which the process
   is bound to, so that runs neither crowd each other nor find more threads than are theirs. Runs whose trainer is a
   GPU's take one of `gpus` besides, which is all that they see of the machine's.
2. Processes are forked from a server that has imported rlx and Lightning once (Python's forkserver), since the import
   takes longer than a small run. The server has computed nothing: no threads, no CUDA.
3. What a run prints is in `<plan>/logs`; the screen has a line for each that ends, and how many are left.
4. A run that another process is making is not started; it is waited for, and begun here if it is left unfinished.
5. This process asked to stop asks all runs, and ends when they have saved their state. Killed, it leaves runs that
   notice, save their state and stop.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlx.errors import ConfigError, Stopped
from rlx.options import option
from rlx.plans.drivers import Driver, driving
from rlx.plans.launchers.base import (
    Hands,
    LauncherConfig,
    Outcome,
    block,
    log_of,
    made_elsewhere,
    may_finish,
    unfinished_parent,
)
from rlx.plans.plan import Plan, PlannedRun
from rlx.plans.ticker import Ticker
from rlx.plans.worker import Worker, reason_of, start_worker
from rlx.progress import duration
from rlx.runs.files import LOGS
from rlx.runs.identity import RunName
from rlx.runs.listing import ListedRun
from rlx.runs.provenance import cores_of_process
from rlx.runs.status import State, state_of

PRELOADED = ["rlx.cli", "rlx.store", "rlx.stages.modules.loop", "rlx.evaluation.evaluate"]
"""Imported once, by the process that the others are forked from."""
LOOK_S = 0.1
"""Seconds between two looks at the processes."""
ELSEWHERE_S = 1.0
"""Seconds between two looks at runs that other processes make."""
LONG_S = 30.0
"""Seconds after which a run that was asked to stop is asked again, in case the first signal came too early."""


@option("hydra/launcher", "parallel")
@dataclass(kw_only=True, slots=True)
class ParallelConfig(LauncherConfig):
    """Several runs at once on this machine."""

    slots: int | None = None
    """Runs at once; each gets its share of the cores. null: as many as there are cores."""
    gpus: list[int] | None = None
    """GPUs for the runs that compute on one, as CUDA_VISIBLE_DEVICES counts them; null: all that torch sees."""
    runs_per_gpu: int = 1
    """Runs at once on one GPU."""

    def __post_init__(self) -> None:
        self.check_least(1, slots=self.slots, runs_per_gpu=self.runs_per_gpu)
        if self.gpus is not None and (len(set(self.gpus)) != len(self.gpus) or any(gpu < 0 for gpu in self.gpus)):
            raise ConfigError(f"hydra.launcher.gpus={self.gpus}: expected different numbers from 0 up, as in [0,1]")

    def check(self, runs: Sequence[PlannedRun]) -> None:
        needy = next((run for run in runs if run.gpu), None)
        if needy is not None and not self.visible_gpus():
            raise ConfigError(f"{needy.title} computes on a GPU and there is none; take trainer=cpu")

    def carry_out(self, plan: Plan, hands: Hands, *, wait: bool = False) -> Outcome:
        self.check(plan.runs)
        gpus = self.visible_gpus() if any(run.gpu for run in plan.runs) else []
        shares = shares_of(cores_of_process(), self.slots)
        places = [str(gpu) for gpu in gpus for _ in range(self.runs_per_gpu)]
        with driving(plan) as driver:
            return Pool(plan=plan, command=hands.command, driver=driver, cores=shares, gpus=places).work(hands.stop)

    def visible_gpus(self) -> Sequence[int | str]:
        """Names of the GPUs as CUDA_VISIBLE_DEVICES takes them."""
        if self.gpus is not None:
            return self.gpus
        import torch

        count = torch.cuda.device_count()
        told = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        return told[:count] if told else range(count)


def shares_of(cores: Sequence[int], slots: int | None) -> list[list[int]]:
    """The cores of each slot: equal shares; where there are more slots than cores, they share cores in turn."""
    count = slots or len(cores)
    if count >= len(cores):
        return [[cores[number % len(cores)]] for number in range(count)]
    return [list(cores[number * len(cores) // count : (number + 1) * len(cores) // count]) for number in range(count)]


@dataclass(slots=True, kw_only=True)
class Pool:
    """The slots of this machine and who works in them."""

    plan: Plan
    command: Callable[[Sequence[str]], int]
    driver: Driver
    cores: list[list[int]]
    """Shares that are free."""
    gpus: list[str]
    """GPU places that are free."""
    waiting: list[PlannedRun] = field(init=False)
    coming: set[str] = field(init=False)
    """Directories of the runs that may yet be finished here."""
    workers: list[Worker] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    ticker: Ticker = field(init=False)
    told: set[str] = field(default_factory=set)
    """Runs of which was said that another process makes them."""

    def __post_init__(self) -> None:
        self.waiting = list(self.plan.runs)
        self.coming = {run.run for run in self.plan.runs}
        self.ticker = Ticker(self.plan)

    def work(self, stop: Callable[[], bool]) -> Outcome:
        """Carry the plan out.

        Raises:
            Stopped: `stop` said so, and all runs have ended.
            RunError: no process can be started.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        (self.plan.folder / LOGS).mkdir(parents=True, exist_ok=True)
        total, began, due = len(self.plan.runs), time.monotonic(), 0.0
        self.ticker.say(f"{len(self.cores)} runs at once; what they print is in {self.plan.folder / LOGS}")
        try:
            while self.workers or (self.waiting and not stop()):
                ended = [worker for worker in self.workers if not worker.process.is_alive()]
                for worker in ended:
                    self._end(worker, stop())
                if stop():
                    self._ask_to_stop()
                elif ended or time.monotonic() > due:
                    self.waiting = [run for run in self.waiting if not self._start(context, run)]
                    due = time.monotonic() + ELSEWHERE_S
                self.ticker.tick(len(self.workers))
                time.sleep(LOOK_S)
        except KeyboardInterrupt:  # the second Ctrl-C: the runs are as after any kill
            for worker in self.workers:
                worker.process.kill()
            raise
        finally:
            self.ticker.close()
            for worker in self.workers:
                worker.process.terminate()
            for worker in self.workers:
                worker.process.join()
        if self.coming:
            raise Stopped
        finished = total - len(self.outcome.problems)
        self.ticker.say(f"{finished} of {total} runs finished, {duration(time.monotonic() - began)}")
        return self.outcome

    def _start(self, context: Any, run: PlannedRun) -> bool:
        """True when the run needs no more waiting: it was started, or never will be."""
        if not self.cores or (run.gpu and not self.gpus):
            return False
        if state_of(run.run) is State.finished:
            self.coming.discard(run.run)
            self.driver.comes_to(run)
            return True
        if parent := unfinished_parent(run):
            if may_finish(run, self.coming):
                return False
            self.driver.comes_to(run)
            self._fail(run, block(run, parent))
            return True
        if maker := made_elsewhere(run.run):
            if run.run not in self.told:
                self.told.add(run.run)
                self.ticker.say(f"{run.title}: {maker} is making it; it is waited for")
            return False
        self.driver.comes_to(run)
        cores, gpu = self.cores.pop(0), None
        if run.gpu:
            gpu = max(self.gpus, key=self.gpus.count)  # the one that is used least
            self.gpus.remove(gpu)
        log = log_of(run, self.plan.folder)
        self.workers.append(start_worker(context, self.command, run, log, cores, gpu))
        return True

    def _end(self, worker: Worker, stopping: bool) -> None:
        self.workers.remove(worker)
        worker.process.join()
        self.cores.append(worker.cores)
        if worker.gpu is not None:
            self.gpus.append(worker.gpu)
        run, code = worker.run, worker.process.exitcode
        if state_of(run.run) is State.finished:
            self.coming.discard(run.run)
            self.ticker.say(f"{run.title}: finished{_measured(run)}, {duration(time.monotonic() - worker.began)}")
        elif stopping and code in (Stopped.exit_code, -signal.SIGTERM):
            return
        elif made_elsewhere(run.run) is not None:  # another process was quicker
            self.waiting.append(run)
            self.driver.puts_off(run)
        else:
            self._fail(run, reason_of(run, code, log_of(run, self.plan.folder)))

    def _fail(self, run: PlannedRun, reason: str) -> None:
        self.outcome.problems[run.run] = reason
        self.coming.discard(run.run)
        self.ticker.say(f"{run.title}: {reason}")

    def _ask_to_stop(self) -> None:
        for worker in self.workers:
            if time.monotonic() - worker.asked > LONG_S:
                worker.asked = time.monotonic()
                with suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGTERM)


def _measured(run: PlannedRun) -> str:
    """`, val/loss 1.234`: what a run is judged by."""
    name = RunName.of(run.run)
    metric = ListedRun(Path(run.run), name).metric if name is not None else None
    return f", {metric[0]} {metric[1]:.4g}" if metric else ""
