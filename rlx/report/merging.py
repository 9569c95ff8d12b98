"""The page's section of merges: the way between two parents, what was measured, how alike the parents are."""

from collections.abc import Callable
from html import escape
from math import nan
from statistics import fmean

from rlx.report import units
from rlx.report.alike import alike_table
from rlx.report.arms import ranked
from rlx.report.figures import CKA, DIFFERENCES, WAY, Drawing
from rlx.report.merges import ALONE, RESULT, Merges, Seen, accuracy_key, is_measured, loss_key, read_merges
from rlx.report.metrics import MERGE, NORMALISED, judged
from rlx.report.models import single_sample
from rlx.report.read import FINISHED, Plan
from rlx.report.table import Cell, Column, Table
from rlx.report.tables import estimate_cell, range_cell, unfinished
from rlx.report.training import MOST_OPEN
from rlx.statistics import Estimate

MOST_TASKS = 8  # columns of a table that is read
MOST_ROWS = 24  # a longer table begins folded
BARRIER = "merge/barrier"
NOTE = """The loss is that on held-out documents, a mean over seeds with its range. Tasks: pass@1 in percent, with 95 %
intervals over problems, and over seeds where there are several. Of best parent: pass@1 divided by that of the parent
which is best at the task, the mean over tasks. The barrier is the loss minus the mean of the parents'."""
ALIKE = """Measured before anything is merged; means over seeds with ranges. CKA: of the activations behind each layer
on held-out documents, the mean over layers. The barrier height is the largest rise of the loss above the straight line
between the two ends of the way, the convexity gap the largest above that of any part of it."""


def merging(plan: Plan, figures: list[Drawing], figure: Callable[[Drawing], str], commands: Callable[..., str]) -> str:
    """The inside of the section; empty where no merge was measured.

    figure makes the picture of a drawing with its caption, commands the folded list of what made some entries.
    """
    merges = read_merges(plan)
    if not is_measured(merges):
        return ""
    drawn = {each.slug: f"<figure>\n<h3>{escape(each.title)}</h3>\n{figure(each)}</figure>\n" for each in figures}
    metric = judged("merge", _logged(merges)) if len(merges.arms) > MOST_OPEN else ""
    alike = _table("How alike the parents are", alike_table(merges.pairs), ALIKE) if merges.pairs else ""
    parts = [
        drawn.get(WAY, ""),
        _table("Parents, merges and ceiling", merges_table(merges, metric), f"{NOTE}{_order(merges, metric)}"),
        alike,
        drawn.get(CKA, ""),
        drawn.get(DIFFERENCES, ""),
        commands(merges.entries),
    ]
    return "".join(parts)


def merges_table(merges: Merges, metric: str = "") -> Table:
    """A row a parent, an arm and a ceiling; arms in the order of the plan, or best first by a metric."""
    tasks = merges.tasks[:MOST_TASKS]
    accuracies = [Column(f"{task}, %", True) for task in tasks]
    columns = [Column("model"), Column(MERGE["val/loss"], True), *accuracies]
    columns += [Column(MERGE[key], True) for key in (NORMALISED, BARRIER)]
    order = ranked(merges.arms, metric) if metric else merges.arms
    rows = [_beside(seen, "parent", tasks) for seen in merges.parents.values()]
    rows += [_arm(merges, name, tasks) for name in order]
    rows += [_beside(seen, "ceiling", tasks) for seen in merges.ceilings.values()]
    return Table([*columns, Column("seeds", True)], rows)


def _table(title: str, table: Table, note: str) -> str:
    """A table with its heading and caption, folded where it is long."""
    body = f'<div class="scroll merges">{table.html()}</div>'
    if len(table.rows) > MOST_ROWS:
        body = f"<details><summary>{len(table.rows)} rows</summary>{body}</details>"
    return f'<figure>\n<h3>{title}</h3>\n{body}\n<p class="caption">{escape(note)}</p></figure>\n'


def _order(merges: Merges, metric: str) -> str:
    return f" Of {len(merges.arms)} arms the best come first, by {metric}." if metric else ""


def _logged(merges: Merges) -> list[str]:
    return list(dict.fromkeys(key for entry in merges.entries for key in entry.run.history.columns))


def _beside(seen: Seen, note: str, tasks: list[str]) -> list[Cell]:
    """A row of a parent or a ceiling."""
    nothing = [Cell(units.NOTHING), Cell(units.NOTHING)]
    return [Cell(seen.label, note=note), *_measured(seen, tasks), *nothing, Cell(str(len(seen.where)))]


def _arm(merges: Merges, name: str, tasks: list[str]) -> list[Cell]:
    """A row of merges of one config."""
    entries, parents = merges.arms[name], merges.members.get(name)
    label = merges.called[name]
    several = len(set(merges.members.values())) > 1
    pair = merges.between(parents) if several and parents else ""
    notes = [pair, f"({ALONE})" * (name in merges.alone), unfinished(entries)]
    seen = Seen(label, [(entry, RESULT) for entry in entries])
    finished = sum(entry.run.state == FINISHED for entry in entries)
    seeds = f"{finished}" if finished == len(entries) else f"{finished} of {len(entries)}"
    normalised = [100 * value for value in seen.values(lambda _: NORMALISED)]
    own = [range_cell(normalised), range_cell(seen.values(lambda _: BARRIER))]
    return [Cell(label, note=" ".join(filter(None, notes))), *_measured(seen, tasks), *own, Cell(seeds)]


def _measured(seen: Seen, tasks: list[str]) -> list[Cell]:
    accuracies = [estimate_cell(_accuracy(seen, task)) for task in tasks]
    return [range_cell(seen.values(loss_key())), *accuracies]


def _accuracy(seen: Seen, task: str) -> Estimate | None:
    """pass@1 over problems and seeds; what was logged where eval.json says nothing."""
    values = seen.values(accuracy_key(task))
    logged = Estimate(fmean(values), nan, nan) if values else None
    return single_sample(seen.evaluations(task)) or logged
