"""The report of made-up plans: numbers against files, hostile text, runs that never finished, and the page itself."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rlx.errors import RlxError
from rlx.report import units
from rlx.report.__main__ import main
from rlx.report.figures import drawings
from rlx.report.models import read_models
from rlx.report.page import page, write_report, write_runs_report
from rlx.report.read import read_plan, read_run
from rlx.report.tables import claims_table, runs_table, slice_table, stage_table

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = '<script>alert(1)</script> & "quoted" $x_{y$ </style></svg> \\ | `tick`'


class Page(HTMLParser):
    """Checks that tags close in order, and keeps attributes, ids and text."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def written(finished_plan: Path) -> Path:
    return write_report(finished_plan)


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return written.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(html: str) -> Page:
    return Page(html)


def shown(plan: Path) -> Page:
    """The page of a plan, without writing it."""
    return Page(page(read_plan(plan), list(drawings(read_plan(plan)))))


def edit_manifest(plan: Path, change) -> None:
    rows = [json.loads(line) for line in (plan / "manifest.jsonl").read_text().splitlines()]
    (plan / "manifest.jsonl").write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


def test_page_loads_nothing_from_outside(html, parsed):
    assert "http:" not in html and "https:" not in html
    assert "@import" not in html and "@font-face" not in html
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(parsed.tags)
    targets = [value for _, name, value in parsed.attributes if name in ("href", "src", "xlink:href")]
    assert all(value.startswith(("#", "figures/")) for value in targets)
    assert all(value.startswith("url(#") for value in re.findall(r"url\([^)]*", html))


def test_ids_are_unique_and_every_reference_has_its_target(html, parsed):
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = {value[1:] for _, name, value in parsed.attributes if name == "href" and value.startswith("#")}
    assert references | set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)


def test_page_has_every_command_run_and_claim(finished_plan, parsed):
    for entry in read_plan(finished_plan).entries:
        assert entry.command in parsed.text and entry.run.shown in parsed.text
    for claim in json.loads((finished_plan / "claims.json").read_text()):
        assert claim["claim"] in parsed.text and claim["quantity"] in parsed.text
    assert "3 claims: 1 holds, 1 fails, 1 undecided. 24 runs: all finished." in parsed.text


def test_a_run_that_another_command_made_is_shown_with_that_command(plan_maker):
    plan = plan_maker(seeds=1, stages=("pretrain",))
    path = read_plan(plan).entries[0].run.path / "run.json"
    made = "rlx stage=pretrain task=countdown trainer.threads=7"
    path.write_text(json.dumps({**json.loads(path.read_text()), "command": made}))
    assert read_plan(plan).entries[0].command == made and made in shown(plan).text


def test_claims_come_first_then_stages_figures_training_runs(parsed):
    sections = [value for tag, name, value in parsed.attributes if (tag, name) == ("section", "id")]
    assert sections == ["claims", "stages", "figures", "training", "runs"]


def test_every_figure_is_drawn_and_saved_as_pdf(written, parsed):
    names = {"pass-at-k", "accuracy-flops", "slices", "outcomes"}
    names = {f"{name}-countdown-test" for name in names}
    names |= {f"{stage}-{axis}" for stage in ("pretrain", "sft", "rl") for axis in ("step", "tokens", "flops")}
    names |= {"rl-verdicts", "rl-formats"}
    assert {path.stem for path in (written.parent / "figures").iterdir()} == names
    assert all(path.read_bytes()[:5] == b"%PDF-" for path in (written.parent / "figures").iterdir())
    assert parsed.tags.count("svg") == len(names)


def test_figures_show_their_labels_as_text_and_follow_the_theme(html):
    figures = html[html.index('<section id="figures"') :]
    for label in (
        "RL (GRPO)",
        "problems solved, %",
        "optimizer step",
        "TFLOP, ancestors included",
        "training loss, nats a token",
    ):
        assert f">{label}</text>" in figures
    assert "var(--c0)" in figures and "var(--ink)" in figures and "#0072b2" not in figures


def test_the_same_runs_make_the_same_bytes_in_another_process(written, finished_plan):
    files = [written, *(written.parent / "figures").iterdir()]
    before = {path: path.read_bytes() for path in files}
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-m", "rlx.report", str(finished_plan)], check=True, env=environment)
    assert {path: path.read_bytes() for path in files} == before
    names = {path.name for path in written.parent.iterdir()}
    assert names == {"manifest.jsonl", "claims.json", "figures", "report.html"}  # no temporary file is left


def test_a_page_can_go_elsewhere(plan_maker, tmp_path):
    plan = plan_maker(seeds=1, stages=("merge",))
    out = write_report(plan, out=tmp_path / "talk" / "page.html")
    assert out == tmp_path / "talk" / "page.html" and out.exists()
    linked = [value for tag, name, value in Page(out.read_text()).attributes if tag == "a" and name == "href"]
    assert linked and all((out.parent / link).read_bytes()[:5] == b"%PDF-" for link in linked)
    assert not (plan / "report.html").exists()


def two_runs(plan: Path) -> tuple[Path, Path]:
    pretrained, tuned = (entry.run.path for entry in read_plan(plan).entries if entry.stage in ("pretrain", "sft"))
    return pretrained, tuned


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_of_other_runs_is_kept_and_of_the_same_is_made_again(plan_maker, tmp_path):
    plan = plan_maker(seeds=1, stages=("pretrain", "sft"))
    first, second = two_runs(plan)
    folder = tmp_path / "here"
    out = write_runs_report([first], folder / "report.html")
    before = contents(folder)
    for write in (lambda: write_runs_report([second], out), lambda: write_report(plan, out=out)):
        with pytest.raises(
            RlxError, match=r"report\.html is there already and belongs to a report of other runs.*stage\.out="
        ):
            write()
    assert contents(folder) == before
    write_runs_report([second], folder / "second.html")  # beside it, with figures of its own
    assert {path: data for path, data in contents(folder).items() if path in before} == before
    with (first / "metrics.jsonl").open("a") as file:
        file.write('{"step": 605, "tokens": 4956160, "train/loss": 9.0, "flops/total": 9.2e13}\n')
    write_runs_report([first], out)
    after = contents(folder)
    assert all(after[path] != before[path] for path in before)
    write_runs_report([first], out)
    assert contents(folder) == after


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("report.html", r"report\.html"),
        ("figures/pretrain-step.pdf", r"pretrain-step\.pdf"),
        ("figures/of-my-paper.pdf", "figures"),
        ("figures", "figures"),
    ],
    ids=["page", "figure", "folder of figures", "a file for the folder"],
)
def test_what_rlx_did_not_write_is_kept(plan_maker, name, names):
    plan = plan_maker(seeds=1, stages=("pretrain",))
    path = plan / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("<html>mine</html>")
    before = contents(plan)
    with pytest.raises(RlxError, match=rf"{names} is there already and was not written by rlx.*stage\.out=") as caught:
        write_report(plan)
    assert contents(plan) == before and "\n" not in str(caught.value)
    assert write_report(plan, out=plan / "other.html").exists()  # what the line says


def test_a_page_that_was_half_written_is_made_whole(plan_maker, monkeypatch):
    plan = plan_maker(seeds=1, stages=("pretrain",))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlx.report.page.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        write_report(plan)
    assert list((plan / "figures").iterdir()) and not (plan / "report.html").exists()
    monkeypatch.undo()
    (plan / "figures" / "notes.txt").write_text("mine")
    write_report(plan)
    assert (plan / "report.html").exists() and (plan / "figures" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("out", [".", "a-folder", "a-file/page.html", "a-file/deep/page.html"])
def test_a_place_that_no_page_can_have_is_one_line(plan_maker, tmp_path, monkeypatch, out):
    plan = plan_maker(seeds=1, stages=("pretrain",))
    monkeypatch.chdir(tmp_path)
    Path("a-folder").mkdir()
    Path("a-file").write_text("mine")
    with pytest.raises(RlxError, match=r"stage\.out="):
        write_report(plan, out=out)
    assert not list(Path("a-folder").iterdir()) and Path("a-file").read_text() == "mine"


def test_stage_table_agrees_with_the_files(finished_plan):
    plan = read_plan(finished_plan)
    model = read_models(plan)[2]
    files = [json.loads((entry.run.path / "eval.json").read_text()) for entry in model.evals]
    mean = np.mean([evaluation["metrics"]["eval/countdown/pass@1"] for evaluation in files])
    estimate = model.pass_at(1)
    assert model.label == "RL (GRPO)" and estimate is not None
    assert estimate.value == pytest.approx(mean) and estimate.low < mean < estimate.high
    row = next(line for line in stage_table(plan).text().splitlines() if line.startswith("RL (GRPO)"))
    assert f"{units.percent(float(mean))} {units.interval(estimate)}" in row
    assert "1.97M" in row and "130 TFLOP" in row and "247 TFLOP" in row and "6 min 51 s" in row and row.endswith("3")


def test_chance_and_the_short_cut_stand_below_the_models(finished_plan, plan_maker):
    """Where eval.json has them."""
    chance, baseline = stage_table(read_plan(finished_plan)).markdown().splitlines()[-2:]
    assert chance.startswith("| chance | 1.3 |") and baseline.startswith("| baseline: adds all numbers | 3.1 |")
    plan = plan_maker(seeds=1)
    for entry in read_plan(plan).entries:
        path = entry.run.path / "eval.json"
        if path.exists():
            found = json.loads(path.read_text())
            del (
                found["baseline"],
                found["metrics"]["eval/countdown/chance"],
                found["metrics"]["eval/countdown/baseline"],
            )
            path.write_text(json.dumps(found))
    assert "chance" not in stage_table(read_plan(plan)).text() and "baseline" not in stage_table(read_plan(plan)).text()


def test_tables_fit_a_terminal_and_read_as_markdown(finished_plan):
    plan = read_plan(finished_plan)
    table = stage_table(plan)
    for each in (table, claims_table(plan.claims)):
        assert max(map(len, each.text().splitlines())) <= 120
    lines = table.markdown().splitlines()
    assert lines[1].startswith("| --- | ---: |") and len(lines) == 2 + 4 + 2
    assert len({line.count("|") for line in lines}) == 1


def test_slices_follow_difficulty(finished_plan):
    model = read_models(read_plan(finished_plan))[2]
    assert model.difficulties == ["numbers", "target"]
    values = [estimate.value for estimate in model.slices("numbers").values()]
    assert len(values) == 3 and values == sorted(values, reverse=True)
    assert len(model.slices("target")) == 4  # many values: four bins
    assert slice_table([model], "numbers").columns[1].title == "numbers 3"


def test_hostile_text_is_shown_and_never_obeyed(plan_maker):
    plan = plan_maker(seeds=1, stages=("pretrain", "sft"))
    edit_manifest(plan, lambda row: row | {"label": f"{row['name']} {HOSTILE}", "command": f"rlx {HOSTILE}"})
    claim = {"claim": HOSTILE, "quantity": HOSTILE, "verdict": '"><b>', "threshold": HOSTILE, "value": "1"}
    (plan / "claims.json").write_text(json.dumps([claim]))
    run = read_plan(plan).entries[0].run.path
    (run / "run.json").write_text("{}")  # so that the manifest's command is shown
    (run / "status").write_text(json.dumps({"state": "<i>", "reason": HOSTILE}))
    html = page(read_plan(plan), list(drawings(read_plan(plan))))
    parsed = Page(html)
    assert not {"script", "b", "i"} & set(parsed.tags)
    assert html.count("</style>") == 1 and f"rlx {HOSTILE}" in parsed.text
    assert "\\|" in stage_table(read_plan(plan)).markdown()


def test_unfinished_runs_are_shown_as_such(plan_maker):
    plan = plan_maker(seeds=2, stages=("pretrain", "sft", "rl"))
    runs = {(entry.name, entry.seed): entry.run.path for entry in read_plan(plan).entries}
    (runs["rl", 1] / "status").write_text('{"state": "running"}')
    (runs["rl", 1] / "run.json").unlink()
    with (runs["rl", 1] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 121, "rewa')  # killed while writing
    shutil.rmtree(runs["eval_rl", 1])
    (runs["eval_sft", 0] / "eval.json").write_text("{")
    (runs["eval_sft", 0] / "status").write_text('{"state": "failed", "reason": "no space left on device"}')
    shutil.rmtree(runs["eval_pretrain", 0])
    shutil.rmtree(runs["eval_pretrain", 1])
    words = shown(plan).text
    assert "12 runs: 7 finished, 1 running, 3 not started, 1 failed." in words and "no space left on device" in words
    text = stage_table(read_plan(plan)).text()
    assert "0 of 2" in text and text.count("1 of 2") == 2 and "running" in text


def test_sparse_run_files_never_crash(plan_maker):
    plan = plan_maker(seeds=1, stages=("sft",))
    run, checked = (entry.run.path for entry in read_plan(plan).entries)
    (run / "run.json").write_text('{"flops": 3, "git": null, "tokens": "many", "parents": [7]}')
    (run / "metrics.jsonl").write_text('{"train/loss": NaN}\n[]\nnull\n{"step": 1, "train/loss": 2.5}\n')
    (checked / "eval.json").write_text('{"metrics": {"eval/x/pass@4": 0.5, "eval/x/greedy": null}, "problems": 1}')
    assert "50.0" in shown(plan).text
    rows = [{"n": 0, "correct": 0}, {"n": 2, "correct": 1, "difficulty": 5}]
    (checked / "eval.json").write_text(json.dumps({"problems": rows}))
    assert "50.0" in shown(plan).text


@pytest.mark.parametrize("text", ["[" * 100_000, '{"step": 1' + 400 * "0" + ', "train/loss": 1' + 400 * "0" + "}"])
def test_files_that_are_nested_or_have_numbers_without_end_never_crash(plan_maker, text):
    plan = plan_maker()
    for entry in read_plan(plan).entries:
        with open(entry.run.path / "metrics.jsonl", "a") as file:
            file.write(f"{text}\n")
        for name in ("run.json", "eval.json", "status"):
            (entry.run.path / name).write_text(text)
    write_report(plan)
    assert read_plan(plan).entries[0].run.last("train/loss") != float("inf")


def test_evaluations_without_problems_use_their_own_means(plan_maker):
    plan = plan_maker(seeds=1, stages=("sft",))
    path = read_plan(plan).entries[1].run.path / "eval.json"
    evaluation = json.loads(path.read_text())
    del evaluation["problems"]
    path.write_text(json.dumps(evaluation))
    (model,) = read_models(read_plan(plan))
    low, high = evaluation["intervals"]["eval/countdown/pass@1"]
    assert model.pass_at(1) == (evaluation["metrics"]["eval/countdown/pass@1"], low, high)
    assert model.greedy() is None


def test_problems_are_lined_up_by_id_across_seeds(plan_maker):
    plan = plan_maker(seeds=2, stages=("sft",))
    (whole,) = read_models(read_plan(plan))
    path = whole.evals[1].run.path / "eval.json"
    evaluation = json.loads(path.read_text())
    evaluation["problems"] = evaluation["problems"][::-1][:150]
    path.write_text(json.dumps(evaluation))
    (model,) = read_models(read_plan(plan))
    assert model.scores is not None and whole.scores is not None
    np.testing.assert_array_equal(model.scores.correct, whole.scores.correct[:, 50:])


def test_a_plan_without_evaluations_or_claims_shows_losses(plan_maker):
    plan = plan_maker(seeds=2, stages=("pretrain",))
    rows = [line for line in (plan / "manifest.jsonl").read_text().splitlines(True) if '"of"' not in line]
    (plan / "manifest.jsonl").write_text("".join(rows))
    (plan / "claims.json").unlink()
    parsed = shown(plan)
    assert "val/loss" in parsed.text and "Claims" not in parsed.text and parsed.tags.count("svg") == 3


def test_plain_runs_make_a_page(finished_plan, tmp_path):
    runs = finished_plan.parents[1]
    folders = [path for path in sorted(runs.iterdir()) if "-sft-" in path.name or path.name.endswith("eval-sf3f9c1d")]
    out = write_runs_report(folders, tmp_path / "two.html")
    text = Page(out.read_text()).text
    assert "countdown-dense-sft-sf3f9c1d" in text and "pass@8" in text and "6 runs: all finished" in text
    with pytest.raises(RlxError, match="no run directory"):
        write_runs_report([tmp_path / "missing"], out)
    with pytest.raises(RlxError, match="not a run directory"):
        write_runs_report([tmp_path / "two-figures"], out)
    with pytest.raises(RlxError, match="at least one"):
        write_runs_report([], out)
    again = write_runs_report([*folders, folders[0] / "seed1"], tmp_path / "again.html")
    assert "6 runs: all finished" in Page(again.read_text()).text  # a run named twice is one seed


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (None, "is not a plan"),
        ("", "names no runs"),
        ("{", r"manifest.jsonl:1 is not JSON"),
        ("{}", "names no run;"),
        ("[" * 100_000, r"manifest.jsonl:1 is not JSON"),
    ],
    ids=["missing", "empty", "torn", "no run", "nested"],
)
def test_a_plan_that_cannot_be_read_is_one_line(tmp_path, capsys, manifest, says):
    if manifest is not None:
        (tmp_path / "manifest.jsonl").write_text(manifest)
    with pytest.raises(RlxError, match=says) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "report.html").exists()
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_runs_are_found_after_a_plan_moved(finished_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {entry.run.state for entry in read_plan(finished_plan).entries} == {"finished"}
    assert read_run("runs/none/seed0", finished_plan).state == "not started"
    assert len(runs_table(read_plan(finished_plan)).rows) == 24


def test_units():
    assert units.flops(1.2e15) == "1.2 PFLOP" and units.flops(9.999e14) == "1 PFLOP" and units.flops(0) == "0 FLOP"
    assert units.count(3_400_000) == "3.4M" and units.count(999) == "999" and units.count(999_900) == "1M"
    said = [units.duration(seconds) for seconds in (0.84, 42, 59.97, 130, 3600, 7290, 90_000)]
    assert said == ["0.8 s", "42 s", "1 min", "2 min 10 s", "1 h", "2 h 2 min", "1 d 1 h"]
    assert units.number(1234.5) == "1,234" and units.number(0.12345) == "0.123"
    assert units.ends(16, 23.16, 19.6) == "[16.0, 23.2]"
    assert {units.flops(None), units.count(None), units.duration(None), units.number(None)} == {units.NOTHING}


def test_reports_need_neither_torch_nor_hydra_nor_lightning():
    code = """
import sys, rlx.report.page, rlx.report.__main__
heavy = {"torch", "hydra", "omegaconf", "lightning", "matplotlib", "wandb"} & set(sys.modules)
sys.exit(str(heavy) if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the page with")
def test_a_browser_shows_every_figure_without_complaint(written, tmp_path):
    picture = tmp_path / "page.png"
    flags = """--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars
    --disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr --v=0"""
    size, profile = "--window-size=1280,5200", f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(CHROMIUM), *flags.split(), size, profile, f"--screenshot={picture}", written.as_uri()]
    home = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=home)
    assert picture.exists(), done.stderr[-500:]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert_painted(picture)


def assert_painted(picture: Path) -> None:
    """Every colour that the page's figures use covers a good many pixels, and the page is mostly page."""
    from matplotlib.image import imread

    pixels = np.round(255 * imread(picture)[..., :3]).astype(int)
    assert np.all(pixels == pixels[0, 0], axis=-1).mean() > 0.7
    for color in ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.all(np.abs(pixels - wanted) <= 2, axis=-1).sum() > 300, color
