"""stage=rl with decode.scheduler=trail: the same rollouts, a network that learns beside the policy, exact resume."""

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from rlx.decoding.lengths import BATCH, STEPS
from tests.stages.kills import Server, differences
from tests.stages.runs import ADDS, digest, improve, place, rows, status

TRAIL = ("decode.scheduler=trail", "decode.rows=8", "decode.preempt=1", "trainer.threads=1")
KILLS = [("checkpoint made", 1), ("sampled", 3), ("row written", 3), ("update", 1)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def start(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adds")
    return folder / place(server.run(ADDS, folder=folder).out)


def saved(run: Path) -> dict[str, Any]:
    """What the last checkpoint keeps of the network."""
    state = torch.load(run / "checkpoints/step-000006/trainer/state.pt", weights_only=True)
    return state["run"]["module"]["lengths"]


ALONE = ("algorithm=dapo", "algorithm.max_draws=5")
TALKS = ("algorithm=ppo", "environment=thinker", "environment.fast_tokens=4", "environment.slow_tokens=6",
         "environment.window=2", "decode.max_tokens=60")  # fmt: skip


@pytest.mark.parametrize("more", [ALONE, TALKS], ids=["alone", "in dialogues"])
def test_killed_anywhere_it_ends_with_the_same_bits(server, start, tmp_path_factory, more):
    """The network's state is kept, and what an environment counts."""
    arguments = improve(start, more[0].split("=")[1], *TRAIL, *more[1:])
    elsewhere = tmp_path_factory.mktemp("whole")
    whole = server.run(arguments, folder=elsewhere)
    assert whole.code == 0, whole.err
    folder = tmp_path_factory.mktemp("broken")
    for where, count in KILLS:
        done = server.run(arguments, place=where, count=count, folder=folder)
        assert done.code == -signal.SIGKILL, f"{where} {count} was never reached: {done}"
    done = server.run(arguments, folder=folder)
    assert done.code == 0, done.err
    runs = (folder / place(done.out), elsewhere / place(whole.out))
    assert differences(*runs) == [] and status(runs[0])["state"] == "finished"
    one, other = map(saved, runs)
    assert one["made"] == other["made"] == 6 * STEPS
    for name in ("weights", "kept"):
        assert all(torch.equal(one[name][key], other[name][key]) for key in one[name]), name


def test_continued_runs_are_one_run(server, start, tmp_path):
    settings = (*TRAIL, "schedule=constant", "stage.val_every=0")
    whole = server.run(improve(start, "reinforce", *settings), folder=tmp_path)
    first = server.run(improve(start, "reinforce", *settings, "stage.steps=4"), folder=tmp_path)
    assert whole.code == first.code == 0, whole.err + first.err
    second = server.run(improve(tmp_path / place(first.out), "reinforce", *settings, "init.state=all"), folder=tmp_path)
    assert second.code == 0, second.err
    last = "step-000006"
    assert digest(tmp_path / place(second.out))[last] == digest(tmp_path / place(whole.out))[last]
    one, other = (rows(tmp_path / place(run.out))[-1] for run in (second, whole))
    assert one["lengths/error"] == other["lengths/error"] and one["lengths/loss"] == other["lengths/loss"]


def test_rollouts_are_those_of_first_come(door, start, tmp_path):
    """So the run has the same place; only what is predicted is added to its rows, and to what it spends."""
    runs = [door(*improve(start, "reinforce", f"runs_dir={tmp_path / name}", *more))
            for name, more in (("first", TRAIL[1:]), ("trail", TRAIL))]  # fmt: skip
    assert [run.code for run in runs] == [0, 0], runs[1].err
    first, trail = (place(run.out) for run in runs)
    assert first.relative_to(tmp_path / "first") == trail.relative_to(tmp_path / "trail")
    plain, found = rows(first), rows(trail)
    added = {"lengths/error", "lengths/error_constant", "lengths/loss", "lengths/preempted"}
    assert [set(row) - set(other) for row, other in zip(found, plain, strict=True)] == [added] * 6
    for row, other in zip(found, plain, strict=True):
        for name in ("reward", "completions/mean_length", "val/pass@1", "entropy"):
            assert row.get(name) == pytest.approx(other.get(name), abs=1e-4), name
    weights = sum(weight.numel() for weight in saved(trail)["weights"].values() if weight.dim() > 1)
    trained, drawn = (
        [row[name] - other[name] for row, other in zip(found, plain, strict=True)]
        for name in ("flops/train", "flops/rollout")
    )
    assert trained == pytest.approx([6 * weights * BATCH * STEPS * (n + 1) for n in range(6)], rel=1e-6)
    assert drawn[0] == 0 and all(more > less for less, more in pairwise(drawn)), "nothing is predicted at first"


def test_a_state_without_lengths_begins_anew(door, start):
    """init.state=all of a run that was first come."""
    settings = ("schedule=constant", "stage.val_every=0", "decode.rows=8")
    first = door(*improve(start, "reinforce", *settings, "stage.steps=2"))
    second = door(*improve(place(first.out), "reinforce", *settings, "init.state=all", "stage.steps=3", *TRAIL))
    assert second.code == 0, second.err
    assert rows(place(second.out))[-1]["lengths/error"] > 0
