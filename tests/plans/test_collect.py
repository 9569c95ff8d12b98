"""`collect`: a row a run, a column a field or a metric, of one type each."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from pyarrow import parquet

from tests.conftest import Done
from tests.plans.made import place, planned, saved, write

FOLDER = "runs/plans/made"
pytestmark = pytest.mark.usefixtures("here")


def test_collect_writes_one_tidy_table(plans: Callable[..., Done]) -> None:
    runs = [planned(number, parents=[place(9)] if number else []) for number in range(4)]
    plan = saved(runs)
    write(runs[0], "finished")
    rows = [
        {"step": 1, "val/loss": 3.0, "train/loss": 5.0, "tokens": 10, "flops/total": 10**19, "note": "text"},
        {"step": 2, "val/loss": "nan", "tokens": 20},
        {"step": 3, "tokens": 30, "reward": "inf", "wall": 1.5},
    ]
    write(runs[1], "failed", "no luck")
    (Path(runs[1].run) / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half')
    (Path(runs[1].run) / "config.yaml").write_text(
        "seed: 0\noptim: {lr: 1, betas: [0.9, 0.95], nesterov: true}\ninit_from: null\ntask: {words: [a, b], n: 3}\n"
    )
    write(runs[2], "running", step=50)
    done = plans("collect", FOLDER)
    files = f"{FOLDER}/collected.parquet and {FOLDER}/collected.csv"
    assert (done.code, done.out) == (0, f"4 runs (1 failed, 1 interrupted, 1 absent, 1 finished): {files}\n")
    read = pandas.read_parquet(plan.folder / "collected.parquet")
    typed = pandas.read_csv(plan.folder / "collected.csv")
    assert list(read) == list(typed) and len(read) == len(typed) == 4
    assert list(read)[:5] == ["name", "label", "seed", "state", "stage"]
    assert list(read["state"]) == ["finished", "failed", "interrupted", "absent"]
    failed = read.iloc[1]
    assert (failed["train/loss"], failed["tokens"], failed["step"]) == (5.0, 30, 3)  # each metric's newest value
    assert math.isnan(failed["val/loss"]) and failed["reward"] == math.inf and failed["flops/total"] == 1e19
    assert (failed["config.optim.betas"], failed["config.task.words"]) == ("[0.9, 0.95]", '["a", "b"]')
    assert failed["config.optim.nesterov"] is True and failed["parents"] == place(9)
    assert read["val/loss"].dtype == float and read["seed"].dtype == int and "note" not in read
    assert read.iloc[3]["state"] == "absent" and pandas.isna(read.iloc[3]["val/loss"])
    assert str(parquet.read_schema(plan.folder / "collected.parquet").field("config.seed").type) == "int64"


def test_numbers_that_no_column_holds_are_left_out(plans: Callable[..., Done]) -> None:
    """JSON has whole numbers of any length; so has a config."""
    run = planned(0)
    saved([run])
    write(run, "finished")
    folder, long = Path(run.run), 10**400
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "reward": long}) + '\n{"step": 2, "reward": 0.5}\n'
                                          + json.dumps({"step": 3, "reward": long}) + "\n")  # fmt: skip
    (folder / "config.yaml").write_text(f"seed: {long}\n")
    done = plans("collect", FOLDER)
    assert done.code == 0, done.err
    read = pandas.read_csv(f"{FOLDER}/collected.csv", dtype={"config.seed": str})
    assert read["reward"].iloc[0] == 0.5 and read["step"].iloc[0] == 3 and read["config.seed"].iloc[0] == str(long)


def test_a_row_that_is_nested_too_deeply_is_named(plans: Callable[..., Done]) -> None:
    run = planned(0)
    saved([run])
    write(run, "finished")
    (Path(run.run) / "metrics.jsonl").write_text('{"step": 1}\n' + "[" * 100_000 + "\n")
    done = plans("collect", FOLDER)
    assert done.code == 2 and done.err.count("\n") == 1 and "metrics.jsonl line 2 is not a JSON object" in done.err


def test_collect_of_a_plan_that_was_moved_from_another_folder(plans, tmp_path: Path, monkeypatch) -> None:
    runs = [planned(0), planned(1)]
    saved(runs)
    write(runs[0], "finished")
    Path("moved").mkdir()
    Path("runs").rename("moved/old")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert "1 absent, 1 finished" in plans("status", "../moved/old/plans/made").out
    assert plans("collect", "../moved/old/plans/made").code == 0
    read = pandas.read_csv(tmp_path / "moved/old/plans/made/collected.csv")
    assert read["val/loss"].iloc[0] == 1.0 and len(read) == 2
