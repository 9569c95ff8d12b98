"""Where runs stand that were submitted: what they say themselves, and what Slurm says of their tasks."""

from pathlib import Path

import pytest

from rlx.plans.launchers.slurm_array import SlurmArrayConfig
from rlx.plans.standing import standings
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
