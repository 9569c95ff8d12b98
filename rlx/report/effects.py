"""What differs between many arms, and what came of it: a panel a key, a dot an arm at its last value.

For sweeps, where a legend of every arm is not read: the dots of a column share one value of one key, and the line
through the columns is the mean of their arms. An arm is a mean over its seeds.
"""

from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlx.report import theme, units
from rlx.report.labels import natural
from rlx.report.models import mean_over
from rlx.report.read import Entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_ARMS = 6
MOST_KEYS = 6
MOST_TICKS = 8


def effects_figure(arms: dict[str, list[Entry]], differing: dict[str, dict[str, str]], metric: str) -> "Figure | None":
    """The last value of a metric against each key; None where there are few arms, or nothing tells them apart."""
    last = {
        name: mean_over([entry.run for entry in entries], lambda run: run.last(metric))
        for name, entries in arms.items()
    }
    found = {name: value for name, value in last.items() if value is not None}
    points = {key: {name: text for name, text in texts.items() if name in found} for key, texts in differing.items()}
    keys = [key for key, texts in points.items() if len(set(texts.values())) > 1][:MOST_KEYS]
    if len(found) < FEWEST_ARMS or not keys:
        return None
    columns = min(3, len(keys)) if len(keys) != 4 else 2
    rows = -(-len(keys) // columns)
    figure, axes = theme.new_figure(0.4 + 2.2 * rows, rows, columns, sharey=True)
    for panel, key in zip(axes, keys, strict=False):
        _panel(panel, key, points[key], found)
    for spare in axes[len(keys) :]:
        spare.set_axis_off()
    for panel in axes[::columns]:
        panel.set_ylabel(theme.clean(metric))
    return figure


def _panel(panel: Any, key: str, texts: dict[str, str], found: dict[str, float]) -> None:
    values = sorted(set(texts.values()), key=natural)
    place = {text: number for number, text in enumerate(values)}
    panel.plot(
        [place[text] for text in texts.values()], [found[name] for name in texts],
        linestyle="none", marker="o", markersize=3.5, color=theme.MUTED, alpha=0.45, markeredgewidth=0,
    )  # fmt: skip
    means = [fmean(found[name] for name, text in texts.items() if text == value) for value in values]
    panel.plot(range(len(values)), means, color=theme.PALETTE[0], marker="o", markersize=4)
    step = -(-len(values) // MOST_TICKS)
    shown = values[::step]
    panel.set_xticks([place[text] for text in shown], labels=[theme.clean(text, 12) for text in shown])
    panel.set_xlim(-0.5, len(values) - 0.5)
    panel.set_title(theme.clean(key, 40))
    if panel.get_ylim()[1] >= 10_000:
        panel.yaxis.set_major_formatter(lambda value, _: units.count(value))
    if max(map(len, shown)) * len(shown) > 40:
        panel.tick_params(axis="x", rotation=30)
