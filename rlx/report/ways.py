"""Along the way between two parents: accuracy on each task and held-out loss against the weight of the second.

A method has a colour, two parents have a mark and dashes; where they share no ancestor the line is dotted and its marks
are open. Faint ends lead to the parents, which are what a weight of 0 or 1 stands for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.report import theme
from rlx.report.arms import BEST, MOST_NAMED
from rlx.report.curves import Band, grey_lines, legend_columns
from rlx.report.merges import ALONE, RESULT, Line, Members, Merges, accuracy_key, loss_key
from rlx.report.metrics import NORMALISED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TASKS, MOST_SOURCES, MOST_CEILINGS = 6, 5, 3
LONGEST = 96  # letters of a label in the legend
DOTTED = theme.DASHES[2]


@dataclass(frozen=True)
class Panel:
    """One metric of the models, and what it is multiplied by."""

    title: str
    key: Callable[[str], str]
    scale: float = 1.0


@dataclass(frozen=True)
class Lines:
    """Those that are named, and those that are grey."""

    named: list[Line]
    others: list[Line]


def chosen_lines(merges: Merges) -> Lines:
    """All that were measured where a legend can name them, else those with the best merges."""
    measured = [line for line in merges.lines if any(len(_band(line, panel).x) for panel in panels_of(merges))]
    if len(measured) <= MOST_NAMED:
        return Lines(measured, [])
    order = sorted(measured, key=_rank)
    return Lines([line for line in measured if line in order[:BEST]], order[BEST:])


def _rank(line: Line) -> tuple[float, float]:
    """Less is better: of its best merge, the accuracy beside the best parents', then the loss."""
    accuracies = [fmean(found) for weight in line.points if (found := line.values(weight, NORMALISED))]
    losses = [fmean(found) for weight in line.points if (found := line.values(weight, loss_key()(RESULT)))]
    return -max(accuracies, default=0.0), min(losses, default=inf)


def panels_of(merges: Merges) -> list[Panel]:
    """Accuracies, then losses."""
    accuracies = [Panel(f"{task}: pass@1, %", accuracy_key(task), 100.0) for task in merges.tasks[:MOST_TASKS]]
    sources = [Panel(f"held-out loss of {source}, nats", loss_key(source)) for source in merges.sources[:MOST_SOURCES]]
    return [*accuracies, Panel("held-out loss, nats a token", loss_key()), *sources]


def way_figure(merges: Merges, lines: Lines) -> "Figure | None":
    """A panel a metric; None where no merge with a weight was measured."""
    bands = {panel.title: [_band(line, panel) for line in lines.named] for panel in panels_of(merges)}
    panels = [panel for panel in panels_of(merges) if any(len(band.x) for band in bands[panel.title])]
    if not panels:
        return None
    drawn = _drawn(lines.named)
    named = _named(merges, lines, drawn)
    words = [label for label, _ in named]
    columns = len(panels) if len(panels) < 3 else 2 if len(panels) == 4 else 3
    rows, legend = -(-len(panels) // columns), legend_columns(words)
    figure, axes = theme.new_figure(0.5 + 2.3 * rows + 0.16 * -(-len(words) // legend), rows, columns, sharex=True)
    for panel, place in zip(panels, axes, strict=False):
        grey_lines(place, [_band(line, panel) for line in lines.others])
        _ceilings(place, merges, panel)
        for each, band in zip(drawn, bands[panel.title], strict=True):
            _draw(place, merges, each, panel, band)
        if panel.key(RESULT) == loss_key()(RESULT):
            _ways(place, drawn)
        _frame(place, panel)
    for spare in axes[len(panels) :]:
        spare.set_axis_off()
    for place in axes[max(0, len(panels) - columns) : len(panels)]:
        place.set_xlabel("share of the second parent")
    handles = [handle for _, handle in named]
    figure.legend(handles, words, loc="outside lower left", ncols=legend, handlelength=2.4, columnspacing=1.8)
    return figure


def _band(line: Line, panel: Panel) -> Band:
    """A metric of merges over their weights, in order."""
    found = {weight: line.values(weight, panel.key(RESULT)) for weight in sorted(line.points)}
    return _band_of({weight: values for weight, values in found.items() if values}, panel.scale)


def _band_of(found: dict[float, list[float]], scale: float) -> Band:
    table = [[weight, fmean(values), min(values), max(values)] for weight, values in found.items()]
    x, mean, low, high = np.array(table, dtype=np.float64).reshape(-1, 4).T
    return Band(x, scale * mean, scale * low, scale * high)


@dataclass(frozen=True)
class Drawn:
    """How a line is drawn, and which mark its parents have."""

    line: Line
    look: theme.Look
    mark: str

    def style(self, marker: str, color: str) -> dict[str, Any]:
        """Of marks: open ones for parents that share no ancestor."""
        inside = theme.PAGE if self.line.strangers else color
        return {"color": color, "marker": marker, "markersize": 4.2, "markerfacecolor": inside, "markeredgewidth": 1.1}


def _drawn(lines: list[Line]) -> list[Drawn]:
    """A colour a method, a mark and dashes for each two parents; of more methods than colours, a look a line."""
    methods, pairs = list(dict.fromkeys(line.label for line in lines)), pairs_of(lines)
    kin = pairs_of([line for line in lines if not line.strangers])
    unique = theme.looks([str(number) for number in range(len(lines))])
    drawn = []
    for number, line in enumerate(lines):
        look, mark = unique[str(number)], theme.MARKERS[pairs.index(line.parents) % len(theme.MARKERS)]
        if len(methods) <= len(theme.PALETTE):
            dash = theme.DASHES[0 if line.strangers else kin.index(line.parents) % 2]
            look = theme.Look(theme.PALETTE[methods.index(line.label)], mark, dash)
        drawn.append(Drawn(line, replace(look, dash=DOTTED) if line.strangers else look, mark))
    return drawn


def _draw(place: Any, merges: Merges, each: Drawn, panel: Panel, band: Band) -> None:
    """A line with its band over seeds, its parents, and what leads to them."""
    look = each.look
    if len(band.x):
        place.plot(band.x, band.mean, linestyle=look.dash, linewidth=1.5, **each.style(look.marker, look.color))
        if np.any(band.high > band.low):
            place.fill_between(band.x, band.low, band.high, color=look.color, alpha=0.16, linewidth=0)
    for at, member in enumerate(each.line.parents):
        values = merges.parents[member].values(panel.key)
        if not values:
            continue
        end = _band_of({float(at): values}, panel.scale)
        if len(band.x):
            near = -at  # the line's first point, or its last
            reach = [at, band.x[near]], [end.mean[0], band.mean[near]]
            place.plot(*reach, color=look.color, linestyle=look.dash, linewidth=0.9, alpha=0.55)
        place.plot([at, at], [end.low[0], end.high[0]], color=theme.INK, linewidth=0.9)
        place.plot(end.x, end.mean, linestyle="none", zorder=3, **each.style(each.mark, theme.INK) | {"markersize": 5})


def _ceilings(place: Any, merges: Merges, panel: Panel) -> None:
    for number, seen in enumerate(list(merges.ceilings.values())[:MOST_CEILINGS]):
        values = seen.values(panel.key)
        if values:
            place.axhline(panel.scale * fmean(values), zorder=1, **_ceiling_style(number))


def _ceiling_style(number: int) -> dict[str, Any]:
    return {"color": theme.INK, "linewidth": 1.0, "linestyle": (0, (6 - 2 * number, 3))}


def _ways(place: Any, drawn: list[Drawn]) -> None:
    """The losses that were measured before anything was merged, each way once."""
    for losses, each in {tuple(each.line.way()): each for each in drawn}.items():
        if len(losses) > 1:
            weights = np.linspace(0, 1, len(losses))
            place.plot(weights, losses, color=theme.MUTED, linewidth=0.8, linestyle=each.look.dash, zorder=1.5)


def _frame(place: Any, panel: Panel) -> None:
    place.set_title(theme.clean(panel.title, 40))
    if panel.scale != 1:
        place.set_ylim(0, max(1.0, place.get_ylim()[1]))
    place.locator_params(axis="y", nbins=5)
    place.set_xticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "¼", "½", "¾", "1"])
    place.tick_params(axis="x", labelbottom=True)


def _named(merges: Merges, lines: Lines, drawn: list[Drawn]) -> list[tuple[str, Any]]:
    """What the legend names, with how it is drawn."""
    from matplotlib.lines import Line2D

    several = len(pairs_of(lines.named)) > 1
    named: list[tuple[str, Any]] = []
    for each in drawn:
        style = each.style(each.look.marker, each.look.color)
        named.append((line_label(merges, each.line, several), Line2D([], [], linestyle=each.look.dash, **style)))
    if lines.others:
        count = len(lines.others)
        named.append((f"{count} other{'s' if count > 1 else ''}", Line2D([], [], color=theme.MUTED, linewidth=0.9)))
    named.append(("parents", Line2D([], [], linestyle="none", color=theme.INK, marker="o", markersize=5)))
    for number, seen in enumerate(list(merges.ceilings.values())[:MOST_CEILINGS]):
        if seen.where:
            named.append((theme.clean(f"ceiling: {seen.label}", LONGEST), Line2D([], [], **_ceiling_style(number))))
    if any(len(line.way()) > 1 for line in lines.named):
        named.append(("straight way, before merging", Line2D([], [], color=theme.MUTED, linewidth=0.8)))
    return named


def line_label(merges: Merges, line: Line, several: bool) -> str:
    """A method, and the parents where there are several two."""
    alone = f" ({ALONE})" if line.strangers else ""
    pair = f": {merges.between(line.parents)}" if several else ""
    return theme.clean(f"{line.label}{alone}{pair}", LONGEST)


def pairs_of(lines: list[Line]) -> list[Members]:
    """The parents of some lines, once each."""
    return list(dict.fromkeys(line.parents for line in lines))


def said_of(merges: Merges, lines: Lines) -> str:
    """What a caption says of the lines: which end is which parent, and what else is drawn."""
    pairs = pairs_of(lines.named)
    if len(pairs) == 1:
        first, second = (merges.parents[member].label for member in pairs[0])
        told = [f"0 is {first}, 1 is {second}."]
    else:
        told = ["In a name the parent at 0 stands before the arrow, that at 1 behind it; each two parents have a mark."]
    if any(line.strangers for line in lines.named):
        told.append("Dotted with open marks: the parents share no ancestor.")
    if any(seen.where for seen in merges.ceilings.values()):
        told.append("Dashed across: the ceiling.")
    if any(len(line.way()) > 1 for line in lines.named):
        told.append("Grey: the loss at evenly spaced places of the straight way, measured before anything was merged.")
    if lines.others:
        told.append(f"The {len(lines.named)} lines with the best merges have colours, {len(lines.others)} others none.")
    tasks, sources = len(merges.tasks) - MOST_TASKS, len(merges.sources) - MOST_SOURCES
    left_out = [f"{count} more {what}" for count, what in ((tasks, "tasks"), (sources, "sources")) if count > 0]
    if left_out:
        told.append(f"Left out: {' and '.join(left_out)}.")
    return " ".join(told)
