"""Which run directories are meant by what is given."""

from pathlib import Path

import pytest

from rlx.errors import RlxError
from rlx.report.places import find_places
from tests.report.conftest import make_arm, write_lines


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder of runs: two arms of pretrain with 11 and 1 seeds, one of rl, a plan, and things that are no runs."""
    monkeypatch.chdir(tmp_path)
    make_arm(Path(), "pretrain", 1, seeds=11)
    make_arm(Path(), "pretrain", 2, seeds=1)
    make_arm(Path(), "rl", 3, seeds=1)
    write_lines(Path("runs/plans/sweep/manifest.jsonl"), [])
    Path("runs/notes").mkdir()
    Path("runs/notes.txt").write_text("mine")
    return tmp_path


ONE, TWO, RL = (
    f"runs/countdown-dense-{name}" for name in ("pretrain-h0000000001", "pretrain-h0000000002", "rl-h0000000003")
)
SEEDS = [f"{ONE}/seed{seed}" for seed in range(11)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([f"{ONE}/seed3"], [f"{ONE}/seed3"]),
        ([ONE], SEEDS),
        ([f"{ONE}/"], SEEDS),
        (["runs"], [*SEEDS, f"{TWO}/seed0", f"{RL}/seed0"]),
        (["runs/*"], [*SEEDS, f"{TWO}/seed0", f"{RL}/seed0"]),
        (["runs/countdown-*-rl-*"], [f"{RL}/seed0"]),
        (["runs/*/seed0"], [f"{ONE}/seed0", f"{TWO}/seed0", f"{RL}/seed0"]),
        (["runs/*-h000000000[23]"], [f"{TWO}/seed0", f"{RL}/seed0"]),
        ([RL, "runs/*-rl-*", f"./{RL}/seed0", f"{ONE}/seed1"], [f"{RL}/seed0", f"{ONE}/seed1"]),
        (["ru*"], [*SEEDS, f"{TWO}/seed0", f"{RL}/seed0"]),
    ],
    ids=["run", "seeds", "slash", "runs", "star", "pattern", "of seeds", "brackets", "twice", "folder by pattern"],
)
def test_what_is_meant(here, given, expected):
    assert [str(path) for path in find_places(given)] == expected
    assert [path.resolve() for path in find_places(here / text for text in given)] == [
        (here / text).resolve() for text in expected
    ]


def test_a_path_with_the_letters_of_a_pattern_is_a_path(here):
    Path(ONE).rename("runs/[x]")
    assert len(find_places(["runs/[x]"])) == 11


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere", "no run directory at nowhere; expected a run directory, a folder of seeds"),
        ("runs/*-sft-*", r"no run directory at runs/\*-sft-\*: nothing matches it; expected"),
        ("runs/not*", r"no run directory at runs/not\*: 2 paths match it, none with a run in it"),
        ("runs/notes", "runs/notes is not a run directory, and there is no run in it or below it"),
        ("runs/notes.txt", r"runs/notes.txt is not a run directory"),
        ("runs/plans/sweep", r"runs/plans/sweep is not a run directory, and there is a plan: give it as stage\.plan="),
    ],
)
def test_nothing_found_is_one_line_that_says_what_was_looked_for(here, given, says):
    with pytest.raises(RlxError, match=says) as caught:
        find_places([RL, given])
    assert "\n" not in str(caught.value)
