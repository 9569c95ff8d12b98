"""How the completions of an arm change while it is trained: shares of their verdicts, and of the formats they are in.

A panel is an arm and a line a kind, its mean over seeds with a band from the lowest seed to the highest: what grows at
whose cost is read off in one place. Kinds that hardly occur are left out.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.report import theme
from rlx.report.curves import Arms, Band, band, draw, frame
from rlx.report.labels import arm_label
from rlx.report.panels import OUTCOME_COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ARMS = 6
MOST_POINTS = 40  # samples are few in an iteration: more points are noise
RARE = 0.01  # a kind whose share is never above this is not drawn


def shares_figure(arms: Arms, prefix: str) -> "Figure | None":
    """A panel for each of the first arms: the metrics whose names begin with `prefix`, in percent, against steps.

    None where no run logged any over more than one step.
    """
    found = {name: _kinds(entries, prefix) for name, entries in list(arms.items())[:MOST_ARMS]}
    found = {name: curves for name, curves in found.items() if curves}
    if not found:
        return None
    looks = _looks(list(dict.fromkeys(kind for curves in found.values() for kind in curves)))
    columns = min(len(found), 2 if len(found) in (2, 4) else 3)
    rows = -(-len(found) // columns)
    figure, axes = theme.new_figure(0.6 + 2.1 * rows, rows, columns, sharex=True, sharey=True)
    for panel, (name, curves) in zip(axes, found.items(), strict=False):
        for kind, curve in curves.items():
            draw(panel, curve, looks[kind])
        frame(panel, arm_label(arms[name][0]) if len(found) > 1 else "", "step")
        panel.set_ylim(0, 100)
        panel.tick_params(axis="y", labelleft=True)
    for spare in axes[len(found) :]:
        spare.set_axis_off()
    for panel in axes[max(0, len(found) - columns) : len(found)]:
        panel.set_xlabel("optimizer step")
    for panel in axes[::columns]:
        panel.set_ylabel("completions, %")
    _legend(figure, looks)
    return figure


def _kinds(entries: list[Any], prefix: str) -> dict[str, Band]:
    """Curves in percent of the kinds that occur, by name."""
    keys = dict.fromkeys(key for entry in entries for key in entry.run.history.columns if key.startswith(prefix))
    curves = {key.removeprefix(prefix): band(entries, key, "step", MOST_POINTS) for key in keys}
    return {
        kind: Band(curve.x, 100 * curve.mean, 100 * curve.low, 100 * curve.high)
        for kind, curve in curves.items()
        if curve is not None and len(curve.x) > 1 and np.max(curve.high) > RARE
    }


def _looks(kinds: list[str]) -> dict[str, theme.Look]:
    """The colours that verdicts have everywhere; other kinds get what is left, all of them other dashes."""
    known = {kind: color for kind, color in OUTCOME_COLORS.items() if kind in kinds}
    spare = [color for color in theme.PALETTE if color not in known.values()]
    others = {kind: spare[n % len(spare)] for n, kind in enumerate(kind for kind in kinds if kind not in known)}
    colors = known | others
    return {
        kind: theme.Look(color, theme.MARKERS[n % len(theme.MARKERS)], theme.DASHES[n % len(theme.DASHES)])
        for n, (kind, color) in enumerate(colors.items())
    }


def _legend(figure: "Figure", looks: dict[str, theme.Look]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=look.color, linestyle=look.dash) for look in looks.values()]
    names = [theme.clean(kind.replace("_", " ")) for kind in looks]
    figure.legend(handles, names, loc="outside lower left", ncols=6, handlelength=2.2, columnspacing=1.8)
