"""The table of problems that an rl run follows: which columns, which words, and text that a page must survive."""

import json
import re
from html import unescape
from pathlib import Path

from rlx.report.figures import drawings
from rlx.report.followed import FOLDED, MOST_LETTERS, followed
from rlx.report.page import page
from rlx.report.read import read_runs
from tests.report.conftest import followed_rows, make_arm, write_lines
from tests.report.test_report import Page


def table_of(root: Path, rows: list[dict], number: int = 1) -> str:
    folder = make_arm(root, "rl", number)
    write_lines(root / folder / "seed0" / "samples.jsonl", rows)
    return followed(read_runs([root / folder]).groups)


def cells(html: str) -> list[list[str]]:
    """The text of each cell, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    strip = [[re.sub(r"<[^>]*>", " ", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
             for row in rows]  # fmt: skip
    return [[" ".join(unescape(cell).split()) for cell in row] for row in strip]


def test_a_row_a_problem_and_a_column_a_step(tmp_path):
    rows = followed_rows({0: "4+6=10", 1: "4*6=20", 4: "4*6=24"}, right_from=4)
    drawn = {**rows[0], "kind": "drawn", "step": 2, "completion": "drawn for training"}
    html = table_of(tmp_path, [*rows, drawn])
    assert cells(html) == [
        ["problem", "step 0", "step 1", "step 4"],
        ["24: 0 4 6", "illegal 4+6=10 6 is not there", "illegal 4*6=20 6 is not there", "correct 4*6=24"],
        ["24: 1 4 6", "illegal 4+6=10 6 is not there", "illegal 4*6=20 6 is not there", "correct 4*6=24"],
    ]
    assert '<span class="badge correct">correct</span>' in html and "drawn for training" not in html


def test_of_many_steps_the_first_the_last_and_some_between(tmp_path):
    every = followed_rows({step: str(step) for step in (0, 1, *range(50, 1001, 50))})
    assert cells(table_of(tmp_path, every))[0][1:] == [f"step {n}" for n in (0, 200, 400, 600, 800, 1000)]
    long = followed_rows({step: "4+6=10," * 30 for step in range(0, 1001, 50)})
    assert len(cells(table_of(tmp_path, long, 2))[0]) == 1 + 4  # long texts have fewer, and so wider, columns


def test_text_of_models_is_escaped_and_long_text_folded(tmp_path):
    hostile = '</td></table><script>alert(1)</script>\x1b[31m\x00 "&amp;\u202e'
    rows = followed_rows({0: hostile, 1: "a" * (FOLDED + 1), 2: "b" * (MOST_LETTERS + 50), 3: ""}, problems=1)
    rows = [{**row, "prompt": "<b>24\nof 1 2</b>"} for row in rows]
    rows[0] |= {"verdict": 'x" onload="y', "detail": "<i>z</i>"}
    torn = [
        '{"kind": "followed", "step": 5',
        '["followed"]',
        '{"kind": "followed", "step": "6"}',
        "[" * 100_000 + '"followed"',
    ]
    folder = make_arm(tmp_path, "rl", 1)
    path = tmp_path / folder / "seed0" / "samples.jsonl"
    path.write_text("".join(f"{line}\n" for line in [*map(json.dumps, rows), *torn]))
    plan = read_runs([tmp_path / folder])
    parsed = Page(page(plan, list(drawings(plan))))
    assert "script" not in parsed.tags and not any(name.startswith("on") for _, name, _ in parsed.attributes)
    assert "<script>alert(1)</script>\N{REPLACEMENT CHARACTER}[31m" in parsed.text and "\x1b" not in parsed.text
    assert "<b>24 of 1 2</b>" in parsed.text and "\u202e" not in parsed.text and "empty" in parsed.text
    html = followed(plan.groups)
    assert f"<summary>all {FOLDED + 1} letters</summary><pre>{'a' * (FOLDED + 1)}</pre>" in html
    assert "… 50 letters more" in html and "b" * (MOST_LETTERS + 1) not in html
    assert len(cells(html)) == 2


def test_a_dialogue_is_told_turn_by_turn(tmp_path):
    """Each turn with its own verdict, or its name where it has none, and what it was answered; a torn list is not."""
    rows = followed_rows({0: "4+6=10\n> wrong, 1 left\n4*6=24", 1: "4*6=24"}, problems=1, right_from=0)
    first = {"name": "attempt_1", "text": "4+6=<10>", "verdict": "wrong", "reward": 0.0, "reply": "wrong, <1> left"}
    second = {"name": "attempt_2", "text": "4*6=24", "verdict": "correct", "reward": 1.0, "reply": ""}
    rows[0]["turns"] = [first, second]
    html = table_of(tmp_path, rows)
    assert cells(html)[1] == ["24: 0 4 6", "wrong 4+6=<10> wrong, <1> left correct 4*6=24", "correct 4*6=24"]
    assert html.count('<span class="reply">') == 1 and '<span class="reply">wrong, &lt;1&gt; left</span>' in html
    assert '<span class="badge wrong">wrong</span>' in html
    rows[0]["turns"] = [{**first, "name": "<thought>", "verdict": None}, second]
    html = table_of(tmp_path, rows, 2)
    assert cells(html)[1][1] == "<thought> 4+6=<10> wrong, <1> left correct 4*6=24"
    for number, torn in enumerate(([first, 3], "turns", [{**first, "reply": None}], []), start=3):
        rows[0]["turns"] = torn
        assert cells(table_of(tmp_path, rows, number))[1][1] == "correct 4+6=10 > wrong, 1 left 4*6=24"


def test_runs_that_follow_nothing_have_no_table(tmp_path):
    assert table_of(tmp_path, []) == ""
    make_arm(tmp_path, "rl", 3)
    assert followed(read_runs([tmp_path / "runs/countdown-dense-rl-h0000000003"]).groups) == ""
    second = make_arm(tmp_path, "rl", 4)  # the seed that has some stands for its arm
    write_lines(tmp_path / second / "seed1" / "samples.jsonl", followed_rows({0: "x"}))
    html = followed(read_runs([tmp_path / second]).groups)
    assert "seed 1" in html and len(cells(html)) == 3


def test_every_arm_has_a_table_and_the_first_are_open(tmp_path):
    for number in range(4):
        table_of(tmp_path, followed_rows({0: "x", 1: "y"}), number)
    plan = read_runs([tmp_path / "runs"])
    html = page(plan, [])
    assert html.count("<summary>Problems followed: ") == 4
    assert html.count("<details open><summary>Problems followed: ") == 2
