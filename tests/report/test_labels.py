"""Arms are called by what differs between them, whatever else their configs say."""

import json
from pathlib import Path

import pytest

from rlx.report.fields import read_fields, typed
from rlx.report.labels import arm_label, differing
from rlx.report.models import read_models
from rlx.report.read import Plan, read_plan, read_runs
from rlx.report.tables import runs_table
from tests.report.conftest import make_arm, manifest_row, write_json, write_lines, write_run


def labels(plan: Plan) -> list[str]:
    """Each label once, in the order of the page."""
    return list(dict.fromkeys(entry.label for entry in plan.entries))


def choose(root: Path, folder: str, **options: str) -> None:
    """Say in run.json which options a config chose."""
    for path in (root / folder).glob("*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "options": options}))


def test_seeds_of_a_config_are_one_arm_called_by_what_differs(tmp_path):
    for number, width in enumerate((128, 64, 1024)):
        make_arm(tmp_path, "pretrain", number, seeds=3, model__d_model=width, model__n_layers=2)
    plan = read_runs([tmp_path / "runs"])
    assert labels(plan) == ["model.d_model=64", "model.d_model=128", "model.d_model=1024"]  # numbers as numbers
    assert [len(entries) for entries in plan.groups.values()] == [3, 3, 3]
    assert "model.d_model=1024" in runs_table(plan).text()


def test_what_was_typed_comes_first_and_what_follows_from_it_is_left_out(tmp_path):
    for number, (width, heads) in enumerate(((64, 2), (128, 4))):
        folder = make_arm(tmp_path, "pretrain", number, model__d_model=width)
        for config in (tmp_path / folder).glob("*/config.yaml"):
            config.write_text(f"model:\n  n_heads: {heads}\n  d_model: {width}\n")
    assert labels(read_runs([tmp_path / "runs"])) == ["model.d_model=64", "model.d_model=128"]


def test_fields_of_another_option_do_not_count_and_options_do(tmp_path):
    dense = make_arm(tmp_path, "pretrain", 0, model__d_model=64)
    moe = make_arm(tmp_path, "pretrain", 1, model__d_model=32, model__n_experts=4)
    choose(tmp_path, dense, model="dense", scale="smoke")
    choose(tmp_path, moe, model="moe", scale="smoke")
    for config in (tmp_path / "runs").glob("*/*/run.json"):  # nothing but the option was typed
        config.write_text(config.read_text().replace("model.d_model", "other").replace("model.n_experts", "other"))
    assert labels(read_runs([tmp_path / "runs"])) == ["model=dense", "model=moe"]


def test_stages_stand_before_the_labels_of_a_mixed_page(tmp_path):
    parents = [make_arm(tmp_path, "pretrain", number, model__d_model=64 * (number + 1)) for number in range(2)]
    make_arm(tmp_path, "rl", 10, parent=parents[0], algorithm__group_size=4)
    make_arm(tmp_path, "rl", 11, parent=parents[0], algorithm__group_size=8)
    make_arm(tmp_path, "sft", 12, parent=parents[0])
    make_arm(tmp_path, "eval", 13, parent=parents[1])
    plan = read_runs([tmp_path / "runs"])
    assert labels(plan) == [
        "pretrain: model.d_model=64", "pretrain: model.d_model=128", "sft", "rl: algorithm.group_size=4",
        "rl: algorithm.group_size=8", "eval of pretrain: model.d_model=128",
    ]  # fmt: skip
    assert next(arm_label(entry) for entry in plan.entries if entry.stage == "rl") == "algorithm.group_size=4"
    assert [model.label for model in read_models(plan)] == ["pretrain: model.d_model=128"]


def test_children_that_differ_in_nothing_else_are_called_by_their_parents(tmp_path):
    parents = [make_arm(tmp_path, "pretrain", number, optim__lr=number / 10) for number in (1, 2)]
    for number, parent in enumerate(parents):
        make_arm(tmp_path, "sft", 10 + number, parent=parent)
    children = [label for label in labels(read_runs([tmp_path / "runs"])) if label.startswith("sft")]
    assert children == ["sft: from pretrain: optim.lr=0.1", "sft: from pretrain: optim.lr=0.2"]
    folders = (tmp_path / "runs").glob("*-sft-*")  # the parents are not on the page
    assert labels(read_runs(folders)) == ["from pretrain-h0000000001", "from pretrain-h0000000002"]


def test_one_model_evaluated_in_two_ways_has_two_names(tmp_path):
    parent = make_arm(tmp_path, "pretrain", 1)
    for number, temperature in enumerate((0.5, 1.0)):
        make_arm(tmp_path, "eval", 10 + number, parent=parent, decode__temperature=temperature)
    models = [model.label for model in read_models(read_runs([tmp_path / "runs"]))]
    assert models == [f"pretrain-h0000000001 temperature={temperature}" for temperature in (0.5, 1.0)]


def test_long_labels_leave_groups_out_and_stay_apart(tmp_path):
    for number in range(4):
        make_arm(
            tmp_path, "pretrain", number, model__d_model=64 * (1 + number % 2), optim__lr=0.01 * (1 + number // 2),
            corpus__path=f"/a/very/long/path/to/the/text/of/number/{number}",
        )  # fmt: skip
    found = labels(read_runs([tmp_path / "runs"]))
    assert len(set(found)) == 4 and all(label.startswith("d_model=") and "path=…" in label for label in found)
    assert max(map(len, found)) < 60


def test_configs_without_a_difference_are_told_apart_by_their_hash(tmp_path):
    for number in range(2):
        make_arm(tmp_path, "pretrain", number, model__d_model=64)
    assert labels(read_runs([tmp_path / "runs"])) == ["pretrain-h0000000000", "pretrain-h0000000001"]


def test_a_manifest_has_the_last_word(tmp_path):
    rows = []
    for number in range(3):
        folder = make_arm(tmp_path, "pretrain", number, seeds=1, model__d_model=64 * (number + 1))
        name = folder.partition("/")[2]
        row = manifest_row("pretrain", 0, folder, []) | {"name": name, "label": name}
        rows.append(row | {"label": ["model.d_model=64", "twice as wide", name][number]})
    plan = tmp_path / "runs/plans/sweep"
    write_lines(plan / "manifest.jsonl", rows)
    assert labels(read_plan(plan)) == ["model.d_model=64", "twice as wide", "pretrain-h0000000002"]
    write_lines(plan / "manifest.jsonl", [row | {"label": row["name"]} for row in rows])
    assert labels(read_plan(plan)) == ["model.d_model=64", "model.d_model=128", "model.d_model=192"]
    write_lines(plan / "manifest.jsonl", [row | {"name": f"run{i}", "label": ""} for i, row in enumerate(rows)])
    assert labels(read_plan(plan)) == ["run0", "run1", "run2"]  # names that a study gave


def test_a_run_that_never_began_is_called_by_what_it_was_told(tmp_path):
    make_arm(tmp_path, "rl", 1, seeds=1, algorithm__group_size=4)
    folder = "runs/countdown-dense-rl-h0000000002"
    plan = tmp_path / "runs/plans/sweep"
    rows = []
    for place, size in (("runs/countdown-dense-rl-h0000000001", 4), (folder, 8)):
        row = manifest_row("rl", 0, place, []) | dict.fromkeys(("name", "label"), place.partition("/")[2])
        rows.append(row | {"command": f"rlx stage=rl algorithm.group_size={size} seed=0"})
    write_lines(plan / "manifest.jsonl", rows)
    found = read_plan(plan)
    assert labels(found) == ["algorithm.group_size=4", "algorithm.group_size=8"]
    assert found.entries[1].run.state == "not started"
    write_json(tmp_path / folder / "seed0" / "status", {"state": "blocked", "reason": "its parent failed"})
    blocked = read_runs([tmp_path / "runs"]).entries[1]
    assert (blocked.stage, blocked.run.state) == ("rl", "blocked")


def test_config_yaml_is_read_as_rlx_writes_it(tmp_path):
    (tmp_path / "config.yaml").write_text("""seed: 0
init_from: null
merge:
  models:
  - runs/a/seed0
  - runs/b/seed0
  weights: {}
corpus:
  parts:
  - path: one
    weight: 0.5
  - path: two
    weight: 0.25
  text: 'a long value that goes on: over
    lines'
  after: true
""")
    assert read_fields(tmp_path) == {
        "seed": "0", "init_from": "null", "merge.models": "- runs/a/seed0 - runs/b/seed0", "merge.weights": "{}",
        "corpus.parts": "- path: one weight: 0.5 - path: two weight: 0.25",
        "corpus.text": "'a long value that goes on: over lines'", "corpus.after": "true",
    }  # fmt: skip
    assert read_fields(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("rlx -m stage=rl seed=0", {"stage": "rl", "seed": "0"}),
        ("rlx 'corpus.path=a b' +x.y=[1,2] 'z=w=3'", {"corpus.path": "a b", "x.y": "[1,2]", "z": "w=3"}),
        ("rlx 'open a=1", {"a": "1"}),
    ],
)
def test_what_a_command_sets(command, expected):
    assert typed(command) == expected


def test_differences_are_those_of_a_stage(tmp_path):
    for number in range(4):
        make_arm(
            tmp_path,
            "pretrain",
            number,
            seeds=1,
            model__d_model=64 * (1 + number % 2),
            optim__lr=[0.1, 0.2][number // 2],
        )
    entries = read_runs([tmp_path / "runs"]).entries
    found = differing(entries)
    assert list(found) == ["model.d_model", "optim.lr"] and sorted(found["optim.lr"].values()) == [
        "0.1",
        "0.1",
        "0.2",
        "0.2",
    ]


def test_a_run_alone_is_called_by_its_folder(tmp_path):
    write_run(tmp_path, "runs/countdown-dense-sft-h01", "sft", 0, "rlx stage=sft", [], 1.0)
    assert labels(read_runs([tmp_path / "runs"])) == ["sft-h01"]
