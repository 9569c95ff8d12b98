"""Curves of training: losses against steps and FLOPs, and what a run of reinforcement learning logs.

A line is the mean over seeds and its band reaches from the lowest seed to the highest; one seed is a line. Seeds are
read off on the grid of the seed with the most rows, each within its own range. Long curves are means of equal bins.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlx.report import theme, units
from rlx.report.read import Entry, Plan, Run, as_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
MOST_POINTS = 240
RL_PANELS = {
    "reward": "reward",
    "reward_std": "reward, std in a group",
    "frac_reward_zero_std": "groups with equal rewards",
    "entropy": "entropy, nats",
    "kl": "KL to the reference, nats",
    "completions/mean_length": "completion length, tokens",
    "completions/clipped_ratio": "completions cut off",
    "val/pass@1": "held-out pass@1",
    "val/loss": "validation loss",
}
FROM_ZERO = {"reward_std", "frac_reward_zero_std", "entropy", "completions/clipped_ratio"}


@dataclass(frozen=True)
class Band:
    """A curve over seeds: the mean, the lowest and the highest at each x."""

    x: Floats
    mean: Floats
    low: Floats
    high: Floats


def loss_figure(plan: Plan, stage: str, looks: dict[str, theme.Look]) -> "Figure | None":
    """Losses of every run of a stage, against its own steps and against FLOPs with those of its ancestors."""
    groups = {name: entries for name, entries in plan.groups.items() if entries[0].stage == stage}
    groups = {name: entries for name, entries in groups.items() if _has(entries, "train/loss", "val/loss")}
    if not any(len(entry.run.rows) > 1 for entries in groups.values() for entry in entries):
        return None  # a merge has one row: no curve
    figure, (left, right) = theme.new_figure(3.3, 1, 2, sharey=True)
    for name, entries in groups.items():
        for axes, x in ((left, "step"), (right, "flops/total")):
            _draw(axes, band(entries, "train/loss", x), looks[name], faint=True)
            _draw(axes, band(entries, "val/loss", x), looks[name])
    left.set(xlabel="optimizer step", ylabel=theme.clean(f"{stage} loss, nats a token"))
    left.xaxis.set_major_formatter(lambda value, _: units.count(value))
    flops_axis(right)
    _kinds(right)
    legend(figure, {name: entries[0].label for name, entries in groups.items()}, looks, lines=True)
    return figure


def rl_figure(plan: Plan, looks: dict[str, theme.Look]) -> "Figure | None":
    """Small multiples of what rl runs log: reward, accuracy on the way, entropy, lengths."""
    groups = {name: entries for name, entries in plan.groups.items() if _has(entries, "reward")}
    panels = _panels([entry for entries in groups.values() for entry in entries])
    if not groups:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = theme.new_figure(0.5 + 2.0 * rows, rows, columns, sharex=True)
    for panel, (key, title) in zip(axes, panels.items(), strict=False):
        for name, entries in groups.items():
            _draw(panel, band(entries, key, "step"), looks[name])
        panel.set(title=theme.clean(title))
        panel.set_ylim(0 if key in FROM_ZERO else None)
        panel.xaxis.set_major_formatter(lambda value, _: units.count(value))
        panel.locator_params(axis="both", nbins=4)
        panel.tick_params(axis="x", labelbottom=True)
    for spare in axes[len(panels) :]:
        spare.set_axis_off()
    for panel in axes[(rows - 1) * columns : len(panels)]:
        panel.set_xlabel("optimizer step")
    legend(figure, {name: entries[0].label for name, entries in groups.items()}, looks, lines=True)
    return figure


def band(entries: list[Entry], key: str, x: str) -> Band | None:
    """A metric over the seeds of a run; None when no seed logged it."""
    curves = [curve for curve in (_curve(entry.run, key, x) for entry in entries) if curve is not None]
    if not curves:
        return None
    grid = max(curves, key=lambda curve: len(curve[0]))[0]
    values = np.stack([np.interp(grid, xs, ys, left=np.nan, right=np.nan) for xs, ys in curves])  # [S, points]
    seen = ~np.isnan(values).all(axis=0)
    grid, values = _binned(grid[seen], values[:, seen])
    return Band(grid, np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0))


def flops_axis(axes: Any) -> None:
    """Ticks of an x axis that counts FLOPs in one unit, named on the axis."""
    scale, unit = units.flop_scale(axes.get_xlim()[1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / scale:g}")
    axes.set_xlabel(f"{unit}, ancestors included")


def legend(figure: "Figure", labels: dict[str, str], looks: dict[str, theme.Look], *, lines: bool) -> None:
    """One legend below the panels, left-aligned, in the order of the plan. A single line needs none."""
    from matplotlib.lines import Line2D

    if len(labels) < 2:
        return
    handles = [
        Line2D([], [], color=look.color, linestyle=look.dash if lines else "none", marker="" if lines else look.marker)
        for look in (looks[name] for name in labels)
    ]
    names = [theme.clean(label) for label in labels.values()]
    columns = min(5, len(names), max(1, 110 // (max(map(len, names)) + 6)))
    figure.legend(
        handles, names, loc="outside lower left", ncols=columns, handlelength=2.2 if lines else 1.0, columnspacing=1.8
    )


def _kinds(axes: Any) -> None:
    """Says in the plot which line is which loss."""
    from matplotlib.lines import Line2D

    bold, faint = Line2D([], [], color=theme.INK), Line2D([], [], color=theme.INK, linewidth=0.9, alpha=0.55)
    axes.legend([bold, faint], ["validation", "training"], loc="upper right", handlelength=1.6)


def _has(entries: list[Entry], *keys: str) -> bool:
    return any(key in row for entry in entries for row in entry.run.rows for key in keys)


def _panels(entries: list[Entry]) -> dict[str, str]:
    """The panels that have data: accuracies first measured on the way, then the usual signs of health."""
    keys = dict.fromkeys(key for entry in entries for row in entry.run.rows for key in row)
    accuracies = {key: key.removeprefix("eval/") for key in keys if key.startswith("eval/") and _is_accuracy(key)}
    known = {key: title for key, title in RL_PANELS.items() if key in keys}
    return {"reward": known.pop("reward", "reward"), **dict(list(accuracies.items())[:3]), **known} if known else {}


def _is_accuracy(key: str) -> bool:
    return key.rpartition("/")[2].startswith(("greedy", "pass@", "maj@", "mean@"))


def _curve(run: Run, key: str, x: str) -> tuple[Floats, Floats] | None:
    """(x, y) of a metric in order of x, FLOPs with what was inherited; None when it was never logged."""
    pairs = [(as_number(row.get(x)), as_number(row.get(key))) for row in run.rows]
    points = sorted((a, b) for a, b in pairs if a is not None and b is not None)
    if not points:
        return None
    xs, ys = np.array(points, dtype=np.float64).T
    return xs + (_inherited(run) if x == "flops/total" else 0.0), ys


def _inherited(run: Run) -> float:
    """FLOPs of the ancestors, unless the rows already count them: whichever total the last row is nearer to."""
    own, lineage, last = run.flops, run.lineage, run.last("flops/total")
    if own is None or lineage is None or last is None or abs(last - lineage) < abs(last - own):
        return 0.0
    return max(0.0, lineage - own)


def _binned(x: Floats, values: Floats) -> tuple[Floats, Floats]:
    """At most 240 points: means of equally many neighbours."""
    if len(x) <= MOST_POINTS:
        return x, values
    edges = np.linspace(0, len(x), MOST_POINTS + 1).astype(int)[:-1]
    sizes = np.diff([*edges, len(x)])
    missing = np.isnan(values)
    sums = np.add.reduceat(np.where(missing, 0.0, values), edges, axis=1)
    counts = np.add.reduceat(~missing, edges, axis=1, dtype=np.int64)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return np.add.reduceat(x, edges) / sizes, means


def _draw(axes: Any, curve: Band | None, look: theme.Look, faint: bool = False) -> None:
    if curve is None:
        return
    dots = look.marker if not faint and len(curve.x) <= 12 else ""
    style = {"color": look.color, "linestyle": look.dash, "marker": dots, "markersize": 3.5}
    axes.plot(curve.x, curve.mean, linewidth=0.9 if faint else 1.7, alpha=0.55 if faint else 1.0, **style)
    if np.any(curve.high > curve.low):
        axes.fill_between(curve.x, curve.low, curve.high, color=look.color, alpha=0.10 if faint else 0.18, linewidth=0)
