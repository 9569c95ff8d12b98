"""Which tasks in the queue are a plan's."""

import os
from pathlib import Path

import pytest

from rlx.plans import slurm
from rlx.plans.plan import PlannedRun
from rlx.plans.slurm import QueuedTask
from rlx.plans.submissions import (
    CONCLUSION,
    Submission,
    key_of,
    live_conclusions,
    live_tasks,
    new_submission,
    queue_of,
    submissions,
    write_tasks,
)
from tests.plans.made import planned

pytestmark = pytest.mark.usefixtures("here")


def script_of(runs_dir: str, run: PlannedRun) -> str:
    """A batch script in a folder of runs, with one task."""
    folder = Path(runs_dir, "plans", "made", "submissions", "001")
    folder.mkdir(parents=True)
    write_tasks(folder / "level0.jsonl", [[run]])
    return str(folder.absolute() / "level0.sbatch")


def test_tasks_of_another_folder_of_runs_are_none_of_ours() -> None:
    """The same run may be made there as well."""
    scripts = [script_of(runs_dir, planned(0)) for runs_dir in ("runs", "others")]
    queue = {f"{job}_0": QueuedTask("RUNNING", "None", script) for job, script in enumerate(scripts, start=1)}
    assert live_tasks(Path("runs"), queue) == {key_of(planned(0).run): "1_0"}
    assert live_tasks(Path("others"), queue) == {key_of(planned(0).run): "2_0"}


def test_the_end_of_another_study_is_not_that_of_this_one() -> None:
    plans = [Path("runs/plans") / name for name in ("one", "other")]
    scripts = [str(new_submission(plan).folder.absolute() / CONCLUSION) for plan in plans]
    queue = {f"{job}_0": QueuedTask("PENDING", "Dependency", script) for job, script in enumerate(scripts, start=1)}
    queue["3_0"] = QueuedTask("COMPLETED", "None", scripts[0])
    assert [live_conclusions(plan, queue) for plan in plans] == [["1_0"], ["2_0"]]


def test_what_is_saved_is_read_again() -> None:
    made = new_submission(Path("runs/plans/made"))
    made.cancelled, made.conclusion, made.cluster = ["a/seed0"], "8", "test"
    made.save()
    assert submissions(Path("runs/plans/made")) == [made]


@pytest.mark.parametrize("owner", [0, 1], ids=["ours", "of another user"])
def test_the_queue_of_all_is_read_where_another_user_submitted(owner: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(slurm, "queue", lambda everyone: asked.append(everyone) or {})
    plan = Path("runs/plans/made")
    folder = Submission(new_submission(plan).folder).folder
    uid = folder.stat().st_uid + owner
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    queue_of(plan)
    assert asked == [bool(owner)]
