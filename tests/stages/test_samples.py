"""samples.jsonl of an rl run: what was drawn, and a few held-out problems followed from the start to the end."""

import json
from pathlib import Path

import pytest

from rlx.signals import stop
from rlx.stages.modules.measuring import EvalInside
from tests.stages.kills import differences
from tests.stages.runs import PRETRAIN, place, rl, rows

EVAL = ("eval.every=2", "eval.problems=3", "eval.samples=1")


@pytest.fixture
def start(door, tmp_path_factory):
    """A start trained for four steps, by the first test that asks."""
    folder = tmp_path_factory.getbasetemp() / "start-of-samples"
    made = list(folder.glob("*/seed0"))
    return made[0] if made else place(door(*PRETRAIN, "stage.steps=4", f"runs_dir={folder}").out)


def samples(run: Path, kind: str) -> list[dict]:
    found = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def test_problems_are_followed_from_the_start(door, start):
    run = place(door(*rl(start)).out)
    followed, drawn = samples(run, "followed"), samples(run, "drawn")
    assert [row["step"] for row in followed] == [step for step in (0, 1, 2, 4, 6) for _ in range(4)]
    assert [row["step"] for row in drawn] == [1, 1]
    problems = [[row["id"] for row in followed if row["step"] == step] for step in (0, 1, 2, 4, 6)]
    assert all(ids == problems[0] for ids in problems) and not {row["id"] for row in drawn} & set(problems[0])
    worth = {"correct": 1, "wrong": 0, "illegal": 0, "malformed": 0.5, "truncated": 1}
    for row in [*followed, *drawn]:
        assert row["reward"] == worth[row["verdict"]] == row["parts"]["verifier"] and list(row["parts"]) == ["verifier"]
        assert row["finished"] is (row["verdict"] != "truncated") and 1 <= row["length"] <= 12
        assert row["length"] - row["finished"] >= len(row["completion"])  # a letter a token, special ones have none
    at = {step: [row["completion"] for row in followed if row["step"] == step] for step in (0, 1)}
    still = place(door(*rl(start, "optim.lr=1e-30", "stage.steps=2")).out)  # a policy that stays draws the same again
    texts = [[row["completion"] for row in samples(still, "followed") if row["step"] == step] for step in (0, 1, 2)]
    assert texts[0] == texts[1] == texts[2] == at[0]


def test_the_reward_of_a_drawn_completion_is_the_sum_of_its_parts(door, start):
    """What is held out is paid by its verdict alone."""
    more = ("algorithm.overlong_share=0.5", "algorithm.overlong_penalty=0.3", "stage.steps=1")
    run = place(door(*rl(start, *more)).out)
    for row in samples(run, "drawn"):
        assert list(row["parts"]) == ["verifier", "overlong"] and -0.300001 <= row["parts"]["overlong"] <= 0
        assert row["reward"] == pytest.approx(sum(row["parts"].values()))
        assert row["finished"] or row["parts"]["overlong"] == pytest.approx(-0.3)
    assert any(row["parts"]["overlong"] for row in samples(run, "drawn"))
    assert all(row["parts"] == {"verifier": row["reward"]} for row in samples(run, "followed"))


@pytest.mark.parametrize(
    "more, steps", [(("stage.preflight_problems=0",), [1, 2, 4, 6]), (("stage.val_every=0",), []),
                    (("stage.followed_problems=0",), [])], ids=["no preflight", "no validation", "none asked for"]
)  # fmt: skip
def test_they_are_followed_where_something_is_measured(door, start, more, steps):
    done = door(*rl(start, *more))
    assert done.code == 0, done.err
    assert [row["step"] for row in samples(place(done.out), "followed")[::4]] == steps


def test_a_measurement_that_a_stop_abandons_leaves_no_rows(door, start, monkeypatch):
    """The stop comes after the validation of step 2, in the evaluation beside it."""
    arguments = rl(start, *EVAL)
    whole = place(door(*arguments, "runs_dir=whole").out)
    with monkeypatch.context() as patch:
        measure = EvalInside.__call__

        def stopping(inside):
            stop.signal = 15
            return measure(inside)

        patch.setattr(EvalInside, "__call__", stopping)
        done = door(*arguments)
    run = place(done.out)
    assert done.code == 75 and len(rows(run)) == 1
    assert [row["step"] for row in samples(run, "followed")[::4]] == [0, 1]
    assert door(*arguments).code == 0
    assert [row["step"] for row in samples(run, "followed")[::4]] == [0, 1, 2, 4, 6]
    assert differences(run, whole) == []
