"""Which tasks in the queue are a plan's."""

import json
import os
from pathlib import Path

import pytest

from rlx.errors import ConfigError
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
    read_tasks,
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


WHOLE = {"arrays": [{"job": "7", "level": 0, "script": "level0.sbatch", "tasks": 1}], "cancelled": [], "conclusion": ""}
DAMAGED = {
    "no JSON": "{", "nothing": "{}", "deep": "[" * 100_000,
    "a job that is a number": json.dumps(WHOLE).replace('"7"', "7"),
    "an array without tasks": json.dumps({**WHOLE, "arrays": [{"job": "7"}]}),
    "a conclusion that is a list": json.dumps({**WHOLE, "conclusion": ["--me"]}),
}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_jobs_file_is_one_line(text: str) -> None:
    folder = new_submission(Path("runs/plans/made")).folder
    (folder / "jobs.json").write_text(text)
    with pytest.raises(ConfigError, match="is damaged; restore it"):
        submissions(Path("runs/plans/made"))


@pytest.mark.parametrize("line", ["{", "3", '[{"run": "x"}]', "[" * 100_000, '[], "a": ['])
def test_a_damaged_list_of_tasks_names_its_line(line: str) -> None:
    write_tasks(Path("level0.jsonl"), [[planned(0)]])
    assert len(read_tasks(Path("level0.jsonl"))) == 1
    with open("level0.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=r"level0.jsonl:2 .*restore the file"):
        read_tasks(Path("level0.jsonl"))
    with pytest.raises(ConfigError, match="cannot read nowhere"):
        read_tasks(Path("nowhere.jsonl"))
