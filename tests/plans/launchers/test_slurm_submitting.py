"""What of a plan is submitted when, and what waits for what."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from rlx.errors import RunError, Stopped
from rlx.plans import slurm
from rlx.plans.launchers import slurm_array
from rlx.plans.launchers.slurm_array import SlurmArrayConfig, share, shortened
from rlx.plans.plan import Plan
from rlx.plans.standing import standings
from rlx.plans.submissions import submissions
from rlx.runs.status import State
from tests.conftest import environment
from tests.plans.launchers.pretended import (
    carried,
    directives,
    directory,
    ended,
    in_tasks,
    plan_of,
    planned,
    program,
    script,
)


def test_levels_follow_each_other(pretended):
    plan = plan_of(planned(0), planned(1), planned(2, 0), planned(3, 2), planned(4, 1, 3))
    carried(SlurmArrayConfig(), plan)
    assert pretended.scripts() == ["level0", "level1", "level2", "level3"]
    assert pretended.after() == [[], ["1"], ["2"], ["3"]]
    assert in_tasks(plan) == [[["lr=0"], ["lr=1"]], [["lr=2"]], [["lr=3"]], [["lr=4"]]]


def test_a_level_longer_than_an_array_is_several(pretended):
    Path("config").write_text("SchedulerParameters = x=1\nMaxArraySize = 4\n")
    plan = plan_of(*map(planned, range(10)), planned(10, 0))
    carried(SlurmArrayConfig(max_parallel=7), plan)
    assert pretended.scripts() == ["level0-0", "level0-1", "level0-2", "level1"]
    assert pretended.after() == [[], [], [], ["1", "2", "3"]]  # all three at once, two tasks of each
    assert [directives(script(name))[1] for name in pretended.scripts()[:3]] == [
        "--array=0-3%2", "--array=0-3%2", "--array=0-1",
    ]  # fmt: skip
    assert [len(tasks) for tasks in in_tasks(plan)] == [4, 4, 2, 1]


def test_arrays_that_cannot_share_follow_one_another(pretended):
    Path("config").write_text("SchedulerParameters = bf_x=1,max_array_tasks=2,y=1\nMaxArraySize = 1001\n")
    carried(SlurmArrayConfig(max_parallel=2), plan_of(*map(planned, range(6)), planned(6, 0)))
    assert pretended.after() == [[], ["1"], ["2"], ["1", "2", "3"]]
    assert [share(at_once, 3) for at_once in (None, 1, 2, 3, 8)] == [None, 1, 2, 1, 2]


def test_a_cluster_without_arrays(pretended):
    Path("config").write_text("MaxArraySize = 0\n")
    with pytest.raises(RunError, match="takes no job arrays"):
        carried(SlurmArrayConfig(), plan_of(planned(0)))


def test_short_runs_share_a_task(pretended):
    plan = plan_of(*map(planned, range(5)), planned(5, 0))
    carried(SlurmArrayConfig(runs_per_task=2), plan)
    assert in_tasks(plan) == [[["lr=0", "lr=1"], ["lr=2", "lr=3"], ["lr=4"]], [["lr=5"]]]
    assert [directives(script(name))[1] for name in ("level0", "level1")] == ["--array=0-2", "--array=0-0"]


def test_what_is_in_the_queue_or_finished_is_not_submitted(pretended, capsys):
    first = plan_of(*map(planned, range(4)), planned(4, 0))
    carried(SlurmArrayConfig(runs_per_task=2), first)
    ended(1, State.finished)
    pretended.queue(_1_0="PENDING", _1_1="FAILED", _2_0="PENDING")
    capsys.readouterr()
    assert not carried(SlurmArrayConfig(), first).ended
    assert in_tasks(first) == [[["lr=2"], ["lr=3"]]]
    assert "in the queue already: 3 runs, job 1, 2" in capsys.readouterr().out  # 0 and 1 are one task
    pretended.queue(_1_0="PENDING", _1_1="FAILED", _2_0="PENDING", _3_0="RUNNING", _3_1="REQUEUE_HOLD")
    assert not carried(SlurmArrayConfig(), first).ended
    assert "nothing to submit" in capsys.readouterr().out and len(submissions(first.folder)) == 2


def test_what_another_plan_has_in_the_queue_is_awaited(pretended):
    carried(SlurmArrayConfig(), plan_of(planned(0), planned(1), name="zuerst"))
    pretended.queue(_1_0="RUNNING", _1_1="COMPLETED")
    ended(1, State.finished)
    other = plan_of(planned(0), planned(1), planned(2, 0), planned(3, 1))
    carried(SlurmArrayConfig(), other)
    assert in_tasks(other) == [[["lr=2"], ["lr=3"]]]
    assert pretended.after()[-1] == ["1_0"]


def test_a_run_that_failed_in_one_plan_and_waits_in_another(pretended, capsys):
    """Whichever plan is looked at last, its task in the queue is found."""
    for name in ("a", "z"):
        other = plan_of(planned(0), name=name)
        carried(SlurmArrayConfig(), other)
        job = Path("jobs").read_text().strip()
        pretended.queue(**{f"_{job}_0": "FAILED"})
    pretended.queue(_1_0="PENDING", _2_0="FAILED")
    assert not carried(SlurmArrayConfig(), other).ended
    pretended.queue(_1_0="FAILED", _2_0="PENDING")
    assert not carried(SlurmArrayConfig(), plan_of(planned(0), name="a")).ended
    assert len(pretended.calls()) == 2 and capsys.readouterr().out.count("nothing to submit") == 2


def test_the_same_runs_are_found_by_another_path(pretended, monkeypatch):
    carried(SlurmArrayConfig(), plan_of(planned(0)))
    pretended.queue(_1_0="PENDING JobHeldUser")
    runs_dir = str(Path("runs").absolute())
    plan = plan_of(planned(0, runs_dir=runs_dir), planned(1, 0, runs_dir=runs_dir), name="other", runs_dir=runs_dir)
    carried(SlurmArrayConfig(), plan)
    assert pretended.after() == [[], ["1_0"]]
    assert f" -m rlx.plans task {runs_dir}/plans/other/submissions/001/level1.jsonl " in program(
        script("level1", "other")
    )
    monkeypatch.chdir("/")
    (found,) = standings(Plan.read(Path(runs_dir) / "plans" / "plan"))
    assert (found.state, found.reason) == ("queued", "JobHeldUser")


def test_many_tasks_to_wait_for_are_their_array():
    tasks = [f"7_{number}" for number in range(100)]
    assert shortened([*tasks, "8_3", "8_3", "8_2"]) == ["7", "8_2", "8_3"]


def test_a_submission_that_is_refused_half_way_goes_on_from_there(pretended, capsys):
    plan = plan_of(planned(0), planned(1), planned(2, 0), planned(3, 2), conclusions=[["stage=study"]])
    Path("refused").write_text("2")
    with pytest.raises(RunError) as refused:
        carried(SlurmArrayConfig(), plan)
    told = "sbatch refused: sbatch: error: Batch job submission failed: sbatch: error: no such partition; "
    assert str(refused.value) == f"{told}what it is told: rlx hydra/launcher=slurm_array --help"
    assert capsys.readouterr().out == "job 1: level 0, 2 tasks; runs/plans/plan/submissions/001/level0.sbatch\n"
    pretended.queue(_1_0="RUNNING", _1_1="RUNNING")
    Path("refused").unlink()
    carried(SlurmArrayConfig(), plan)
    assert pretended.scripts() == ["level0", "level1", "level2", "conclusion"]
    assert pretended.after() == [[], ["1_0"], ["2"], ["2", "3", "1_0", "1_1"]]
    assert in_tasks(plan) == [[["lr=2"]], [["lr=3"]]]
    assert len(pretended.calls()) == 4


KILLED = """
from pathlib import Path
from rlx.plans.launchers.base import Hands
from rlx.plans.launchers.slurm_array import SlurmArrayConfig
from rlx.plans.plan import Plan
plan = Plan.read(Path("runs/plans/plan"))
SlurmArrayConfig().carry_out(plan, Hands(execute=print, command=print, stop=bool))
"""


def test_submitting_that_is_killed_goes_on_from_there(pretended, capfd):
    """Also where Slurm took an array whose number nobody could write down."""
    plan = plan_of(planned(0), planned(1, 0), planned(2, 1))
    Path("killing").write_text("2")
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment())
    assert done.returncode == -signal.SIGKILL and submissions(plan.folder)[0].jobs() == ["1"]
    pretended.queue(_1_0="RUNNING", _2_0="PENDING Dependency")
    capfd.readouterr()
    carried(SlurmArrayConfig(), plan)
    assert pretended.scripts() == ["level0", "level1", "level2"] and pretended.after() == [[], ["1"], ["2_0"]]
    told = capfd.readouterr()
    assert "in the queue already: 2 runs, job 1, 2" in told.out and "breaking the lease" in told.err


SLOW = """#!/bin/sh
sleep 0.3
cd "$PRETENDED"
n=$(($(cat jobs) + 1))
echo "$n" > jobs
for script; do :; done
echo "$n|0|PENDING|None|$PRETENDED/$script" >> queue
echo "$*" >> calls
echo "$n"
"""


def test_plans_that_share_a_run_submit_it_once(pretended, tmp_path):
    """Also at the same time."""
    (tmp_path / "bin" / "sbatch").write_text(SLOW)
    plans = [plan_of(planned(0), name=name) for name in ("one", "other")]
    with ThreadPoolExecutor() as pool:
        assert not any(outcome.ended for outcome in pool.map(partial(carried, SlurmArrayConfig()), plans))
    assert len(pretended.calls()) == 1
    assert not Path("runs/plans/lease.json").exists()


def test_a_run_that_another_user_has_in_the_queue_is_awaited(pretended, tmp_path, monkeypatch):
    """In a group's folder, where `squeue --me` shows only half of it."""
    (tmp_path / "bin" / "squeue").write_text('#!/bin/sh\ncase $* in *--me*) ;; *) cat "$PRETENDED/queue" ;; esac\n')
    first = plan_of(planned(0), name="of_a_colleague")
    carried(SlurmArrayConfig(), first)
    pretended.queue(_1_0="PENDING")
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    plan = plan_of(planned(0), planned(1, 0))
    carried(SlurmArrayConfig(), plan)
    assert in_tasks(plan) == [[["lr=1"]]] and pretended.after()[-1] == ["1_0"]
    assert [found.state for found in standings(first)] == ["queued"]  # `retry` leaves it


def test_a_script_that_was_submitted_by_hand_is_known(pretended, capsys):
    plan = plan_of(planned(0), planned(1, 0))
    carried(SlurmArrayConfig(), plan)
    subprocess.run(["sbatch", "--parsable", "runs/plans/plan/submissions/001/level0.sbatch"], check=True)
    pretended.queue(_1_0="FAILED", _2_0="PENDING", _3_0="PENDING")
    carried(SlurmArrayConfig(), plan)
    assert len(pretended.calls()) == 3 and "in the queue already: 2 runs, job 2, 3" in capsys.readouterr().out


def test_the_end_of_a_study_is_a_job_and_is_made_up_for(pretended, capsys):
    plan = plan_of(planned(0), planned(1, 0), conclusions=[["stage=study", "stage.conclude=true"]])
    Path("refused").write_text("3")
    with pytest.raises(RunError):
        carried(SlurmArrayConfig(), plan)
    Path("refused").unlink()
    pretended.queue(_1_0="RUNNING", _2_0="PENDING")
    assert not carried(SlurmArrayConfig(), plan).ended
    assert pretended.scripts() == ["level0", "level1", "conclusion"] and pretended.after()[-1] == ["1_0", "2_0"]
    text = script("conclusion", number=2)
    assert "--array=0-0" in directives(text) and program(text).endswith("-m rlx.plans conclude runs/plans/plan &")
    assert "job 3: the plan's claims and report" in capsys.readouterr().out
    pretended.queue(_1_0="RUNNING", _2_0="PENDING", _3_0="PENDING")
    assert not carried(SlurmArrayConfig(), plan).ended
    assert len(pretended.calls()) == 3 and "nothing to submit" in capsys.readouterr().out


def test_a_retry_moves_the_end_of_a_study_behind_all_that_it_has(pretended):
    plan = plan_of(planned(0), planned(1), planned(2), conclusions=[["stage=study"]])
    carried(SlurmArrayConfig(), plan)
    pretended.queue(_1_0="RUNNING", _1_1="FAILED", _1_2="RUNNING", _2_0="PENDING Dependency")
    again = Plan(folder=plan.folder, runs=plan.runs[1:2], conclusions=plan.conclusions)
    carried(SlurmArrayConfig(), again)
    assert pretended.after()[2:] == [[], ["3", "1_0", "1_2"], []] and pretended.calls()[-1] == "scancel 2_0"


def test_nothing_is_left_to_do(pretended, capsys):
    plan = plan_of(planned(0), conclusions=[["stage=study"]])
    ended(0, State.finished)
    assert carried(SlurmArrayConfig(), plan).ended  # so its conclusions are drawn here
    assert capsys.readouterr().out == "nothing to submit\n" and not submissions(plan.folder)


@pytest.mark.parametrize("field", [True, False], ids=["hydra.launcher.wait", "a sweeper that searches"])
def test_waiting_until_all_have_ended(pretended, monkeypatch, field):
    plan = plan_of(planned(0), planned(1), planned(2, 1))
    carried(SlurmArrayConfig(), plan)
    plan.conclusions = [["stage=study"]]
    monkeypatch.setattr(slurm_array, "POLL_S", 0.1)
    looks = []

    def look(runs_dir: Path, queue: dict) -> dict[str, str]:
        looks.append(queue)
        if len(looks) == 2:
            Path("silent").touch()  # the controller is restarted
            pretended.queue(_1_0="COMPLETED", _1_1="FAILED", _2_0="FAILED")
            ended(0, State.finished)
            ended(1, State.failed, "the loss is nan at step 3")
        return whole(runs_dir, queue)

    def silence(seconds: float) -> None:
        Path("silent").unlink(missing_ok=True)

    whole = slurm_array.live_tasks
    monkeypatch.setattr(slurm_array, "live_tasks", look)
    monkeypatch.setattr(slurm_array.time, "sleep", silence)
    pretended.queue(_1_0="RUNNING", _1_1="RUNNING", _2_0="PENDING")
    outcome = carried(SlurmArrayConfig(wait=field), plan, wait=not field)
    assert outcome.ended and len(looks) == 3
    assert outcome.problems == {directory(1): "the loss is nan at step 3", directory(2): "Slurm: FAILED"}
    assert pretended.scripts() == ["level0", "level1"]  # who waits draws the conclusions


def test_who_waits_may_stop(pretended):
    plan = plan_of(planned(0))
    carried(SlurmArrayConfig(), plan)
    pretended.queue(_1_0="RUNNING")
    with pytest.raises(Stopped):
        carried(SlurmArrayConfig(wait=True), plan, stopped=True)


def test_without_slurm_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="there is no squeue here; type the command on a machine of the cluster"):
        carried(SlurmArrayConfig(), plan_of(planned(0)))


def test_a_job_that_submits_hands_nothing_of_itself_on(pretended, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    assert {key for key in slurm._environment() if key.startswith(("SLURM_", "SBATCH_"))} == {"SLURM_CONF"}


@pytest.mark.parametrize("launcher, kept", [
    (SlurmArrayConfig(), {"ACCOUNT", "PARTITION", "QOS", "RESERVATION"}),
    (SlurmArrayConfig(account="chem", qos="high"), {"PARTITION", "RESERVATION"}),
    (SlurmArrayConfig(extra=["--reservation=r", "-p short", "--account=a"]), {"QOS"}),
])  # fmt: skip
def test_what_a_site_has_its_users_export(pretended, tmp_path, monkeypatch, launcher, kept):
    """Where the launcher says otherwise it would beat that."""
    (tmp_path / "bin" / "sbatch").write_text('#!/bin/sh\nenv | grep ^SBATCH_ > "$PRETENDED/seen"\necho 1\n')
    for name in ("ACCOUNT", "PARTITION", "QOS", "RESERVATION", "TIMELIMIT"):
        monkeypatch.setenv(f"SBATCH_{name}", "site")
    carried(launcher, plan_of(planned(0)))
    assert set(Path("seen").read_text().split()) == {f"SBATCH_{name}=site" for name in kept}


def test_a_submission_that_is_refused_at_once_leaves_nothing(pretended):
    plan = plan_of(planned(0))
    Path("refused").write_text("1")
    for _ in range(2):
        with pytest.raises(RunError, match="no such partition"):
            carried(SlurmArrayConfig(), plan)
    assert not list(plan.folder.glob("submissions/*"))
