"""The W&B workspace of a plan, read back through the schema of W&B's own library; no server is called."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlx.runs.workspace as workspace
from rlx.errors import ConfigError
from tests.runs.loggers.uploads import KEY, Server

STAGES = ("pretrain", "sft", "rl", "merge", "eval")


def run_of(stage: str, seed: int) -> Path:
    return Path(f"runs/countdown-dense-{stage}-h0123456789/seed{seed}")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan of every stage with two seeds, of which one evaluation is done and one run has a group of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    folder = Path("runs/plans/made-up")
    rows = [
        {"name": stage, "label": stage.upper(), "seed": seed, "run": str(run_of(stage, seed)), "stage": stage}
        for stage in STAGES
        for seed in (0, 1)
    ]
    folder.mkdir(parents=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_of("eval", 0)
    done.mkdir(parents=True)
    metrics = {"eval/countdown/chance": 0.1, "eval/countdown/pass@1": 0.5, "eval/countdown/pass@8": 0.7}
    (done / "eval.json").write_text(json.dumps({"metrics": metrics}))
    for seed in (0, 1):
        run_of("rl", seed).mkdir(parents=True)
        (run_of("rl", seed) / "config.yaml").write_text("logger: {group: ablation, project: mine, entity: us}\n")
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """The JSON that --print writes, which is what W&B's library makes of it when it has read it."""
    assert workspace.main([*map(str, arguments), "--print"]) == 0
    from wandb_workspaces.workspaces import Workspace, internal  # after main, which silences the library

    found = json.loads(capsys.readouterr().out)
    read = internal.View.model_validate(found)
    assert workspace.as_json(Workspace._from_model(read)) == found
    return found


def panels(view: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in sections}


def test_a_plan_of_all_stages_has_a_section_for_each(plan, capsys):
    view = printed(capsys, plan)
    found = panels(view)
    assert [*found] == ["arms", "pretrain and sft", "rl", "merge", "eval", "cost"]
    assert (view["displayName"], view["project"], view["entity"]) == ("made-up", "mine", "us")
    drawn = [(panel["metrics"], panel["xAxis"]) for panel in found["pretrain and sft"]]
    for metric in ("train/loss", "val/loss"):
        assert [axis for metrics, axis in drawn if metrics == [metric]] == ["_step", "tokens", "flops/total"]
    assert {"reward", "kl", "entropy", "completions/mean_length", "clip_ratio/low_mean"} <= {
        metric for panel in found["rl"] for metric in panel["metrics"]
    }
    compared = [f"merge/{name}" for name in ("normalised_accuracy", "cosine", "cka", "convexity_gap")]
    assert [panel["metrics"] for panel in found["merge"]] == [["val/loss"], ["merge/barrier"], *([x] for x in compared)]
    names = [f"eval/countdown/{name}" for name in ("pass@1", "pass@8", "greedy", "chance")]
    assert [metric for panel in found["eval"] for metric in panel["metrics"]] == names
    for panel in [*found["pretrain and sft"], *found["rl"], *found["merge"], *found["eval"], *found["cost"]]:
        assert (panel["groupBy"], panel["groupAgg"], panel["groupArea"]) == ("group", "mean", "minmax")
        assert panel["aggregate"] is True


def test_its_runs_are_the_plan_s_by_their_groups(plan, capsys):
    section = printed(capsys, plan)["spec"]["section"]
    (runs,) = section["runSets"]
    groups = [*(run_of(stage, 0).parent.name for stage in ("pretrain", "sft")), "ablation"]
    groups += [run_of(stage, 0).parent.name for stage in ("merge", "eval")]
    texts = json.dumps(runs["filters"])
    assert all(f'"{group}"' in texts for group in groups) and run_of("rl", 0).parent.name not in texts
    assert [key["name"] for key in runs["grouping"]] == ["group"]
    (arms,) = panels({"spec": {"section": section}})["arms"]
    assert f"| SFT | sft | {groups[1]} | 0, 1 |" in arms["value"] and "| RL | rl | ablation | 0, 1 |" in arms["value"]


def test_the_stages_that_a_plan_lacks_have_no_section(plan, capsys):
    view = printed(capsys, plan, "--stage", "rl", "--name", "mine", "--project", "p", "--entity", "e")
    assert [*panels(view)] == ["arms", "rl", "cost"]
    assert (view["displayName"], view["project"], view["entity"]) == ("mine", "p", "e")
    assert view["spec"]["section"]["runSets"][0]["filters"] != {}


def test_runs_and_folders_of_seeds_will_do(plan, capsys):
    view = printed(capsys, run_of("rl", 0), run_of("eval", 0).parent)
    assert [*panels(view)] == ["arms", "rl", "eval", "cost"] and view["displayName"] == "seed0"


def test_a_plan_that_was_moved_is_found_beside_its_runs(plan, capsys, tmp_path, monkeypatch):
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert "ablation" in json.dumps(printed(capsys, "../elsewhere/plans/made-up"))


@pytest.mark.parametrize(
    "arguments, line",
    [(["nowhere"], "nowhere is no plan"), (["runs/plans/made-up", "--stage", "report"], "no runs"), ([], "--help")],
)
def test_what_is_no_plan_is_one_line(plan, capsys, arguments, line):
    assert workspace.main([*arguments, "--print"]) == 2
    captured = capsys.readouterr()
    assert line in captured.err and not captured.out and len(captured.err.splitlines()) == 1


def test_without_the_library_one_line_says_what_to_install(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ConfigError, match="pip install"):
        workspace.build(workspace.read_runs([plan]), name="n", project="p")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    import wandb

    found = Server()
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # that of a mirror that was left behind
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name, value in (("BASE_URL", found.url), ("API_KEY", KEY), ("ERROR_REPORTING", "false"), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield found
    wandb.teardown()
    found.shutdown()
    found.server_close()


def test_saved_it_is_a_view_of_the_project(plan, server, capsys):
    assert workspace.main([str(plan)]) == 0
    (view,) = server.views
    assert (view["displayName"], view["projectName"], view["entityName"]) == ("made-up", "mine", "us")
    assert "flops/lineage" in view["spec"] and f"{server.url}/us/mine?nw=" in capsys.readouterr().out


def test_a_server_that_does_not_take_it_is_one_line(plan, capsys, monkeypatch):
    printed(capsys, plan)
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", lambda self: _raise(OSError("no route\nto it")))
    assert workspace.main([str(plan)]) == 1
    assert "rlx: W&B did not take the workspace: no route; --print" in capsys.readouterr().err


def _raise(error: Exception) -> None:
    raise error
