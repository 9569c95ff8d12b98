"""Figures of evaluated models: pass@k, accuracy against compute, accuracy by difficulty, shares of outcomes."""

import math
from typing import TYPE_CHECKING, Any

from rlx.report import theme, units
from rlx.report.curves import flops_axis, legend, legend_height
from rlx.report.models import Model
from rlx.report.read import Plan
from rlx.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FIELDS = 6
LONGEST_NAME = 44  # letters of a name beside a bar
MOST_LABELS = 8  # more models than this are named in a legend, not at their lines
ON_BAR = "#11161b"  # readable on every colour of both palettes, so it does not follow the theme
OUTCOME_COLORS = {
    "correct": theme.PALETTE[2],
    "wrong": theme.PALETTE[5],
    "illegal": theme.PALETTE[4],
    "malformed": theme.PALETTE[3],
    "truncated": theme.PALETTE[7],
}


def pass_figure(models: list[Model], looks: dict[str, theme.Look]) -> "Figure | None":
    """pass@k of each model, with bands of 95 % over problems and seeds. None where there is but one k."""
    shown = [model for model in models if len(model.ks) > 1]
    if not shown:
        return None
    many = {model.name: model.label for model in shown} if len(shown) > MOST_LABELS else {}
    figure, (axes,) = theme.new_figure(3.7 + legend_height(many))
    for model in shown:
        _pass_curve(axes, model, looks[model.name], band=0.15 if len(shown) <= MOST_LABELS else 0.05)
    ks = sorted({k for model in shown for k in model.ks})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, labels=[str(k) for k in ks])
    axes.minorticks_off()
    axes.set(xlabel="k, samples a problem", ylabel="problems solved, %", ylim=(0, None))
    if many:
        legend(figure, many, looks, lines=True)
    else:
        _name_ends(axes, shown, looks)
    return figure


def compute_figure(plan: Plan, models: list[Model], looks: dict[str, theme.Look]) -> "Figure | None":
    """Accuracy of each model against the FLOPs spent on it and its ancestors; grey lines lead from parent to child."""
    points = {model.name: point for model in models if (point := _point(model)) is not None}
    if len(points) < 2:
        return None
    labels = {model.name: model.label for model in models if model.name in points}
    figure, (axes,) = theme.new_figure(3.7 + (legend_height(labels) if len(labels) > MOST_LABELS else 0.0))
    for parent, child in _descents(plan, list(points)):
        (x0, y0), (x1, y1) = ((points[name][0], points[name][1].value) for name in (parent, child))
        axes.plot([x0, x1], [100 * y0, 100 * y1], color=theme.MUTED, linewidth=0.8, alpha=0.6, zorder=1)
    for name, (x, accuracy) in points.items():
        _dot(axes, x, accuracy, looks[name])
    xs = [x for x, _ in points.values()]
    if min(xs) > 0 and max(xs) / min(xs) > 30:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: units.flops(value))
        axes.set_xlabel("FLOPs, ancestors included")
    else:
        axes.set_xlim(0, None)
        flops_axis(axes)
    sampled = all(1 in model.ks for model in models if model.name in points)
    axes.set(ylabel="pass@1, %" if sampled else "accuracy, %", ylim=(0, None))
    if len(labels) > MOST_LABELS or not _name_points(axes, points, labels, looks):
        legend(figure, labels, looks, lines=False)
    return figure


def slice_figure(models: list[Model], looks: dict[str, theme.Look]) -> "Figure | None":
    """Accuracy at each value of each difficulty, a panel a difficulty, with 95 % intervals."""
    names = list(dict.fromkeys(name for model in models for name in model.difficulties))[:MOST_FIELDS]
    if not names:
        return None
    columns = min(3 if len(names) != 4 else 2, len(names))
    rows = -(-len(names) // columns)
    labels = {model.name: model.label for model in models}
    figure, axes = theme.new_figure(0.5 + 2.7 * rows + legend_height(labels), rows, columns, sharey=True)
    for panel, name in zip(axes, names, strict=False):
        _slices(panel, models, name, looks)
        panel.set(title=theme.clean(name), ylim=(0, None))
    for spare in axes[len(names) :]:
        spare.set_axis_off()
    for panel in axes[::columns]:
        panel.set_ylabel("pass@1, %")
    legend(figure, labels, looks, lines=False)
    return figure


def outcome_figure(models: list[Model]) -> "Figure | None":
    """What became of every completion: stacked shares, a bar a model."""
    shares = {model.name: model.outcomes() for model in models if model.outcomes()}
    labels = {model.name: theme.clean(model.label, LONGEST_NAME) for model in models}
    if not shares:
        return None
    kinds = list(dict.fromkeys([*OUTCOME_COLORS, *(kind for share in shares.values() for kind in share)]))
    kinds = [kind for kind in kinds if any(share.get(kind) for share in shares.values())]
    spare = (color for color in theme.PALETTE if color not in OUTCOME_COLORS.values())
    colors = {kind: OUTCOME_COLORS.get(kind) or next(spare, theme.MUTED) for kind in kinds}
    figure, (axes,) = theme.new_figure(0.9 + 0.36 * len(shares))
    for row, share in enumerate(shares.values()):
        _stack(axes, row, share, colors)
    axes.set_yticks(range(len(shares)), labels=[labels[name] for name in shares])
    axes.tick_params(axis="y", labelcolor=theme.INK, labelsize=8.5)
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set(xlim=(0, 100), xticks=[])
    _outcome_legend(figure, colors)
    return figure


def _outcome_legend(figure: "Figure", colors: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=color) for color in colors.values()]
    names = [theme.clean(kind) for kind in colors]
    figure.legend(handles, names, loc="outside lower left", ncols=6, handlelength=1.0, columnspacing=1.8)


def _pass_curve(axes: Any, model: Model, look: theme.Look, band: float) -> None:
    found = [(k, estimate) for k in model.ks if (estimate := model.pass_at(k)) is not None]
    ks, estimates = [k for k, _ in found], [estimate for _, estimate in found]
    style = {"color": look.color, "linestyle": look.dash, "marker": look.marker}
    axes.plot(ks, [100 * estimate.value for estimate in estimates], **style)
    ends = [100 * estimate.low for estimate in estimates], [100 * estimate.high for estimate in estimates]
    axes.fill_between(ks, *ends, color=look.color, alpha=band, linewidth=0)


def _name_ends(axes: Any, models: list[Model], looks: dict[str, theme.Look]) -> None:
    """Each model's name at the end of its line, moved up where names would touch."""
    ends = [(100 * estimate.value, model) for model in models if (estimate := model.pass_at(model.ks[-1])) is not None]
    height, lowest = 0.062 * axes.get_ylim()[1], -math.inf
    for y, model in sorted(ends, key=lambda end: end[0]):
        lowest = max(y, lowest + height)
        style = {"color": looks[model.name].color, "va": "center", "textcoords": "offset points"}
        axes.annotate(theme.clean(model.label), (model.ks[-1], lowest), (9, 0), **style)


def _name_points(axes: Any, points: dict[str, Any], labels: dict[str, str], looks: dict[str, theme.Look]) -> bool:
    """Each model's name beside its point; draws nothing and returns False where two would touch."""
    (left, right), top = axes.get_xlim(), axes.get_ylim()[1]
    straight = axes.get_xscale() == "linear"
    places = {}
    for name, (x, accuracy) in points.items():
        share = (x - left) / (right - left) if straight else math.log(x / left) / math.log(right / left)
        places[name] = (share, 100 * accuracy.value / top)
    spots = list(places.values())
    if any(abs(a[0] - b[0]) < 0.25 and abs(a[1] - b[1]) < 0.07 for i, a in enumerate(spots) for b in spots[:i]):
        return False
    for name, (x, accuracy) in points.items():
        style = {"color": looks[name].color, "va": "top", "textcoords": "offset points"}
        axes.annotate(theme.clean(labels[name]), (x, 100 * accuracy.value), (6, -4), **style)
    return True


def _point(model: Model) -> tuple[float, Estimate] | None:
    flops, accuracy = model.mean(lambda run: run.lineage), model.accuracy()
    return None if flops is None or accuracy is None else (flops, accuracy)


def _descents(plan: Plan, names: list[str]) -> list[tuple[str, str]]:
    """(parent, child) for the models that are drawn."""
    by_run = {entry.run.shown: entry.name for entry in plan.entries}
    pairs = (
        (by_run.get(parent.rstrip("/").partition("@")[0]), name)
        for name in names
        for entry in plan.groups.get(name, [])
        for parent in entry.parents
    )
    return list(dict.fromkeys((parent, child) for parent, child in pairs if parent in names and parent != child))


def _dot(axes: Any, x: float, accuracy: Estimate, look: theme.Look) -> None:
    value, low, high = (100 * end for end in accuracy)
    if not math.isnan(low + high):
        axes.plot([x, x], [low, high], color=look.color, linewidth=1.4, solid_capstyle="round", zorder=2)
    axes.plot([x], [value], color=look.color, marker=look.marker, linestyle="none", markersize=7, zorder=3)


def _slices(axes: Any, models: list[Model], name: str, looks: dict[str, theme.Look]) -> None:
    found = {model.name: model.slices(name) for model in models}
    values = list(dict.fromkeys(value for estimates in found.values() for value in estimates))
    width = 0.64 / max(1, len(models))
    for index, model in enumerate(models):
        shift = (index - (len(models) - 1) / 2) * width
        for value, estimate in found[model.name].items():
            _dot(axes, values.index(value) + shift, estimate, looks[model.name])
    for line in axes.lines:
        line.set_markersize(4.5)
    axes.set_xticks(range(len(values)), labels=[theme.clean(value, 12) for value in values])
    axes.set_xlim(-0.6, len(values) - 0.4)


def _stack(axes: Any, row: int, share: dict[str, float], colors: dict[str, str]) -> None:
    left = 0.0
    for kind, color in colors.items():
        width = 100 * share.get(kind, 0.0)
        axes.barh(row, width, left=left, height=0.66, color=color, edgecolor="none")
        if width >= 5:
            axes.text(left + width / 2, row, f"{width:.0f}", color=ON_BAR, ha="center", va="center")
        left += width
