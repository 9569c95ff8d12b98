"""stage=study: the quickstart at its smallest, whole; and again without running anything."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import only

QUICKSTART = ("stage=study", "study=quickstart", "scale=smoke", "trainer.threads=1")


def test_quickstart_runs_reports_and_is_found_again(rlx):
    done = rlx(*QUICKSTART)
    assert done.code == 0, done.err + done.out
    folder = only("runs/plans/quickstart-smoke-*")
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows][:5] == ["pretrain", "sft", "rl", "sft_more", "merge"] and len(rows) == 10
    assert all(json.loads((Path(row["run"]) / "status").read_text())["state"] == "finished" for row in rows)
    claims = json.loads((folder / "claims.json").read_text())
    assert {claim["verdict"] for claim in claims} <= {"holds", "fails", "undecided"}
    page = (folder / "report.html").read_text()
    assert {claim["command"] for claim in claims} == {" ".join(["rlx", *QUICKSTART])}
    assert page.count(f"<code>{' '.join(['rlx', *QUICKSTART])}</code>") == len(claims)
    assert all(claim["claim"].split()[0] in page for claim in claims)
    for label in ("pretrained", "SFT", "SFT, then RL", "SFT continued", "mean of SFT and RL"):
        assert label in done.out
    assert "left" in done.out and str(folder / "report.html") in done.out

    (folder / "report.html").write_text(page.replace("Claims", "Old claims"))
    again = rlx(*QUICKSTART)
    assert (folder / "report.html").read_text() == page
    assert again.code == 0 and again.out.count("finished already") == 10

    spent = {row["name"]: json.loads((Path(row["run"]) / "run.json").read_text())["flops"] for row in rows}
    rl = spent["rl"]["train"] + spent["rl"]["rollout"]
    assert abs(spent["sft_more"]["train"] / rl - 1) < 0.5  # a step of the smoke scale is a large part of it


TINY = """
defaults:
  - /schema/study@_here_: quickstart
  - _self_
common: [task=countdown, task.numbers=3, task.trace=operations]
runs:
  sft:
    overrides: [stage=pretrain, stage.steps=10, stage.val_every=5, stage.batch_tokens=256, stage.row_tokens=64]
"""


def test_claims_of_several_seeds_name_one_command_that_makes_them_again(rlx):
    Path("my_conf/study").mkdir(parents=True)
    Path("my_conf/study/tiny.yaml").write_text(TINY)
    typed = ["--config-dir", "my_conf", "stage=study", "study=tiny", "scale=smoke", "trainer.threads=1"]

    def concluded() -> list[dict]:
        return json.loads((only("here/plans/quickstart-smoke-*") / "claims.json").read_text())

    for seed in (3, 1):
        done = rlx(*typed, f"seed={seed}", "runs_dir=here")
        assert done.code == 0, done.err + done.out
    claims = concluded()
    (command,) = {claim["command"] for claim in claims}
    assert command == f"rlx -m {' '.join(typed)} runs_dir=here seed=1,3"
    assert [claim["note"].count(" %") for claim in claims if claim["value"] is not None] == [2]
    shutil.move("here", "there")
    done = rlx(*shlex.split(command)[1:])
    assert done.code == 0, done.err + done.out
    assert concluded() == claims


def test_seeds_share_a_folder_and_a_dry_plan_writes_nothing(rlx):
    done = rlx(*QUICKSTART, "plan.dry=true", "seed=1")
    assert done.code == 0 and "absent" in done.out and not Path("runs").exists()


@pytest.mark.parametrize("runs_dir", ["runs", "{here}/runs", "../beside", "{here}/../beside"])
def test_runs_know_their_parents_however_the_folder_is_typed(rlx, runs_dir):
    done = rlx(*QUICKSTART, "plan.dry=true", f"runs_dir={runs_dir.format(here=Path.cwd())}")
    assert done.code == 0 and "│  │  └─ eval_rl " in done.out, done.out + done.err


def test_a_run_that_fails_blocks_its_children_alone(rlx):
    folder = Path("my_conf/experiment")
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text(
        "# @package _global_\nstudy:\n  runs:\n    rl:\n      at:\n"
        "        smoke: [optim.lr=1e30, decode.max_tokens=8, algorithm.rewards.truncated=1]\n"
    )
    done = rlx("--config-dir", "my_conf", *QUICKSTART, "experiment=bad")
    assert done.code == 1, done.out
    (line,) = done.err.strip().splitlines()
    assert "did not finish" in line
    folder = only("runs/plans/*")
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    states = {row["name"]: Path(row["run"], "status") for row in rows}
    found = {name: json.loads(path.read_text())["state"] for name, path in states.items() if path.exists()}
    assert found["rl"] == "failed" and found["sft"] == found["eval_sft"] == "finished"
    assert found["merge"] == found["eval_rl"] == "blocked" and "blocked" in done.out
    assert "undecided" in done.out and (folder / "report.html").exists()
