"""Curves of training: what the arms of a stage logged, a panel a metric, against steps, tokens or FLOPs.

A line is the mean over seeds and its band reaches from the lowest seed to the highest; one seed is a line. Seeds are
read off on the grid of the seed with the most rows, each within its own range. Long curves are means of equal bins, and
the more arms and panels there are, the fewer points each has. Arms without a look of their own are thin grey lines.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlx.report import theme, units
from rlx.report.labels import arm_label
from rlx.report.metrics import COLUMNS, FROM_ZERO
from rlx.report.read import Entry, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Arms = dict[str, list[Entry]]
MOST_POINTS, FEWEST_POINTS = 240, 24
ALL_POINTS = 12_000  # of all lines of a figure: about half a megabyte with the bands
GREY_POINTS = 24
LONGEST = 60  # letters of a label in a legend
XLABELS = {"step": "optimizer step", "tokens": "tokens of the run", "flops": "FLOPs, ancestors included"}


@dataclass(frozen=True)
class Band:
    """A curve over seeds: the mean, the lowest and the highest at each x."""

    x: Floats
    mean: Floats
    low: Floats
    high: Floats


def training_figure(
    arms: Arms,
    others: Arms,
    panels: dict[str, str],
    axis: str,
    looks: dict[str, theme.Look],
    most: int = MOST_POINTS,
) -> "Figure | None":
    """Small multiples of what a stage logged; None where nothing was logged against the axis.

    arms have looks and are named in the legend, others are grey; panels are metrics with their titles, axis one of
    `rlx.report.metrics.AXES`, most the points of a line.
    """
    points = max(FEWEST_POINTS, min(most, ALL_POINTS // max(1, len(arms) * len(panels))))
    drawn = {key: _bands(arms, key, COLUMNS[axis], points) for key in panels}
    grey = {key: _bands(others, key, COLUMNS[axis], GREY_POINTS) for key in panels}
    shown = [key for key in panels if drawn[key] or grey[key]]
    if not any(len(curve.x) > 1 for key in shown for curve in (*drawn[key].values(), *grey[key].values())):
        return None  # a merge has one row: no curve
    names = {name: arm_label(entries[0]) for name, entries in arms.items() if any(name in drawn[key] for key in shown)}
    columns = 2 if len(shown) in (2, 4) else 3  # no row with one panel alone, where that can be
    rows = -(-len(shown) // columns)
    figure, axes = theme.new_figure(0.4 + 2.0 * rows + legend_height(names, len(others)), rows, columns, sharex=True)
    for panel, key in zip(axes, shown, strict=False):
        grey_lines(panel, list(grey[key].values()))
        for name, curve in drawn[key].items():
            draw(panel, curve, looks[name])
        frame(panel, panels[key], axis, from_zero=key in FROM_ZERO)
    for spare in axes[len(shown) :]:
        spare.set_axis_off()
    for panel in axes[max(0, len(shown) - columns) : len(shown)]:
        panel.set_xlabel(_xlabel(panel, axis))
    legend(figure, names, looks, lines=True, others=len(others))
    return figure


def band(entries: list[Entry], key: str, x: str, most: int = MOST_POINTS) -> Band | None:
    """A metric over the seeds of a run, of at most so many points; None when no seed logged it."""
    curves = [curve for curve in (_curve(entry.run, key, x) for entry in entries) if curve is not None]
    if not curves:
        return None
    grid = max(curves, key=lambda curve: len(curve[0]))[0]
    values = np.stack([np.interp(grid, xs, ys, left=np.nan, right=np.nan) for xs, ys in curves])  # [S, points]
    seen = ~np.isnan(values).all(axis=0)
    grid, values = _binned(grid[seen], values[:, seen], most)
    return Band(grid, np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0))


def flops_axis(axes: Any) -> None:
    """Ticks of an x axis that counts FLOPs in one unit, named on the axis."""
    scale, unit = units.flop_scale(axes.get_xlim()[1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / scale:g}")
    axes.set_xlabel(f"{unit}, ancestors included")


def legend(
    figure: "Figure", labels: dict[str, str], looks: dict[str, theme.Look], *, lines: bool, others: int = 0
) -> None:
    """One legend below the panels, left-aligned, in the order of the plan. A single line needs none."""
    from matplotlib.lines import Line2D

    if len(labels) + others < 2:
        return
    handles = [
        Line2D([], [], color=look.color, linestyle=look.dash if lines else "none", marker="" if lines else look.marker)
        for look in (looks[name] for name in labels)
    ]
    names = [theme.clean(label, LONGEST) for label in labels.values()]
    if others:
        handles.append(Line2D([], [], color=theme.MUTED, alpha=0.6, linewidth=0.9))
        names.append(f"{others} other{'s' if others > 1 else ''}")
    columns, length = legend_columns(names), 2.2 if lines else 1.0
    figure.legend(handles, names, loc="outside lower left", ncols=columns, handlelength=length, columnspacing=1.8)


def legend_height(labels: dict[str, str], others: int = 0) -> float:
    """Inches that a legend takes."""
    names = [theme.clean(label, LONGEST) for label in labels.values()] + ["others"] * (others > 0)
    return 0.16 * -(-len(names) // legend_columns(names)) if len(names) > 1 else 0.0


def legend_columns(names: list[str]) -> int:
    """Columns of a legend."""
    return min(5, len(names), max(1, 110 // (max(map(len, names)) + 6)))


def _bands(arms: Arms, key: str, x: str, most: int) -> dict[str, Band]:
    found = {name: band(entries, key, x, most) for name, entries in arms.items()}
    return {name: curve for name, curve in found.items() if curve is not None}


def frame(panel: Any, title: str, axis: str, *, from_zero: bool = False) -> None:
    """Title, limits and ticks of one panel."""
    panel.set_title(theme.clean(title, 40))
    if from_zero:
        panel.set_ylim(0, None)
    elif panel.get_ylim()[0] < 0 and min((line.get_ydata().min() for line in panel.lines), default=-1) >= 0:
        panel.set_ylim(0, None)  # a margin below zero says that there may be less than nothing
    panel.locator_params(axis="both", nbins=4)
    panel.tick_params(axis="x", labelbottom=True)
    if axis == "flops":
        scale, _ = units.flop_scale(panel.get_xlim()[1])
        panel.xaxis.set_major_formatter(lambda value, _: f"{value / scale:g}")
    else:
        panel.xaxis.set_major_formatter(lambda value, _: units.count(value))
    if panel.get_ylim()[1] >= 10_000:
        panel.yaxis.set_major_formatter(lambda value, _: units.count(value))


def _xlabel(panel: Any, axis: str) -> str:
    if axis != "flops":
        return XLABELS[axis]
    return f"{units.flop_scale(panel.get_xlim()[1])[1]}, ancestors included"


def grey_lines(panel: Any, curves: list[Band]) -> None:
    """Many arms as one thin grey artist."""
    from matplotlib.collections import LineCollection

    lines = [np.column_stack([curve.x, curve.mean]) for curve in curves if len(curve.x) > 1]
    if lines:
        alpha = min(0.4, max(0.12, 8 / len(lines)))
        panel.add_collection(LineCollection(lines, colors=theme.MUTED, linewidths=0.6, alpha=alpha, zorder=1))
        panel.autoscale_view()


def _curve(run: Run, key: str, x: str) -> tuple[Floats, Floats] | None:
    """(x, y) of a metric in order of x, FLOPs with what was inherited; None when it was never logged."""
    found = run.history.curve(key, x)
    if found is None:
        return None
    xs, ys = found
    return xs + (_inherited(run) if x == "flops/total" else 0.0), ys


def _inherited(run: Run) -> float:
    """FLOPs of the ancestors, unless the rows already count them: whichever total the last row is nearer to."""
    own, lineage, last = run.flops, run.lineage, run.last("flops/total")
    if own is None or lineage is None or last is None or abs(last - lineage) < abs(last - own):
        return 0.0
    return max(0.0, lineage - own)


def _binned(x: Floats, values: Floats, most: int) -> tuple[Floats, Floats]:
    """At most so many points: means of equally many neighbours."""
    if len(x) <= most:
        return x, values
    edges = np.linspace(0, len(x), most + 1).astype(int)[:-1]
    sizes = np.diff([*edges, len(x)])
    missing = np.isnan(values)
    sums = np.add.reduceat(np.where(missing, 0.0, values), edges, axis=1)
    counts = np.add.reduceat(~missing, edges, axis=1, dtype=np.int64)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return np.add.reduceat(x, edges) / sizes, means


def draw(axes: Any, curve: Band, look: theme.Look) -> None:
    """The line of a band, and the band where seeds differ."""
    dots = look.marker if len(curve.x) <= 12 else ""
    style = {"color": look.color, "linestyle": look.dash, "marker": dots, "markersize": 3.5}
    axes.plot(curve.x, curve.mean, linewidth=1.5, **style)
    if np.any(curve.high > curve.low):
        axes.fill_between(curve.x, curve.low, curve.high, color=look.color, alpha=0.16, linewidth=0)
