"""What is read of Slurm's answers, and what it is not told."""

import os
from pathlib import Path

import pytest

from rlx.errors import RunError
from rlx.plans import slurm
from rlx.plans.slurm import QueuedTask


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands print `answer` and take down their arguments in `said`."""
    for name in ("squeue", "scancel", "scontrol"):
        (tmp_path / name).write_text('#!/bin/sh\ncd "${0%/*}"\necho "${0##*/} $*" >> said\ncat answer\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "answer").touch()
    (tmp_path / "said").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_jobs_of_others_may_have_any_arguments(answers: Path) -> None:
    """Line breaks among them and bytes that are no text, which squeue prints."""
    (answers / "answer").write_bytes(
        b"7|0|RUNNING|None|/a b/x|y.sbatch\n"
        b"8|N/A|PENDING|(Nodes required, down)|/home/x.sh a\nb c|\xff\n|\n9|x|RUNNING|None|/c\n\n"
        b"10|N/A|RUNNING|None|(null)\n"
    )
    assert slurm.queue() == {
        "7_0": QueuedTask("RUNNING", "None", "/a b/x|y.sbatch"),
        "8": QueuedTask("PENDING", "(Nodes required, down)", "/home/x.sh a"),
        "10": QueuedTask("RUNNING", "None", "(null)"),
    }


@pytest.mark.parametrize("task", ["--user=me", "", "7_", "7_[0-3]", "7 8", "7\n"])
def test_only_numbers_are_cancelled(answers: Path, task: str) -> None:
    with pytest.raises(RunError, match="is no job or task of Slurm's, and nothing is cancelled"):
        slurm.cancel(["7", task])
    assert (answers / "said").read_text() == ""
    slurm.cancel(["7", "8_12"])
    assert (answers / "said").read_text() == "scancel 7 8_12\n"


@pytest.mark.parametrize("config, name", [("ClusterName             = test\n", "test"), ("MaxArraySize = 9\n", "")])
def test_the_name_of_the_cluster(answers: Path, config: str, name: str) -> None:
    (answers / "answer").write_text(f"SlurmVersion = 22\n{config}")
    assert slurm.cluster() == name
