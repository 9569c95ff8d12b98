"""The page of a sweep: curves of every stage against every axis, of few arms and of many, of runs in any state."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from rlx.report.arms import BEST, chosen, ranked, trained
from rlx.report.curves import band
from rlx.report.figures import Drawing, drawings
from rlx.report.history import FEWEST_ROWS, MOST_ROWS, read_history, share
from rlx.report.metrics import SHARES, judged, panels
from rlx.report.page import page
from rlx.report.read import Plan, read_runs
from rlx.report.tables import stage_table
from tests.report.conftest import make_arm, write_json, write_lines
from tests.report.test_report import Page


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every stage, of two arms where arms are compared."""
    root = tmp_path_factory.mktemp("mixed")
    parents = [make_arm(root, "pretrain", number, model__d_model=64 * (number + 1)) for number in range(2)]
    make_arm(root, "sft", 5, parent=parents[0])
    for number, size in enumerate((4, 8)):
        make_arm(root, "rl", 10 + number, parent=parents[0], algorithm__group_size=size)
    merge = make_arm(root, "merge", 20, seeds=1, parent=parents[0])
    row = {"step": 0, "tokens": 0, "val/loss": 1.25, "merge/barrier": 0.34, "flops/total": 2e9, "wall": 0.8}
    write_lines(root / merge / "seed0" / "metrics.jsonl", [row])
    make_arm(root, "eval", 30, parent=parents[1])
    return root


@pytest.fixture(scope="module")
def figures(mixed: Path) -> dict[str, Drawing]:
    return {drawing.slug: drawing for drawing in drawings(read_runs([mixed / "runs"]))}


@pytest.fixture(scope="module")
def drawn(mixed: Path, figures: dict[str, Drawing]) -> tuple[list[str], str]:
    """Names of the figures, and the page."""
    return list(figures), page(read_runs([mixed / "runs"]), list(figures.values()))


def test_every_stage_has_its_curves_against_every_axis(drawn):
    slugs, html = drawn
    parsed = Page(html)
    assert "13 runs: all finished" in parsed.text
    curves = {f"{stage}-{axis}" for stage in ("pretrain", "sft", "rl") for axis in ("step", "tokens", "flops")}
    assert curves <= set(slugs) and not any(slug.startswith("merge") for slug in slugs)
    titles = ("tokens a second", "KL to the reference", "countdown/greedy", "groups with equal rewards")
    for words in (*titles, "completions cut off", "model.d_model=128", "optimizer step", "tokens of the run"):
        assert f">{words}" in html
    assert "barrier" in parsed.text and "0.34" in parsed.text
    assert {"rl-verdicts", "rl-formats"} <= set(slugs) and not any(f"sft-{kind}" in slugs for kind in SHARES.values())
    assert "<h3>Verdicts</h3>" in html and "<h3>Formats</h3>" in html


def test_shares_of_verdicts_and_formats_have_a_panel_an_arm(figures, tmp_path):
    panels = figures["rl-verdicts"].figure.axes
    assert [panel.get_title(loc="left") for panel in panels] == ["algorithm.group_size=4", "algorithm.group_size=8"]
    for panel in panels:  # correct, wrong; what never occurs is not drawn
        right, wrong = (line.get_ydata() for line in panel.lines)
        assert right[0] < 35 < 55 < right[-1] and right + wrong == pytest.approx(100)
        assert panel.get_ylim() == (0, 100)
    assert len(figures["rl-formats"].figure.axes[0].lines) == 2  # the measures that are formats
    names = [text.get_text() for text in figures["rl-verdicts"].figure.legends[0].get_texts()]
    assert names == ["correct", "wrong"]
    folder = make_arm(tmp_path, "rl", 1, seeds=2)
    for seed, right in enumerate((0.2, 0.6)):
        rows = [{"step": step, "tokens": step, "reward": 0.5, "outcomes/correct": right} for step in (1, 2, 3)]
        write_lines(tmp_path / folder / f"seed{seed}" / "metrics.jsonl", rows)
    (panel,) = next(each for each in drawings(read_runs([tmp_path / folder])) if each.slug == "rl-verdicts").figure.axes
    assert panel.lines[0].get_ydata().tolist() == pytest.approx([40, 40, 40])
    heights = [y for path in panel.collections[0].get_paths() for _, y in path.vertices]
    assert min(heights) == pytest.approx(20) and max(heights) == pytest.approx(
        60
    )  # from the lowest seed to the highest


def test_panels_that_would_tell_nothing_are_left_out(tmp_path):
    """Ratios that were never clipped, and right answers where the reward counts the same."""

    def titles(number: int, right: float, clipped: float) -> list[str]:
        folder = make_arm(tmp_path, "rl", number, seeds=1)
        rows = [{"step": step, "reward": 0.5, "rewards/verifier/mean": right, "clip_ratio/low_mean": clipped,
                 "clip_ratio/high_mean": 0.0} for step in (1, 2, 3)]  # fmt: skip
        write_lines(tmp_path / folder / "seed0" / "metrics.jsonl", rows)
        figure = next(drawings(read_runs([tmp_path / folder]))).figure
        return [panel.get_title(loc="left") for panel in figure.axes if panel.get_title(loc="left")]

    assert titles(1, 0.5, 0.0) == ["reward"]
    assert titles(2, 0.25, 0.1) == ["reward", "right among the samples", "ratios clipped below"]


def test_the_axis_is_chosen_without_a_script(drawn):
    html = drawn[1]
    parsed = Page(html)
    assert "script" not in parsed.tags
    radios = [value for tag, name, value in parsed.attributes if tag == "input" and name == "id"]
    assert radios == ["axis-step", "axis-tokens", "axis-flops"] and html.count(" checked>") == 1
    targets = {value for tag, name, value in parsed.attributes if tag == "label" and name == "for"}
    assert targets == set(radios)
    for axis in ("step", "tokens", "flops"):
        assert f"#axis-{axis}:checked ~ .stage > .view.{axis}" in html and f'class="view {axis}"' in html


def test_a_band_reaches_from_the_lowest_seed_to_the_highest(tmp_path):
    folder = make_arm(tmp_path, "pretrain", 1, seeds=3)
    for seed in range(3):
        rows = [{"step": step, "tokens": 10 * step, "val/loss": 1.0 + seed} for step in (1, 2, 3)]
        write_lines(tmp_path / folder / f"seed{seed}" / "metrics.jsonl", rows)
    curve = band(read_runs([tmp_path / folder]).entries, "val/loss", "tokens")
    assert curve is not None and curve.x.tolist() == [10, 20, 30]
    assert (curve.low[0], curve.mean[0], curve.high[0]) == (1.0, 2.0, 3.0)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty arms of one stage; arm 0 ends best, and arm 7 never wrote a row."""
    root = tmp_path_factory.mktemp("many")
    for number in range(40):
        make_arm(
            root, "pretrain", number, seeds=1, model__d_model=32 * (1 + number % 4), optim__lr=0.001 * (1 + number // 4)
        )
    (root / "runs/countdown-dense-pretrain-h0000000007/seed0/metrics.jsonl").unlink()
    return root


@pytest.fixture(scope="module")
def many_drawn(many: Path) -> tuple[Plan, dict[str, Drawing], str]:
    """The plan, its figures by name, and the page."""
    plan = read_runs([many / "runs"])
    figures = {drawing.slug: drawing for drawing in drawings(plan)}
    return plan, figures, page(plan, list(figures.values()))


def test_of_many_arms_the_best_are_named_and_the_others_grey(many_drawn):
    plan, _, html = many_drawn
    arms = trained(plan, "pretrain")
    order = [int(name[-2:], 16) for name in ranked(arms, "train/loss")]
    assert order == [*(number for number in range(40) if number != 7), 7]
    choice = chosen(arms, "pretrain", ["train/loss"])
    assert len(choice.shown) == BEST and len(choice.others) == 30 and choice.drawn == choice.others
    text = Page(html).text
    assert "The 10 arms with the best last val/loss have colours; the other 30 are grey." in text
    assert ">30 others</text>" in html and "Last values of 40 arms, by their last val/loss" in text
    assert all(entry.label in text for entry in plan.entries)  # the table has them all
    assert len(html) < 1_000_000


def test_of_many_arms_it_is_shown_what_differs(many_drawn):
    assert "<h3>What differs</h3>" in many_drawn[2]
    panels = many_drawn[1]["pretrain-differences"].figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["model.d_model", "optim.lr"]
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["32", "64", "96", "128"]


def test_runs_in_any_state_are_shown_with_it(tmp_path):
    for number, state in enumerate(("finished", "running", "failed", "blocked", "stopped")):
        folder = make_arm(tmp_path, "rl", number, seeds=1, algorithm__group_size=2 + number)
        run = tmp_path / folder / "seed0"
        write_json(run / "status", {"state": state, "reason": f"why it is {state}"})
        if state == "blocked":  # nothing was ever begun
            for name in ("run.json", "config.yaml", "metrics.jsonl"):
                (run / name).unlink()
        if state == "running":
            (run / "run.json").unlink()
            with (run / "metrics.jsonl").open("a") as file:
                file.write('{"step": 9, "rew')
    (tmp_path / "runs/countdown-dense-rl-h0000000009/seed0").mkdir(parents=True)
    plan = read_runs([tmp_path / "runs"])
    text = Page(page(plan, list(drawings(plan)))).text
    assert "6 runs: " in text and all(f"1 {state}" in text for state in ("running", "failed", "blocked", "stopped"))
    assert "why it is blocked" in text and "why it is finished" not in text
    shutil.rmtree(tmp_path / "runs/countdown-dense-rl-h0000000000")
    assert "(blocked)" in stage_table(read_runs([tmp_path / "runs"])).text()


def test_a_long_history_is_thinned_and_it_is_said(tmp_path):
    folder = make_arm(tmp_path, "pretrain", 1, seeds=1)
    path = tmp_path / folder / "seed0" / "metrics.jsonl"
    rows = [{"step": step, "tokens": step, "wall": step / 2, "train/loss": 1 / step} for step in range(1, 5001)]
    for row in rows[999::1000]:
        row["val/loss"] = row["step"]
    write_lines(path, rows)
    history = read_history(path, 300)
    assert history.rows == 5000 and 300 <= history.kept <= 320
    curve = history.curve("val/loss", "step")
    assert curve is not None and curve[0].tolist() == [1000, 2000, 3000, 4000, 5000]  # rare rows are all kept
    assert history.last("train/loss") == pytest.approx(1 / 5000)
    assert np.nanmedian(history.columns["train/tok_per_sec"]) == 2
    whole = read_history(path, 5000)
    assert whole.kept == 5000 and whole.columns["train/loss"].size == 5000
    plan = read_runs([tmp_path / folder])
    object.__setattr__(plan.entries[0].run, "most_rows", 300)
    caption = next(drawings(plan)).caption
    assert (
        "Of one run with more than 300 rows, 300 evenly spaced ones are read, and those with val/ or eval/." in caption
    )


def test_a_thousand_runs_share_the_rows_that_a_page_reads():
    assert share(1) == MOST_ROWS and share(1000) == MOST_ROWS // 1000 and share(10**6) == FEWEST_ROWS


def test_panels_and_what_arms_are_judged_by():
    rl = ["step", "reward", "train/loss", "eval/countdown/pass@1", "eval/countdown/mean_length", "entropy"]
    assert list(panels("rl", rl)) == ["reward", "eval/countdown/pass@1", "entropy"]
    assert list(panels("sft", ["train/loss", "val/loss", "eval/math/greedy"])) == [
        "val/loss",
        "eval/math/greedy",
        "train/loss",
    ]
    assert judged("rl", rl) == "eval/countdown/pass@1" and judged("rl", ["train/loss", "entropy"]) == ""
    assert judged("pretrain", ["train/loss", "val/loss"]) == "val/loss"


def test_the_same_set_given_otherwise_is_the_same_page(mixed):
    folders = sorted((mixed / "runs").iterdir(), reverse=True)
    pages = [page(read_runs(given), []) for given in ([mixed / "runs"], folders)]
    assert pages[0] == pages[1]
