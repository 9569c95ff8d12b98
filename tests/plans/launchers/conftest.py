"""A Slurm that only takes down what it is told."""

from pathlib import Path

import pytest

from tests.plans.launchers.pretended import OTHERS, SBATCH, Pretended


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    commands, here = tmp_path / "bin", tmp_path / "here"
    commands.mkdir()
    here.mkdir()
    for name, text in OTHERS.items():
        (commands / name).write_text(f'#!/bin/sh\ncd "$PRETENDED"\n{text}')
    (commands / "sbatch").write_text(SBATCH)
    for command in commands.iterdir():
        command.chmod(0o755)
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setenv("PRETENDED", str(here))
    for name, text in {"jobs": "0", "calls": "", "queue": "", "config": "MaxArraySize            = 1001\n"}.items():
        Path(name).write_text(text)
    return Pretended()
