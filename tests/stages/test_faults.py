"""Damaged checkpoints, full and read-only disks, stops at any moment: one line, and in the end the same bits."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlx.runs.metrics import MetricsLog
from rlx.signals import stop
from rlx.stages.modules.step import StepModule
from tests.stages.runs import PRETRAIN, digest, merge, place, rl, rows, sft, status

STEPS = (*PRETRAIN, "checkpoint.every=2", "checkpoint.keep=last:3")


def left(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def one_line(text: str) -> bool:
    return len(text.strip().splitlines()) == 1


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Path:
    """A folder for an unbroken run and one that failed after step 9, with checkpoints 4, 6, 8."""
    return tmp_path_factory.mktemp("pair")


@pytest.fixture
def broken(door, pair, monkeypatch) -> tuple[Path, Path]:
    """A run that failed after step 9, with checkpoints 4, 6 and 8, and an unbroken one."""
    if not (pair / "runs").exists():
        assert door(*STEPS, "runs_dir=whole").code == 0
        with monkeypatch.context() as patch:
            patch.setattr(MetricsLog, "append", full_at(MetricsLog.append, 10))
            assert door(*STEPS).code == 1
        for name in ("runs", "whole"):
            shutil.copytree(name, pair / name)
    else:
        for name in ("runs", "whole"):
            shutil.copytree(pair / name, name)
    (run,), (whole,) = (list(Path(name).glob("*/seed0")) for name in ("runs", "whole"))
    assert left(run) == ["step-000004", "step-000006", "step-000008"] and len(rows(run)) == 9
    return run, whole


def full_at(function, count: int):
    """The function, whose count-th call finds a full disk."""
    calls = 0

    def writing(*given, **named):
        nonlocal calls
        calls += 1
        if calls == count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*given, **named)

    return writing


def ends_equal(door, run: Path, whole: Path) -> str:
    """The same command again ends the run as if nothing had been; returns what was printed."""
    done = door(*STEPS)
    assert done.code == 0, done.err
    assert rows(run) == rows(whole) and digest(run) == digest(whole) and status(run)["state"] == "finished"
    return done.out


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def other_tensors(path: Path) -> None:
    """A sound file, without sums that tell of it, that is another model's."""
    save_file({name: torch.zeros(3) for name in load_file(path)}, path)
    (path.parent / "SHA256SUMS").unlink()


HARMS = {
    "weights cut": ("model.safetensors", cut),
    "a weight's bit": ("model.safetensors", flip),
    "weights gone": ("model.safetensors", Path.unlink),
    "other weights": ("model.safetensors", other_tensors),
    "a bit of the state": ("trainer/state.pt", flip),
    "config empty": ("config.json", empty),
    "sums damaged": ("SHA256SUMS", empty),
}


@pytest.mark.parametrize("name, harm", HARMS.values(), ids=HARMS.keys())
def test_a_damaged_checkpoint_is_moved_aside_and_the_run_goes_on_from_the_last_good_one(door, broken, name, harm):
    run, whole = broken
    harm(run / "checkpoints/step-000008" / name)
    out = ends_equal(door, run, whole)
    (line,) = [line for line in out.splitlines() if "moved to" in line]
    assert "step 8" in line and "logs/attempt-2.dropped-step-000008" in line
    assert f"checkpoints/step-000008{'' if 'expected' in line else '/'}" in line
    assert "going on from step 6" in out and (run / "logs/attempt-2.dropped-step-000008").is_dir()
    dropped = (run / "logs/attempt-1.dropped.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in dropped] == [7, 8, 9]
    assert left(run) == ["step-000008", "step-000010", "step-000012"]


def test_without_any_good_checkpoint_the_run_starts_over(door, broken):
    run, whole = broken
    for step in (4, 6, 8):
        flip(run / f"checkpoints/step-{step:06}/model.safetensors")
    out = ends_equal(door, run, whole)
    assert out.count("moved to") == 3 and "going on" not in out.split("\n", 1)[1]


@pytest.mark.parametrize("kept, from_step", [(7, 6), (2, None)])
def test_rows_that_are_lost_are_made_again_from_a_checkpoint_that_has_all_of_its_own(door, broken, kept, from_step):
    run, whole = broken
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:kept]))
    out = ends_equal(door, run, whole)
    assert (f"going on from step {from_step}" in out) == (from_step is not None)


def test_samples_that_are_lost_are_made_again_too(door, broken, monkeypatch):
    _, parent = broken
    arguments = rl(parent)
    whole = place(door(*arguments, "runs_dir=all").out)
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "sync", full_at(MetricsLog.sync, 6))
        assert door(*arguments).code == 1
    (run,) = Path("runs").glob("*-rl-*/seed0")
    assert left(run)
    (run / "samples.jsonl").write_bytes(b"")
    done = door(*arguments)
    assert done.code == 0 and "moved to" in done.out, done.err
    assert rows(run) == rows(whole) and (run / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()


def test_a_state_of_another_version_is_one_line_and_stays(door, broken, monkeypatch):
    run, _ = broken
    monkeypatch.setattr("rlx.stages.continuing.FORMAT", 99)
    done = door(*STEPS)
    assert done.code == 2 and "another version" in done.err and "rerun=" in done.err and one_line(done.err)
    assert left(run) == ["step-000004", "step-000006", "step-000008"] and len(rows(run)) == 9


def test_a_damaged_parent_is_one_line_that_names_the_nearest_good_one(door, broken):
    _, whole = broken
    assert left(whole) == ["step-000008", "step-000010", "step-000012"]
    for step in (10, 12):
        flip(whole / f"checkpoints/step-{step:06}/model.safetensors")
    flip(whole / "checkpoints/step-000008/trainer/state.pt")
    for command in (sft(whole), sft(f"{whole}@10"), merge(whole, f"{whole}@8")):
        done = door(*command)
        assert done.code == 2 and f"the nearest good one is {whole}@8" in done.err and one_line(done.err), done.err
    assert len(list(Path("runs").glob("*/*"))) == 1
    assert door(*sft(f"{whole}@8", "stage.steps=1")).code == 0  # of it only the state is damaged
    (whole / "checkpoints/step-000012/model.safetensors").unlink()
    done = door(*sft(whole))
    assert done.code == 2 and "step-000012" in done.err and f"{whole}@10" in done.err and one_line(done.err)


WRITES = {
    "lease": ("rlx.runs.lease._write_new", ".tmp-lease.json-"),
    "log": ("builtins.open", "attempt-"),
    "status": ("builtins.open", ".tmp-status"),
    "row": ("rlx.runs.metrics._write_all", ""),
    "run.json": ("builtins.open", ".tmp-run.json"),
    "checkpoint": ("pathlib.Path.mkdir", ".tmp-step-"),
    "weights": ("safetensors.torch.save_file", ""),
    "state": ("torch.save", ""),
    "sums": ("pathlib.Path.write_text", "SHA256SUMS"),
    "rename": ("os.rename", ".tmp-step-"),
    "best.json": ("builtins.open", ".tmp-best.json"),
    "pruning": ("os.rename", "step-"),
}
"""What is written, by the function that writes it and how the name of the file begins."""


TOLD = {errno.ENOSPC: "the disk is full", errno.EROFS: "read-only", errno.EIO: "reports an error"}


@pytest.mark.parametrize(
    "where, number",
    [
        *((where, errno.ENOSPC) for where in WRITES),
        ("lease", errno.EROFS),
        ("row", errno.EIO),
    ],
    ids=lambda value: errno.errorcode.get(value, value),
)
def test_a_disk_that_takes_no_more_is_one_line_and_loses_nothing(door, broken, monkeypatch, where, number):
    run, whole = broken
    shutil.rmtree("runs")
    target, begins = WRITES[where]
    module, _, name = target.rpartition(".")
    owner = __import__("pathlib").Path if module == "pathlib.Path" else __import__(module, fromlist=[name])
    function, hits = getattr(owner, name), []

    def writing(*given, **named):
        path = next((os.path.basename(str(part)) for part in given if isinstance(part, str | Path)), "")
        if path.startswith(begins) and not ("builtins" in target and "r" in (given[1:2] or ("r",))[0]):
            hits.append(path)
            raise OSError(number, os.strerror(number), path or None)
        return function(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, writing)
        done = door(*STEPS)
    assert hits and done.code == 1 and one_line(done.err) and TOLD[number] in done.err, done.err
    ends_equal(door, run, whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_log_is_one_line(door, broken, monkeypatch):
    run, whole = broken
    with monkeypatch.context() as patch:
        patch.setattr("rlx.runs.run.attempt_log", lambda *given: Path("/dev/full"))
        done = door(*STEPS)
    assert done.code == 1 and "the disk is full" in done.err and one_line(done.err)
    ends_equal(door, run, whole)


def test_a_screen_that_is_gone_ends_no_run(door, broken, monkeypatch):
    """A pipe whose reader left, or a job's output file on a full disk."""
    run, whole = broken

    def gone(*given, **named):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    with monkeypatch.context() as patch:
        patch.setattr("rlx.runs.run.print", gone, raising=False)
        patch.setattr("rlx.progress.print", gone, raising=False)
        ends_equal(door, run, whole)
    assert "going on from step 8" in (run / "logs/attempt-2.log").read_text()


PHASES = {
    "place": ("rlx.stages.base.place_of", None),
    "parent": ("rlx.stages.base.parent_model", None),
    "building": ("rlx.stages.training.start_of", 0),
    "optimizer": ("rlx.stages.modules.step.StepModule.configure_optimizers", 0),
    "update": ("rlx.stages.modules.step.StepModule.update", 1),
    "validation": ("rlx.stages.modules.supervised.SupervisedModule.validate", 1),
    "checkpoint": ("rlx.stages.modules.checkpointing.save_model_directory", 1),
}
"""What is under way when a stop comes, and the steps that are made then; None: nothing is written at all."""


@pytest.fixture(scope="module")
def tuned() -> list[dict]:
    """Rows of a fine-tuning that nothing stopped, once they are made."""
    return []


@pytest.fixture
def handlers():
    """Ours, as the door installs them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    stop.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "phase, number",
    [*((phase, signal.SIGTERM) for phase in PHASES), ("optimizer", signal.SIGINT)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_signal_in_any_phase_is_heeded_at_once_and_loses_nothing(
    door, broken, tuned, handlers, monkeypatch, phase, number
):
    _, whole = broken
    target, made = PHASES[phase]
    arguments = sft(f"{whole}@12", "checkpoint.every=2", "stage.steps=4")
    shutil.rmtree("runs")
    module, _, name = target.rpartition(".")
    owner_module, _, cls = module.rpartition(".")
    owner = getattr(__import__(owner_module, fromlist=[cls]), cls)
    function, update, steps = getattr(owner, name), StepModule.update, []

    def signalled(*given, **named):
        found = function(*given, **named)
        os.kill(os.getpid(), number)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(StepModule, "update", lambda *given: steps.append(0) or update(*given))
        patch.setattr(owner, name, signalled)
        done = door(*arguments)
    assert done.code == 75 and "goes on from here" in done.err, done.err
    assert Path("runs").exists() == (made is not None)
    for run in Path("runs").glob("*/*"):
        assert len(rows(run)) == made and status(run)["state"] == "stopped"
    assert len(steps) == (made or 0) or name == "update"
    run = place(door(*arguments).out)
    assert len(rows(run)) == 4 and sorted(digest(run)) == ["step-000002", "step-000004"]
    if not tuned:
        tuned.extend(rows(place(door(*arguments, "runs_dir=again").out)))
    assert rows(run) == tuned


def test_a_second_ctrl_c_ends_at_once(door, broken, handlers, monkeypatch):
    run, whole = broken
    update = StepModule.update

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return update(*given)

    with monkeypatch.context() as patch:
        patch.setattr(StepModule, "update", interrupted)
        done = door(*STEPS)
    assert done.code == 130 and status(run)["state"] == "stopped" and len(rows(run)) == 8
    ends_equal(door, run, whole)
