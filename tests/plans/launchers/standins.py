"""Runs that compute nothing and do what their arguments say, and plans of them; importable, since others start them.

`python -m tests.plans.launchers.standins <plan folder> <slots>` carries a plan out in parallel.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.errors import RlxError, RunError, Stopped
from rlx.plans.launchers import parallel
from rlx.plans.launchers.base import Hands, Outcome
from rlx.plans.launchers.parallel import ParallelConfig
from rlx.plans.launchers.sequential import SequentialConfig
from rlx.plans.plan import Plan, PlannedRun, with_levels
from rlx.runs.run import open_run
from rlx.runs.status import State, read_status, state_of
from rlx.signals import stop
from tests.conftest import environment

SEEN = "seen.json"
"""What a stand-in writes of where and when it ran."""


def command(arguments: Sequence[str]) -> int:
    """`make`, as a command of its own process."""
    stop.install()
    try:
        make(arguments)
    except Stopped:
        return Stopped.exit_code
    except RlxError as error:
        print(f"rlx: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make(arguments: Sequence[str]) -> None:
    """`<run directory> [what=value ...]`, done in order: sleep=<s>, until=<file>, meet=<folder>:<n> (so many runs must
    be here), fail=<reason>, kill=<signal>, exit=<code>, load=<module>; save=<s> waits for a request to stop and then
    takes so long, deaf=<file> writes that one came and stays.
    """
    run, *words = arguments
    with open_run(Path(run), config={}, command=" ".join(arguments), record={"parents": []}):
        began = time.monotonic()
        for word in words:
            what, _, value = word.partition("=")
            ACTIONS[what](value)
        seen = {
            "began": began,
            "ended": time.monotonic(),
            "cores": sorted(os.sched_getaffinity(0)),
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "pid": os.getpid(),
        }
        (Path(run) / SEEN).write_text(json.dumps(seen))


def _sleep(seconds: str) -> None:
    _wait(lambda: False, float(seconds))


def _save(seconds: str) -> None:
    try:
        _wait(lambda: False, 60)
    except Stopped:
        time.sleep(float(seconds))
        raise


def _stay(file: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if stop():
            Path(file).touch()
        time.sleep(0.01)


def _until(file: str) -> None:
    _wait(Path(file).exists, 60)


def _meet(others: str) -> None:
    folder, _, count = others.rpartition(":")
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, str(os.getpid())).touch()
    _wait(lambda: len(list(Path(folder).iterdir())) >= int(count), 60)


def _wait(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not done():
        if stop():
            raise Stopped
        time.sleep(0.01)


def _fail(reason: str) -> None:
    raise RunError(reason)


ACTIONS: dict[str, Callable[[str], Any]] = {
    "sleep": _sleep,
    "until": _until,
    "meet": _meet,
    "fail": _fail,
    "kill": lambda number: os.kill(os.getpid(), int(number)),
    "exit": lambda code: os._exit(int(code)),
    "save": _save,
    "deaf": _stay,
    "load": importlib.import_module,
}


def run_of(runs_dir: Path, number: int, *words: str, parents: Sequence[int] = (), gpu: bool = False) -> PlannedRun:
    """A stand-in called `run<number>`."""
    place = place_of(runs_dir, number)
    return PlannedRun(
        name=f"run{number}", label=f"optim.lr={number}", seed=0, run=place, stage="pretrain", command=f"rlx {number}",
        arguments=[place, *words], parents=[place_of(runs_dir, parent) for parent in parents], gpu=gpu,
    )  # fmt: skip


def place_of(runs_dir: Path, number: int) -> str:
    return str(runs_dir / f"countdown-dense-pretrain-h{number:04x}" / "seed0")


def plan_of(runs: Sequence[PlannedRun], name: str = "made") -> Plan:
    """A plan of some runs, in their folder."""
    return Plan(folder=Path(runs[0].run).parents[1] / "plans" / name, runs=with_levels(runs))


def one_by_one(plan: Plan, *, stops: Callable[[], bool] = lambda: False) -> Outcome:
    """The plan, carried out in sequence by this process."""

    def execute(run: PlannedRun, label: str) -> None:
        print(f"{label}: {run.command}")
        if state_of(run.run) is not State.finished:
            make(run.arguments)

    return SequentialConfig().carry_out(plan, Hands(execute=execute, command=command, stop=stops))


def launched(plan: Plan, *, stops: Callable[[], bool] = lambda: False, **fields: Any) -> Outcome:
    """The plan, carried out in parallel by this process."""
    hands = Hands(execute=lambda run, label: None, command=command, stop=stops)
    return ParallelConfig(**fields).carry_out(plan, hands)


@dataclass(frozen=True)
class Seen:
    """What a stand-in saw."""

    began: float
    ended: float
    cores: list[int]
    gpu: str | None
    pid: int


def seen(plan: Plan) -> list[Seen]:
    """Of each run of a plan that ended well."""
    paths = [Path(run.run) / SEEN for run in plan.runs]
    return [Seen(**json.loads(path.read_text())) for path in paths if path.exists()]


def at_once(spans: Sequence[Seen]) -> int:
    """How many of them went on at the same time, at most."""
    return max(sum(other.began <= span.began < other.ended for other in spans) for span in spans)


def states(plan: Plan) -> list[State]:
    return [state_of(run.run) for run in plan.runs]


def reasons(plan: Plan) -> list[str]:
    """What status files say."""
    return [read_status(run.run).reason for run in plan.runs]


def in_another_process(plan: Plan, slots: int, **more: Any) -> subprocess.Popen[str]:
    """The plan, carried out by a process that leads a group of its own."""
    plan.save({"option": "parallel"})
    return subprocess.Popen(
        [sys.executable, "-m", "tests.plans.launchers.standins", str(plan.folder), str(slots)],
        cwd=Path(__file__).resolve().parents[3], env=environment(), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more,
    )  # fmt: skip


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Returns when it is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def main(arguments: Sequence[str]) -> int:
    from tests.plans.launchers import standins  # under the name by which its processes find it

    parallel.PRELOADED[:] = []
    stop.install()
    folder, slots = arguments
    try:
        outcome = standins.launched(Plan.read(Path(folder)), stops=stop, slots=int(slots))
    except Stopped:
        return Stopped.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 1 if outcome.problems else 0


def counted(found: Sequence[Any]) -> Mapping[Any, int]:
    """How often each comes."""
    return {each: list(found).count(each) for each in dict.fromkeys(found)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
