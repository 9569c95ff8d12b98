"""stage=report: a page from runs that are there."""

from pathlib import Path

from tests.stages.runs import PRETRAIN, place


def test_report_of_runs(rlx):
    run = place(rlx(*PRETRAIN).out)
    done = rlx("stage=report", f"stage.runs=[{run}]", "stage.out=page.html")
    assert done.code == 0, done.err
    text = Path("page.html").read_text()
    assert str(run) in text and "stage=pretrain" in text


def test_report_of_nothing_is_one_line(rlx):
    done = rlx("stage=report", "stage.plan=nowhere")
    assert done.code == 2 and "nowhere" in done.err and len(done.err.strip().splitlines()) == 1
