"""RL runs with something beside the policy (critic, buffers, a second optimizer, a renewed reference, a running mean)
that are killed anywhere end with the same bits."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlx.decoding.engine import Engine
from rlx.signals import stop
from tests.stages.kills import Server, differences
from tests.stages.runs import ADDS, digest, improve, place, status


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def start(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adds")
    return folder / place(server.run(ADDS, folder=folder).out)


CASES = {
    "ppo": ("algorithm.minibatches=2", "algorithm.critic_lr=1e-3", "algorithm.critic_warmup=1",
            "algorithm.kl_coefficient=0.1"),
    "dapo": ("algorithm.max_draws=5", "algorithm.minibatches=2"),
    "expert_iteration": ("algorithm.round_iterations=2", "algorithm.buffer_rounds=2", "algorithm.batch_rows=4"),
    "rft": ("algorithm.batch_rows=4", "algorithm.epochs=1"),
    "dpo": ("algorithm.reference_every=2", "algorithm.minibatches=2"),
    "parallel": ("algorithm.sft_rows=8", "optim=muon"),
    "reinforce": (),
}  # fmt: skip
KILLS = {
    "ppo": [("minibatch", 3), ("checkpoint made", 1), ("row written", 3), ("state written", 2), ("update", 2)],
    "dapo": [("sampled", 6), ("sampling", 4), ("checkpoint made", 2), ("minibatch", 1)],
    "expert_iteration": [("minibatch", 3), ("checkpoint made", 1), ("sampled", 3), ("row written", 2),
                         ("state written", 1)],
    "rft": [("sampled", 5), ("row written", 3), ("minibatch", 2)],
    "dpo": [("minibatch", 3), ("checkpoint made", 1), ("row written", 3), ("state written", 1)],
    "parallel": [("minibatch", 4), ("checkpoint made", 1), ("row written", 3), ("update", 1)],
    "reinforce": [("checkpoint made", 1), ("update", 1), ("checkpoint made", 1)],
}  # fmt: skip
"""Where each run dies in turn, at which passing of the place in that process."""


@pytest.mark.parametrize("name", CASES)
def test_killed_anywhere_it_ends_with_the_same_bits(server, start, tmp_path_factory, monkeypatch, name):
    arguments = improve(start, name, *CASES[name])
    elsewhere = tmp_path_factory.mktemp("whole")
    whole = server.run(arguments, folder=elsewhere)
    assert whole.code == 0, whole.err
    folder = tmp_path_factory.mktemp("broken")
    for where, count in KILLS[name]:
        done = server.run(arguments, place=where, count=count, folder=folder)
        assert done.code == -signal.SIGKILL, f"{where} {count} was never reached: {done}"
    done = server.run(arguments, folder=folder)
    assert done.code == 0, done.err
    broken = folder / place(done.out)
    assert differences(broken, elsewhere / place(whole.out)) == []
    assert status(broken)["state"] == "finished"


def test_stopped_between_two_draws_of_an_iteration(door, server, start, tmp_path_factory, monkeypatch):
    """What was drawn is abandoned and drawn again, and paid for once."""
    arguments = improve(start, "dapo", *CASES["dapo"])
    elsewhere = tmp_path_factory.mktemp("whole")
    whole = server.run(arguments, folder=elsewhere)
    assert whole.code == 0, whole.err
    complete, calls = Engine.complete, 0

    def stopping(engine, *given, **named):
        nonlocal calls
        calls += 1  # the preflight's two, then the draws of the first iteration
        if calls == 4:
            stop.signal = signal.SIGTERM
        return complete(engine, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "complete", stopping)
        done = door(*arguments)
    assert done.code == 75 and calls == 4, done.err
    done = door(*arguments)
    assert done.code == 0, done.err
    assert differences(place(done.out), elsewhere / place(whole.out)) == []


@pytest.mark.parametrize("name", ["ppo", "expert_iteration", "parallel"])
def test_continued_runs_are_one_run(server, start, tmp_path, name):
    """init.state=all goes on with critic, buffer and second optimizer, as if the two runs were one."""
    settings = (*CASES[name], "schedule=constant", "stage.val_every=0")
    whole = server.run(improve(start, name, *settings), folder=tmp_path)
    first = server.run(improve(start, name, *settings, "stage.steps=4"), folder=tmp_path)
    assert whole.code == first.code == 0, whole.err + first.err
    parent = tmp_path / place(first.out)
    second = server.run(improve(parent, name, *settings, "init.state=all"), folder=tmp_path)
    assert second.code == 0, second.err
    last = "step-000006"
    assert digest(tmp_path / place(second.out))[last] == digest(tmp_path / place(whole.out))[last]
