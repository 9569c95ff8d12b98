"""The folder of a plan: which runs are rows of its manifest, and what is made of a damaged one."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.plans import plan as module
from rlx.plans.plan import Plan, PlannedRun, read_manifest, read_settings
from rlx.runs.lease import is_held
from tests.plans.made import place, planned, saved, write

FOLDER = Path("runs/plans/made")
MANIFEST, SETTINGS = FOLDER / "manifest.jsonl", FOLDER / "plan.json"
DEEP = "[" * 100_000
ROW = {"name": "a", "label": "a", "seed": 0, "run": place(0), "stage": "pretrain", "command": "rlx"}
pytestmark = pytest.mark.usefixtures("here")


def names() -> list[tuple[str, int]]:
    return [(row["name"], row["seed"]) for row in read_manifest(FOLDER)]


def test_a_run_has_one_row_however_its_directory_is_written() -> None:
    saved([planned(0), planned(1)])
    saved([planned(1, run=str(Path(place(1)).absolute()), label="again"), planned(2)])
    assert [row["label"] for row in read_manifest(FOLDER)] == ["again", "optim.lr=2", "optim.lr=0"]


def test_different_runs_of_one_name_and_seed_are_refused_and_change_nothing() -> None:
    with pytest.raises(ConfigError, match=r"two different runs called base seed0: .*h0000/seed0 and .*h0001/seed0;"):
        saved([planned(0, name="base"), planned(1, name="base")])
    saved([planned(0, name="base")], slots=1)
    before = MANIFEST.read_text(), SETTINGS.read_text()
    with pytest.raises(ConfigError, match=r"leave plan.name out, take another, or sweep one scale"):
        saved([planned(1, name="base")], slots=2)
    assert (MANIFEST.read_text(), SETTINGS.read_text()) == before
    saved([planned(1, name="base", seed=1, run=place(1).replace("seed0", "seed1"))])
    assert names() == [("base", 0), ("base", 1)]


@pytest.mark.parametrize("name", ["read_manifest", "read_settings"])
def test_what_there_was_is_read_when_nobody_else_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two plans that are saved at once would each leave the other out."""
    saved([planned(0)])
    read, held = getattr(module, name), []

    def noted(folder: Path) -> Any:
        held.append(is_held(folder))
        return read(folder)

    monkeypatch.setattr(module, name, noted)
    Plan(folder=FOLDER, runs=[planned(1)]).save({})
    assert held == [True] and len(read_manifest(FOLDER)) == 2


DAMAGED = {
    "not JSON": ("{", "no JSON object"),
    "nested": (DEEP, "no JSON object"),
    "no object": ("[1]", "no JSON object"),
    "half a row": (json.dumps({"name": "a", "run": place(0)}), "see label, seed, stage, command;"),
    "no run's name": (json.dumps({**ROW, "run": "x"}), "see run;"),
    "a text for a number": (json.dumps({**ROW, "seed": "0"}), "see seed;"),
    "a number for a list": (json.dumps({**ROW, "parents": 3}), "see parents;"),
    "numbers in a list": (json.dumps({**ROW, "arguments": [3]}), "see arguments;"),
    "digits": (json.dumps({**ROW, "flops": 10**400}), "see flops;"),
}


@pytest.mark.parametrize("line, told", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("command", ["status", "collect", "retry"])
def test_a_row_that_describes_no_run_is_one_line_that_names_it(plans, line: str, told: str, command: str) -> None:
    saved([planned(0)])
    MANIFEST.write_text(MANIFEST.read_text() + line + "\n")
    done = plans(command, str(FOLDER))
    assert done.code == 2 and done.err.startswith("rlx: ") and f"{MANIFEST}:2 " in done.err and told in done.err
    assert done.err.count("\n") == 1


def test_blank_lines_and_fields_of_a_later_version_are_passed_over(plans) -> None:
    saved([planned(0)])
    MANIFEST.write_text("\n" + json.dumps({**ROW, "colour": "red"}) + "\n\n")
    assert read_manifest(FOLDER) == [vars_of(PlannedRun(**ROW))]  # type: ignore[arg-type]
    assert plans("status", str(FOLDER)).code == 0


def vars_of(run: PlannedRun) -> dict[str, Any]:
    return {name: getattr(run, name) for name in PlannedRun.__slots__}


@pytest.mark.parametrize("text", ["", "[]", DEEP, '{"launcher": [], "conclusions": [3], "command": 7, "directory": 1}'])
def test_a_plan_whose_settings_cannot_be_read_has_none(plans, text: str) -> None:
    saved([planned(0)])
    SETTINGS.write_text(text)
    assert read_settings(FOLDER) == {} and plans("status", str(FOLDER)).code == 0


def test_a_value_of_the_launcher_that_is_none_is_left_out(plans, monkeypatch: pytest.MonkeyPatch) -> None:
    saved([planned(0)], option="parallel", slots="two", runs_per_gpu=2)
    found = []
    monkeypatch.setattr("rlx.plans.__main__.carried", lambda plan, launcher: found.append(launcher.settings()) or 0)
    assert plans("retry", str(FOLDER)).code == 0
    assert found == [{"option": "parallel", "slots": None, "gpus": None, "runs_per_gpu": 2}]


@pytest.mark.parametrize("name", ["status", "metrics.jsonl", "run.json"])
@pytest.mark.parametrize("text", [DEEP + "\n", "[]\n", '{"step": "x", "val/loss": 1' + 400 * "0" + "}\n"])
def test_what_a_run_directory_has_ends_no_look_at_the_plan(plans, name: str, text: str) -> None:
    run = planned(0)
    saved([run])
    write(run, "running", step=50)
    (Path(run.run) / name).write_text(text)
    done = plans("status", str(FOLDER))
    assert done.code == 0 and not done.err and "optim.lr=0" in done.out, done
    done = plans("collect", str(FOLDER))
    assert done.code in (0, 2) and done.err.count("\n") <= 1 and "Traceback" not in done.err
