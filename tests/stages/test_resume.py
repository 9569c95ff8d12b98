"""Killed anywhere and given again, a run ends with the same bits: weights, and rows but for their clocks."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import command, environment
from tests.stages.runs import PRETRAIN, digest, place, record, rl, rows, sft, status

KILL = """
import os, signal, sys
import rlx.runs.metrics, rlx.runs.checkpoints, rlx.runs.files
where, count = sys.argv[1], int(sys.argv[2])
sys.argv = ["rlx", *sys.argv[3:]]
left = count

def killing(function):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

if where == "row":
    rlx.runs.metrics.MetricsLog.append = killing(rlx.runs.metrics.MetricsLog.append)
elif where == "state":
    import rlx.stages.modules.loop as loop
    loop.save_trainer_state = killing(loop.save_trainer_state)
elif where == "forward":
    import rlx.nn.decoder as decoder
    decoder.Decoder.forward = killing(decoder.Decoder.forward)
elif where == "prune":
    import rlx.stages.modules.loop as loop
    loop.prune = killing(loop.prune)
from rlx.cli import main
main()
"""


def killed(where: str, count: int, arguments: list[str]) -> int:
    """Run the door in a process that kills itself at the count-th call of a function; returns its exit code."""
    script = [command()[0], "-c", KILL, where, str(count), *arguments]
    return subprocess.run(script, env=environment(), capture_output=True, timeout=300).returncode


@pytest.fixture
def unbroken(rlx):
    """Runs a command in `runs_dir=whole` and gives its directory."""

    def run(arguments: list[str]) -> Path:
        done = rlx(*arguments, "runs_dir=whole")
        assert done.code == 0, done.err
        return place(done.out)

    return run


def same_bits(rlx, unbroken, arguments: list[str], kills: list[tuple[str, int]]) -> None:
    """Kill the run at each point in turn, let it end, and compare it with the unbroken one."""
    whole = unbroken(arguments)
    for where, count in kills:
        assert killed(where, count, arguments) == -signal.SIGKILL, f"{where} {count} was never reached"
    done = rlx(*arguments)
    assert done.code == 0, done.err
    broken = place(done.out)
    assert broken.name == whole.name and broken.parent.name == whole.parent.name
    assert digest(broken) == digest(whole)
    assert rows(broken) == rows(whole)
    assert status(broken)["state"] == "finished"


def test_pretrain_killed_at_many_places(rlx, unbroken):
    kills = [("forward", 2), ("row", 2), ("row", 5), ("state", 1), ("forward", 6), ("state", 1), ("prune", 1)]
    same_bits(rlx, unbroken, list(PRETRAIN), kills)


def test_sft_killed_at_many_places(rlx, unbroken):
    start = place(rlx(*PRETRAIN, "runs_dir=start", "stage.steps=4").out)
    start = Path("start") / start.parent.name / start.name
    same_bits(rlx, unbroken, sft(start), [("row", 4), ("state", 1), ("forward", 8), ("state", 2), ("row", 3)])


def test_rl_killed_at_many_places(rlx, unbroken):
    start = place(rlx(*PRETRAIN, "runs_dir=start", "stage.steps=4").out)
    arguments = rl(start, "algorithm.minibatches=2", "algorithm.epochs=2")
    same_bits(rlx, unbroken, arguments, [("forward", 30), ("row", 3), ("state", 1), ("forward", 60), ("row", 2)])


STOPS = {"preflight": (1, 0), "first rollout": (2, 0), "validation": (3, 1), "second rollout": (4, 1),
         "second validation": (5, 2), "third rollout": (6, 2), "last rollout": (10, 5),
         "last validation": (11, 6)}  # fmt: skip
"""Which sampling of the run the stop comes in (they are validated at steps 1, 2, 4, 6), and the steps that are made."""


@pytest.mark.parametrize("sampling, made", STOPS.values(), ids=STOPS.keys())
def test_rl_stopped_inside_a_sampling(rlx, unbroken, monkeypatch, sampling, made):
    """A stop in a rollout makes no step, one in a validation loses no number; preflight is paid for once."""
    from rlx.decoding.engine import Engine
    from rlx.signals import stop

    arguments = rl(place(rlx(*PRETRAIN, "runs_dir=start", "stage.steps=4").out))
    whole = unbroken(arguments)
    complete, decode = Engine.complete, Engine._step
    calls = 0

    def counted(*given, **named):
        nonlocal calls
        calls += 1
        return complete(*given, **named)

    def stopping(*given):
        if calls == sampling:
            stop.signal = signal.SIGTERM
        return decode(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "complete", counted)
        patch.setattr(Engine, "_step", stopping)
        done = rlx(*arguments)
    run = place(done.out)
    assert stop.signal and len(rows(run)) == made and rows(run) == rows(whole)[:made]
    assert done.code == (75 if made < 6 else 0), done.err
    assert made == 6 or list(digest(run))[-1] == f"step-{made:06}"
    done = rlx(*arguments)
    assert done.code == 0 and rows(run) == rows(whole)
    assert digest(run)["step-000006"] == digest(whole)["step-000006"]  # the stop's own checkpoint may be there too
    assert record(run)["preflight"] == record(whole)["preflight"]
    assert record(run)["flops"] == record(whole)["flops"]


def test_killed_after_the_last_checkpoint_still_finishes(rlx, unbroken):
    whole = unbroken(list(PRETRAIN))
    assert killed("prune", 4, list(PRETRAIN)) == -signal.SIGKILL
    done = rlx(*PRETRAIN)
    assert done.code == 0 and rows(place(done.out)) == rows(whole)
    assert "finished already" in rlx(*PRETRAIN).out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_stops_at_a_step_and_the_run_goes_on(rlx, unbroken, number):
    arguments = [*PRETRAIN, "stage.steps=400", "stage.val_every=0", "checkpoint.every=1000"]
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run = wait_for_rows(process, 3)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "goes on from here" in err and status(run)["state"] == "stopped"
    stopped = rows(run)
    assert digest(run) and int(next(iter(digest(run))).removeprefix("step-")) == stopped[-1]["step"] < 400
    done = rlx(*arguments)
    assert done.code == 0
    assert rows(run)[: len(stopped)] == stopped and rows(run) == rows(unbroken(arguments))


def wait_for_rows(process: subprocess.Popen, count: int) -> Path:
    """The run directory, once it has some rows."""
    while process.poll() is None:
        for path in Path("runs").glob("*/seed0/metrics.jsonl"):
            if path.read_text().count("\n") >= count:
                return path.parent
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def test_a_second_process_on_the_same_run_is_refused(rlx):
    arguments = [*PRETRAIN, "stage.steps=100000", "stage.val_every=0"]
    process = subprocess.Popen(command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for_rows(process, 1)
        done = rlx(*arguments)
        assert done.code == 2 and f"pid {process.pid}" in done.err and len(done.err.strip().splitlines()) == 1
    finally:
        process.kill()
        process.communicate()
