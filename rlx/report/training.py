"""The page's section of training: the curves of each stage against the axis that the reader chooses, and last values.

The chooser is three radio buttons and a style sheet, as the page allows no scripts: every stage has a figure for each
axis, and the chosen one is shown, on paper too.
"""

from collections.abc import Callable
from html import escape

from rlx.report.arms import Choice, chosen, ranked, trained
from rlx.report.figures import Drawing
from rlx.report.followed import followed
from rlx.report.labels import stage_order
from rlx.report.metrics import AXES, in_table, panels
from rlx.report.read import Plan
from rlx.report.tables import arms_table

MOST_OPEN = 12  # arms; a longer table begins folded
UNTRAINED = {"eval", "merge", "report", "study"}
LONG_NAMES = {"": "Training", "rl": "Reinforcement learning", "sft": "Fine-tuning"}

CHOOSER = "".join(
    f'<input type="radio" name="axis" id="axis-{axis}"{" checked" if number == 0 else ""}>\n'
    for number, axis in enumerate(AXES)
)
LABELS = "".join(f'<label for="axis-{axis}">{words}</label>' for axis, words in AXES.items())
CSS = (
    """
#training > input { position: absolute; opacity: 0; pointer-events: none; }
.chooser { position: sticky; top: 0; z-index: 1; display: flex; align-items: baseline; gap: .4rem; margin: 0 0 1.6rem;
  padding: .6rem 0; background: var(--page); font-size: .88rem; color: var(--muted); }
.chooser label { padding: .15rem .8rem; border-radius: 1rem; background: var(--panel); cursor: pointer; }
.stage { margin: 0 0 3.2rem; }
.stage > h3 { font-size: 1.1rem; }
.stage > figure { margin: 1.8rem 0 0; }
.stage > .view { display: none; margin: 0; }
@media print { .chooser { display: none; } }
"""
    + ",\n".join(f"#axis-{axis}:checked ~ .stage > .view.{axis}" for axis in AXES)
    + " { display: block; }\n"
    + ",\n".join(f"#axis-{axis}:checked ~ .chooser label[for=axis-{axis}]" for axis in AXES)
    + " { background: var(--ink); color: var(--page); }\n"
    + ",\n".join(f"#axis-{axis}:focus-visible ~ .chooser label[for=axis-{axis}]" for axis in AXES)
    + " { outline: 2px solid var(--c0); outline-offset: 2px; }\n"
)


def training(plan: Plan, figures: list[Drawing], figure: Callable[[Drawing], str], commands: Callable[..., str]) -> str:
    """The inside of the section; empty where nothing was trained.

    figure makes the picture of a drawing with its caption, commands the folded list of what made some entries.
    """
    stages = sorted({entry.stage for entry in plan.entries} - UNTRAINED, key=stage_order)
    parts = [
        _stage(plan, stage, [each for each in figures if each.stage == stage], figure, commands) for stage in stages
    ]
    if not any(parts):
        return ""
    chooser = f'{CHOOSER}<p class="chooser">Against {LABELS}</p>\n' if any(each.axis for each in figures) else ""
    return chooser + "".join(parts)


def _stage(
    plan: Plan, stage: str, figures: list[Drawing], figure: Callable[[Drawing], str], commands: Callable[..., str]
) -> str:
    arms = trained(plan, stage)
    entries = [entry for found in arms.values() for entry in found]
    logged = list(dict.fromkeys(key for entry in entries for key in entry.run.history.columns))
    metrics = panels(stage, logged)
    if not metrics:
        return ""
    curves = [each for each in figures if each.axis]
    views = "".join(f'<figure class="view {each.axis}">\n{figure(each)}</figure>\n' for each in curves)
    others = [each for each in figures if not each.axis]
    fixed = "".join(f"<figure>\n<h3>{_heading(each)}</h3>\n{figure(each)}</figure>\n" for each in others)
    drawn = {each.axis for each in curves}
    missing = "".join(
        f'<p class="caption view {axis}">Nothing was logged against {words}.</p>\n'
        for axis, words in AXES.items()
        if curves and axis not in drawn
    )
    title = LONG_NAMES.get(stage, stage.capitalize())
    choice = chosen(arms, stage, logged)
    values = _last_values(choice, arms, in_table(metrics))
    body = f"{views}{missing}{fixed}{followed(choice.shown)}{values}{commands(entries)}"
    return f'<div class="stage">\n<h3>{escape(title)}</h3>\n{body}</div>\n'


def _heading(drawing: Drawing) -> str:
    """What a figure that follows the curves is of: its title without the stage."""
    text = drawing.title.rpartition(": ")[2]
    return escape(text[:1].upper() + text[1:])


def _last_values(choice: Choice, arms: dict, metrics: list[str]) -> str:
    """The table of all arms: in the order of the plan, or best first where figures cannot name all."""
    rows = {name: arms[name] for name in ranked(arms, choice.metric)} if choice.others else arms
    order = f", by their last {choice.metric}" if choice.others and choice.metric else ""
    summary = f"<summary>Last values of {len(arms)} {'arm' if len(arms) == 1 else 'arms'}{escape(order)}</summary>"
    table = f'<div class="scroll">{arms_table(rows, metrics).html()}</div>'
    return f"<details{' open' if len(arms) <= MOST_OPEN else ''}>{summary}{table}</details>\n"
