"""Merges in the report: numbers against the files, which arms are a line, and runs with little or nothing in them."""

import json
import shutil
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from rlx.report import theme
from rlx.report.alike import alike_table, cka_figure
from rlx.report.figures import Drawing, drawings
from rlx.report.labels import tail
from rlx.report.merges import LONGEST, Merges, read_merges
from rlx.report.merging import merges_table
from rlx.report.page import page, write_runs_report
from rlx.report.read import read_plan, read_runs
from rlx.report.ways import Lines, chosen_lines, panels_of, said_of, way_figure
from tests.report.conftest import make_arm, manifest_row, write_json, write_lines
from tests.report.merged import merge_run, sweep
from tests.report.test_report import Page

WEIGHTS = (0.1, 0.5, 0.9)
CONTENT = ("run.json", "merge.json", "eval.json", "metrics.jsonl", "config.yaml", "status")


def merges_of(root: Path) -> Merges:
    return read_merges(read_runs(sorted((root / "runs").glob("*-merge-*"))))


def drawn(root: Path) -> dict[str, Drawing]:
    plan = read_runs(sorted((root / "runs").glob("*-merge-*")))
    return {drawing.slug: drawing for drawing in drawings(plan)}


def shown(root: Path) -> str:
    plan = read_runs(sorted((root / "runs").glob("*-merge-*")))
    return Page(page(plan, list(drawings(plan)))).text


def logged(root: Path, number: int, seed: int = 0) -> dict[str, float]:
    path = root / f"runs/countdown-dense-merge-h{number:010x}/seed{seed}/metrics.jsonl"
    return json.loads(path.read_text().splitlines()[-1])


def parents(root: Path) -> tuple[str, str]:
    """Two tuned models that are told apart by their learning rate."""
    return make_arm(root, "sft", 1, optim__lr=0.01), make_arm(root, "sft", 2, optim__lr=0.02)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods over three weights and two seeds with a ceiling, and one of them between strangers."""
    root = tmp_path_factory.mktemp("swept")
    one, other = parents(root)
    stranger, ceiling = make_arm(root, "pretrain", 3), make_arm(root, "sft", 4, optim__lr=0.04)
    sweep(root, [one, other], methods=("linear", "ties"), weights=WEIGHTS, seeds=2, ceiling=ceiling)
    sweep(root, [one, stranger], first=0x100, methods=("linear",), weights=WEIGHTS, seeds=2, rise=1, related=False)
    return root


def test_arms_that_differ_in_their_weight_alone_are_a_line(swept):
    merges = merges_of(swept)
    found = {(line.label, merges.between(line.parents), line.strangers) for line in merges.lines}
    kin, strange = "sft: optim.lr=0.01 → sft: optim.lr=0.02", "sft: optim.lr=0.01 → pretrain"
    assert found == {("linear", kin, False), ("ties", kin, False), ("linear", strange, True)}
    assert all(sorted(line.points) == sorted(WEIGHTS) for line in merges.lines)
    assert all(len(entries) == 2 for line in merges.lines for entries in line.points.values())


def lines_at(axes, labels: int) -> list[np.ndarray]:
    """The points of lines with so many."""
    return [np.column_stack(line.get_data()) for line in axes.lines if len(line.get_xdata()) == labels]


def test_lines_are_means_over_seeds_with_the_parents_at_the_ends_and_the_ceiling_across(swept):
    with theme.applied("x"):
        figure = way_figure(merges_of(swept), chosen_lines(merges_of(swept)))
    assert figure is not None
    axes = {each.get_title(loc="left"): each for each in figure.axes if each.axison}
    assert list(axes) == [
        "countdown: pass@1, %", "copy: pass@1, %", "held-out loss, nats a token", "held-out loss of one, nats",
        "held-out loss of two, nats",
    ]  # fmt: skip
    names = ("eval/countdown/pass@1", "eval/copy/pass@1", "val/loss", "val/loss/one", "val/loss/two")
    beside = ("countdown/pass@1", "copy/pass@1", "val_loss", "val_loss/one", "val_loss/two")
    for (title, panel), key, other in zip(axes.items(), names, beside, strict=True):
        scale = 100 if "pass@1" in title else 1
        for first in (0, 3, 0x100):
            rows = [[logged(swept, first + n, seed) for seed in (0, 1)] for n in range(3)]
            expected = [[WEIGHTS[n], scale * fmean(row[key] for row in rows[n])] for n in range(3)]
            assert any(np.allclose(line, expected, rtol=1e-12, atol=0) for line in lines_at(panel, 3)), (title, first)
            for at in (0, 1):
                end = [at, scale * fmean(row[f"merge/parent_{at}/{other}"] for row in rows[0])]
                assert any(np.allclose(line, [end]) for line in lines_at(panel, 1)), (title, first, at)
                near = expected[0 if at == 0 else 2]
                assert any(np.allclose(line, [end, near]) for line in lines_at(panel, 2)), (title, first, at)
        ceiling = scale * fmean(logged(swept, 0, seed)[f"merge/ceiling/{other}"] for seed in (0, 1))
        level = [line for line in lines_at(panel, 2) if np.allclose(line, [[0, ceiling], [1, ceiling]])]
        assert len(level) == 1, title
        assert len(panel.collections) >= 1, "bands over seeds"


def test_the_straight_way_is_in_the_panel_of_the_loss_alone(swept):
    merges = merges_of(swept)
    with theme.applied("x"):
        figure = way_figure(merges, chosen_lines(merges))
    assert figure is not None
    for axes in figure.axes:
        ways = lines_at(axes, 5)
        assert len(ways) == (2 if axes.get_title(loc="left") == "held-out loss, nats a token" else 0)
    for number in (0, 0x100):
        merge = (swept / f"runs/countdown-dense-merge-h{number:010x}/seed0/merge.json").read_text()
        path = json.loads(merge)["likeness"]["pairs"][0]["path"]
        expected = np.column_stack([np.linspace(0, 1, 5), path])
        assert any(np.allclose(way, expected) for axes in figure.axes for way in lines_at(axes, 5))


def test_the_legend_and_the_caption_say_what_is_drawn(swept):
    drawing = drawn(swept)["merge-way"]
    (legend,) = drawing.figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        "linear: sft: optim.lr=0.01 → sft: optim.lr=0.02", "ties: sft: optim.lr=0.01 → sft: optim.lr=0.02",
        "linear (no shared ancestor): sft: optim.lr=0.01 → pretrain", "parents", "ceiling: sft: optim.lr=0.04",
        "straight way, before merging",
    }  # fmt: skip
    for words in (
        "the parent at 0 stands before the arrow",
        "share no ancestor",
        "the ceiling",
        "straight way",
        "means",
    ):
        assert words in drawing.caption
    strange = [line for line in drawing.figure.axes[0].lines if line.get_markerfacecolor() == theme.PAGE]
    assert len(strange) == 3, "a line and its two parents"
    dotted = {line.is_dashed() for line in strange if len(line.get_xdata()) > 1}
    assert dotted == {True} and "merge-differences" not in drawn(swept), "the way says more of methods and weights"


def test_of_two_parents_alone_the_caption_says_which_is_at_which_end(tmp_path):
    sweep(tmp_path, parents(tmp_path), methods=("linear",), weights=(0.5,))
    drawing = drawn(tmp_path)["merge-way"]
    assert "0 is optim.lr=0.01, 1 is optim.lr=0.02." in drawing.caption
    for words in ("no ancestor", "ceiling", "arrow", "Left out", "colours"):
        assert words not in drawing.caption
    (legend,) = drawing.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["linear", "parents", "straight way, before merging"]


def test_a_table_has_parents_arms_and_ceiling(swept):
    merges = merges_of(swept)
    table = merges_table(merges)
    names = [column.title for column in table.columns]
    assert names == [
        "model", "loss, nats", "countdown, %", "copy, %", "of best parent, %", "barrier, nats", "seeds"
    ]  # fmt: skip
    rows = {row[0].plain: row for row in table.rows}
    assert len(table.rows) == 3 + 9 + 1 and [*rows][-1] == "sft: optim.lr=0.04 ceiling"
    assert {"sft: optim.lr=0.01 parent", "sft: optim.lr=0.02 parent", "pretrain parent"} <= set(rows)
    arm = rows["ties weight=0.5 sft: optim.lr=0.01 → sft: optim.lr=0.02"]
    found = [logged(swept, 4, seed) for seed in (0, 1)]
    expected = 100 * fmean(row["eval/copy/pass@1"] for row in found)
    assert float(arm[3].text) == pytest.approx(expected, abs=0.06) and arm[3].note.startswith("[")
    assert float(arm[4].text) == pytest.approx(100 * fmean(r["merge/normalised_accuracy"] for r in found), rel=5e-3)
    assert float(arm[5].text) == pytest.approx(fmean(r["merge/barrier"] for r in found), rel=5e-3)
    assert float(arm[1].text) == pytest.approx(fmean(r["val/loss"] for r in found), rel=5e-3) and arm[-1].text == "2"
    assert "linear weight=0.5 sft: optim.lr=0.01 → pretrain (no shared ancestor)" in rows
    ceiling = rows["sft: optim.lr=0.04 ceiling"]
    assert float(ceiling[2].text) == pytest.approx(
        100 * fmean(logged(swept, 0, seed)["merge/ceiling/countdown/pass@1"] for seed in (0, 1)), abs=0.06
    )
    low, high = (float(end) for end in ceiling[2].note.strip("[]").split(","))
    assert low < float(ceiling[2].text) < high, "over problems"
    assert ceiling[-1].text == "2" and ceiling[4].text == ceiling[5].text == "–"


def test_how_alike_the_parents_are(swept):
    merges = merges_of(swept)
    table = alike_table(merges.pairs)
    assert [column.title for column in table.columns] == [
        "parents", "cosine of", "cosine", "CKA, mean", "barrier height, nats", "convexity gap, nats"
    ]  # fmt: skip
    rows = {row[0].plain: row for row in table.rows}
    assert set(rows) == {
        "sft: optim.lr=0.01 → sft: optim.lr=0.02", "sft: optim.lr=0.01 → pretrain no shared ancestor"
    }  # fmt: skip
    near = rows["sft: optim.lr=0.01 → sft: optim.lr=0.02"]
    merge = json.loads((swept / "runs/countdown-dense-merge-h0000000000/seed0/merge.json").read_text())
    (pair,) = merge["likeness"]["pairs"]
    assert near[1].text == "differences from pretrain-h00000000ff"
    assert rows["sft: optim.lr=0.01 → pretrain no shared ancestor"][1].text == "weights"
    expected = (pair["cosine"], fmean(pair["cka"]), pair["barrier_height"], pair["convexity_gap"])
    for cell, value in zip(near[2:], expected, strict=True):
        assert float(cell.text) == pytest.approx(value, rel=5e-3)
    axes = drawn(swept)["merge-cka"].figure.axes[0]
    assert any(np.allclose(line, np.column_stack([(1, 2, 3), pair["cka"]])) for line in lines_at(axes, 3))
    assert sorted(line.is_dashed() for line in axes.lines) == [False, True], "strangers are dotted"
    assert [len(pair.seeds) for pair in merges.pairs] == [2, 2], "of all weights and methods, each seed once"


def test_the_page_has_a_section_of_merges_and_their_figures_as_pdf(swept, tmp_path):
    out = write_runs_report(sorted((swept / "runs").glob("*-merge-*")), tmp_path / "report.html")
    parsed = Page(out.read_text())
    sections = [value for tag, name, value in parsed.attributes if (tag, name) == ("section", "id")]
    assert sections == ["stages", "merges", "runs"]
    for title in ("Along the way between two parents", "Parents, merges and ceiling", "How alike the parents are"):
        assert title in parsed.text
    assert {"merge-way", "merge-cka"} <= {path.stem for path in (tmp_path / "figures").glob("*.pdf")}


def test_merges_that_were_not_swept_have_tables_and_no_way(tmp_path):
    one, other = parents(tmp_path)
    third = make_arm(tmp_path, "sft", 3, optim__lr=0.03)
    merge_run(tmp_path, 1, [(one, 0), (other, 0), (third, 0)], options={"merge": "ties"})
    merges = merges_of(tmp_path)
    assert merges.lines == [] and len(merges.pairs) == 3
    assert "merge-way" not in drawn(tmp_path) and "merge-cka" in drawn(tmp_path)
    text = shown(tmp_path)
    assert "Parents, merges and ceiling" in text and "How alike the parents are" in text and "Along the way" not in text
    labels = [row[0].plain for row in merges_table(merges).rows]
    assert labels == [*(f"optim.lr=0.0{n} parent" for n in (1, 2, 3)), "ties"]
    assert [pair.label for pair in merges.pairs][-1] == "optim.lr=0.02 → optim.lr=0.03"


def test_a_model_whose_name_no_file_can_have_is_only_named(tmp_path):
    run = merge_run(tmp_path, 1, [(parent, 0) for parent in parents(tmp_path)], options={"merge": "linear"})
    found = json.loads((run / "merge.json").read_text())
    found["models"][0] = "a" * 300
    (run / "merge.json").write_text(json.dumps(found))
    assert "a" * 300 in shown(tmp_path)


def test_weights_alone_are_no_section(tmp_path):
    run = merge_run(tmp_path, 1, [(parent, 0) for parent in parents(tmp_path)], options={"merge": "linear"})
    (run / "metrics.jsonl").write_text('{"step": 0, "tokens": 0, "flops/total": 0.0, "wall": 0.1}\n')
    (run / "merge.json").write_text('{"base": null, "unrelated": []}')
    (run / "eval.json").unlink()
    assert "How alike" not in shown(tmp_path) and not [name for name in drawn(tmp_path) if name.startswith("merge")]


def test_seeds_of_evaluation_of_the_same_parents_are_one_line(tmp_path):
    """seed=0,1 of the same two runs: two configs by their names, one arm to the reader."""
    one, other = parents(tmp_path)
    for seed in (0, 1):
        given = [(one, 0), (other, 0)]
        merge_run(tmp_path, 10 + seed, given, seed=seed, options={"merge": "dare", "merge.weight": 0.5})
    merges = merges_of(tmp_path)
    (line,) = merges.lines
    assert len(line.points[0.5]) == 2 and len(merges.parents) == 2 and len(merges.pairs) == 1
    assert [len(seen.where) for seen in merges.parents.values()] == [2, 2]


def test_seeds_of_one_config_are_told_apart_where_they_are_parents(tmp_path):
    one = make_arm(tmp_path, "pretrain", 1, seeds=2)
    merge_run(tmp_path, 1, [(one, 0), (one, 1)], options={"merge": "linear", "merge.weight": 0.5}, related=False)
    merges = merges_of(tmp_path)
    name = tail(Path(one).name)
    assert merges.between(merges.lines[0].parents) == f"{name} → {name} seed 1"
    assert len(merges.parents) == 2 and merges.lines[0].strangers


def test_other_parents_of_the_same_configs_are_other_lines(tmp_path):
    """A model and its child, and the child with another seed's model: kin and strangers."""
    one, child = make_arm(tmp_path, "pretrain", 1, seeds=2), make_arm(tmp_path, "sft", 2)
    weight = {"merge": "linear", "merge.weight": 0.5}
    merge_run(tmp_path, 1, [(one, 0), (child, 0)], options=weight)
    merge_run(tmp_path, 2, [(one, 1), (child, 0)], options=weight, related=False)
    merges = merges_of(tmp_path)
    assert [(merges.between(line.parents), line.strangers) for line in merges.lines] == [
        ("pretrain → sft", False), ("pretrain seed 1 → sft", True)
    ]  # fmt: skip


def test_parents_whose_names_are_long_have_those_that_tell_them_apart_alone(tmp_path):
    """On a page of many kinds of runs a name may be of any length."""
    common = {"task__a_long_name": 5, "model__another_long_name": 6, "stage__one_more_name": 7}
    one, other = (make_arm(tmp_path, "sft", n, optim__lr=n / 100, **common) for n in (1, 2))
    make_arm(tmp_path, "sft", 3, task__a_long_name=1, model__another_long_name=2, stage__one_more_name=3, optim__lr=1)
    sweep(tmp_path, [one, other], methods=("linear",), weights=(0.5,))
    plan = read_runs([tmp_path / "runs"])
    assert max(len(entry.label) for entry in plan.entries) > LONGEST
    merges = read_merges(plan)
    assert merges.between(merges.lines[0].parents) == "optim.lr=0.01 → optim.lr=0.02"


def test_parents_that_are_gone_are_called_by_their_folders(tmp_path):
    one, other = parents(tmp_path)
    sweep(tmp_path, [one, other], methods=("linear",), weights=(0.5,))
    shutil.rmtree(tmp_path / one)
    shutil.rmtree(tmp_path / other)
    (line,) = merges_of(tmp_path).lines
    assert merges_of(tmp_path).between(line.parents) == "sft-h0000000001 → sft-h0000000002"


def test_parents_with_a_step_and_folders_of_others(tmp_path):
    run = merge_run(tmp_path, 1, [("a", 0), ("b", 0)], options={"merge": "linear", "merge.weight": 0.5})
    record, merge = (json.loads((run / name).read_text()) for name in ("run.json", "merge.json"))
    folder = "runs/countdown-dense-sft-h0000000001/seed0"

    def called(models: list[str], name: str) -> str:
        rows = {"parents": [{"reference": text} for text in models]}
        changed = record | rows if name == "run.json" else merge | {"models": models}
        write_json(run / name, changed)
        (line,) = merges_of(tmp_path).lines
        return merges_of(tmp_path).between(line.parents)

    for models, expected in (
        ([f"{folder}@best", f"{folder}@40"], "sft-h0000000001@best → sft-h0000000001@40"),
        ([f"{folder}/checkpoints/step-000040", "hf:some/folder@x"], "sft-h0000000001@40 → folder@x"),
        (["some@where/folder/", f"{folder}/"], "folder → sft-h0000000001"),
    ):
        assert called(models, "merge.json") == expected
        merge.pop("models", None)
        write_json(run / "merge.json", merge)
        assert called(models, "run.json") == expected, "as it is before anything is merged"


def test_aligned_parents_are_other_parents_on_the_way(tmp_path):
    one, other = parents(tmp_path)
    for number, (align, apart) in enumerate((("none", 1.0), ("weights", 0.25))):
        for method in ("linear", "slerp"):
            options = {"merge": method, "merge.align": align, "merge.weight": 0.5}
            merge_run(tmp_path, 10 * number + (method == "slerp"), [(one, 0), (other, 0)], options=options, apart=apart)
    merges = merges_of(tmp_path)
    assert {line.label: max(line.way()) for line in merges.lines} == {
        f"{method}{align}": pytest.approx(top)
        for method in ("linear", "slerp")
        for align, top in ((" align=none", 2.1), (" align=weights", 1.35))
    }
    pair = "optim.lr=0.01 → optim.lr=0.02"
    found = {row[0].text: row[4].text for row in alike_table(merges.pairs).rows}
    assert found == {pair: "1", f"{pair}, aligned by weights": "0.25"}
    with theme.applied("x"):
        figure = way_figure(merges, chosen_lines(merges))
    assert figure is not None
    assert len(lines_at(figure.axes[2], 5)) == 2, "each way once"


def test_what_tells_lines_apart_is_not_the_ceiling(tmp_path):
    one, other = parents(tmp_path)
    for number, (density, ceiling) in enumerate(((0.2, None), (0.2, (one, 0)), (0.7, None))):
        options = {"merge": "ties", "merge.density": density, "merge.weight": (0.2, 0.4, 0.2)[number]}
        merge_run(tmp_path, number, [(one, 0), (other, 0)], options=options, ceiling=ceiling)
    merges = merges_of(tmp_path)
    found = {line.label: sorted(line.points) for line in merges.lines}
    assert found == {"density=0.2": [0.2, 0.4], "density=0.7": [0.2]}
    assert [seen.label for seen in merges.ceilings.values()] == ["optim.lr=0.01"]
    assert not any("ceiling" in entry.label for entry in merges.entries)


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", "null", "[" * 50_000, '{"parents": [3, {"run": 5}, {"reference": null}]}',
     '{"base": 7, "unrelated": [[0], 3, [0, "x"], [[1], 0], [0, 9]], "likeness": {"pairs": [1, {"parents": [0, 5]}, '
     '{"parents": [0.0, 1]}, {"parents": [0, 1], "cka": [[1], "nan", true], "path": [1, "nan"], "cosine": "x"}]}}',
     '{"task": 3, "tasks": {"copy": []}, "models": {"parent_0": [], "parent_1": {"tasks": {"copy": {"problems": 3}}}}}',
     '{"state": 3}', '{"val/loss": "x", "eval/copy/pass@1": null, "merge/parent_0/val_loss": 1e999}'],
    ids=["gone", "empty", "torn", "list", "null", "nested", "parents", "merge", "eval", "status", "row"],
)  # fmt: skip
def test_files_that_are_gone_or_torn_never_raise(tmp_path, text):
    one, other = parents(tmp_path)
    sweep(tmp_path, [one, other], methods=("linear",), weights=(0.1, 0.5), ceiling=one)
    run = tmp_path / "runs/countdown-dense-merge-h0000000000/seed0"
    before = {name: (run / name).read_text() for name in CONTENT}
    for name in CONTENT:
        (run / name).unlink() if text is None else (run / name).write_text(text)
        merges = merges_of(tmp_path)
        assert len(merges_table(merges).rows) >= 2 + 2 + 1 and alike_table(merges.pairs).rows
        assert said_of(merges, chosen_lines(merges))
        (run / name).write_text(before[name])
    for name in CONTENT:
        (run / name).unlink() if text is None else (run / name).write_text(text)
    assert "Along the way" in shown(tmp_path), "the other run is shown"


def test_runs_that_have_not_begun_or_still_run_are_shown_as_such(tmp_path):
    one, other = parents(tmp_path)
    sweep(tmp_path, [one, other], methods=("linear",), weights=WEIGHTS)
    rows = []
    for number, weight in enumerate(WEIGHTS):
        folder = f"runs/countdown-dense-merge-h{number:010x}"
        row = manifest_row("merge", 0, folder, []) | dict.fromkeys(("name", "label"), folder.partition("/")[2])
        command = f"rlx stage=merge merge=linear merge.weight={weight} 'merge.models=[{one}/seed0,{other}/seed0]'"
        rows.append(row | {"command": command})
    write_lines(tmp_path / "runs/plans/sweep/manifest.jsonl", rows)
    first, second, _ = sorted((tmp_path / "runs").glob("*-merge-*/seed0"))
    shutil.rmtree(first)
    write_json(first / "status", {"state": "blocked", "reason": "its parent failed"})
    for name in ("run.json", "merge.json", "eval.json"):
        (second / name).unlink()
    write_json(second / "status", {"state": "running"})
    (second / "metrics.jsonl").write_text('{"step": 0, "val/lo')
    plan = read_plan(tmp_path / "runs/plans/sweep")
    merges = read_merges(plan)
    rows = {row[0].plain: row for row in merges_table(merges).rows}
    assert [rows[f"linear weight={weight}{state}"][-1].text for weight, state in
            ((0.1, " (blocked)"), (0.5, " (running)"), (0.9, ""))] == ["0 of 1", "0 of 1", "1"]  # fmt: skip
    assert [list(line.points) for line in merges.lines] == [[0.9]]
    assert "its parent failed" in Page(page(plan, list(drawings(plan)))).text


def test_of_many_lines_the_best_are_named_and_the_others_grey(tmp_path):
    one, other = parents(tmp_path)
    for number in range(20):
        options = {"merge": "ties", "merge.density": (1 + number) / 20, "merge.weight": 0.5}
        run = merge_run(tmp_path, number, [(one, 0), (other, 0)], options=options)
        row = json.loads((run / "metrics.jsonl").read_text())
        (run / "metrics.jsonl").write_text(json.dumps(row | {"merge/normalised_accuracy": 0.5 + 0.02 * number}) + "\n")
    merges = merges_of(tmp_path)
    lines = chosen_lines(merges)
    assert {line.label for line in lines.named} == {f"density={(1 + n) / 20}" for n in range(10, 20)}
    assert len(lines.others) == 10
    assert "The 10 lines with the best merges have colours, 10 others none." in said_of(merges, lines)
    drawing = drawn(tmp_path)["merge-way"]
    (legend,) = drawing.figure.legends
    assert "10 others" in [text.get_text() for text in legend.get_texts()]
    named = legend.get_lines()[:10]
    assert len({(line.get_color(), line.get_marker(), line.is_dashed()) for line in named}) == 10, "told apart"
    assert [row[0].text for row in merges_table(merges, "merge/normalised_accuracy").rows][2:5] == [
        "density=1.0 weight=0.5", "density=0.95 weight=0.5", "density=0.9 weight=0.5"
    ]  # fmt: skip
    assert "Of 20 arms the best come first, by merge/normalised_accuracy." in shown(tmp_path)
    assert drawn(tmp_path)["merge-differences"].figure.axes[0].get_title(loc="left") == "merge.density"


def test_panels_that_have_no_room_are_said_to_be_left_out(tmp_path):
    run = merge_run(tmp_path, 1, [("a", 0), ("b", 0)], options={"merge": "linear", "merge.weight": 0.5})
    row = json.loads((run / "metrics.jsonl").read_text())
    row |= {f"eval/task{n}/pass@1": 0.5 for n in range(7)} | {f"val/loss/source{n}": 1.0 for n in range(4)}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    merges = merges_of(tmp_path)
    assert len(panels_of(merges)) == 12
    assert "Left out: 3 more tasks and 1 more sources." in said_of(merges, Lines(merges.lines, []))


def test_cka_of_one_layer_is_no_figure(tmp_path):
    given = [(parent, 0) for parent in parents(tmp_path)]
    merge_run(tmp_path, 1, given, options={"merge": "linear"}, layers=1)
    pairs = merges_of(tmp_path).pairs
    assert len(pairs) == 1 and cka_figure(pairs) is None and alike_table(pairs).rows[0][3].text == "0.99"
