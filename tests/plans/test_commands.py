"""`python -m rlx.plans` and scripts/plan.py: what is typed, what is refused, and what `cancel` stops."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlx.errors import ConfigError
from rlx.plans import __main__ as commands
from rlx.plans.drivers import drivers, driving
from rlx.plans.plan import Plan
from rlx.plans.submissions import Array, key_of, new_submission, submissions, write_tasks
from rlx.runs.status import State
from tests.conftest import Done, environment
from tests.plans.launchers.standins import in_another_process, plan_of, run_of, states, wait_for
from tests.plans.made import of_many, planned, saved, write

FOLDER = "runs/plans/made"
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "plan.py"
pytestmark = pytest.mark.usefixtures("here")


def test_cancel_asks_the_process_that_carries_a_plan_out(plans, tmp_path: Path) -> None:
    plan = plan_of([run_of(tmp_path / "runs", number, "sleep=60") for number in range(2)])
    process = in_another_process(plan, 1)
    wait_for(lambda: states(plan)[0] is State.running)
    refused = plans("cancel", FOLDER, "--state", "queued")
    assert refused.code == 0 and "it stops as a whole" in refused.err and process.poll() is None
    done = plans("cancel", FOLDER)
    assert done.out.startswith(f"asked pid {process.pid} on ") and done.out.count("\n") == 1
    process.communicate(timeout=60)
    assert process.returncode == 75 and states(plan) == [State.stopped, State.absent] and drivers(plan.folder) == []
    assert plans("cancel", FOLDER).out == "nothing to cancel: 1 stopped, 1 absent\n"


SLURM = {
    "sbatch": "echo 1",
    "squeue": 'cat "$0.out"',
    "scancel": 'echo "$@" >> "$0.said"',
    "scontrol": "echo MaxArraySize = 1001",
}
"""Commands of a Slurm that does nothing."""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of its commands; `squeue.out` is what is in the queue, `scancel.said` what was cancelled."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, line in SLURM.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    (folder / "squeue.out").write_text("")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def submitted(slurm: Path, tasks: Sequence[Sequence[int]]) -> Plan:
    """A plan whose runs, by task, are in job 7: the first task runs, the others wait."""
    runs = [[planned(number) for number in numbers] for numbers in tasks]
    plan = saved([run for task in runs for run in task], option="slurm_array")
    submission = new_submission(plan.folder)
    write_tasks(submission.folder / "level0.jsonl", runs)
    submission.arrays.append(Array("7", 0, "level0.sbatch", len(tasks)))
    submission.save()
    queue = [f"7|{number}|{'PENDING' if number else 'RUNNING'}|None|\n" for number in range(len(tasks))]
    (slurm / "squeue.out").write_text("".join(queue))
    return plan


def said(slurm: Path) -> list[str]:
    path = slurm / "scancel.said"
    return sorted(path.read_text().split()) if path.exists() else []


def test_cancel_takes_tasks_out_of_the_queue(plans, slurm: Path) -> None:
    submitted(slurm, [[0], [1], [2]])
    assert "1 starting, 2 queued" in plans("status", FOLDER).out
    done = plans("cancel", FOLDER, "--match", "lr=2")
    assert done.out == "cancelled 1 tasks\n" and said(slurm) == ["7_2"]
    assert plans("cancel", FOLDER).out == "cancelled 3 tasks\n" and said(slurm) == ["7_0", "7_1", "7_2", "7_2"]
    (slurm / "squeue.out").write_text("")
    assert "3 cancelled" in plans("status", FOLDER).out
    assert plans("retry", FOLDER).out == "nothing to retry: 3 cancelled (retry those with --state cancelled)\n"


def test_cancel_takes_only_what_the_queue_has_of_the_plan_s_end(plans, slurm: Path) -> None:
    """Whatever jobs.json says, which anybody may have changed."""
    plan = submitted(slurm, [[0]])
    (submission,) = submissions(plan.folder)
    submission.conclusion = "--user=root"
    submission.save()
    end = submission.folder.absolute() / "conclusion.sbatch"
    (slurm / "squeue.out").write_text(
        f"7|0|PENDING|None|\n8|0|PENDING|Dependency|{end}\n9|0|PENDING|None|/a/{end.name}\n"
    )
    assert plans("cancel", FOLDER).code == 0 and said(slurm) == ["7_0", "8_0"]


def test_cancel_that_breaks_off_knows_what_it_has_cancelled(plans, slurm: Path, monkeypatch) -> None:
    plan = submitted(slurm, [[0], [1], [2]])
    monkeypatch.setattr("rlx.plans.slurm.AT_ONCE", 1)
    (slurm / "scancel").write_text('#!/bin/sh\n[ "$1" != 7_1 ]\n')
    assert plans("cancel", FOLDER).err == "rlx: scancel refused: exit code 1\n"
    assert submissions(plan.folder)[0].cancelled == [key_of(planned(number).run) for number in (0, 1)]
    (slurm / "squeue.out").write_text("7|1|PENDING|None|\n7|2|PENDING|None|\n")
    assert "2 queued, 1 cancelled" in plans("status", FOLDER).out
    write(planned(1), "failed", "no disk")
    (slurm / "squeue.out").write_text("7|1|FAILED|None|\n7|2|PENDING|None|\n")
    assert "1 queued, 1 failed, 1 cancelled" in plans("status", FOLDER).out


def test_retry_looks_before_it_submits(plans, slurm: Path) -> None:
    plan = submitted(slurm, [[0]])
    (slurm / "squeue.out").write_text("")
    done = plans("retry", FOLDER, "venv=nowhere")
    assert done.code == 2 and "there is no nowhere/bin/activate" in done.err
    assert len(submissions(plan.folder)) == 1


def test_what_another_cluster_has_is_left_to_it(plans, slurm: Path) -> None:
    plan = submitted(slurm, [[0]])
    (submission,) = submissions(plan.folder)
    submission.cluster = "old"
    submission.save()
    (slurm / "squeue.out").write_text("")
    (slurm / "scontrol").write_text("#!/bin/sh\necho ClusterName = new\n")
    told = "submitted on the cluster old, of which new knows nothing"
    for command in ("retry", "cancel"):
        done = plans(command, FOLDER)
        assert done.code == 2 and done.err.startswith(f"rlx: {told}; type the command there") and not said(slurm)
    done = plans("status", FOLDER)
    assert done.code == 0 and done.err == f"rlx: {told}: what goes on there is not shown\n"


def test_a_slurm_that_does_not_answer(plans: Callable[..., Done], slurm: Path, monkeypatch) -> None:
    """Nothing is cancelled then, and `watch` does not take its tasks for ended."""
    submitted(slurm, [[0]])
    silence(slurm, True)
    assert plans("cancel", FOLDER) == Done(1, "", "rlx: squeue refused: exit code 1\n")
    done = plans("status", FOLDER)
    assert done.code == 0 and "1 unknown" in done.out and "retry" not in done.out
    assert plans("retry", FOLDER).out == "nothing to retry: 1 unknown (retry those with --state unknown)\n"
    answers = [True, False]
    monkeypatch.setattr("rlx.plans.watch._pause", lambda took, least: answers.pop(0) or write(planned(0), "finished"))
    assert plans("watch", FOLDER).out == "1 unknown\n1 finished\n" and answers == []


def test_cancelled_runs_are_told_how_they_are_made_again(plans, slurm: Path) -> None:
    submitted(slurm, [[0], [1]])
    plans("cancel", FOLDER)
    (slurm / "squeue.out").write_text("")
    write(planned(1), "finished")
    assert f"retry {FOLDER} --state cancelled" in plans("status", FOLDER).out
    assert "1 cancelled" in plans("retry", FOLDER).out and "--state cancelled" in plans("retry", FOLDER).out
    assert plans("retry", FOLDER, "--match", "nosuch").out.startswith("nothing to retry that has nosuch: ")


def test_tasks_whose_runs_were_finished_elsewhere_are_cancelled_too(plans, slurm: Path) -> None:
    submitted(slurm, [[0], [1]])
    write(planned(0), "finished")
    write(planned(1), "finished")
    assert plans("cancel", FOLDER).code == 0 and said(slurm) == ["7_0", "7_1"]


@pytest.mark.parametrize("where, typed", {"runs/plans": "made", FOLDER: ".", "runs": "plans/made"}.items())
def test_a_plan_is_found_from_beside_it(plans, slurm: Path, monkeypatch, where: str, typed: str) -> None:
    submitted(slurm, [[0]])
    write(planned(0), "finished")
    monkeypatch.chdir(where)
    assert "1 finished" in plans("status", typed).out
    done = plans("collect", typed)
    assert done.code == 0 and done.out.startswith("1 runs (1 finished)")


def silence(slurm: Path, silent: bool) -> None:
    (slurm / "squeue").write_text("#!/bin/sh\nexit 1\n" if silent else f"#!/bin/sh\n{SLURM['squeue']}\n")


def test_a_task_with_other_runs_is_left_alone(plans, slurm: Path) -> None:
    submitted(slurm, [[0, 1], [2, 3]])
    write(planned(0), "finished")
    done = plans("cancel", FOLDER, "--match", "lr=2")
    assert done.err == "rlx: task 7_1 has other runs too, and is left alone\n" and said(slurm) == []
    assert "1 starting" in plans("status", FOLDER).out
    assert plans("cancel", FOLDER, "--match", "lr=1").code == 0 and said(slurm) == ["7_0"]  # its other run is finished


@pytest.mark.parametrize(
    "words, told",
    [
        (("status", "runs/plans/other"), "is not a plan: it has no manifest.jsonl; there are runs/plans/made"),
        (("collect", "runs"), "runs is not a plan: it has no manifest.jsonl; there are runs/plans/made"),
        (("watch", "/nowhere/x"), "a plan is <runs_dir>/plans/<name>"),
        (("status",), "the following arguments are required: plan; see python -m rlx.plans status -h"),
        (("status", FOLDER, "--rows", "x"), "argument --rows: invalid int value: 'x'"),
        (("status", FOLDER, "--jsn"), "unrecognized arguments: --jsn"),
        (("stats", FOLDER), "there is no command stats; there are status, watch, retry, cancel, collect"),
        (("retry", FOLDER, "--state", "lost"), "--state lost: expected running, starting"),
        (("cancel", FOLDER, "extra"), "unrecognized arguments: extra"),
    ],
)
def test_wrong_commands_are_told_in_a_line(plans, words: tuple[str, ...], told: str) -> None:
    saved([planned(0)])
    done = plans(*words)
    assert done.code == 2 and told in done.err and done.out == ""
    assert done.err.startswith("rlx: ") and done.err.count("\n") == 1


def test_a_plan_on_another_host_is_not_stopped_from_here(plans, monkeypatch) -> None:
    plan = saved([planned(0)])
    with driving(plan), monkeypatch.context() as patch:
        patch.setattr("rlx.plans.drivers.socket.gethostname", lambda: "elsewhere")
        with pytest.raises(ConfigError, match="type the command there"):
            commands.ask_to_stop(plan.folder)


def test_help_reads_well(plans: Callable[..., Done], capfd: pytest.CaptureFixture[str]) -> None:
    page = plans("-h")
    assert page.code == 0
    for name in ("status", "watch", "retry", "cancel", "collect"):
        assert f"\n  {name} " in page.out
        with pytest.raises(SystemExit) as ended:
            commands.main([name, "-h"])
        assert ended.value.code == 0 and f"usage: python -m rlx.plans {name} [-h]" in capfd.readouterr().out
    assert plans().code == 2


@pytest.mark.parametrize("program", [("-m", "rlx.plans"), (str(SCRIPT),)], ids=["module", "script"])
def test_both_programs(program: tuple[str, ...]) -> None:
    saved([planned(0)])
    done = subprocess.run(
        [sys.executable, *program, "status", FOLDER], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0 and "1 absent" in done.stdout and done.stderr == ""


def test_a_reader_that_goes_away_is_no_error() -> None:
    of_many(300)
    command = f"{sys.executable} -m rlx.plans status {FOLDER} | head -1"
    done = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True)
    assert done.stdout.startswith("made") and done.stderr == ""
