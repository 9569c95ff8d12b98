"""What `status` shows: what goes on first, why some failed, what to type next, within the screen's width."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlx.plans.drivers import driving
from rlx.plans.plan import Plan
from rlx.plans.table import fitted, short
from tests.conftest import Done
from tests.plans.made import place, planned, saved, write

FOLDER = "runs/plans/made"
pytestmark = pytest.mark.usefixtures("here")


def test_status_has_every_state_and_what_goes_on_first(plans: Callable[..., Done], mixed: Plan) -> None:
    done = plans("status", FOLDER)
    lines = done.out.splitlines()
    assert done.code == 0 and lines[0].startswith("made  ████··") and "1/7  about 25s left" in lines[0]
    assert "1 running, 1 failed, 1 blocked, 1 interrupted, 1 stopped, 1 absent, 1 finished" in lines[1]
    assert lines[2].split() == ["state", "run", "step", "age", "left", "directory"]
    rows = [line.split() for line in lines[3:10]]
    assert [row[0] for row in rows] == [
        "running", "failed", "blocked", "interrupted", "stopped", "absent", "finished",
    ]  # fmt: skip
    assert rows[0][1:] == ["optim.lr=1", "seed0", "50/100", "█████·····", rows[0][5], "25s", place(1)]
    assert "optim.lr=2 seed0: RunError: the loss is nan at step 30" in lines
    assert f"optim.lr=3 seed0: {place(2)} is failed, and this run begins from it" in lines
    assert lines[-1] == f"python -m rlx.plans watch {FOLDER}"


def test_status_says_what_to_type_next(plans: Callable[..., Done]) -> None:
    runs = [planned(0), planned(1)]
    saved(runs)
    assert plans("status", FOLDER).out.splitlines()[-1].startswith(f"python -m rlx.plans retry {FOLDER}  (makes 2")
    for run in runs:
        write(run, "finished")
    assert plans("status", FOLDER).out.splitlines()[-1] == f"python -m rlx.plans collect {FOLDER}"


def test_status_as_json(plans: Callable[..., Done], mixed: Plan) -> None:
    found = [json.loads(line) for line in plans("status", FOLDER, "--json").out.splitlines()]
    assert [(row["run"], row["state"]) for row in found[:3]] == [
        (place(0), "finished"), (place(1), "running"), (place(2), "failed"),
    ]  # fmt: skip
    assert found[1]["step"] == 50 and found[1]["steps"] == 100 and 24 < found[1]["left_s"] <= 25
    assert found[2]["reason"] == "RunError: the loss is nan at step 30" and found[6]["age_s"] is None


def test_status_of_some_rows(plans: Callable[..., Done], mixed: Plan) -> None:
    out = plans("status", "--rows", "2", FOLDER).out
    assert "... and 5 more: 1 blocked, 1 interrupted, 1 stopped, 1 absent, 1 finished" in out


def test_runs_that_a_process_has_yet_to_come_to_are_queued(plans: Callable[..., Done], mixed: Plan) -> None:
    with driving(mixed) as driver:
        driver.comes_to(mixed.runs[0])
        done = plans("status", FOLDER)
        assert "1 running, 2 requeued, 3 queued, 1 finished; carried out by pid" in done.out
        driver.comes_to(mixed.runs[6])
        assert "1 absent" in plans("status", FOLDER).out
        driver.puts_off(mixed.runs[6])
        assert "1 absent" not in plans("status", FOLDER).out
    assert "1 absent" in plans("status", FOLDER).out


def test_the_last_line_that_a_process_printed(plans: Callable[..., Done]) -> None:
    """Of runs that left no reason: they died at once, or were killed."""
    runs = [planned(0), planned(1)]
    plan = saved(runs)
    write(runs[1], "running", step=10)
    (plan.folder / "logs").mkdir()
    for run, text in zip(runs, ("rlx: there is no GPU\n", "step 10\nKilled\n\n"), strict=True):
        (plan.folder / "logs" / f"{Path(run.run).parent.name}-seed0.log").write_text(text)
    out = plans("status", FOLDER).out
    assert "optim.lr=0 seed0: rlx: there is no GPU" in out and "optim.lr=1 seed0: its process is gone; Killed" in out


@pytest.mark.parametrize("width", [40, 60, 80, 120, None])
def test_a_table_fits_the_screen(width: int | None) -> None:
    long = "optim.lr=0.001 model.d_model=512 stage.batch_tokens=2304 task.numbers=3 model.n_layers=2 seed0"
    rows = [("running", long, "90/100", "█" * 10, "8s", "1m05s", "123_4", place(0)), ("queued", "a seed1", *[""] * 6)]
    lines = fitted(rows, width).splitlines()
    assert len(lines) == 3 and all(len(line) <= (width or 1000) for line in lines)
    assert "seed0" in lines[1] and "lr=0.001" in lines[1]
    assert (place(0) in lines[1]) == (width is None)


@pytest.mark.parametrize(
    "length, cut",
    [
        (40, "optim.lr=1e-3 model.d_model=64 seed10"),
        (30, "lr=1e-3 d_model=64 seed10"),
        (20, "lr=1e-3 d_mo… seed10"),
        (12, "lr=1… seed10"),
    ],
)
def test_names_that_are_too_long(length: int, cut: str) -> None:
    assert short("optim.lr=1e-3 model.d_model=64 seed10", length) == cut
