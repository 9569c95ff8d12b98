"""The table of runs, and the filters that pick some of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlx.runs.__main__ import main
from rlx.runs.lease import Lease
from rlx.runs.listing import find_runs, number_of, scaled, size_of
from rlx.runs.status import State
from tests.conftest import environment
from tests.runs.folders import make

PRETRAIN, SFT, RL = ("countdown-dense-pretrain-h01/seed0", "countdown-dense-sft-h02/seed1", "sudoku-moe-rl-h03/seed0")


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Three runs below the current folder."""
    monkeypatch.chdir(tmp_path)
    losses = [{"step": n, "train/loss": 3.0 - n / 100, "flops/total": n * 1e9} for n in range(1, 101)]
    losses[49]["val/loss"] = 2.25
    make(
        PRETRAIN,
        steps=(50, 100),
        best=50,
        rows=tuple(losses),
        config="seed: 0\nmodel:\n  d_model: 64\n  qk_norm: false\noptim:\n  lr: 0.001\n",
        options={"optim": "muon", "scale": "cpu"},
        planned_steps=100,
        steps_done=100,
        flops={"total": 1e11, "lineage": 2e11},
    )
    make(SFT, state=State.failed, rows=({"step": 7, "train/loss": 1.5},), planned_steps=20,
         config="seed: 1\nmodel:\n  d_model: 128\noptim:\n  lr: 0.01\ndata:\n  mix: [1, 2]\n"
         "logger:\n  tags: [mine, b]\n",
         options={"optim": "adamw"})  # fmt: skip
    Path("runs", SFT, "eval.json").write_text("{}")
    make(RL, steps=(10,), rows=({"step": 10, "reward": 0.5, "train/loss": 0.1, "val/pass@1": 0.25},),
         config="seed: 0\nmodel:\n  n_experts: 4\n  d_model: 64\n")  # fmt: skip


def picked(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main([*arguments, "--paths"]) == 0
    return capsys.readouterr().out.split()


PICKS = {
    "": [PRETRAIN, SFT, RL],
    "stage=rl": [RL],
    "stage=rl,sft": [SFT, RL],
    "stage!=rl": [PRETRAIN, SFT],
    "task=countdown model=dense": [PRETRAIN, SFT],
    "state=failed": [SFT],
    "seed=0": [PRETRAIN, RL],
    "hash=h02": [SFT],
    "optim=muon": [PRETRAIN],
    "optim!=muon": [SFT, RL],
    "model.d_model=64": [PRETRAIN, RL],
    "model.d_model=64.0": [PRETRAIN, RL],
    "model.d_model=65": [],
    "data.mix=[1,2]": [SFT],
    "logger.tags=[mine,b]": [SFT],
    "logger.tags=['mine',\"b\"]": [SFT],
    "logger.tags=[mine]": [],
    "lineage=0.2T": [PRETRAIN],
    "optim.lr=1e-3": [PRETRAIN],
    "optim.lr>1e-3": [SFT],
    "model.qk_norm=false": [PRETRAIN],
    "model.n_experts=null": [PRETRAIN, SFT],
    "step>=10": [PRETRAIN, RL],
    "step<10": [SFT],
    "step<=7": [SFT],
    "steps=100": [PRETRAIN],
    "flops>0.05T": [PRETRAIN],
    "size<1G": [PRETRAIN, SFT, RL],
    "age>1h": [],
    "checkpoints>0": [PRETRAIN, RL],
    "metric<2": [SFT, RL],
    "val/loss<3": [PRETRAIN],
    "val/pass@1>=0.25": [RL],
    "has=best": [PRETRAIN],
    "has!=checkpoint": [SFT],
    "has=trainer": [PRETRAIN, RL],
    "has=eval": [SFT],
    "has=eval,best": [PRETRAIN, SFT],
    "h03/seed0": [RL],
    f"runs/{SFT}/": [SFT],
}


@pytest.mark.parametrize("filters", PICKS)
def test_filters_pick(capsys, filters):
    assert picked(capsys, *filters.split()) == [f"runs/{place}" for place in PICKS[filters]]


WRONG = {
    "stag=rl": "did you mean stage?",
    "model.d_modle=64": "did you mean model.d_model?",
    "optmi=muon": "did you mean optim?",
    "val/los<3": "did you mean val/loss?",
    "xyz=1": "there are state, task",
    "state=faild": "expected one of running, finished",
    "has=wings": "expected one of best",
    "step>many": "expected a number",
    "age>2x": "expected a number, perhaps with s, m, h",
    "=3": "is no filter",
    "--colour": "unrecognized",
    "--sort=colour": "invalid choice",
    "--runs-dir=nowhere": "no folder nowhere",
}


@pytest.mark.parametrize("argument", WRONG)
def test_what_cannot_be_meant_is_one_line(capsys, argument):
    assert main([argument]) == 2
    said = capsys.readouterr()
    assert WRONG[argument] in said.err and said.err.count("\n") == 1 and not said.out


def test_no_run_is_said_with_what_there_is(capsys):
    assert main(["stage=merge"]) == 0
    said = capsys.readouterr()
    assert not said.out
    assert said.err == "none of 3 runs has stage=merge; stage is pretrain, rl, sft\n"
    Path("empty").mkdir()
    assert main(["--runs-dir", "empty", "stgae=rl"]) == 0
    assert capsys.readouterr().err == "there are no runs\n"


def test_the_table(capsys):
    assert main([]) == 0
    header, first, second, third, total = capsys.readouterr().out.splitlines()
    assert header.split() == ["state", "run", "step", "metric", "checkpoints", "size", "age", "FLOPs"]
    cells = first.split()
    assert cells[:7] == ["finished", f"runs/{PRETRAIN}", "100/100", "val/loss", "2.25", "50*,", "100"]
    assert cells[-2:] == ["100", "G"]
    assert second.split()[:5] == ["failed", f"runs/{SFT}", "7/20", "train/loss", "1.5"]
    assert third.split()[:5] == ["finished", f"runs/{RL}", "10", "val/pass@1", "0.25"]
    assert total.startswith("3 runs, ") and total.endswith(" 100 GFLOP")
    assert first.index("val/loss") == second.index("train/loss") == header.index("metric")


def test_a_run_without_rows_is_known_by_its_record(capsys):
    run = make("a-b-merge-h1/seed0")
    (run / "run.json").write_text(json.dumps({"steps": 3, "flops": {"total": 5e9}}))
    assert main(["stage=merge", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["step"], row["steps"], row["flops"]) == (3, 3, 5e9)


@pytest.mark.parametrize("name", ["status", "run.json", "metrics.jsonl"])
def test_the_age_is_that_of_the_last_word(capsys, name):
    """Not of the first: what is pruned by its age is still at work."""
    for other in ("status", "run.json", "metrics.jsonl"):
        os.utime(Path("runs", RL, other), times=(1, 1))
    assert picked(capsys, "age>1w") == [f"runs/{RL}"]
    os.utime(Path("runs", RL, name))
    assert picked(capsys, "age>1w") == []


def test_seeds_are_in_the_order_of_their_numbers(capsys):
    for seed in (10, 2):
        make(f"a-b-c-h1/seed{seed}")
    assert picked(capsys, "stage=c") == ["runs/a-b-c-h1/seed2", "runs/a-b-c-h1/seed10"]


def test_of_many_checkpoints_the_ends_are_shown(capsys):
    for seed, steps in enumerate([(1, 2, 3, 4), (1, 2, 3, 4, 5)]):
        make(f"a-b-c-h1/seed{seed}", steps=steps)
    assert main(["stage=c"]) == 0
    out = capsys.readouterr().out
    assert "  1, 2, 3, 4  " in out and "  1, 2 ... 5 (5)  " in out


def test_a_run_at_work_and_one_that_was_killed(capsys):
    for place, state in (("a-b-c-h1/seed0", "running"), ("a-b-c-h1/seed1", "interrupted")):
        run = make(place, state=State.running)
        if state == "running":
            lease = Lease.acquire(run)
        assert picked(capsys, f"state={state}") == [f"runs/{place}"]
    lease.release()


def test_json_has_a_row_a_run(capsys):
    assert main(["--json", "--sort", "flops"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["run"] for row in rows] == [f"runs/{place}" for place in (SFT, RL, PRETRAIN)]
    last = rows[-1]
    assert last["metric"] == {"name": "val/loss", "value": 2.25} and last["checkpoints"] == [50, 100]
    assert (last["best"], last["step"], last["steps"], last["flops"]) == (50, 100, 100, 1e11)
    assert last["size"] == sum(path.stat().st_size for path in Path(f"runs/{PRETRAIN}").rglob("*") if path.is_file())


def test_a_metric_is_read_from_the_end_of_a_long_file(monkeypatch):
    monkeypatch.setattr("rlx.runs.listing.TAIL", 1000)
    (run,) = (run for run in find_runs("runs") if run.name.stage == "pretrain")
    assert run.step == 100 and run.metric == ("train/loss", 2.0)  # val/loss came too early to be looked for
    assert run.tail.startswith(b"{") and run.tail.endswith(b"}\n")


@pytest.mark.parametrize("torn", ['{"step": 101, "train/lo', '{"step": 101}', "\x00\n"], ids=["half", "open", "junk"])
def test_a_torn_or_strange_file_is_no_trouble(capsys, torn):
    with open(f"runs/{PRETRAIN}/metrics.jsonl", "a") as file:
        file.write(torn)
    for name in ("run.json", "status", "best.json", "config.yaml"):
        Path(f"runs/{SFT}/{name}").write_text("{")
    assert main([]) == 0 and main(["--json"]) == 0
    assert f"runs/{SFT}" in capsys.readouterr().out


def test_other_folders_are_no_runs(capsys):
    for name in ("plans/quickstart-cpu-h1", "countdown-dense-sft-h02/.tmp-seed3-1", "countdown-dense-sft-h02/logs"):
        Path("runs", name).mkdir(parents=True)
    Path("runs/notes.txt").write_text("")
    assert len(picked(capsys)) == 3


def test_what_may_not_be_read_is_left_out(capsys, monkeypatch):
    monkeypatch.setattr("rlx.runs.listing.os.access", lambda path, _: "seed1" not in path.path)
    assert picked(capsys) == [f"runs/{PRETRAIN}", f"runs/{RL}"]


def test_numbers_are_read_and_shown():
    assert (number_of("10K", "step"), number_of("1.5g", "size"), number_of("1e-3", "x")) == (1e4, 1.5e9, 1e-3)
    assert (number_of("90m", "age"), number_of("2d", "age")) == (5400, 172800)
    assert [scaled(n) for n in (0, 517, 1234567, 999.9, 2e18)] == ["0 ", "517 ", "1.23 M", "1 K", "2000 P"]


def test_sizes_count_no_links(tmp_path):
    folder = tmp_path / "sized"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_bytes(b"x" * 1000)
    (folder / "again").symlink_to(folder, target_is_directory=True)
    assert 1000 <= size_of(folder) < 1100 and size_of(folder / "gone") == 0


def test_a_listing_loads_nothing_heavy():
    code = (
        "import sys; from rlx.runs.__main__ import main; main([]); main(['prune', '--keep', 'last:1'])\n"
        "heavy = ('torch', 'lightning', 'wandb', 'hydra', 'omegaconf', 'numpy', 'safetensors', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_table_reads_each_file_once(monkeypatch, capsys):
    """So that a thousand runs take a second: no file but those of the columns, and none twice."""
    opened: list[str] = []
    whole = open

    def counted(file, *arguments, **named):
        opened.append(str(file))
        return whole(file, *arguments, **named)

    monkeypatch.setattr("builtins.open", counted)
    monkeypatch.setattr("io.open", counted)
    assert main([]) == 0
    read = [path for path in opened if path.startswith("runs/")]
    assert {Path(path).name for path in read} <= {"status", "run.json", "metrics.jsonl", "best.json", "lease.json"}
    assert len(read) <= 4 * 3 and read


def test_it_is_reached_by_the_script_too():
    script = Path(__file__).resolve().parents[2] / "scripts" / "runs.py"
    for command in (["-m", "rlx.runs"], [str(script)]):
        done = subprocess.run(
            [sys.executable, *command, "stage=rl", "--paths"],
            capture_output=True, text=True, env=environment(), timeout=60,
        )  # fmt: skip
        assert done.stdout == f"runs/{RL}\n", done.stderr
