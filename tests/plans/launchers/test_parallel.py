"""Runs at once on one machine: none is lost, doubled or split, whatever becomes of them or of what carries them out."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from rlx.errors import ConfigError, RunError, Stopped
from rlx.plans.drivers import drivers, driving, to_come
from rlx.plans.launchers import base, parallel
from rlx.plans.launchers.base import Hands, last_line_of
from rlx.plans.launchers.parallel import ParallelConfig, Pool, shares_of
from rlx.plans.plan import PlannedRun
from rlx.plans.worker import Worker, reason_of
from rlx.runs.files import LOGS
from rlx.runs.lease import Lease, holder_of
from rlx.runs.status import State, read_status, write_status
from tests.conftest import COUNTDOWN, SMALL
from tests.plans.launchers.standins import (
    at_once,
    command,
    counted,
    in_another_process,
    launched,
    place_of,
    plan_of,
    reasons,
    run_of,
    seen,
    states,
    wait_for,
)
from tests.stages.runs import digest, rows

STEPS = ("stage.steps=6", "stage.val_every=3", "checkpoint.every=2")


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_runs_equal_those_made_one_after_the_other(rlx: Callable) -> None:
    sweep = ("-m", *COUNTDOWN, *SMALL, *STEPS, "stage=pretrain")
    dry = rlx(*sweep, "plan.dry=true", "optim.lr=1e-3").out
    parent = re.findall(r"runs/(countdown-dense-pretrain-h[0-9a-f]+/seed0)", dry)[0]
    for where, launcher in (("together", ("hydra/launcher=parallel", "hydra.launcher.slots=2")), ("alone", ())):
        either = f'["optim.lr=1e-3,2e-3","stage=sft optim.lr=1e-3 init_from={where}/{parent}"]'
        done = rlx(*sweep, f"plan.either={either}", f"runs_dir={where}", *launcher)
        assert done.code == 0, done.err
    made = sorted(path.parent.relative_to("alone") for path in Path("alone").glob("*/*/status"))
    assert len(made) == 3 and sum("-sft-" in str(run) for run in made) == 1
    for run in made:
        assert digest("together" / run) == digest("alone" / run)
        assert rows("together" / run) == rows("alone" / run)
        assert list(Path("together/plans").glob(f"*/{LOGS}/{run.parent.name}-seed0.log"))


def test_a_child_begins_when_its_own_parents_are_finished(runs_dir: Path) -> None:
    """Not when the whole level is: the child of the short one ends before the long one does."""
    child = run_of(runs_dir, 2, parents=[0])
    long = run_of(runs_dir, 1, f"until={child.run}/seen.json")
    plan = plan_of([run_of(runs_dir, 0), long, child])
    assert launched(plan, slots=2).problems == {} and states(plan) == [State.finished] * 3
    first, second, third = seen(plan)
    assert first.ended <= third.began and third.ended <= second.ended


def test_a_failed_run_blocks_what_begins_from_it_alone(runs_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = [
        run_of(runs_dir, 0, "fail=no luck"), run_of(runs_dir, 1, parents=[0]), run_of(runs_dir, 2, parents=[1]),
        run_of(runs_dir, 3, "kill=9"), run_of(runs_dir, 4, "load=no_such_module"), run_of(runs_dir, 5, "exit=7"),
        run_of(runs_dir, 6), run_of(runs_dir, 7, parents=[6]),
    ]  # fmt: skip
    plan = plan_of(runs)
    problems = launched(plan, slots=2).problems
    found = dict(zip((run.name for run in plan.runs), zip(states(plan), reasons(plan), strict=True), strict=True))
    assert found["run0"] == (State.failed, "no luck")
    assert found["run1"] == (State.blocked, f"{place_of(runs_dir, 0)} is failed, and this run begins from it")
    assert found["run2"] == (State.blocked, f"{place_of(runs_dir, 1)} is blocked, and this run begins from it")
    assert found["run3"] == found["run5"] == (State.interrupted, "")
    assert found["run4"] == (State.failed, "ModuleNotFoundError: No module named 'no_such_module'")
    assert found["run6"] == found["run7"] == (State.finished, "")
    assert {Path(run).parent.name[-1] for run in problems} == set("012345")
    assert "SIGKILL (out of memory?)" in problems[place_of(runs_dir, 3)] and "exit code 7" in problems[runs[5].run]
    out = capfd.readouterr().out
    assert "run7 seed0: finished" in out and "run0 seed0: no luck" in out and "2 of 8 runs finished" in out


def test_what_a_run_prints_is_in_a_log_of_its_own(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, 0), run_of(runs_dir, 1, "exit=7", "load=x")])
    (plan.folder / LOGS).mkdir(parents=True)
    log = plan.folder / LOGS / "countdown-dense-pretrain-h0001-seed0.log"
    log.write_text("of an earlier attempt\n")
    launched(plan)
    assert sorted(path.name for path in (plan.folder / LOGS).iterdir()) == [
        "countdown-dense-pretrain-h0000-seed0.log",
        log.name,
    ]
    assert log.read_text().startswith("of an earlier attempt\n")


@pytest.mark.parametrize("slots", [1, 3])
def test_never_more_at_once_than_slots_and_no_fewer(runs_dir: Path, slots: int) -> None:
    meeting = f"meet={runs_dir.parent}/met:{slots}"
    plan = plan_of([run_of(runs_dir, number, meeting) for number in range(5)])
    assert launched(plan, slots=slots).problems == {}
    assert at_once(seen(plan)) <= slots


def test_each_slot_has_cores_of_its_own(runs_dir: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    count = len(cores)
    meetings = [f"meet={runs_dir.parent}/met{number // count}:{count}" for number in range(2 * count)]
    plan = plan_of([run_of(runs_dir, number, meeting) for number, meeting in enumerate(meetings)])
    launched(plan)
    assert counted([tuple(each.cores) for each in seen(plan)]) == {(core,): 2 for core in cores}
    assert {each.gpu for each in seen(plan)} == {os.environ.get("CUDA_VISIBLE_DEVICES")}


@pytest.mark.parametrize(
    "count, slots, shares",
    [
        (4, None, [[0], [1], [2], [3]]),
        (4, 2, [[0, 1], [2, 3]]),
        (5, 2, [[0, 1], [2, 3, 4]]),
        (2, 5, [[0], [1], [0], [1], [0]]),
        (8, 1, [list(range(8))]),
    ],
)
def test_shares_of_the_cores(count: int, slots: int | None, shares: list[list[int]]) -> None:
    assert shares_of(range(count), slots) == shares


@pytest.mark.parametrize("per_gpu", [1, 2])
def test_runs_of_a_gpu_share_it_as_told_and_the_others_need_none(runs_dir: Path, per_gpu: int) -> None:
    """As many as there are places are at work together, and wait for the runs that come last and need no GPU."""
    waits = [f"meet={runs_dir.parent}/met:{2 * per_gpu}", *(f"until={place_of(runs_dir, n)}/seen.json" for n in (6, 7))]
    needy = [run_of(runs_dir, number, *waits, gpu=True) for number in range(6)]
    plan = plan_of([*needy, run_of(runs_dir, 6), run_of(runs_dir, 7)])
    assert launched(plan, slots=6, gpus=[0, 3], runs_per_gpu=per_gpu).problems == {}
    found = seen(plan)
    assert {each.gpu for each in found[:6]} == {"0", "3"}
    assert all(at_once([each for each in found if each.gpu == gpu]) <= per_gpu for gpu in ("0", "3"))


def test_the_gpu_that_is_used_least_is_taken_and_given_back(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(server: object, command: object, run: PlannedRun, log: Path, cores: list[int], gpu: str | None) -> Worker:
        return Worker(run, SimpleNamespace(join=lambda: None, exitcode=1), cores, gpu)

    monkeypatch.setattr(parallel, "start_worker", start)
    plan = plan_of([run_of(runs_dir, number, gpu=True) for number in range(5)])
    with driving(plan) as driver:
        cores = [[number] for number in range(6)]
        pool = Pool(plan=plan, command=command, driver=driver, cores=cores, gpus=["0", "0", "3", "3"])
        assert [pool._start(None, run) for run in plan.runs] == [True, True, True, True, False]
        assert [worker.gpu for worker in pool.workers] == ["0", "3", "0", "3"] and pool.gpus == []
        pool._end(pool.workers[1], False)
        assert pool.gpus == ["3"] and pool._start(None, plan.runs[4])
        assert pool.workers[-1].gpu == "3" and pool.gpus == []


def test_a_plan_that_needs_a_gpu_where_there_is_none(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match="run0 seed0 computes on a GPU and there is none"):
        launched(plan_of([run_of(runs_dir, 0, gpu=True)]))


@pytest.mark.parametrize("told, count, names", [("", 2, [0, 1]), ("5,GPU-ab", 2, ["5", "GPU-ab"]), ("-1", 0, [])])
def test_gpus_that_are_seen(monkeypatch: pytest.MonkeyPatch, told: str, count: int, names: list) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert list(ParallelConfig().visible_gpus()) == names


@pytest.mark.parametrize("fields", [{"slots": 0}, {"runs_per_gpu": 0}, {"gpus": [0, 0]}, {"gpus": [-1]}])
def test_fields_that_cannot_be(fields: dict) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.launcher"):
        ParallelConfig(**fields)


def test_stopped_runs_save_their_state_and_the_same_command_goes_on(rlx: Callable) -> None:
    command = ("-m", *COUNTDOWN, *SMALL, *STEPS, "stage=pretrain", "stage.steps=40", "stage.val_every=0",
               "seed=0,1,2", "hydra/launcher=parallel", "hydra.launcher.slots=2")  # fmt: skip
    threading.Thread(target=_stop_at_rows, args=(Path("runs").absolute(), 3)).start()
    stopped = rlx(*command)
    assert stopped.code == 75 and "goes on from here" in stopped.err, stopped
    found = {path.parent.name: read_status(path.parent) for path in Path("runs").glob("*/*/status")}
    assert {status.state for status in found.values()} == {State.stopped} and len(found) == 2
    assert all(0 < len(rows(path.parent)) < 40 for path in Path("runs").glob("*/*/status"))
    done = rlx(*command)
    assert done.code == 0, done.err
    whole = rlx("-m", *command[1:-2], "runs_dir=whole")
    assert whole.code == 0, whole.err
    for path in Path("whole").glob("*/*/status"):
        run = path.parent.relative_to("whole")
        assert digest("runs" / run) == digest("whole" / run) and rows("runs" / run) == rows("whole" / run)


def _stop_at_rows(runs: Path, count: int) -> None:
    """Ask this process to stop when two runs have so many rows."""
    wait_for(lambda: sum(path.read_text().count("\n") >= count for path in runs.glob("*/*/metrics.jsonl")) == 2)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_stopped_alone_is_told_of_and_blocks_its_child(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, 0, f"kill={signal.SIGTERM.value}", "sleep=60"), run_of(runs_dir, 1, parents=[0])])
    problems = launched(plan).problems
    assert problems[plan.runs[0].run] == "stopped on request" and states(plan) == [State.stopped, State.blocked]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_to_the_whole_group_stops_everything_once(runs_dir: Path, number: int) -> None:
    """Ctrl-C, and what Slurm and `timeout` send, reach the runs and the server of processes too. The plan's process
    ends last: else Slurm would take the machine from runs that are saving their state.
    """
    plan = plan_of([run_of(runs_dir, number, "save=0.7") for number in range(3)])
    process = in_another_process(plan, 2)
    wait_for(lambda: states(plan).count(State.running) == 2)
    assert [holder.pid for holder in drivers(plan.folder)] == [process.pid]
    assert to_come(plan.folder) == {"countdown-dense-pretrain-h0002/seed0"}
    os.killpg(process.pid, number)
    code, found = process.wait(timeout=60), states(plan)
    out, _ = process.communicate(timeout=60)
    assert code == 75 and "server of processes" not in out
    assert found == [State.stopped, State.stopped, State.absent], out
    assert drivers(plan.folder) == [] and to_come(plan.folder) == set()


def test_a_second_ctrl_c_ends_at_once(runs_dir: Path) -> None:
    asked = runs_dir.parent / "asked"
    plan = plan_of([run_of(runs_dir, 0, f"deaf={asked}")])
    process = in_another_process(plan, 1)
    wait_for(lambda: states(plan) == [State.running])
    os.kill(process.pid, signal.SIGINT)
    wait_for(asked.exists)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and states(plan) == [State.interrupted]


def test_runs_whose_plan_is_killed_save_their_state_and_stop(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, 0, "sleep=60"), run_of(runs_dir, 1, "sleep=60")])
    process = in_another_process(plan, 2)
    wait_for(lambda: states(plan) == [State.running] * 2)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: states(plan) == [State.stopped] * 2)
    assert drivers(plan.folder) == []
    log = (plan.folder / LOGS / "countdown-dense-pretrain-h0000-seed0.log").read_text()
    assert "the process that carries the plan out is gone" in log
    again = plan_of([run_of(runs_dir, number) for number in range(2)])
    assert launched(again).problems == {} and states(plan) == [State.finished] * 2


def test_runs_that_another_process_makes_are_waited_for(runs_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not a failure, not tried again and again, and no second process works on them."""
    go = runs_dir.parent / "go"
    first = plan_of([run_of(runs_dir, 0, f"until={go}")], "first")
    process = in_another_process(first, 1)
    wait_for(lambda: states(first) == [State.running])
    second = plan_of([run_of(runs_dir, 0), run_of(runs_dir, 1, parents=[0]), run_of(runs_dir, 2)], "second")
    threading.Thread(target=lambda: (wait_for(Path(second.runs[2].run, "seen.json").exists), go.touch())).start()
    assert launched(second, slots=2).problems == {}
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert states(second) == [State.finished] * 3
    out = capfd.readouterr().out
    assert out.count("is making it; it is waited for") == 1 and "run0 seed0: pid" in out
    assert not (second.folder / LOGS / "countdown-dense-pretrain-h0000-seed0.log").exists()


def test_a_run_that_the_other_process_leaves_unfinished_is_made(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, 0), run_of(runs_dir, 1, parents=[0])])
    lease = Lease.acquire(plan.runs[0].run)
    write_status(plan.runs[0].run, State.running)
    threading.Timer(1.0, lease.release).start()
    assert launched(plan).problems == {} and states(plan) == [State.finished] * 2


def test_a_parent_outside_the_plan_that_another_process_makes_is_waited_for(runs_dir: Path) -> None:
    parent = run_of(runs_dir, 0).run
    lease = Lease.acquire(parent)
    write_status(parent, State.running)
    threading.Timer(1.0, lambda: (write_status(parent, State.finished), lease.release())).start()
    plan = plan_of([run_of(runs_dir, 1, parents=[0])])
    assert launched(plan).problems == {} and states(plan) == [State.finished]


def test_a_run_whose_process_cannot_be_made(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it should do is not found there: it has printed nothing into its log."""
    module = ModuleType("known_to_this_process_alone")
    exec("def command(arguments): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    plan = plan_of([run_of(runs_dir, 0), run_of(runs_dir, 1, parents=[0])])
    hands = Hands(execute=lambda run, label: None, command=module.command, stop=lambda: False)
    problems = ParallelConfig().carry_out(plan, hands).problems
    assert problems[plan.runs[0].run] == "exit code 1; what it said is above"
    assert problems[plan.runs[1].run].endswith("is not started") and states(plan) == [State.absent, State.blocked]


def test_of_a_log_only_the_end_is_read(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "END", 16)
    log = runs_dir.parent / "log"
    for text, last in {"": "", "\n \n": "", "first\nlast \n\n": "last", f"{'x' * 99} end\n": f"{'x' * 11} end"}.items():
        log.write_text(text)
        assert last_line_of(log) == last
    assert reason_of(run_of(runs_dir, 0), 1, log) == f"exit code 1: {'x' * 11} end; see {log}"
    assert last_line_of(runs_dir) == ""


def test_a_server_that_cannot_start_is_one_line(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", refuse)
    with pytest.raises(RunError, match="the server of processes ended"):
        launched(plan_of([run_of(runs_dir, 0)]))


def test_runs_go_on_when_the_server_of_their_processes_dies(runs_dir: Path) -> None:
    """Their exit codes are lost with it, but not they."""
    go = runs_dir.parent / "go"
    plan = plan_of([run_of(runs_dir, 0, f"until={go}"), run_of(runs_dir, 1, parents=[0])])
    process = in_another_process(plan, 1)
    wait_for(lambda: states(plan)[0] is State.running)
    holder = holder_of(plan.runs[0].run)
    assert holder is not None
    server = int(Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGKILL)
    time.sleep(0.5)
    go.touch()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert states(plan) == [State.finished] * 2


def test_a_plan_whose_runs_are_there_starts_nothing(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, number) for number in range(3)])
    launched(plan)
    before = seen(plan)
    assert launched(plan).problems == {} and seen(plan) == before


def test_stopped_before_anything_was_started(runs_dir: Path) -> None:
    plan = plan_of([run_of(runs_dir, 0)])
    with pytest.raises(Stopped):
        launched(plan, stops=lambda: True)
    assert states(plan) == [State.absent]
