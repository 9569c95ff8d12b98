"""Runs under a real Slurm, hit in every way it has, end with the same bits as without it.

A study of seven small runs is submitted and most are hit in the middle of their steps; one fails by itself, and two
begin from others. What did not finish is retried. It is played once, and the tests look at what was found on the way.
"""

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from rlx.cli import run as rlx
from rlx.plans.__main__ import main as plans
from rlx.plans.launchers import slurm_array
from rlx.plans.plan import Plan
from rlx.plans.submissions import key_of, places, submissions
from rlx.signals import stop
from tests.conftest import COUNTDOWN, SMALL, environment
from tests.plans import held
from tests.plans.cluster import Cluster, missing
from tests.runs.loggers.uploads import check_rows, unsynced
from tests.stages.kills import differences
from tests.stages.runs import digest, record, rows

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

RUNS = {
    "requeued": "stage=pretrain, logger=wandb, logger.mode=offline",  # by `scontrol requeue`
    "limited": "stage=pretrain",  # signalled as before its time limit
    "cancelled": "stage=pretrain",  # by `scancel`
    "killed": "stage=pretrain",  # its process, by SIGKILL
    "broken": "stage=pretrain",  # it is held back, and then finds a file where its checkpoints' folder has to be
    "heir": 'stage=sft, "init_from={limited}"',
    "orphan": 'stage=sft, "init_from={broken}"',
}
"""Overrides by name, and what becomes of it."""
STUDY = f"""
defaults: [/schema/study@_here_: quickstart, _self_]
common: [{", ".join(text for text in (*COUNTDOWN, *SMALL) if text != "scale=smoke")}]
common_at: {{smoke: [stage.steps=12, stage.val_every=4, checkpoint.every=3]}}
runs:
""" + "".join(
    f"  {name}: {{overrides: [{overrides}, optim.weight_decay={number / 100}]}}\n"
    for number, (name, overrides) in enumerate(RUNS.items())
)
COMMAND = ("--config-dir", "my_conf", "stage=study", "study=seven", "scale=smoke", "trainer.threads=1")
UNDER_SLURM = ("hydra/launcher=slurm_array", f'hydra.launcher.container="{sys.executable} {held.__file__}"')
PATIENCE_S = 180.0
"""Seconds that a task may take on a busy machine; starting Python with torch is most of it."""


@dataclass
class Story:
    """What happened."""

    cluster: Cluster
    plan: Path
    whole: Path
    """Where the same runs were made without Slurm."""
    told: dict[str, str] = field(default_factory=dict)
    """What commands printed."""
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What `status` said of each run, at some times."""

    def run(self, name: str) -> Path:
        """A run's directory."""
        return next(Path(run.run) for run in Plan.read(self.plan).runs if run.name == name)

    def task(self, name: str) -> str:
        return places(self.plan)[key_of(str(self.run(name)))].task

    def log(self, name: str) -> str:
        """What the first task of a run printed."""
        submission = submissions(self.plan)[0]
        task = dict(submission.places())[key_of(str(self.run(name)))]
        return (submission.folder / f"{task}.log").read_text()

    def look(self, when: str) -> None:
        lines = [json.loads(line) for line in said("status", self.plan, "--json").splitlines()]
        self.seen[when] = {line["name"]: line for line in lines}

    def states(self, when: str) -> dict[str, str]:
        return {name: found["state"] for name, found in self.seen[when].items()}

    def in_the_middle(self, name: str) -> str:
        """Wait until a run is held at its step, and return its task."""
        path = self.run(name) / "metrics.jsonl"
        there = f"{name} to be at step {held.STEP}"
        self.cluster.wait(lambda: path.is_file() and len(rows(path.parent)) >= held.STEP, there, PATIENCE_S)
        return self.task(name)

    def let_go(self, *names: str) -> None:
        for name in names:
            self.run(name).mkdir(parents=True, exist_ok=True)
            (self.run(name) / "go").touch()

    def wait(self, *states: str, of: Sequence[str]) -> None:
        for name in of:
            self.cluster.wait_for(self.task(name), *states, seconds=PATIENCE_S)

    def concluded(self) -> None:
        """Wait for the job that ends the last submission."""
        self.cluster.wait_for(f"{submissions(self.plan)[-1].conclusion}_0", "COMPLETED", seconds=PATIENCE_S)


def said(command: str, plan: Path, *more: str) -> str:
    """What a command of `python -m rlx.plans` prints that ends well."""
    with redirect_stdout(io.StringIO()) as out:
        assert plans([command, str(plan), *more]) == 0
    return out.getvalue()


def done(*arguments: str) -> str:
    """What `rlx` prints that ends well."""
    stop.signal = None
    with redirect_stdout(io.StringIO()) as out:
        assert rlx(arguments) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def here(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder, from where the cluster is seen."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PATH", "SLURM_CONF", "PYTHONPATH"):
            patch.setenv(name, {**environment(), **cluster.env}[name])
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def story(cluster: Cluster, here: Path) -> Story:
    Path("my_conf/study").mkdir(parents=True)
    Path("my_conf/study/seven.yaml").write_text(STUDY)
    shutil.copytree("my_conf", "whole/my_conf")
    told = done(*COMMAND, *UNDER_SLURM)
    story = Story(cluster, next(Path("runs/plans").iterdir()), here / "whole", told={"submitted": told})
    cluster.run("scontrol", "hold", story.task("broken"))
    story.let_go("broken", "heir", "orphan")
    (story.run("broken") / "checkpoints").touch()
    hit(story)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(story.whole)
        done(*COMMAND)  # without Slurm, while the cluster is at work
    mended(story)
    return story


def hit(story: Story) -> None:
    """What befalls the runs."""
    cluster = story.cluster
    cluster.run("scontrol", "requeue", story.in_the_middle("requeued"))
    os.kill(cluster.pids(story.in_the_middle("limited"))[0], signal.SIGUSR1)
    cluster.run("scancel", story.in_the_middle("cancelled"))
    os.kill(cluster.pids(story.in_the_middle("killed"))[1], signal.SIGKILL)
    story.wait("CANCELLED", "FAILED", of=("cancelled", "killed"))
    story.wait("PENDING", of=("requeued", "limited"))
    story.look("hit")
    story.let_go("requeued", "limited", "cancelled", "killed")
    for name in ("requeued", "limited"):
        cluster.release(story.task(name))
    cluster.run("scontrol", "release", story.task("broken"))


def mended(story: Story) -> None:
    """What did not finish by itself is made again, once its cause is gone."""
    story.wait("COMPLETED", "FAILED", of=("heir", "orphan"))
    story.look("left")
    story.told["status"] = said("status", story.plan)
    (story.run("broken") / "checkpoints").unlink()
    story.told["retry cancelled"] = said("retry", story.plan, "--state", "cancelled")
    story.told["retry"] = said("retry", story.plan, "cpus_per_task=2")
    story.look("retried")
    story.told["nothing"] = said("retry", story.plan)
    story.concluded()
    story.look("end")
    story.told["collect"] = said("collect", story.plan)


def test_submitting_says_what_it_did(story):
    told = story.told["submitted"].splitlines()[-4:]
    jobs = [*submissions(story.plan)[0].jobs(), submissions(story.plan)[0].conclusion]
    assert [line.split(":")[0] for line in told] == [*(f"job {job}" for job in jobs), "watch it"]


def test_states_while_it_goes_on(story):
    assert story.states("hit") == {
        "requeued": "requeued", "limited": "requeued", "cancelled": "cancelled", "killed": "interrupted",
        "broken": "queued", "heir": "queued", "orphan": "queued",
    }  # fmt: skip
    found = story.seen["hit"]
    assert [found[name]["step"] for name in ("requeued", "limited", "cancelled", "killed")] == [held.STEP] * 4
    assert found["broken"]["reason"] == "JobHeldAdmin" and found["requeued"]["reason"] == "BeginTime"


def test_states_when_nothing_more_happens(story):
    assert story.states("left") == {
        "requeued": "finished", "limited": "finished", "cancelled": "cancelled", "killed": "interrupted",
        "broken": "failed", "heir": "finished", "orphan": "blocked",
    }  # fmt: skip
    reasons = {name: found["reason"] for name, found in story.seen["left"].items()}
    assert reasons["killed"] == "its process is gone (Slurm: FAILED); rlx was ended by signal 9"
    assert reasons["broken"].startswith("FileExistsError: [Errno 17] File exists: ")
    assert reasons["orphan"] == f"{story.run('broken')} is failed, and this run begins from it"
    assert all(reasons[name] in story.told["status"] for name in ("killed", "broken", "orphan"))


def test_a_retry_takes_what_did_not_finish_and_changes_resources(story):
    assert "retrying 1 of 7 runs: 1 cancelled" in story.told["retry cancelled"]
    assert "retrying 3 of 7 runs: 1 failed, 1 blocked, 1 interrupted" in story.told["retry"]
    assert "nothing to retry" in story.told["nothing"]
    assert {story.states("retried")[name] for name in ("killed", "broken", "orphan", "cancelled")} <= {
        "queued", "requeued", "starting",
    }  # fmt: skip
    texts = [(each.folder / "level0.sbatch").read_text() for each in submissions(story.plan)]
    assert ["--cpus-per-task=2" in text for text in texts] == [False, False, True]


def test_all_end_and_are_collected(story):
    assert set(story.states("end").values()) == {"finished"}
    assert "7 finished" in story.told["collect"]
    claims = json.loads((story.plan / "claims.json").read_text())
    assert claims and (story.plan / "report.html").is_file()


@pytest.mark.parametrize("name", RUNS)
def test_the_bits_are_those_of_a_run_without_slurm(story, name):
    """Weights, states, rows but for their clocks. Records may differ in the W&B run and in the path of a parent."""
    run = story.run(name)
    named = {"record"} if name in ("requeued", "heir", "orphan") else set()
    assert set(differences(run, story.whole / run)) <= named
    assert [row["step"] for row in rows(run) if "train/loss" in row] == list(range(1, 13))
    assert digest(run)["step-000012"] == digest(story.whole / run)["step-000012"]


def test_tasks_that_were_stopped_go_on_from_the_step(story):
    for name in ("requeued", "limited"):
        assert f"going on from step {held.STEP}" in story.log(name)
        assert len(list((story.run(name) / "logs").glob("attempt-*.log"))) == 2
    task = story.task("limited")
    assert f"stopped by Slurm: {task} goes back into the queue" in story.log("limited")
    assert "stopped by Slurm" not in story.log("requeued") + story.log("cancelled")


def test_wandb_has_one_run_with_each_row_once(story):
    run = story.run("requeued")
    files = sorted(run.glob("wandb/*/*.wandb"))
    assert len(files) == 2 and {file.stem for file in files} == {f"run-{record(run)['wandb']['id']}"}
    (sent,) = unsynced(run)
    check_rows(run, sent.rows)
    assert sent.exit == 0


class Climbing(Sweeper):
    """A search of two batches: the second is made from what the first measured."""

    measured: ClassVar[list[float]] = []

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        assert self.launcher is not None
        rate = 1e-3
        for number in range(2):
            (made,) = self.launcher.launch([[*arguments, f"optim.lr={rate}"]], initial_job_idx=number)
            self.measured.append(made.return_value)
            rate = rate_after(made.return_value)


def rate_after(loss: float) -> float:
    return float(f"{loss / 1000:.1e}")


@pytest.fixture
def climbing(monkeypatch: pytest.MonkeyPatch) -> str:
    """The option of `hydra/sweeper` that the search is, for one test."""
    name = "hydra_plugins.climbing.Climbing"
    module = ModuleType("hydra_plugins.climbing")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(module, "Climbing", Climbing, raising=False)
    monkeypatch.setattr(Climbing, "__module__", module.__name__)
    monkeypatch.setitem(Plugins.instance().class_name_to_class, name, Climbing)
    ConfigStore.instance().store("climbing", {"_target_": name}, group="hydra/sweeper")
    options = ConfigStore.instance().repo["hydra"]["sweeper"]
    node = options.pop("climbing.yaml")
    monkeypatch.setitem(options, "climbing.yaml", node)
    return "hydra/sweeper=climbing"


def test_a_search_waits_for_each_batch_and_reads_its_metric(here, climbing, monkeypatch):
    monkeypatch.setattr(slurm_array, "POLL_S", 0.5)
    search = [*COUNTDOWN, *SMALL, "stage=pretrain", "stage.steps=6", "stage.val_every=3"]
    told = done("-m", *search, climbing, "hydra/launcher=slurm_array", "optimized_metric=val/loss", "runs_dir=found")
    first, second = sorted(Path("found").glob("*/seed0"), key=lambda run: (run / "status").stat().st_mtime)
    assert Climbing.measured == [rows(run)[-1]["val/loss"] for run in (first, second)]
    assert told.count("watch it:") == len(submissions(next(Path("found/plans").iterdir()))) == 2
    done(*search, f"optim.lr={rate_after(Climbing.measured[0])}", "runs_dir=alone")
    assert differences(second, Path("alone") / second.relative_to("found")) == []
