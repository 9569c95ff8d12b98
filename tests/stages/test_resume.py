"""Killed anywhere and given again, a run ends with the same bits: weights, and rows but for their clocks."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rlx.runs.checkpoints import list_checkpoints
from rlx.runs.files import EVAL_PARTIAL
from rlx.runs.metrics import MetricsLog
from tests.conftest import command, environment
from tests.stages.kills import Server, differences
from tests.stages.runs import PRETRAIN, digest, evaluation, merge, place, rl, rows, sft, status


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@dataclass(frozen=True)
class Starts:
    """Two finished runs to begin from."""

    first: Path
    tuned: Path


@pytest.fixture(scope="module")
def starts(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Starts:
    folder = tmp_path_factory.mktemp("starts")
    first = folder / place(server.run([*PRETRAIN, "stage.steps=4"], folder=folder).out)
    tuned = folder / place(server.run(sft(first, "stage.steps=4"), folder=folder).out)
    return Starts(first, tuned)


@pytest.fixture(scope="module")
def wholes() -> dict[tuple[str, ...], Path]:
    """Unbroken runs that are made, by their commands."""
    return {}


@pytest.fixture
def unbroken(door, wholes, tmp_path_factory) -> Callable[[Sequence[str]], Path]:
    """Runs a command in a place of its own, once, and gives its directory."""

    def run(arguments: Sequence[str]) -> Path:
        key = tuple(arguments)
        if key not in wholes:
            done = door(*arguments, f"runs_dir={tmp_path_factory.mktemp('whole')}")
            assert done.code == 0, done.err
            wholes[key] = place(done.out)
        return wholes[key]

    return run


COMMANDS: dict[str, Callable[[Starts], list[str]]] = {
    "pretrain": lambda starts: list(PRETRAIN),
    "sft": lambda starts: sft(starts.first),
    "mixture": lambda starts: [*PRETRAIN, "corpus=mixture", "corpus.sources={own:{weight:2},b:{task:cpm3,weight:1}}"],
    "adapter": lambda starts: sft(starts.first, "adapter=lora", "adapter.rank=2"),
    "rl": lambda starts: rl(starts.first, "algorithm.minibatches=2", "algorithm.epochs=2"),
    "merge": lambda starts: merge(starts.first, starts.tuned),
    "eval": lambda starts: evaluation(starts.tuned),
}
KILLS = {
    "pretrain": [("half a lease", 1), ("minibatch", 2), ("weights written", 1), ("checkpoint made", 1),
                 ("lease being broken", 1), ("half a row", 2), ("row written", 2), ("rows kept elsewhere", 1),
                 ("validation", 1), ("checkpoint to delete", 1), ("status", 2), ("run.json", 1)],
    "sft": [("forward pass", 4), ("state written", 2), ("validated", 2), ("row", 3)],
    "mixture": [("row", 6), ("state written", 2)],
    "adapter": [("forward pass", 4), ("weights written", 1), ("state written", 2), ("row", 3)],
    "rl": [("sampled", 1), ("row written", 2), ("validation", 2), ("state written", 1), ("minibatch", 3),
           ("checkpoint made", 1), ("sampling", 2), ("rows synced", 1), ("checkpoint named", 2),
           ("status", 2), ("conclusion", 1)],
    "merge": [("half the tensors", 7), ("tensors written", 1), ("checkpoint made", 1), ("checkpoint to delete", 1),
              ("forward pass", 3), ("half a row", 1), ("row written", 1), ("rows kept elsewhere", 1),
              ("run.json written", 2)],
    "eval": [("sampled", 1), ("half a row", 1), ("row written", 1), ("sampled", 3), ("row written", 2), ("row", 40),
             ("eval.json written", 1), ("run.json", 1), ("chunks removed", 1)],
}  # fmt: skip
"""Where each run dies in turn, at which passing of the place in that process."""


@pytest.mark.parametrize("stage", KILLS)
def test_killed_at_many_places(server, starts, door, unbroken, stage):
    arguments = COMMANDS[stage](starts)
    whole = unbroken(arguments)
    for where, count in KILLS[stage]:
        done = server.run(arguments, place=where, count=count)
        assert done.code == -signal.SIGKILL, f"{where} {count} was never reached: {done}"
    done = door(*arguments)
    assert done.code == 0, done.err
    broken = place(done.out)
    assert broken.parts[-2:] == whole.parts[-2:]
    assert differences(broken, whole) == []
    assert status(broken)["state"] == "finished"


def test_rows_are_dropped_once_however_often_the_resume_is_killed(server, door):
    assert server.run(PRETRAIN, place="row", count=6).code == -signal.SIGKILL
    for _ in range(2):
        server.run(PRETRAIN, place="rows kept elsewhere")
    run = place(door(*PRETRAIN).out)
    dropped = [row["step"] for path in run.glob("logs/*.dropped.jsonl") for row in MetricsLog.read(path)]
    assert dropped and dropped == list(range(dropped[0], 6))


STOPS = {"preflight": (1, 0, 0), "followed problems": (2, 0, 0), "first rollout": (3, 0, 0), "validation": (4, 0, 1),
         "second rollout": (5, 1, 1), "second validation": (6, 1, 2), "third rollout": (7, 2, 2),
         "last rollout": (11, 5, 5), "last validation": (12, 5, 6)}  # fmt: skip
"""Which sampling of the run the stop comes in (they are validated at steps 1, 2, 4, 6), the rows and steps made."""


@pytest.mark.parametrize("sampling, written, made", STOPS.values(), ids=STOPS.keys())
def test_rl_stopped_inside_a_sampling(door, unbroken, starts, monkeypatch, sampling, written, made):
    """A stop in a rollout makes no step, one in a validation loses no number and no time; preflight is paid once."""
    from rlx.decoding.engine import Engine
    from rlx.signals import stop

    arguments = rl(starts.first)
    whole = unbroken(arguments)
    complete = Engine.complete
    calls = 0

    def stopping(engine, *given, **named):
        nonlocal calls
        calls += 1
        if calls == sampling:
            heeded = engine.stop

            def polled() -> bool:
                stop.signal = signal.SIGTERM
                return heeded()

            monkeypatch.setattr(engine, "stop", polled)
        return complete(engine, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "complete", stopping)
        done = door(*arguments)
    run = place(done.out)
    assert stop.signal and done.code == 75, done.err
    assert rows(run) == rows(whole)[:written] and list(digest(run))[-1] == f"step-{made:06}"
    done = door(*arguments)
    assert done.code == 0, done.err
    assert differences(run, whole) == []


STOPPED_AT = {"pretrain": ("row written", 3), "merge": ("forward pass", 2), "eval": ("sampled", 3)}
"""Where a signal comes: the run ends at the next step, or within the evaluation or the merge."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("stage", STOPPED_AT)
def test_a_signal_stops_the_run_and_it_goes_on(server, starts, unbroken, stage, number):
    arguments = COMMANDS[stage](starts)
    where, count = STOPPED_AT[stage]
    done = server.run(arguments, place=where, count=count, number=number)
    assert done.code == 75 and "goes on from here" in done.err, done
    run = place(done.out)
    assert status(run)["state"] == "stopped"
    assert len(rows(run)) == (3 if stage == "pretrain" else 0)  # merge and eval write their row at the end
    done = server.run(arguments)
    assert done.code == 0 and status(run)["state"] == "finished", done.err
    assert differences(run, unbroken(arguments)) == []


def test_an_evaluation_goes_on_after_the_chunks_that_are_done(server, starts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = evaluation(starts.first)
    assert server.run(arguments, place="sampled", count=5).code == -signal.SIGKILL
    done, passings = server.passings([*arguments, "trainer.threads=2"], tmp_path)
    assert done.code == 0 and "going on after 128 problems" in done.out and "last bits" in done.out
    assert passings["sampled"] == 2  # of the third chunk, greedy and drawn
    assert not (place(done.out) / EVAL_PARTIAL).exists()


def test_a_parent_that_changed_since_is_evaluated_and_merged_anew(server, starts, door, unbroken):
    parent = place(door(*PRETRAIN, "stage.steps=4").out)
    judged, merged = evaluation(parent), merge(parent, starts.tuned)
    assert server.run(judged, place="sampled", count=5).code == -signal.SIGKILL
    assert server.run(merged, place="checkpoint made").code == -signal.SIGKILL
    _, checkpoint = list_checkpoints(parent)[-1]
    file = checkpoint / "model.safetensors"
    save_file({name: tensor + 0.1 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    (checkpoint / "SHA256SUMS").unlink(missing_ok=True)
    done = door(*judged)
    assert done.code == 0 and "it starts over" in done.out
    assert differences(place(done.out), unbroken(judged)) == []
    assert differences(place(door(*merged).out), unbroken(merged)) == []


def test_alone_in_its_directory_and_stopped_from_outside(server, door):
    arguments = [*PRETRAIN, "stage.steps=100000", "stage.val_every=0", "checkpoint.every=100000"]
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run = wait_for_rows(process, 3)
    refused = door(*arguments)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert refused.code == 2 and f"pid {process.pid}" in refused.err and len(refused.err.strip().splitlines()) == 1
    assert process.returncode == 75 and "goes on from here" in err, err
    stopped = rows(run)
    assert status(run)["state"] == "stopped" and list(digest(run)) == [f"step-{stopped[-1]['step']:06}"]
    assert server.run(arguments, place="row written", count=2).code == -signal.SIGKILL
    assert rows(run)[: len(stopped)] == stopped and len(rows(run)) == len(stopped) + 2


def wait_for_rows(process: subprocess.Popen, count: int) -> Path:
    """The run directory, once it has some rows."""
    while process.poll() is None:
        for path in Path("runs").glob("*/seed0/metrics.jsonl"):
            if path.read_text().count("\n") >= count:
                return path.parent
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])
