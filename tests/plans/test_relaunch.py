"""`retry`: only what did not finish, by the launcher that it had or with other resources, where the plan is."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlx.plans import __main__ as commands
from rlx.plans.drivers import driving
from rlx.plans.launchers.base import LauncherConfig
from rlx.plans.plan import Plan
from rlx.plans.relaunch import launcher_of, moved
from tests.conftest import COUNTDOWN, SMALL, Done
from tests.plans.made import planned, saved, write
from tests.stages.runs import digest

FOLDER = "runs/plans/made"
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Plan, LauncherConfig]]:
    """What `retry` would carry out, and how."""
    found: list[tuple[Plan, LauncherConfig]] = []

    def note(plan: Plan, launcher: LauncherConfig) -> int:
        found.append((plan, launcher))
        return 0

    monkeypatch.setattr(commands, "carried", note)
    return found


def chosen(carried: Sequence[tuple[Plan, LauncherConfig]]) -> list[str]:
    return sorted(run.label.removeprefix("optim.lr=") for run in carried[-1][0].runs)


@pytest.mark.parametrize(
    "words, runs",
    [
        ((), ["2", "3", "4", "5", "6"]),
        (("--state", "failed"), ["2"]),
        (("--state", "failed,stopped,finished"), ["0", "2", "5"]),
        (("--match", "lr=4"), ["4"]),
        (("--match", "h0005"), ["5"]),
    ],
)
def test_retry_picks_what_did_not_finish(plans, carried, mixed: Plan, words: tuple[str, ...], runs: list[str]) -> None:
    done = plans("retry", FOLDER, *words)
    assert done.code == 0 and chosen(carried) == runs
    assert done.out.startswith(f"retrying {len(runs)} of 7 runs: ")


def test_retry_leaves_what_a_process_has_yet_to_come_to(plans, carried, mixed: Plan) -> None:
    with driving(mixed):
        assert plans("retry", FOLDER).out.startswith("nothing to retry: 1 running, 2 requeued, 3 queued")
    assert carried == []


def test_retry_takes_parents_first(plans, carried) -> None:
    parent = planned(1)
    saved([parent, planned(0, parents=[parent.run])])
    plans("retry", FOLDER)
    assert [(run.label, run.level) for run in carried[0][0].runs] == [("optim.lr=1", 0), ("optim.lr=0", 1)]
    write(parent, "finished")
    plans("retry", FOLDER)
    assert [(run.label, run.level) for run in carried[1][0].runs] == [("optim.lr=0", 0)]


@pytest.mark.parametrize(
    "words",
    [
        ("retry", FOLDER, "time=8:00:00", "--state", "failed", "mem=64G"),
        ("retry", FOLDER, "--state=failed", "time=8:00:00", "mem=64G"),
        ("retry", "--state", "failed", FOLDER, "time=8:00:00", "hydra.launcher.mem=64G"),
    ],
)
def test_retry_with_other_resources(plans, carried, words: tuple[str, ...]) -> None:
    runs = [planned(0), planned(1)]
    write(runs[0], "failed", "out of time")
    saved(runs, option="slurm_array", time="1:00:00", cpus_per_task=2, extra=["--qos=x"])
    assert plans(*words).code == 0
    launcher = carried[0][1]
    settings = {key: value for key, value in launcher.settings().items() if value not in (None, [], False)}
    assert chosen(carried) == ["0"]
    assert settings == {
        "option": "slurm_array", "time": "8:00:00", "mem": "64G", "cpus_per_task": 2, "extra": ["--qos=x"],
        "runs_per_task": 1, "signal_s": 120,
    } | {key: settings[key] for key in settings if key not in LAUNCHED}  # fmt: skip


LAUNCHED = ("option", "time", "mem", "cpus_per_task", "extra", "runs_per_task", "signal_s")


def test_retry_by_another_launcher(plans, carried) -> None:
    saved([planned(0)], option="slurm_array", time="1:00:00")
    plans("retry", FOLDER, "--launcher", "parallel", "slots=3", "gpus=[0, 2]")
    assert carried[0][1].settings() == {"option": "parallel", "slots": 3, "gpus": [0, 2], "runs_per_gpu": 1}


def test_a_launcher_that_is_not_ours_is_replaced() -> None:
    assert launcher_of({"option": "JoblibLauncher"}, None, []).settings() == {"option": "sequential"}


@pytest.mark.parametrize(
    "name, change, told",
    [
        ("paralel", "slots=1", "there is no launcher paralel; did you mean parallel?"),
        ("parallel", "slot=1", "the launcher parallel has no slot; did you mean slots?"),
        ("sequential", "slots=1", "the launcher sequential has no slots; there are none"),
        ("parallel", "slots", "slots: expected field=value, such as time=8:00:00"),
        ("parallel", "slots=many", "slots=many: expected a whole number"),
        ("parallel", "slots=1.5", "slots=1.5: expected a whole number"),
        ("parallel", "slots=true", "slots=true: expected a whole number"),
        ("parallel", "slots=0", "hydra.launcher.slots=0 must be at least 1"),
        ("parallel", "gpus=0", "gpus=0: expected a list, such as [a,b]"),
        ("parallel", "gpus=[a]", "gpus=[a]: expected a whole number"),
        ("slurm_array", "wait=1", "wait=1: expected true or false"),
        ("slurm_array", "time=soon", "hydra.launcher.time=soon: expected HH:MM:SS"),
    ],
)
def test_changes_that_cannot_be(plans, carried, name: str, change: str, told: str) -> None:
    saved([planned(0)])
    done = plans("retry", FOLDER, "--launcher", name, change)
    assert (done.code, carried) == (2, []) and done.err.startswith(f"rlx: {told}"), done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "change, value",
    [
        ("time=null", None),
        ("cpus_per_task=4", 4),
        ("wait=True", True),
        ('extra=[--a=1,"--b=2,3"]', ["--a=1", "--b=2,3"]),
        ("extra=[]", []),
    ],
)
def test_values_of_changes(change: str, value: object) -> None:
    launcher = launcher_of({"option": "slurm_array", "time": "1:00:00"}, None, [change])
    assert getattr(launcher, change.partition("=")[0]) == value


def test_retry_makes_the_runs_where_the_plan_is(rlx: Callable[..., Done], plans, tmp_path: Path, monkeypatch) -> None:
    """From another folder, and where the folder of the project was moved: nothing is made a second time elsewhere."""
    made = rlx(*COUNTDOWN, *SMALL, "stage=pretrain", "stage.steps=2", "stage.val_every=0", "hydra/launcher=sequential")
    assert made.code == 0, made.err
    (plan,), (run,) = Path("runs/plans").iterdir(), Path("runs").glob("*-pretrain-*/seed0")
    before = digest(run)
    shutil.rmtree(run)
    for folder in ("away", "elsewhere"):
        Path(folder).mkdir()
    Path("runs").rename("away/runs")
    monkeypatch.chdir("elsewhere")
    done = plans("retry", f"../away/runs/plans/{plan.name}")
    assert done.code == 0 and "1 of 1 runs finished" in done.out, done
    monkeypatch.chdir(tmp_path)
    assert digest("away" / run) == before
    assert [path.name for path in Path("elsewhere").iterdir()] == [] and not Path("runs").exists()


def test_commands_that_name_a_folder_which_was_moved(carried, plans, tmp_path: Path) -> None:
    old = tmp_path / "runs"
    parent, child = (f"{old}/countdown-dense-{stage}-h0001/seed0" for stage in ("pretrain", "sft"))
    words = ["stage=sft", f"runs_dir={old}", f"init_from={parent}@best", f"merge.models=[{parent},{old}-more/x]"]
    saved([planned(0, run=child, arguments=words, parents=[parent])])
    old.rename(tmp_path / "new")
    plans("retry", "new/plans/made")
    new = tmp_path / "new"
    (run,) = carried[0][0].runs
    then = parent.replace(str(old), str(new))
    assert run.arguments == [
        "stage=sft", f"runs_dir={new}", f"init_from={then}@best", f"merge.models=[{then},{old}-more/x]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text, told",
    [
        ("runs_dir=/data/runs", "runs_dir=/new"),
        ("m=[/data/runs/a,'/data/runs/b@best']", "m=[/new/a,'/new/b@best']"),
        ("x=/mnt/data/runs/a", "x=/mnt/data/runs/a"),
        ("x=/data/runs/data/runs/a", "x=/new/data/runs/a"),
        ("x=./data/runs", "x=./data/runs"),
        ("x=/data/runs2", "x=/data/runs2"),
    ],
)
def test_a_folder_is_replaced_where_it_stands_whole(text: str, told: str) -> None:
    assert moved(text, "/data/runs", "/new") == told


def test_the_exit_code_and_the_conclusions_of_a_retry(plans, monkeypatch) -> None:
    given = []

    def run(arguments: list[str]) -> int:
        given.append(arguments)
        return {"good": 0, "bad": 1, "end": 0}[arguments[0]]

    monkeypatch.setattr("rlx.cli.run", run)
    plan = saved([planned(0, arguments=["bad"]), planned(1, arguments=["good"])])
    plan.conclusions = [["end"]]
    plan.save({"option": "sequential"})
    assert plans("retry", FOLDER).code == 1 and given == [["bad"], ["good"], ["end"]]
    assert plans("retry", FOLDER, "--match", "lr=1").code == 0
