"""stage=report: a page from runs that are there."""

import html
from pathlib import Path

from tests.stages.runs import PRETRAIN, evaluation, merge, place, sft


def test_report_of_runs(door):
    run = place(door(*PRETRAIN).out)
    done = door("stage=report", f"stage.runs=[{run}]", "stage.out=page.html")
    assert done.code == 0, done.err
    text = Path("page.html").read_text()
    assert str(run) in text and "stage=pretrain" in text


def test_a_report_is_not_written_over_one_of_other_runs(door):
    first, second = (place(door(*PRETRAIN, "stage.steps=2", f"seed={seed}").out) for seed in (0, 1))
    assert door("stage=report", f"stage.runs=[{first}]").code == 0
    page = Path("report.html").read_bytes()
    done = door("stage=report", f"stage.runs=[{second}]")
    assert done.code == 2 and "stage.out=" in done.err and len(done.err.strip().splitlines()) == 1
    assert Path("report.html").read_bytes() == page
    assert door("stage=report", f"stage.runs=[{first}]").code == 0 and Path("report.html").read_bytes() == page


def test_reports_of_an_evaluation_and_of_a_run_that_was_killed(door):
    run = place(door(*PRETRAIN, "stage.steps=2").out)
    evaluated = place(door(*evaluation(run, "stage.problems=8")).out)
    assert door("stage=report", f"stage.runs=[{evaluated}]", "stage.out=eval.html").code == 0
    text = Path("eval.html").read_text()
    assert f"init_from={run}" in text and "pass@2, %" in text and run.parent.name in text
    (run / "status").write_text('{"state": "running", "reason": ""}')
    (run / "run.json").unlink()
    assert door("stage=report", f"stage.runs=[{run}]", "stage.out=killed.html").code == 0
    assert "1 run: 1 running" in Path("killed.html").read_text()


def test_report_of_nothing_is_one_line(door):
    done = door("stage=report", "stage.plan=nowhere")
    assert done.code == 2 and "nowhere" in done.err and len(done.err.strip().splitlines()) == 1


def test_a_pattern_on_the_command_line_finds_a_sweep_and_names_its_arms(door):
    places = [place(door(*PRETRAIN, "stage.steps=2", f"model.n_layers={layers}").out) for layers in (1, 2)]
    for given in ("stage.runs=[runs/countdown-*]", "stage.runs=[runs]", "stage.runs=['runs/*-h[0-9a-f]*/seed?']"):
        assert door("stage=report", given, f"stage.out={len(given)}.html").code == 0
        text = Path(f"{len(given)}.html").read_text()
        assert "model.n_layers=1" in text and "model.n_layers=2" in text and "2 runs: all finished" in text
        assert all(str(run) in text for run in places)
    for given in ("stage.runs=[runs/sudoku-*]", "stage.runs=[elsewhere]"):
        done = door("stage=report", given)
        assert done.code == 2 and "no run directory at" in done.err and len(done.err.strip().splitlines()) == 1


def test_report_of_a_sweep_of_merges(door, rlx):
    """Kin and strangers, along the way between them."""
    start, stranger = (place(door(*PRETRAIN, f"seed={seed}").out) for seed in (0, 1))
    one, other = (place(door(*sft(start, f"optim.lr={rate}")).out) for rate in ("1e-3", "3e-2"))
    for parents in ((one, other), (one, stranger)):
        done = rlx("-m", *merge(*parents, "merge.weight=0.25,0.75", f"stage.ceiling={start}"))
        assert done.code == 0, done.err
    assert door("stage=report", "stage.runs=[runs/*-merge-*]").code == 0
    text = html.unescape(Path("report.html").read_text())
    assert "Along the way between two parents" in text and {"merge-way.pdf", "merge-cka.pdf"} <= {
        path.name for path in Path("figures").iterdir()
    }
    kin, strange = "sft: optim.lr=0.001 → sft: optim.lr=0.03", "sft: optim.lr=0.001 → pretrain seed 1"
    for words in (f"linear: {kin}", f"linear (no shared ancestor): {strange}", "ceiling: pretrain", f"<td>{kin}</td>"):
        assert words in text, words
    (plan,) = [path for path in Path("runs/plans").iterdir() if str(other) in (path / "manifest.jsonl").read_text()]
    assert door("stage=report", f"stage.plan={plan}").code == 0
    text = html.unescape((plan / "report.html").read_text())
    assert "0 is sft: optim.lr=0.001, 1 is sft: optim.lr=0.03." in text and "no shared ancestor" not in text
