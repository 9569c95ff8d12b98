import os
import subprocess
import sys

import pytest

from rlx.runs.processes import is_alive, start_time


def test_this_process_is_alive_and_an_ended_one_is_not():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert is_alive(os.getpid(), start_time(os.getpid()))
    assert not is_alive(process.pid)
    assert not is_alive(0) and not is_alive(-1)


@pytest.mark.skipif(not start_time(os.getpid()), reason="start times need /proc")
def test_another_start_time_is_another_process():
    assert not is_alive(os.getpid(), "1")


def test_reading_runs_needs_no_torch():
    code = "import sys, rlx.runs.references, rlx.runs.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
