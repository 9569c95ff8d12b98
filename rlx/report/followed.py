"""The same held-out problems through training: a row a problem, a column a step, each completion with its verdict.

samples.jsonl is read as it is; what a model or a person wrote is escaped, and rows that are not whole are left out.
Long completions are folded: their beginning and end are shown, and all of them on a click. Of a dialogue each turn is
shown with its own verdict, and below it, beside a rule, what it was answered.
"""

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from rlx.report.labels import arm_label
from rlx.report.read import Entry
from rlx.runs.files import SAMPLES

MOST_COLUMNS = 6
FEW_COLUMNS = 4  # of completions that are long
MOST_ARMS = 10
OPEN_ARMS = 2  # the tables of others begin folded
LONG = 90  # letters of a completion that need a wide column
FOLDED = 420  # letters; longer ones are folded
ENDS = 150  # letters that are shown of either end of a folded one
MOST_LETTERS = 8_000  # of a completion; a page stays readable
LONGEST_DETAIL = 120  # letters of what the verifier has to say
UNSHOWN = "\N{REPLACEMENT CHARACTER}"
MARK = b'"followed"'

CSS = """
.followed { margin-top: 1.8rem; }
.followed > details > summary { color: var(--ink); font-weight: 600; font-size: 1.02rem; }
.followed table { margin-top: .8rem; table-layout: fixed; min-width: 46rem; }
.followed th:first-child { width: 9rem; }
.followed pre { margin: .35rem 0 0; font: .76rem/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
.followed td:first-child pre { margin-top: .1rem; font-weight: 600; }
.followed td details { margin: 0; }
.followed td summary { font-size: .8rem; }
.followed .reply { display: block; margin: .35rem 0 .5rem; padding-left: .5rem; border-left: 3px solid var(--grid);
  color: var(--muted); font: .76rem/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
.badge.correct { color: var(--good); background: var(--good-bg); }
.badge.wrong, .badge.illegal { color: var(--bad); background: var(--bad-bg); }
"""


def followed(arms: dict[str, list[Entry]]) -> str:
    """A table for each of the first arms, of its first seed that followed any problem; empty where none did."""
    tables = []
    for entries in list(arms.values())[:MOST_ARMS]:
        found = ((entry, rows) for entry in entries if (rows := _rows(entry.run.path / SAMPLES)))
        entry, rows = next(found, (entries[0], []))
        if rows:
            tables.append((entry, _table(rows)))
    if not tables:
        return ""
    parts = [
        f"<details{' open' if number < OPEN_ARMS else ''}><summary>Problems followed: {escape(arm_label(entry))}, "
        f"seed {entry.seed}</summary>\n{table}</details>\n"
        for number, (entry, table) in enumerate(tables)
    ]
    note = """The first completion of the first held-out problems, drawn with the same random numbers at every step, so
that what differs is the policy. Step 0 is the start."""
    return f'<div class="followed">\n{"".join(parts)}<p class="caption">{note}</p>\n</div>\n'


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of followed problems, in the order of the file."""
    return [row for row in _json_rows(path) if row.get("kind") == "followed" and _is_whole(row)]


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            for line in file:
                if MARK not in line:
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield row
    except OSError:
        return


def _is_whole(row: dict[str, Any]) -> bool:
    step = row.get("step")
    texts = (row.get(name) for name in ("id", "prompt", "completion", "verdict"))
    return isinstance(step, int) and not isinstance(step, bool) and all(isinstance(text, str) for text in texts)


def _table(rows: list[dict[str, Any]]) -> str:
    """Problems down, steps across."""
    cells = {(row["id"], row["step"]): row for row in rows}
    prompts = {row["id"]: row["prompt"] for row in rows}
    long = sorted(len(row["completion"]) for row in rows)[len(rows) // 2] > LONG
    steps = _evenly(sorted({row["step"] for row in rows}), FEW_COLUMNS if long else MOST_COLUMNS)
    heads = "".join(f'<th scope="col">step {step}</th>' for step in steps)
    lines = "\n".join(
        "".join(["<tr>", *(f"<td>{cell}</td>" for cell in row), "</tr>"])
        for row in ([_text(prompts[name]), *(_cell(cells.get((name, step))) for step in steps)] for name in prompts)
    )
    table = f'<thead><tr><th scope="col">problem</th>{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody>'
    return f'<div class="scroll"><table>\n{table}\n</table></div>\n'


def _evenly(steps: list[int], most: int) -> list[int]:
    """The first, the last, and steps as evenly between them as there are."""
    if len(steps) <= most:
        return steps
    wanted = (steps[0] + (steps[-1] - steps[0]) * n / (most - 1) for n in range(most))
    return sorted({min(steps, key=lambda step: abs(step - place)) for place in wanted})


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    detail = row.get("detail")
    why = f'<span class="note">{_escaped(detail[:LONGEST_DETAIL])}</span>' if isinstance(detail, str) and detail else ""
    turns = _turns(row)
    said = "".join(map(_turn, turns)) if turns else _badge(row["verdict"]) + _text(row["completion"])
    return f"{said}{why}"


def _turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of a dialogue; [] where there are none, or one is not whole."""
    turns = row.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return []
    whole = all(isinstance(turn.get(name), str) for turn in turns for name in ("name", "text", "reply"))
    return turns if whole else []


def _turn(turn: dict[str, Any]) -> str:
    """What the model wrote, by the turn's verdict, or its name where it was not asked for one, and the answer to it."""
    verdict = turn.get("verdict")
    badge = _badge(verdict) if isinstance(verdict, str) else f'<span class="note">{_escaped(turn["name"])}</span>'
    reply = f'<span class="reply">{_escaped(turn["reply"])}</span>' if turn["reply"] else ""
    return f"{badge}{_text(turn['text'])}{reply}"


def _badge(verdict: str) -> str:
    mark = "".join(letter for letter in verdict if letter.isascii() and letter.isalpha()).lower()
    return f'<span class="badge {mark}">{escape(verdict)}</span>'


def _text(text: str) -> str:
    """A text with its own lines, folded where it is long."""
    left_out = len(text) - MOST_LETTERS
    whole = text if left_out <= 0 else f"{text[:MOST_LETTERS]} … {left_out} letters more"
    block = f"<pre>{_escaped(whole)}</pre>"
    if len(text) <= FOLDED:
        return block
    ends = f"{text[:ENDS]} …\n… {text[-ENDS:]}"
    return f"<pre>{_escaped(ends)}</pre><details><summary>all {len(text)} letters</summary>{block}</details>"


def _escaped(text: str) -> str:
    """Escaped, with a mark for what a page cannot show; empty text is said to be empty."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else UNSHOWN for letter in text)
    return escape(shown) if shown.strip() else '<span class="note">empty</span>'
