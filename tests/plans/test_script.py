"""The batch script, run by bash: which ends of the program send a task back into the queue. No cluster is needed."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlx.plans.script import batch_script
from tests.plans.launchers.standins import wait_for

SCONTROL = """#!/bin/sh
echo "$*" >> asked
left=$(cat "silent.$1" 2>/dev/null || echo 0)
[ "$left" = 0 ] || { echo $((left - 1)) > "silent.$1"; exit 1; }
[ "$1" = requeue ] || cat job
"""
SLEEP = "#!/bin/sh\n/bin/sleep 0.02\nexit 143\n"  # short, and ended by Slurm's signal, which is meant for everything
SAVES = "bash -c 'trap \"exit 75\" USR1 TERM; touch there; while :; do /bin/sleep 0.02; done'"
DIES = "bash -c 'touch there; exec /bin/sleep 30'"
BEGINS = "kill -s TERM $$; /bin/sleep 30"  # the signal is there before the program is
LIMIT, PREEMPTED = "JobState=COMPLETING Reason=TimeLimit PreemptTime=None", "JobState=COMPLETING PreemptTime=2026-01-01"
RUNS, ENDS = "JobState=RUNNING Reason=None PreemptTime=None", "JobState=CANCELLED Reason=None PreemptTime=None"


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for scontrol and sleep; Slurm's variables of a task."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"scontrol": SCONTROL, "sleep": SLEEP}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")


def played(program: str, job: str, sent: signal.Signals | None = None, setup: Sequence[str] = ()) -> tuple[int, str]:
    """The exit code of the script, and what it printed.

    Args:
        job: what scontrol says of the task.
        sent: what the shell is sent once the program is there.
    """
    Path("job").write_text(f"JobId=8 ArrayJobId=7 {job} End\n")
    text = batch_script("", [], setup, program, Path("x.sbatch"))
    shell = subprocess.Popen(["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if sent is not None:
        wait_for(Path("there").exists)
        shell.send_signal(sent)
    told = shell.communicate(timeout=20)[0]
    return shell.returncode, told


def asked() -> list[str]:
    """How scontrol was called."""
    return Path("asked").read_text().splitlines() if Path("asked").exists() else []


ENDINGS = {
    "near its time limit": (SAVES, signal.SIGUSR1, RUNS, 75, True),
    "at its time limit": (SAVES, signal.SIGTERM, LIMIT, 75, True),
    "preempted by cancelling": (SAVES, signal.SIGTERM, PREEMPTED, 75, True),
    "cancelled": (SAVES, signal.SIGTERM, ENDS, 75, False),
    "stopped by hand": (SAVES, signal.SIGTERM, RUNS, 75, False),
    "near its limit, before it could hear": (DIES, signal.SIGUSR1, RUNS, 75, True),
    "preempted before it could hear": (DIES, signal.SIGTERM, PREEMPTED, 75, True),
    "preempted before there was a program": (BEGINS, None, PREEMPTED, 75, True),
    "ended by a signal of its own": ("bash -c 'kill -s USR1 $$'", None, LIMIT, 138, False),
    "failed at its limit": ("bash -c 'exit 3'", None, LIMIT, 3, False),
    "done": ("true", None, LIMIT, 0, False),
}


@pytest.mark.parametrize("setup", [(), ("set -eu",)], ids=["", "set -eu"])
@pytest.mark.parametrize("program, sent, job, code, again", ENDINGS.values(), ids=ENDINGS.keys())
def test_what_sends_a_task_back_into_the_queue(program, sent, job, code, again, setup) -> None:
    assert played(program, job, sent, setup)[0] == code
    assert ("requeue 7_2" in asked()) == again


def test_a_controller_that_is_restarted_is_asked_again() -> None:
    for call in ("--oneliner", "requeue"):
        Path(f"silent.{call}").write_text("4")
    code, told = played("bash -c 'exit 75'", LIMIT)
    assert code == 75 and told == "stopped by Slurm: 7_2 goes back into the queue\n"
    assert asked() == ["--oneliner show job 7_2"] * 5 + ["requeue 7_2"] * 5


@pytest.mark.parametrize("call", ["--oneliner", "requeue"])
def test_a_controller_that_stays_silent_is_given_up(call: str) -> None:
    Path(f"silent.{call}").write_text("99")
    code, told = played("bash -c 'exit 75'", LIMIT, setup=["set -eu"])
    assert code == 75 and len([line for line in asked() if line.startswith(call)]) == 5
    assert ("Slurm did not take it" in told) == (call == "requeue")


def test_a_command_before_the_run_that_fails_ends_the_task() -> None:
    code, told = played("echo it runs", RUNS, setup=["nosuchcommand", "echo on"])
    assert code == 127 and "it runs" not in told and "on" not in told.split()
