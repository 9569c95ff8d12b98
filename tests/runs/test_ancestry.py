"""Ancestors by the parents that run.json names, wherever the runs lie."""

import json
from pathlib import Path

import torch

from rlx.runs.ancestry import common_ancestor, lineage_of, related
from rlx.runs.checkpoints import checkpoint_path
from rlx.runs.model_directory import save_model_directory


def run(name: str, *parents: Path, steps: tuple[int, ...] = (10,), value: float = 0.0) -> list[Path]:
    """The checkpoints of a run that began from these."""
    place = Path("runs") / name / "seed0"
    for step in steps:
        save_model_directory(checkpoint_path(place, step), {"w": torch.full((2,), value + step)}, {}, None)
    (place / "run.json").write_text(json.dumps({"parents": [{"folder": str(parent)} for parent in parents]}))
    return [checkpoint_path(place, step) for step in steps]


def named(letter: str) -> str:
    return f"countdown-dense-sft-h{ord(letter):010d}"


def test_the_nearest_checkpoint_that_all_come_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    early, late = run(named("a"), steps=(10, 20))
    (left,) = run(named("b"), late)
    (right,) = run(named("c"), late)
    (deeper,) = run(named("d"), right)
    (other,) = run(named("e"), early)
    assert common_ancestor([left, right]) == late
    assert common_ancestor([left, deeper]) == late
    assert common_ancestor([right, deeper]) == late, "right itself would say nothing of right"
    assert common_ancestor([left, right, deeper]) == late
    assert common_ancestor([left]) == late and common_ancestor([late]) is None
    assert common_ancestor([late, left]) == late, "better than nothing"
    assert common_ancestor([left, other]) is None, "two points of a run are not one model"
    assert related(left, other) and related(early, late)
    assert [folder for _, _, folder in lineage_of(deeper)] == [deeper, right, late]


def test_strangers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (one,), (other,) = run(named("a")), run(named("b"))
    (merged,) = run(named("c"), one, other)
    assert not related(one, other) and common_ancestor([one, other]) is None
    assert related(one, merged) and related(merged, other)
    assert common_ancestor([merged, other]) == other


def test_seeds_are_runs_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (one,) = run(named("a"))
    other = checkpoint_path(Path("runs") / named("a") / "seed1", 10)
    save_model_directory(other, {"w": torch.ones(2)}, {}, None)
    assert not related(one, other)


def test_a_tree_that_was_moved_is_still_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (start,) = run(named("a"))
    (left,) = run(named("b"), start)
    Path("runs").rename("moved")
    moved = [Path("moved") / path.relative_to("runs") for path in (left, start)]
    assert related(*moved), "the parent is known by its name"
    found = common_ancestor(moved)
    assert found is not None and found.parts[1:] == start.parts[1:]


def test_folders_of_others_are_known_by_what_they_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("x", 1.0), ("copy", 1.0), ("y", 2.0)):
        save_model_directory(name, {"w": torch.full((2,), value)}, {}, None)
    (left,) = run(named("a"), Path("x"))
    (right,) = run(named("b"), Path("copy"))
    assert related(Path("x"), Path("copy")) and not related(Path("x"), Path("y"))
    assert common_ancestor([left, right]) == Path("x")
    assert not related(left, Path("y"))


def test_parents_that_are_gone_end_no_walk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (left,), (right,) = run(named("a"), Path("gone")), run(named("b"), Path("gone"))
    assert related(left, right) and common_ancestor([left, right]) == Path("gone")
