"""What a task of a job array does with the runs of its line."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlx.errors import BusyError, ConfigError
from rlx.plans import task
from rlx.plans.plan import PlannedRun
from rlx.plans.submissions import write_tasks
from rlx.plans.task import carry_out_task, runs_of_task
from rlx.runs.lease import Lease, is_held
from rlx.runs.status import State, state_of
from tests.plans.made import planned, write


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def ending(*codes: int) -> tuple[list[str], Callable[[Sequence[str]], int]]:
    """What is made, and a command that ends with these codes, one after the other."""
    made: list[str] = []

    def command(arguments: Sequence[str]) -> int:
        made.append(arguments[0])
        return codes[len(made) - 1]

    return made, command


def test_a_task_finds_its_runs_by_its_number(tmp_path):
    runs = [planned(number) for number in range(3)]
    write_tasks(tmp_path / "level0.jsonl", [runs[:2], runs[2:]])
    assert runs_of_task(tmp_path / "level0.jsonl", 1) == runs[2:]
    with pytest.raises(ConfigError, match="has tasks 0 to 1, not 2"):
        runs_of_task(tmp_path / "level0.jsonl", 2)


def test_each_run_is_made_whatever_became_of_the_others(capsys):
    runs = [planned(number) for number in range(4)]
    runs[2].parents = [runs[0].run]
    write(runs[3], "finished")
    made, command = ending(1, 0)
    assert carry_out_task(runs, command, bool) == 1
    assert made == [runs[0].run, runs[1].run] and state_of(runs[2].run) is State.blocked
    assert capsys.readouterr().out.splitlines() == [
        f"[1/4] {runs[0].title}",
        f"[2/4] {runs[1].title}",
        f"rlx: {runs[2].title}: blocked: {runs[0].run} is not started",
        f"{runs[3].title}: finished already: {runs[3].run}",
    ]


def test_the_worst_code_is_the_task_s():
    made, command = ending(1, 3, 1)
    assert carry_out_task([planned(number) for number in range(3)], command, bool) == 3 and len(made) == 3


def test_a_run_that_was_stopped_stops_the_task():
    made, command = ending(1, 75, 0)
    assert carry_out_task([planned(number) for number in range(3)], command, bool) == 75 and len(made) == 2


def test_a_signal_between_two_runs_stops_the_task():
    runs = [planned(0), planned(1)]

    def command(arguments: Sequence[str]) -> int:
        write(runs[0], "finished")
        return 0

    def stop() -> bool:
        return state_of(runs[0].run) is State.finished

    assert carry_out_task(runs, command, stop) == 75
    assert carry_out_task(runs[:1], command, stop) == 0  # nothing is left to come back for


def busy_until_released(
    run: PlannedRun, looks: int
) -> tuple[list[int], Callable[[Sequence[str]], int], Callable[[], bool]]:
    """A command that finds the run held by another process, which lets it go after so many looks."""
    lease, made, left = Lease.acquire(run.run), [], [looks]

    def command(arguments: Sequence[str]) -> int:
        made.append(BusyError.exit_code if is_held(run.run) else 0)
        return made[-1]

    def stop() -> bool:
        left[0] -= 1
        if left[0] == 0:
            lease.release()
        return False

    return made, command, stop


def test_a_run_that_another_process_holds_is_waited_for(monkeypatch):
    monkeypatch.setattr(task, "LOOK_S", 0.01)
    made, command, stop = busy_until_released(planned(0), 5)
    assert carry_out_task([planned(0)], command, stop) == 0 and made == [2, 0]


def test_a_run_that_is_let_go_before_the_look_is_made():
    made, command = ending(2, 0)
    assert carry_out_task([planned(0)], command, bool) == 0 and len(made) == 2
    made, command = ending(2, 2)
    assert carry_out_task([planned(0)], command, bool) == 2 and len(made) == 2  # it was refused for something else


def test_a_run_that_another_process_finished_is_no_failure():
    run, made = planned(0), []

    def command(arguments: Sequence[str]) -> int:
        made.append(arguments)
        write(run, "finished")
        return 2

    assert carry_out_task([run], command, bool) == 0 and len(made) == 1


def test_and_given_up_where_it_goes_on_with_it(monkeypatch):
    for name, seconds in (("LOOK_S", 0.01), ("STALE_S", 0.05), ("HEARTBEAT_S", 0.0)):
        monkeypatch.setattr(task, name, seconds)
    made, command, stop = busy_until_released(planned(0), 10**6)
    assert carry_out_task([planned(0)], command, stop) == 2 and made == [2]
