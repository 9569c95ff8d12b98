"""One page for a plan: claims, stages, figures with the commands behind them, runs. Nothing is loaded from outside.

The page is the same for the same runs, byte for byte: no clock is read. Its content policy forbids scripts and every
load, so even a hostile label can do nothing.

Nothing is lost to a page. It and its figures say who made them and of what: the places of the plan or the runs that
were asked for, as seen from the page. Only files that say the same are written over; others are refused before anything
is written. The figures of report.html are in figures/, those of <name>.html in <name>-figures/, so pages share none.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from urllib.parse import quote

from rlx.errors import RlxError
from rlx.report import theme, units
from rlx.report.figures import Drawing, drawings
from rlx.report.followed import CSS as FOLLOWED_CSS
from rlx.report.merging import merging
from rlx.report.models import Model, read_models
from rlx.report.read import FINISHED, Entry, Plan, as_dict, as_number, read_plan, read_runs
from rlx.report.style import CSS
from rlx.report.table import Table
from rlx.report.tables import claims_table, runs_table, stage_table
from rlx.report.training import CSS as TRAINING_CSS
from rlx.report.training import training
from rlx.runs.files import REPORT, explained, write_bytes, write_text

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STAGE_NOTE = """Accuracy in percent on held-out problems, with 95 % bootstrap intervals over problems, and over seeds
where there are several. Costs are means over seeds; <em>in lineage</em> adds what every ancestor spent."""
MOST_COMMANDS = 60  # more are not said again beside each figure
OPEN_RUNS = 40  # an appendix of more runs than this begins folded
MAKER, FIGURES = "rlx report", "figures"
MOST_BYTES = 2**26  # of a file are looked through for who made it; pages say so at their beginning
_MARK = re.compile(rb'<meta name="generator" content="(rlx report[^"]*)">|/Creator \((rlx report[^)]*)\)')


def write_report(folder: Path | str, *, out: Path | str | None = None) -> Path:
    """Writes report.html for the plan in `folder`, and figures/*.pdf beside it; returns the page's path.

    out: where the page goes, `<folder>/report.html` by default. Raises RlxError for a folder without a plan, a plan
    without runs, or a place that has a file of another's; runs that are missing or unfinished are shown as such.
    """
    plan = read_plan(folder)
    return _write(plan, [folder], Path(out) if out is not None else Path(folder) / REPORT)


def write_runs_report(runs: Iterable[Path | str], out: Path | str) -> Path:
    """The same page for run directories that no plan holds.

    Raises RlxError for none, for a path that is not a run, or a place that has a file of another's.
    """
    runs, out = list(runs), Path(out)
    return _write(read_runs(runs, name=out.stem), runs, out)


def _write(plan: Plan, sources: Sequence[Path | str], out: Path) -> Path:
    if out.is_dir():
        raise RlxError(f"{out} is a folder; a page is a file, such as stage.out={out / REPORT}")
    figures = list(drawings(plan))
    folder = out.with_name(FIGURES if out.name == REPORT else f"{out.stem}-{FIGURES}")
    places = {drawing.slug: folder / f"{drawing.slug}.pdf" for drawing in figures}
    mark = _mark(sources, out.parent)
    with explained(out):
        _check_free(out, folder, list(places.values()), mark)
        (folder if figures else out.parent).mkdir(parents=True, exist_ok=True)
    for drawing in figures:
        theme.settle(drawing.figure, drawing.slug)
        write_bytes(places[drawing.slug], theme.pdf(drawing.figure, drawing.slug, mark))
    write_text(out, page(plan, figures, mark=mark, folder=folder.name))
    return out


def _mark(sources: Sequence[Path | str], near: Path) -> str:
    """What a page and its figures say of who made them, and of which plan or runs."""
    places = sorted({os.path.relpath(os.path.realpath(source), os.path.realpath(near)) for source in sources})
    return f"{MAKER} {hashlib.sha256(repr(places).encode()).hexdigest()[:10]}"


def _mark_of(path: Path) -> str:
    """What a file says of who made it; empty where it is none of ours."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        found = _MARK.search(file.read(MOST_BYTES))
    return (found[1] or found[2]).decode(errors="replace") if found else ""


def _check_free(out: Path, folder: Path, pdfs: Sequence[Path], mark: str) -> None:
    """Raises RlxError where the page or its figures would go over, or among, files that are not the same report's."""
    taken = [path for path in (out, *pdfs) if os.path.lexists(path) and _mark_of(path) != mark]
    if pdfs and not taken and os.path.lexists(folder):
        inside = [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else [folder]
        ours = any(path.suffix == ".pdf" and _mark_of(path) == mark for path in inside)
        taken = [folder] if inside and not ours else []
    if taken:
        whose = "belongs to a report of other runs" if _mark_of(taken[0]) else "was not written by rlx"
        raise RlxError(
            f"{taken[0]} is there already and {whose}; it is kept: name another page with stage.out=<name>.html, "
            "or move it away"
        )
    nearest = next(path for path in out.parents if path.exists())
    if not nearest.is_dir():
        raise RlxError(f"{nearest} is a file, not a folder; name another page with stage.out=<folder>/<name>.html")


def page(plan: Plan, figures: list[Drawing], *, mark: str = MAKER, folder: str = FIGURES) -> str:
    """The whole page; `mark` says who made it, `folder` where its figures are saved."""
    models = read_models(plan)
    evaluated = [drawing for drawing in figures if drawing.stage is None]
    trained = [drawing for drawing in figures if drawing.stage not in (None, "merge")]
    curves = training(plan, trained, partial(_picture, folder=folder), _commands)
    ways = [drawing for drawing in figures if drawing.stage == "merge"]
    merged = merging(plan, ways, partial(_picture, folder=folder), _commands)
    sections = [
        _claims(plan),
        _stages(plan, models),
        _figures(evaluated, folder),
        _section("merges", "Merges", merged) if merged else "",
        _section("training", "Training", curves) if curves else "",
        _runs(plan),
    ]
    title = escape(plan.name)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{mark}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}</title>
<style>{CSS}{TRAINING_CSS}{FOLLOWED_CSS}</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">rlx report</p>
<h1>{title}</h1>
<p class="lede">{escape(_lede(plan))}</p>
</header>
{"".join(sections)}</main>
</body>
</html>
"""


def _lede(plan: Plan) -> str:
    """Claims, runs and cost in two or three sentences."""
    verdicts = [str(claim.get("verdict") or "undecided") for claim in plan.claims]
    claims = f"{_plural(len(verdicts), 'claim')}: {_tally(verdicts)}. " if verdicts else ""
    states = _tally([entry.run.state for entry in plan.entries])
    spent = sum(entry.run.flops or 0.0 for entry in plan.entries)
    wall = sum(entry.run.wall or 0.0 for entry in plan.entries)
    return f"{claims}{_plural(len(plan.entries), 'run')}: {states}. {units.flops(spent)} in {units.duration(wall)}."


def _tally(words: list[str]) -> str:
    """Words with their counts, in the order of their first mention."""
    if len(words) > 1 and len(set(words)) == 1:
        return f"all {words[0]}"
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}">\n<h2>{title}</h2>\n{body}\n</section>\n'


def _claims(plan: Plan) -> str:
    if not plan.claims:
        return ""
    return _section("claims", "Claims", f'<div class="scroll claims">{claims_table(plan.claims).html()}</div>')


def _stages(plan: Plan, models: list[Model]) -> str:
    entries = [entry for model in models for entry in (*model.made, *model.evals)] or plan.entries
    if not models and len(plan.groups) > OPEN_RUNS:
        return ""  # what training says of the arms is enough
    table = f'<div class="scroll">{stage_table(plan).html()}</div>'
    if len(models) > OPEN_RUNS:
        table = f"<details><summary>{len(models)} models</summary>{table}</details>"
    note = f'<p class="caption">{STAGE_NOTE}{_decoding(models)}</p>'
    return _section("stages", "Stages", f"{table}\n{note}{_commands(entries)}")


def _decoding(models: list[Model]) -> str:
    """How the samples were drawn, where all evaluations agree."""
    found = {
        (as_number(each.get("n_problems")), as_number(each.get("n_samples")), str(as_dict(each.get("decode"))))
        for model in models
        for each in model.finished
    }
    if len(found) != 1:
        return ""
    decode = as_dict(next(each for model in models for each in model.finished).get("decode"))
    problems, samples, _ = found.pop()
    settings = f" ({', '.join(f'{key} {value}' for key, value in decode.items())})" if decode else ""
    return escape(f" {units.count(problems)} problems, {units.count(samples)} samples each{settings}.")


def _figures(figures: list[Drawing], folder: str) -> str:
    if not figures:
        return ""
    return _section("figures", "Figures", "\n".join(_figure(drawing, folder) for drawing in figures))


def _figure(drawing: Drawing, folder: str) -> str:
    return f"""<figure>
<h3>{escape(drawing.title)}</h3>
{_picture(drawing, folder)}{_numbers(drawing.tables)}{_commands(drawing.entries)}</figure>"""


def _picture(drawing: Drawing, folder: str) -> str:
    """A drawing with its caption and a link to its PDF."""
    return f"""{theme.svg(drawing.figure, drawing.slug, escape(drawing.title))}
<figcaption class="caption">{escape(drawing.caption)}
<a href="{quote(f"{folder}/{drawing.slug}.pdf")}">PDF</a></figcaption>
"""


def _numbers(tables: Sequence[Table]) -> str:
    """The numbers that a figure shows, folded."""
    if not tables:
        return ""
    body = "".join(f'<div class="scroll">{table.html()}</div>' for table in tables)
    return f"<details><summary>The numbers, in percent</summary>{body}</details>\n"


def _commands(entries: list[Entry]) -> str:
    """The commands behind a number, folded; one line a run. Of many runs, where they are."""
    if len(entries) > MOST_COMMANDS:
        return f'\n<p class="caption">The commands of these {len(entries)} runs are in the last table.</p>\n'
    lines = [f"{escape(entry.command)}" for entry in entries if entry.command]
    lines = list(dict.fromkeys(lines))
    if not lines:
        return ""
    code = "\n".join(f"<code>{line}</code>" for line in lines)
    return f'\n<details class="commands"><summary>{_plural(len(lines), "command")}</summary>\n{code}\n</details>\n'


def _runs(plan: Plan) -> str:
    table = f'<div class="scroll runs">{runs_table(plan).html()}</div>'
    trouble = any(entry.run.state != FINISHED for entry in plan.entries)
    is_open = " open" if trouble or len(plan.entries) <= OPEN_RUNS else ""
    summary = f"<summary>{_plural(len(plan.entries), 'run')}</summary>"
    return _section("runs", "Runs", f"<details{is_open}>{summary}{table}</details>{_environments(plan)}")


def _environments(plan: Plan) -> str:
    """Which software and hardware made the runs, each said once."""
    found: dict[str, int] = {}
    for entry in plan.entries:
        parts = [*as_dict(entry.run.info.get("versions")).items(), *as_dict(entry.run.info.get("hardware")).items()]
        text = ", ".join(f"{key} {value}" for key, value in parts)
        if text:
            found[text] = found.get(text, 0) + 1
    lines = [f'<p class="caption">{_plural(count, "run")} with {escape(text)}</p>' for text, count in found.items()]
    return "".join(lines)
