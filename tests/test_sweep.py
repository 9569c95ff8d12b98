"""Sweeps at the door: what is one plan, what is left out, joined, skipped or refused; and other plugins of Hydra."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from rlx.sweep import place_for
from tests.conftest import COUNTDOWN, SMALL, only

TINY = (*COUNTDOWN, *SMALL, "stage.steps=1", "stage.val_every=1")
PRETRAIN = ("stage=pretrain", *TINY)
OPTUNA = ("hydra/sweeper=optuna", "optimized_metric=val/loss", *PRETRAIN)


@pytest.fixture
def quiet():
    """Optuna's own messages keep to the screen of the first test that imports it."""
    import optuna

    optuna.logging.disable_default_handler()
    yield
    optuna.logging.enable_default_handler()


def with_optuna(test):
    """The old Optuna that Hydra's sweeper asks for warns, where it is imported, of what users do not see."""
    silent = pytest.mark.filterwarnings("ignore:Deprecated API features detected:DeprecationWarning")
    return pytest.mark.usefixtures("quiet")(silent(test))


def plans() -> list[Path]:
    return sorted(path.parent for path in Path().glob("runs/plans/*/manifest.jsonl"))


def rows(plan: Path) -> list[dict]:
    return [json.loads(line) for line in (plan / "manifest.jsonl").read_text().splitlines()]


def states() -> dict[str, str]:
    """State of each run, by `<name>/seed<n>`."""
    found = Path("runs").glob("*/seed*/status")
    return {f"{path.parent.parent.name}/{path.parent.name}": json.loads(path.read_text())["state"] for path in found}


def config(run: str) -> dict:
    return yaml.safe_load((Path(run) / "config.yaml").read_text())


def own(option: str, text: str) -> None:
    path = Path("my_conf", f"{option}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_zipped_axes_are_one_plan_shown_before_it_runs(rlx):
    done = rlx("-m", *PRETRAIN, "model.d_model=tag(w,choice(16,32))", "optim.lr=tag(w,choice(1e-3,3e-4))", "seed=0,1")
    assert done.code == 0, done.err
    (plan,) = plans()
    found = [(row["seed"], config(row["run"])["model"]["d_model"], config(row["run"])["optim"]["lr"])
             for row in rows(plan)]  # fmt: skip
    assert sorted(found) == [(0, 16, 1e-3), (0, 32, 3e-4), (1, 16, 1e-3), (1, 32, 3e-4)]
    head, first, second, total = done.out.splitlines()[:4]
    assert head == f"plan {plan}: 4 runs, 2 arms, seeds 0-1; 4 absent" and total.startswith("to make: 4 runs, ")
    assert first.split()[:3] == ["model.d_model=16", "optim.lr=0.001", "x2"] and second.split()[2] == "x2"
    assert "FLOP" in first and "FLOP" in total and "about" in total
    assert (plan / "plan.json").exists() and "4 of 4 runs finished" in done.out
    for row in rows(plan):
        (run,) = [shlex.split(line) for line in (Path(row["run"]) / "overrides.txt").read_text().splitlines()]
        assert run[1:] == row["arguments"]

    again = rlx("-m", *PRETRAIN, "model.d_model=tag(w,choice(16,32))", "optim.lr=tag(w,choice(1e-3,3e-4))", "seed=0,1")
    assert again.code == 0 and "all of them are finished" in again.out and again.out.count("finished already") == 4
    assert plans() == [plan]


def test_a_dry_plan_writes_nothing_and_needs_no_flag(rlx):
    done = rlx(*PRETRAIN, "plan.dry=true", "seed=range(3)", "optim.lr=0.1,0.2")
    assert done.code == 0 and not done.err and not list(Path().iterdir())
    assert done.out.startswith("plan runs/plans/sweep-h") and "6 runs, 2 arms, seeds 0-2; 6 absent" in done.out
    assert "to make: 6 runs, " in done.out


def test_a_union_with_a_group_that_one_stage_does_not_read(rlx):
    """`optim` is nothing to an evaluation, so its values come to one run; its parent is made first."""
    assert rlx(*PRETRAIN).code == 0
    (parent,) = Path("runs").glob("*/seed0")
    done = rlx("plan.dry=true", *COUNTDOWN, "trainer.threads=1", "optim.lr=0.1,0.2", f"init_from={parent}",
               'plan.either=["stage=eval decode.max_tokens=4,8","stage=sft stage.steps=1"]')  # fmt: skip
    assert done.code == 0, done.err
    assert "optim is left out of the runs of stage=eval, which does not read it" in done.out
    assert "2 of 6 combinations are the same run as another; each is made once" in done.out
    assert "plan runs/plans/sweep-" in done.out and "4 runs, 4 arms, seed 0; 4 absent" in done.out


def test_fields_of_groups_that_only_a_union_names(rlx):
    done = rlx("plan.dry=true", "task=countdown", "scale=smoke", "stage.steps=3", "algorithm.group_size=4", "seed=0,1",
               'plan.either=["stage=pretrain","stage=rl algorithm=grpo init_from=random"]')  # fmt: skip
    assert done.code == 0, done.err
    assert "algorithm is left out of the runs of stage=pretrain" in done.out and "4 runs, 2 arms, seeds 0-1" in done.out


def test_keys_that_only_training_reads_are_left_out_too(rlx):
    done = rlx("-m", *COUNTDOWN, "init_from=random", "stage=sft,eval", "eval.every=1", "plan.dry=true")
    assert done.code == 0, done.err
    assert "eval is left out of the runs of stage=eval" in done.out and "2 runs, 2 arms" in done.out


def test_a_group_that_no_run_reads_is_wrong(rlx):
    done = rlx("-m", *PRETRAIN, "algorithm=grpo", "seed=0,1")
    assert done.code == 2 and done.err.count("stage=pretrain does not use algorithm") == 2 and not Path("runs").exists()


def test_equal_runs_are_made_once(rlx):
    done = rlx("-m", *PRETRAIN, "optim.lr=0.02,2e-2,0.020", "trainer.threads=1")
    assert done.code == 0 and "2 of 3 combinations are the same run as another; each is made once" in done.out
    assert len(states()) == 1 and "1 of 1 runs finished" in done.out


def test_wrong_ones_fail_alone(rlx):
    done = rlx("-m", *PRETRAIN, "model.n_heads=3,2")
    assert done.code == 1 and list(states().values()) == ["finished"]
    assert [line for line in done.err.splitlines() if line.startswith("rlx: ")] == [
        "rlx: model.n_heads=3 does not divide model.d_model=32; try 2 or 4",
        "rlx: 1 run of the sweep failed: model.n_heads=3",
    ]


def test_wrong_ones_alone_write_nothing(rlx):
    done = rlx("-m", *PRETRAIN, "model.n_heads=3,5", "plan.name=mine")
    assert done.code == 2 and "2 runs of the sweep failed: model.n_heads=3, model.n_heads=5" in done.err
    assert not list(Path().iterdir())


def test_a_run_that_fails_leaves_the_others(rlx):
    done = rlx("-m", *PRETRAIN[:-2], "stage.steps=3", "stage.val_every=0", "optim=adamw", "optim.lr=1e30,1e-3")
    assert done.code == 1 and sorted(states().values()) == ["failed", "finished"]
    assert "1 run of the sweep failed: optim.lr=1e+30 seed0" in done.err and "Traceback" not in done.err


def test_the_name_of_a_plan_and_more_runs_in_it(rlx):
    for seed in (0, 1):
        assert rlx("-m", *PRETRAIN, "plan.name=mine", f"seed={seed}").code == 0
    assert plans() == [Path("runs/plans/mine")] and [row["seed"] for row in rows(plans()[0])] == [0, 1]
    assert not [row for row in rows(plans()[0]) if "plan.name" in row["command"]]


def test_a_launcher_means_a_sweep_of_one(rlx):
    done = rlx(*PRETRAIN, "hydra/launcher=sequential")
    assert done.code == 0 and len(plans()) == 1 and "1 of 1 runs finished" in done.out
    assert json.loads((plans()[0] / "plan.json").read_text())["launcher"] == {"option": "sequential"}


def test_a_preset_has_axes_and_the_command_line_beats_them(rlx):
    own("experiment/grid", "# @package _global_\nplan:\n  name: from-preset\nhydra:\n  sweeper:\n    params:\n"
        "      seed: 0,1\n      optim.lr: 0.1,0.2,0.3\n")  # fmt: skip
    typed = ("--config-dir", "my_conf", "-m", *PRETRAIN, "experiment=grid", "plan.dry=true")
    done = rlx(*typed)
    assert done.code == 0 and "plan runs/plans/from-preset: 6 runs, 3 arms, seeds 0-1" in done.out
    done = rlx(*typed, "seed=7")
    assert done.code == 0 and "3 runs, 3 arms, seed 7" in done.out


def test_a_folder_that_hydra_is_told_of(rlx):
    own("experiment/mine", "# @package _global_\nmodel: {d_model: 16}\n")
    done = rlx("-m", f"hydra.searchpath=[file://{Path('my_conf').resolve()}]", *PRETRAIN, "experiment=mine", "seed=0")
    assert done.code == 0, done.err
    (row,) = rows(plans()[0])
    assert config(row["run"])["model"]["d_model"] == 16
    again = rlx(*row["arguments"])
    assert again.code == 0 and "finished already" in again.out


STUDY = """
defaults:
  - /schema/study@_here_: quickstart
  - _self_
common: [task=countdown, task.numbers=3, task.trace=operations, stage.steps=1, algorithm=null]
runs:
  base: {overrides: [stage=pretrain, stage.val_every=0, seed=9]}
  more: {overrides: [stage=sft, stage.val_every=0, "init_from={base}@last"]}
"""


@pytest.fixture
def no_workers_stay():
    """The processes of joblib stay where they began, which is the folder of one test."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


@pytest.mark.usefixtures("no_workers_stay")
@pytest.mark.parametrize("launcher", ["sequential", "basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_a_study_over_seeds_is_one_plan_with_its_parent_once(rlx, launcher):
    """By whichever launcher: also the processes of Hydra's own know the user's folder, and that null unsets a group."""
    own("study/tiny", STUDY)
    done = rlx("--config-dir", "my_conf", "-m", "stage=study", "study=tiny", "scale=smoke", "trainer.threads=1",
               "seed=0,1", f"hydra/launcher={launcher}")  # fmt: skip
    assert done.code == 0, done.err + done.out
    (plan,) = plans()
    assert [(row["name"], row["seed"], row["level"]) for row in rows(plan)] == [
        ("base", 9, 0), ("more", 0, 1), ("more", 1, 1)
    ]  # fmt: skip
    assert f"plan {plan}: 3 runs, 2 arms, seeds 0-1, 9; 3 absent" in done.out and "└─ more" in done.out
    assert list(states().values()) == ["finished"] * 3
    assert (plan / "report.html").exists() and done.out.count("report: ") == 1
    assert [path.name for path in Path("runs/plans").iterdir()] == [plan.name]
    for row in rows(plan):
        assert (Path(row["run"]) / "overrides.txt").read_text() == f"{row['command']}\n"
        assert row["arguments"][:2] == ["--config-dir", "my_conf"]


def test_stages_that_make_no_run_follow_the_runs(rlx):
    assert rlx(*PRETRAIN).code == 0
    done = rlx("-m", "stage=report", "stage.runs=[runs]", "stage.out=a.html,b.html", "plan.dry=true")
    assert done.code == 0 and done.out.count("and: rlx stage=report") == 2 and not Path("a.html").exists()
    done = rlx("-m", "stage=report", "stage.runs=[runs]", "stage.out=a.html,b.html")
    assert done.code == 0 and Path("a.html").exists() and Path("b.html").exists() and not plans()
    run = only("runs/*/seed0")
    done = rlx("-m", "stage=export", f"init_from={run}", "stage.max_length=0,256", "stage.to=there")
    assert done.code == 1 and "1 run of the sweep failed: stage.max_length=0" in done.err and Path("there").is_dir()


def test_what_begins_from_an_unfinished_run_is_blocked(rlx):
    own("experiment/none", "# @package _global_\n")
    assert rlx(*PRETRAIN).code == 0
    (there,) = Path("runs").glob("*/seed0")
    gone = "runs/countdown-dense-pretrain-h0123456789/seed0"
    done = rlx("-m", "stage=sft", *TINY, f"init_from={there},{gone}")
    assert done.code == 1, done.err
    assert sorted(states().values()) == ["blocked", "finished", "finished"]
    assert f"blocked: {gone} is not started" in done.err and "1 of 2 runs finished" in done.out


WRONG = {
    "a key of plans": (["plan.dri=true"], "unknown key plan.dri; did you mean dry?"),
    "a key of plans, swept": (["-m", "plan.nme=a", "seed=0,1"], "unknown key plan.nme; did you mean name?"),
    "a name with a slash": (["-m", "plan.name=a/b"], "plan.name=a/b: expected letters"),
    "maybe dry": (["-m", "plan.dry=maybe"], "plan.dry=maybe: expected true or false"),
    "a text for a union": (["plan.either=stage"], "plan.either=stage: expected a list of texts, as in 'plan"),
    "a union unquoted": (["plan.either=stage=sft"], "'plan.either=stage=sft': expected a list of texts"),
    "a launcher": (["hydra/launcher=slurm_aray"], "no hydra/launcher=slurm_aray; did you mean slurm_array?"),
    "a sweeper": (["hydra/sweeper=optna"], "no hydra/sweeper=optna; did you mean optuna?"),
    "a field of another launcher": (["hydra.launcher.slot=2"], "; hydra/launcher=parallel has slots"),
    "a field of the launcher": (["hydra/launcher=parallel", "hydra.launcher.slot=2"], "slot; did you mean slots?"),
    "half a field": (["hydra/launcher=slurm_array", "hydra.launcher.cpus=2"], "did you mean cpus_per_task?"),
    "a word for a number": (["hydra/launcher=parallel", "hydra.launcher.slots=two"], "expected a whole number"),
    "too few": (["hydra/launcher=parallel", "hydra.launcher.slots=0"], "hydra.launcher.slots=0 must be at least 1"),
    "a field of the sweeper": (["hydra/sweeper=optuna", "hydra.sweeper.n_trial=2"], "n_trial; did you mean n_trials?"),
    "no end of values": (["-m", "optim.lr=interval(0,1)"], "or search it with hydra/sweeper=optuna"),
    "unequal tags": (["-m", "seed=tag(w,range(3))", "optim.lr=tag(w,choice(1,2))"], "one has 3 values and the other 2"),
    "a swept launcher": (["-m", "hydra/launcher=sequential,parallel"], "Sweeping over Hydra's configuration"),
    "folders of runs": (["-m", "runs_dir=ra,rb"], "runs_dir=ra,rb: a sweep has one folder of runs; give a command for"),
    "folders of runs, searched": (
        ["hydra/sweeper=optuna", "optimized_metric=val/loss", "runs_dir=choice(ra,rb)"],
        "runs_dir: a sweep has one folder of runs",
    ),
    "far too many": (["-m", "seed=range(1000)", "optim.lr=range(0.001,1,0.001)"], "seed (1000) x optim.lr (999): 999"),
    "dry without a plan": (["hydra/sweeper=basic", "plan.dry=true"], "plan.dry=true needs the whole plan at once"),
    "a union without a plan": (["hydra/sweeper=basic", "plan.either=[a]"], "plan.either needs the whole plan at once"),
}  # fmt: skip


@with_optuna
@pytest.mark.parametrize("arguments, line", WRONG.values(), ids=WRONG)
def test_wrong_inputs_are_one_line_and_write_nothing(rlx, arguments, line):
    done = rlx(*PRETRAIN, *arguments)
    assert done.code == 2, done.err
    (told,) = done.err.strip().splitlines()
    assert told.startswith("rlx: ") and line in told
    assert not done.out and not list(Path().iterdir())


@with_optuna
@pytest.mark.parametrize("sweeper", ["plan", "optuna"])
def test_a_launcher_that_is_not_there_is_found_before_anything_is_written(rlx, sweeper, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    done = rlx(*OPTUNA[1:], f"hydra/sweeper={sweeper}", "hydra/launcher=slurm_array")
    assert done.code and done.err.startswith("rlx: ") and done.err.count("\n") == 1, done.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("dry", ["true", "false"])
def test_two_scales_of_a_study_are_not_one_plan(rlx, dry):
    """Their runs have equal names and seeds, so each would be taken for the other."""
    study = ("-m", "stage=study", "study=quickstart", f"plan.dry={dry}")
    done = rlx(*study, "scale=smoke,cpu", "plan.name=mine")
    assert done.code == 2 and not done.out and not list(Path().iterdir())
    (told,) = done.err.splitlines()
    assert told.startswith("rlx: runs/plans/mine would have two different runs called pretrain seed0: runs/countdown-")
    assert told.endswith("; leave plan.name out, take another, or sweep one scale")


@with_optuna
def test_optuna_searches(rlx):
    typed = (*OPTUNA, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2", "hydra.sweeper.direction=minimize",
             "hydra.sweeper.sampler.seed=1", "optim.lr=interval(0.001,0.1)", "model.n_heads=choice(2,4)")  # fmt: skip
    done = rlx(*typed)
    assert done.code == 0 and not done.err
    (plan,) = plans()
    assert plan.name.startswith("search-") and len(rows(plan)) == 3 and list(states().values()) == ["finished"] * 3
    found = yaml.safe_load((plan / "optimization_results.yaml").read_text())
    measured = {}
    for row in rows(plan):
        metrics = [json.loads(line) for line in (Path(row["run"]) / "metrics.jsonl").read_text().splitlines()]
        measured[config(row["run"])["optim"]["lr"]] = [each["val/loss"] for each in metrics if "val/loss" in each][-1]
    assert found["best_value"] == min(measured.values())
    assert measured[found["best_params"]["optim.lr"]] == found["best_value"]
    assert f"the search's best {found['best_value']:.6g}: " in done.out and str(plan) in done.out
    assert sorted(path.name for path in Path("runs/plans").iterdir()) == [plan.name]
    again = rlx(*typed)
    assert again.code == 0 and len(states()) == 3 and "finished already" in again.out


@with_optuna
def test_optuna_goes_on_from_its_database_and_over_failures(rlx):
    typed = (*OPTUNA, "hydra.sweeper.storage=sqlite:///search.db", "hydra.sweeper.study_name=mine",
             "hydra.sweeper.max_failure_rate=1", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=0",
             "hydra.sweeper.n_jobs=1", "plan.name=mine")  # fmt: skip
    done = rlx(*typed, "hydra.sweeper.n_trials=1", "model.n_heads=2")
    assert done.code == 0, done.err
    done = rlx(*typed, "hydra.sweeper.n_trials=1", "model.n_heads=3")
    assert (
        done.code == 0 and "rlx: model.n_heads=3 does not divide model.d_model=32; try 2 or 4" in done.err.splitlines()
    )
    assert plans() == [Path("runs/plans/mine")] and len(states()) == 1


SEARCHES = {
    "no metric": (["optimized_metric=null"], 2, "the sweeper needs a number of each run: optimized_metric=<metric>"),
    "no such metric": (["optimized_metric=val/lss"], 1, "measured no val/lss; it measured "),
    "a wrong trial": (["model.n_heads=5"], 2, "model.n_heads=5 does not divide"),
    "a trial that fails": (["optim=adamw", "optim.lr=1e30", "stage.steps=3", "stage.val_every=0"], 1, "has diverged"),
}  # fmt: skip


@with_optuna
@pytest.mark.parametrize("arguments, code, line", SEARCHES.values(), ids=SEARCHES)
def test_a_search_that_cannot_be_is_one_line(rlx, arguments, code, line):
    done = rlx(*OPTUNA, "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1", *arguments)
    assert done.code == code, done.err
    (told,) = done.err.splitlines()
    assert told.startswith("rlx: ") and line in told
    assert code == 1 or not list(Path().iterdir())


@with_optuna
def test_a_search_over_what_makes_no_run_is_one_line(rlx):
    done = rlx(*OPTUNA[:2], "hydra.sweeper.n_trials=1", "stage=report", "stage.runs=[runs]")
    assert done.code == 2 and not list(Path().iterdir())
    assert done.err.splitlines() == ["rlx: stage=report makes no run of its own; leave it to hydra/sweeper=plan"]


@with_optuna
def test_optuna_with_a_launcher_of_hydra_s(rlx):
    done = rlx(*OPTUNA, "hydra/launcher=basic", "hydra.sweeper.n_trials=2", "optim.lr=interval(0.001,0.1)",
               "algorithm=null")  # fmt: skip
    assert done.code == 0, done.err
    assert len(states()) == 2 and only("runs/plans/*/optimization_results.yaml")


def test_hydra_s_own_sweeper_with_our_launcher(rlx):
    done = rlx("hydra/sweeper=basic", *PRETRAIN, "seed=0,1", "model.n_heads=2,3")
    assert done.code == 1 and sorted(states().values()) == ["finished"] * 2
    assert done.err.splitlines() == ["rlx: model.n_heads=3 does not divide model.d_model=32; try 2 or 4"] * 2
    assert len(rows(plans()[0])) == 2 and "2 runs, 1 arm, seeds 0-1" in done.out


def test_our_sweeper_with_a_launcher_of_hydra_s(rlx):
    """A plan, whoever carries it out: what is typed is kept, and failures are told."""
    done = rlx("-m", *PRETRAIN, "algorithm=null", "hydra/launcher=basic", "optim=adamw", "optim.lr=1e30,1e-3",
               "stage.steps=2", "stage.val_every=0")  # fmt: skip
    assert done.code == 1 and sorted(states().values()) == ["failed", "finished"], done.err
    assert "1 run of the sweep failed: optim.lr=1e+30 seed0" in done.err
    (plan,) = plans()
    assert sorted(path.name for path in Path("runs/plans").iterdir()) == [plan.name]
    for row in rows(plan):
        assert (Path(row["run"]) / "overrides.txt").read_text() == f"{row['command']}\n"


def test_every_plan_is_the_place_of_what_hydra_writes():
    hydra = {"sweep": {"dir": "runs/plans/sweep"}, "overrides": {"hydra": ["hydra/launcher=basic"]}}
    config = OmegaConf.create({"hydra": hydra})
    for folder in ("runs/plans/a", "runs/plans/b"):
        place_for(config, Path(folder))
        assert config.hydra.sweep.dir == folder
    assert config.hydra.overrides.hydra == ["hydra/launcher=basic", "++hydra.sweep.dir=runs/plans/b"]
    config = OmegaConf.create({"hydra": {**hydra, "overrides": {"hydra": ["hydra.sweep.dir=mine"]}}})
    place_for(config, Path("runs/plans/a"))
    assert config.hydra.sweep.dir == "runs/plans/sweep"


def test_a_dry_plan_never_runs(rlx):
    own("experiment/dry", "# @package _global_\nplan: {dry: true}\n")
    done = rlx("--config-dir", "my_conf", *PRETRAIN, "experiment=dry")
    assert done.code == 2 and "put -m first" in done.err and not Path("runs").exists()
    done = rlx("hydra/sweeper=basic", "hydra/launcher=basic", *PRETRAIN, "plan.dry=true")
    assert done.code == 2 and not states()
    typed = ("--config-dir", "my_conf", "-m", *PRETRAIN, "experiment=dry")
    assert rlx(*typed).code == 0 and not states()
    assert rlx(*typed, "plan.dry=false", "hydra/launcher=basic").code == 0 and list(states().values()) == ["finished"]
