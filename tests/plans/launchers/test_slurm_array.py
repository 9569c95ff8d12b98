"""`hydra/launcher=slurm_array`: its fields, and the batch script."""

from pathlib import Path

import pytest

from rlx.errors import ConfigError
from rlx.plans.launchers.slurm_array import SlurmArrayConfig, quoted, seconds_of
from tests.plans.launchers.pretended import (
    carried,
    directives,
    in_tasks,
    plan_of,
    planned,
    program,
    script,
)


def test_what_is_written_said_and_left_to_run(pretended, capsys):
    plan = plan_of(*map(planned, range(3)))
    assert not carried(SlurmArrayConfig(), plan).ended
    text, here = script(), Path.cwd()
    assert text.startswith("#!/bin/bash\n# plan, level0: 3 tasks\n# Written by rlx. To submit it again: sbatch runs/")
    assert directives(text) == [
        "--job-name=plan", "--array=0-2", f"--chdir={here}",
        f"--output={here}/runs/plans/plan/submissions/001/%A_%a.log", "--open-mode=append", "--requeue",
        "--signal=B:USR1@120",
    ]  # fmt: skip
    assert program(text).endswith(
        ' -m rlx.plans task runs/plans/plan/submissions/001/level0.jsonl "$SLURM_ARRAY_TASK_ID" &'
    )
    assert in_tasks(plan) == [[["lr=0"], ["lr=1"], ["lr=2"]]]
    assert capsys.readouterr().out.splitlines() == [
        "job 1: level 0, 3 tasks; runs/plans/plan/submissions/001/level0.sbatch",
        "watch it:  python -m rlx.plans watch runs/plans/plan  (also status, retry, cancel, collect)",
    ]


FIELDS = {
    "partition": ("long,short", "--partition=long,short"),
    "account": ("chem", "--account=chem"),
    "qos": ("high", "--qos=high"),
    "time": ("1-12:00:00", "--time=1-12:00:00"),
    "gres": ("gpu:a100:2", "--gres=gpu:a100:2"),
    "constraint": ("a100|h100&nvme", '--constraint="a100|h100&nvme"'),
    "cpus_per_task": (8, "--cpus-per-task=8"),
    "mem": ("16G", "--mem=16G"),
    "max_parallel": (2, "--array=0-2%2"),
    "signal_s": (300, "--signal=B:USR1@300"),
    "extra": (["--mail-type=END", '--comment="a # b"'], "--mail-type=END"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_a_line_for_sbatch(pretended, field):
    value, line = FIELDS[field]
    carried(SlurmArrayConfig(**{field: value}), plan_of(*map(planned, range(3))))
    assert line in directives(script())
    if field == "extra":
        assert directives(script())[-1] == '--comment="a # b"'


def test_commands_before_the_run_and_whose_python_it_is(pretended):
    setup = ["module load cuda/12", "export HF_HOME='/data/a b'"]
    plan = plan_of(planned(0))
    carried(SlurmArrayConfig(setup=setup, venv="/opt/my env", container="apptainer exec --nv rlx.sif"), plan)
    lines = script().splitlines()
    begin = lines.index(setup[0])
    assert lines[begin : begin + 3] == [*setup, "source '/opt/my env/bin/activate'"]
    assert max(number for number, line in enumerate(lines) if line.startswith("#SBATCH")) < begin
    assert program(script()).startswith("apptainer exec --nv rlx.sif python -m rlx.plans task ")


def test_a_text_may_end_with_a_line_break():
    """YAML's `>` puts one."""
    config = SlurmArrayConfig(container="apptainer exec rlx.sif\n", time="1:00:00\n", venv="\n")
    assert (config.container, config.time, config.venv) == ("apptainer exec rlx.sif", "1:00:00", "")


def test_a_venv_must_be_there(pretended, monkeypatch):
    home = Path.cwd() / "home"
    monkeypatch.setenv("HOME", str(home))
    config = SlurmArrayConfig(venv="~/env")
    with pytest.raises(ConfigError, match=f"venv=~/env is no virtual .*: there is no {home}/env/bin/activate"):
        config.check([])
    (home / "env" / "bin").mkdir(parents=True)
    (home / "env" / "bin" / "activate").touch()
    config.check([])
    carried(config, plan_of(planned(0)))
    assert f"source {home}/env/bin/activate" in script().splitlines()


def test_a_venv_has_its_own_python(pretended):
    carried(SlurmArrayConfig(venv="env"), plan_of(planned(0)))
    assert program(script()).startswith("python -m rlx.plans task ")


@pytest.mark.parametrize("option, line", [
    ("--chdir=/data/a b", '--chdir="/data/a b"'),
    ('--chdir=/data/a"#\\', '--chdir="/data/a\\"#\\\\"'),
    ("--chdir=/data/äöü-1.2+x", "--chdir=/data/äöü-1.2+x"),
    ("--requeue", "--requeue"),
])  # fmt: skip
def test_options_with_characters_of_a_shell_are_quoted(option, line):
    assert quoted(option) == line


def test_more_options_may_have_blanks(pretended):
    carried(SlurmArrayConfig(extra=["--comment=a b", "--mail-type=END", "--begin='now'"]), plan_of(planned(0)))
    assert directives(script())[-3:] == ['--comment="a b"', "--mail-type=END", "--begin='now'"]


def test_a_folder_with_blanks_and_percents(pretended, monkeypatch, tmp_path):
    odd = tmp_path / "a b%j"
    odd.mkdir()
    monkeypatch.chdir(odd)
    carried(SlurmArrayConfig(), plan_of(planned(0)))
    assert f'--chdir="{odd}"' in directives(script())
    logs = f"{odd}/runs/plans/plan/submissions/001/".replace("%", "%%")
    assert f'--output="{logs}%A_%a.log"' in directives(script())


@pytest.mark.parametrize("limit, seconds", {
    "1:00:00": 3600, "90:00": 5400, "1-0": 86400, "2-12:30": 217800, "1-00:00:30": 86430, "0:45": 45,
}.items())  # fmt: skip
def test_time_limits_are_read_as_slurm_does(limit, seconds):
    assert seconds_of(limit) == seconds
    SlurmArrayConfig(time=limit, signal_s=20)


@pytest.mark.parametrize("fields, told", [
    ({"time": "3600"}, "expected HH:MM:SS or D-HH:MM:SS"),
    ({"time": "1h"}, "expected HH:MM:SS or D-HH:MM:SS"),
    ({"time": "3:00"}, "less than twice hydra.launcher.signal_s=120"),
    ({"time": "1:00:00", "signal_s": 2000}, "less than twice"),
    ({"max_parallel": 0}, "max_parallel=0 must be at least 1"),
    ({"runs_per_task": 0}, "runs_per_task=0 must be at least 1"),
    ({"signal_s": 0}, "signal_s=0 must be at least 1"),
    ({"extra": ["mail-type=END"]}, "no option of sbatch"),
    ({"setup": ["a\nb"]}, "line break"),
    ({"account": "chem\n#SBATCH --uid=0"}, "hydra.launcher.account: .* has a line break"),
    ({"container": "apptainer exec\rrlx.sif"}, "hydra.launcher.container: .* has a line break"),
])  # fmt: skip
def test_what_no_cluster_would_take_is_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        SlurmArrayConfig(**fields)
