"""The tests' own Slurm: arrays run and end in it, held tasks are let go, and nothing of it is left behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlx.runs.processes import is_alive
from tests.conftest import environment
from tests.plans.cluster import Cluster, missing, processes_of

SLEEP = ("--output=/dev/null", "--wrap", "sleep 600")


def test_an_array_runs_and_ends(cluster: Cluster, tmp_path: Path) -> None:
    array = cluster.sbatch("--array=0-2", f"--output={tmp_path}/%a.log", "--wrap", "exit $SLURM_ARRAY_TASK_ID")
    cluster.wait_for(f"{array}_0", "COMPLETED")
    assert [cluster.wait_for(f"{array}_{task}", "FAILED") for task in (1, 2)] == ["FAILED"] * 2


def test_a_requeued_task_starts_again_when_it_is_released(cluster: Cluster) -> None:
    array = cluster.sbatch("--requeue", "--array=4", *SLEEP)
    task = f"{array}_4"
    cluster.wait_for(task, "RUNNING")
    cluster.wait(lambda: len(cluster.pids(task)) == 2, "the shell and its sleep")
    before = cluster.pids(task)
    cluster.run("scontrol", "requeue", task)
    cluster.release(task)
    cluster.wait_for(task, "RUNNING")
    assert not any(is_alive(pid) for pid in before)
    cluster.run("scancel", array)
    cluster.wait_for(task, "CANCELLED")


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize("killed", [False, True], ids=["left", "killed and followed by another"])
def test_nothing_is_left(killed: bool) -> None:
    end = "os.kill(os.getpid(), signal.SIGKILL)" if killed else "raise KeyError"
    code = f"""
import os, signal
from tests.plans.cluster import Cluster
with Cluster() as cluster:
    job = cluster.sbatch(*{SLEEP})
    cluster.wait_for(job, "RUNNING")
    print(cluster.folder, flush=True)
    {end}
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == (-signal.SIGKILL if killed else 1), done.stderr
    folder = Path(done.stdout.strip())
    if killed:
        assert folder.exists()
        with Cluster():
            pass
    assert not folder.exists()
    assert not processes_of(folder)
