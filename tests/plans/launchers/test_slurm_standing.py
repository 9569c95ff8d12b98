"""Where runs stand that were submitted: what they say themselves, and what Slurm says of their tasks."""

import os
import time
from pathlib import Path

import pytest

from rlx.plans.launchers.slurm_array import SlurmArrayConfig
from rlx.plans.standing import elsewhere, over, shown, standings
from rlx.plans.submissions import key_of, submissions
from rlx.runs.status import State
from tests.plans.launchers.pretended import carried, directory, ended, plan_of, planned

STATES = {
    # what the run's status says (and whether that was before it was submitted), its task, the state to be shown
    "waits": (None, False, "PENDING Priority", "queued"),
    "on a node": (None, False, "RUNNING", "starting"),
    "stopped, waits": (State.stopped, False, "PENDING BeginTime", "requeued"),
    "stopped a moment ago": (State.stopped, False, "COMPLETING", "requeued"),
    "starts again": (State.stopped, False, "RUNNING", "starting"),
    "its node was lost": (State.running, False, "PENDING BeginTime", "requeued"),
    "failed before": (State.failed, True, "PENDING", "queued"),
    "failed before, on a node": (State.failed, True, "RUNNING", "starting"),
    "failed, others of its task go on": (State.failed, False, "RUNNING", "failed"),
    "failed, and waits again": (State.failed, False, "PENDING BeginTime", "queued"),
    "failed, its task ends": (State.failed, False, "COMPLETING", "failed"),
    "failed, its task was cancelled": (State.failed, False, "CANCELLED", "failed"),
    "blocked": (State.blocked, False, "FAILED", "blocked"),
    "cancelled before it began": (None, False, "CANCELLED", "cancelled"),
    "cancelled": (State.stopped, False, "CANCELLED", "cancelled"),
    "cancelled and killed": (State.running, False, "CANCELLED", "cancelled"),
    "failed before, cancelled": (State.failed, True, "CANCELLED", "cancelled"),
    "killed": (State.running, False, "FAILED", "interrupted"),
    "out of memory": (State.running, False, "OUT_OF_MEMORY", "interrupted"),
    "never began": (None, False, "FAILED", "absent"),
    "stopped, and Slurm forgot": (State.stopped, False, None, "stopped"),
    "finished": (State.finished, False, "RUNNING", "finished"),
}


@pytest.mark.parametrize("status, before, task, shown", STATES.values(), ids=STATES.keys())
def test_where_a_run_stands(pretended, status, before, task, shown):
    plan = plan_of(planned(0))
    if status is not None and before:
        ended(0, status, "of old")
    carried(SlurmArrayConfig(), plan)
    if status is not None and not before:
        ended(0, status, "of now")
    pretended.queue(**({"_1_0": task} if task else {}))
    (found,) = standings(plan)
    assert found.state == shown


def test_a_run_that_was_cancelled_here_is_that_while_its_task_ends(pretended):
    plan = plan_of(planned(0))
    carried(SlurmArrayConfig(), plan)
    ended(0, State.stopped)
    (submission,) = submissions(plan.folder)
    submission.cancelled.append(key_of(directory(0)))
    submission.save()
    for state in ("COMPLETING", "CANCELLED"):
        pretended.queue(_1_0=state)
        assert [found.state for found in standings(plan)] == ["cancelled"]


@pytest.mark.parametrize("by", ["rlx", "scancel"])
def test_a_run_that_was_taken_up_since_is_no_longer_cancelled(pretended, by):
    """By a local launcher, say, which was killed."""
    plan = plan_of(planned(0))
    carried(SlurmArrayConfig(), plan)
    (submission,) = submissions(plan.folder)
    submission.cancelled += [key_of(directory(0))] if by == "rlx" else []
    submission.save()
    pretended.queue(_1_0="CANCELLED")
    log = submission.folder / "1_0.log"
    log.touch()
    ended(0, State.running)
    assert [found.state for found in standings(plan)] == ["cancelled"]
    old = time.time() - 3600
    for path in submission.folder.iterdir():
        os.utime(path, (old, old))
    assert [found.state for found in standings(plan)] == ["interrupted"]


@pytest.mark.parametrize("script, state", [("/elsewhere/level0.sbatch", "absent"), ("(null)", "starting")])
def test_another_job_with_the_number_says_nothing(pretended, script, state):
    plan = plan_of(planned(0))
    carried(SlurmArrayConfig(), plan)
    Path("queue").write_text(f"1|0|RUNNING|None|{script}\n")
    assert [found.state for found in standings(plan)] == [state]


def test_what_was_handed_to_another_cluster(pretended):
    plan = plan_of(planned(0))
    Path("config").write_text("ClusterName = old\nMaxArraySize = 1001\n")
    carried(SlurmArrayConfig(), plan)
    assert elsewhere(standings(plan)) == ""
    Path("config").write_text("ClusterName = new\nMaxArraySize = 1001\n")
    assert elsewhere(standings(plan)) == "submitted on the cluster old, of which new knows nothing"
    Path("config").write_text("MaxArraySize = 1001\n")
    assert elsewhere(standings(plan)) == ""
    ended(0, State.finished)
    Path("config").write_text("ClusterName = new\n")
    assert elsewhere(standings(plan)) == ""


@pytest.mark.parametrize("line, seen", [
    ("step 1\rstep 2\r\n", "step 2"),
    ("\x1b[1;31mno\x1b[0m disk\x07\x1b]0;title\x07", "no disk"),
    ("a\tb\x00c\x1b", "a bc"),
    ("\x1b[2K", ""),
])  # fmt: skip
def test_lines_are_shown_as_a_terminal_leaves_them(line, seen):
    assert shown(line) == seen


def test_reasons_have_no_colours(pretended):
    plan = plan_of(planned(0), planned(1))
    carried(SlurmArrayConfig(), plan)
    ended(0, State.failed, "the \x1b[31mloss\x1b[0m is nan")
    Path("runs/plans/plan/submissions/001/1_1.log").write_text("10%\r\x1b[32m20%\x1b[0m\n\x1b[K\r\n")
    pretended.queue(_1_0="FAILED", _1_1="FAILED")
    assert [found.reason for found in standings(plan)] == ["the loss is nan", "Slurm: FAILED; 20%"]


def test_why_runs_are_where_they_are(pretended):
    plan = plan_of(*map(planned, range(5)))
    carried(SlurmArrayConfig(), plan)
    ended(0, State.failed, "the loss is nan at step 3")
    ended(1, State.running)
    Path("runs/plans/plan/submissions/001/1_1.log").write_text(
        "pretrain 10/20\n" * 9999 + "rlx was ended by signal 9\n\n"
    )
    Path("runs/plans/plan/submissions/001/1_2.log").write_text("rlx: corpus.path=a.jsonl is not there\n")
    pretended.queue(_1_0="FAILED", _1_1="FAILED", _1_2="FAILED", _1_3="PENDING JobHeldUser", _1_4="PENDING")
    assert [found.reason for found in standings(plan)] == [
        "the loss is nan at step 3",
        "its process is gone (Slurm: FAILED); rlx was ended by signal 9",
        "Slurm: FAILED; rlx: corpus.path=a.jsonl is not there",
        "JobHeldUser",
        "",
    ]


def test_a_task_of_another_plan_is_shown_and_named(pretended):
    carried(SlurmArrayConfig(), plan_of(planned(0), planned(1), name="one"))
    pretended.queue(_1_0="RUNNING", _1_1="PENDING")
    two = plan_of(planned(1), name="two")
    carried(SlurmArrayConfig(), two)
    (found,) = standings(two)
    assert (found.state, found.lent, found.place and found.place.task) == ("queued", "one", "1_1")


def test_tasks_that_were_cancelled_before_they_began_stand_for_each(pretended):
    """squeue has one row for them."""
    plan = plan_of(planned(0), planned(1))
    carried(SlurmArrayConfig(), plan)
    script = Path("runs/plans/plan/submissions/001/level0.sbatch").absolute()
    Path("queue").write_text(f"1|N/A|CANCELLED|None|{script}\n")
    assert [found.state for found in standings(plan)] == ["cancelled", "cancelled"]


@pytest.mark.parametrize("here", [True, False], ids=["no answer", "no Slurm"])
def test_what_nobody_can_tell_is_unknown(pretended, monkeypatch, here):
    plan = plan_of(planned(0), planned(1), planned(2))
    carried(SlurmArrayConfig(), plan)
    ended(1, State.stopped)
    ended(2, State.finished)
    if here:
        monkeypatch.setattr("rlx.plans.slurm.PATIENCE_S", 0.0)
    else:
        monkeypatch.setenv("PATH", "/nowhere")
    assert [found.state for found in standings(plan)] == ["unknown", "unknown", "finished"]
    assert over(standings(plan)) is not here
