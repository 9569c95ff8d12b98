import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rlx.errors import BusyError, RunError
from rlx.runs import lease
from rlx.runs.lease import STALE_S, Holder, Lease, holder_of, is_held

HOLD = (
    "import sys, time\nfrom rlx.runs.lease import Lease\nwith Lease.acquire(sys.argv[1]):\n"
    "    print('held', flush=True)\n    sys.stdin.read()\n"
)


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def hold(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def age_file(path: Path, age: float) -> None:
    then = time.time() - age
    os.utime(path, (then, then))


def plant(folder: Path, holder: Holder, age: float = 0.0) -> None:
    """Write a lease with a heartbeat `age` seconds ago."""
    path = folder / "lease.json"
    path.write_text(json.dumps(asdict(holder)))
    age_file(path, age)


def elsewhere(**changes: str | int) -> Holder:
    return replace(Holder.here(), **{"host": "node7", "token": "old", "pid": 4242, **changes})


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_acquire_writes_the_holder_and_release_removes_it(tmp_path):
    folder = tmp_path / "new" / "run"
    with Lease.acquire(folder) as held:
        read = json.loads((folder / "lease.json").read_text())
        assert read["pid"] == os.getpid()
        assert is_held(folder)
        held.ensure_held()
        assert not held.lost
    assert list(folder.iterdir()) == []
    assert not is_held(folder)
    held.release()


def test_a_living_process_is_respected_and_named(tmp_path):
    process = hold(tmp_path)
    with pytest.raises(BusyError) as error:
        Lease.acquire(tmp_path)
    line = str(error.value)
    assert f"pid {process.pid} on {Holder.here().host}" in line and f"ps -fp {process.pid}" in line
    assert "\n" not in line
    process.communicate("")
    Lease.acquire(tmp_path).release()


def test_a_killed_owner_is_replaced_with_a_notice(tmp_path):
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    notices: list[str] = []
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now: dead, though its number is taken
    assert not is_held(tmp_path)
    with Lease.acquire(tmp_path, notice=notices.append):
        process.communicate()
    assert len(notices) == 1 and str(process.pid) in notices[0] and "gone" in notices[0]
    assert list(tmp_path.iterdir()) == []


def test_the_notice_goes_to_standard_error(tmp_path, capsys):
    plant(tmp_path, elsewhere(), STALE_S + 60)
    Lease.acquire(tmp_path).release()
    assert "node7" in capsys.readouterr().err


@pytest.mark.skipif(not Holder.here().started, reason="start times need /proc")
def test_a_reused_process_number_is_not_the_owner(tmp_path):
    plant(tmp_path, replace(Holder.here(), pid=os.getppid(), started="1", token="old"))
    Lease.acquire(tmp_path).release()


def test_this_process_is_not_let_in_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with Lease.acquire(tmp_path), pytest.raises(BusyError, match="squeue -j 77"):
        Lease.acquire(tmp_path)


@pytest.mark.parametrize("change", [{"host": "node7"}, {"host": Holder.here().host, "namespace": "pid:[1]"}])
@pytest.mark.parametrize(("age", "taken"), [(STALE_S - 60, False), (STALE_S + 60, True)], ids=["fresh", "silent"])
def test_elsewhere_the_heartbeat_decides(tmp_path, age, taken, change):
    plant(tmp_path, elsewhere(**change), age)
    assert is_held(tmp_path) is not taken
    if taken:
        Lease.acquire(tmp_path, notice=lambda line: None).release()
    else:
        with pytest.raises(BusyError, match="pid 4242"):
            Lease.acquire(tmp_path)


@pytest.mark.parametrize(("job", "taken"), [("77", True), ("78", False), ("", False)], ids=["own", "other", "none"])
def test_a_requeued_slurm_job_takes_over_its_own(tmp_path, monkeypatch, job, taken):
    plant(tmp_path, elsewhere(job=job))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert is_held(tmp_path)
    if taken:
        with Lease.acquire(tmp_path, notice=lambda line: None):
            holder = holder_of(tmp_path)
            assert holder is not None and holder.pid == os.getpid()
    else:
        with pytest.raises(BusyError):
            Lease.acquire(tmp_path)


def test_without_a_job_equal_emptiness_is_no_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "")
    plant(tmp_path, elsewhere(job=""))
    with pytest.raises(BusyError):
        Lease.acquire(tmp_path)


def test_an_unfinished_lease_file_is_waited_for_and_broken_when_old(tmp_path, monkeypatch):
    path = tmp_path / "lease.json"
    path.write_text('{"host": "no')
    monkeypatch.setattr(lease, "PATIENCE_S", 0.1)
    with pytest.raises(BusyError, match="being taken"):
        Lease.acquire(tmp_path)
    age_file(path, STALE_S + 60)
    Lease.acquire(tmp_path, notice=lambda line: None).release()


def test_of_many_starters_one_breaks_a_stale_lease(tmp_path):
    plant(tmp_path, elsewhere(), STALE_S + 60)
    code = (
        "import sys\nfrom rlx.errors import BusyError\nfrom rlx.runs.lease import Lease\nsys.stdin.readline()\n"
        "try:\n    Lease.acquire(sys.argv[1])\n    print('won', flush=True)\n    sys.stdin.read()\n"
        "except BusyError:\n    print('busy', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(8)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.stdout.readline() for racer in racers if racer.stdout is not None]
    errors = "".join(racer.communicate("")[1] for racer in racers)
    assert sorted(said) == ["busy\n"] * 7 + ["won\n"]
    assert errors.count("breaking the lease") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["lease.json"]


def test_a_slow_breaker_leaves_the_new_lease_alone(tmp_path):
    plant(tmp_path, elsewhere(), STALE_S + 60)
    judged = lease._look(tmp_path / "lease.json")
    assert judged is not None
    with Lease.acquire(tmp_path, notice=lambda line: None) as held:
        assert not lease._break(tmp_path / "lease.json", judged)
        held.ensure_held()


def test_a_breaker_that_died_does_not_block_for_ever(tmp_path):
    plant(tmp_path, elsewhere(), STALE_S + 60)
    marker = tmp_path / ".lease-break-old"
    marker.write_text("")
    age_file(marker, STALE_S + 60)
    Lease.acquire(tmp_path, notice=lambda line: None).release()
    assert list(tmp_path.iterdir()) == []


def test_the_marker_of_a_breaker_that_was_killed_is_broken_at_once(tmp_path):
    plant(tmp_path, elsewhere(), STALE_S + 60)
    process = hold(tmp_path / "other")
    holder = holder_of(tmp_path / "other")
    assert holder is not None
    process.kill()
    process.communicate()
    (tmp_path / ".lease-break-old").write_text(json.dumps(asdict(holder)))
    began = time.monotonic()
    Lease.acquire(tmp_path, notice=lambda line: None).release()
    assert time.monotonic() - began < 1 and [path.name for path in tmp_path.iterdir()] == ["other"]


def test_without_hard_links_a_lease_is_still_exclusive(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(lease.os, "link", refused)
    with Lease.acquire(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lease.json"]
        with pytest.raises(BusyError):
            Lease.acquire(tmp_path)


def test_an_answer_lost_on_the_network_is_no_refusal(tmp_path, monkeypatch):
    link = os.link

    def twice(*given):
        link(*given)
        link(*given)

    monkeypatch.setattr(lease.os, "link", twice)
    with Lease.acquire(tmp_path) as held:
        held.ensure_held()


def test_the_heartbeat_renews_the_file(tmp_path):
    with Lease.acquire(tmp_path, interval=0.01):
        os.utime(tmp_path / "lease.json", (0, 0))
        assert wait_until(lambda: (tmp_path / "lease.json").stat().st_mtime > 1e9)


def test_a_replaced_lease_is_seen_and_not_removed(tmp_path):
    with Lease.acquire(tmp_path, interval=0.01) as held:
        plant(tmp_path, elsewhere())
        assert wait_until(lambda: held.lost)
        with pytest.raises(RunError, match="taken over by pid 4242 on node7"):
            held.ensure_held()
    holder = holder_of(tmp_path)
    assert holder is not None and holder.token == "old"


def test_a_removed_lease_is_lost_at_the_next_check(tmp_path):
    with Lease.acquire(tmp_path) as held:
        (tmp_path / "lease.json").unlink()
        with pytest.raises(RunError, match="removed"):
            held.ensure_held()
        assert held.lost


def test_a_full_disk_leaves_no_empty_lease(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lease.os, "write", full)
    with pytest.raises(RunError, match="full"):
        Lease.acquire(tmp_path)
    assert list(tmp_path.iterdir()) == []
