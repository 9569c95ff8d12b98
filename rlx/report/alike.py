"""How alike the parents of merges are: a table of every two of them, and CKA layer by layer."""

from typing import TYPE_CHECKING

import numpy as np

from rlx.report import theme
from rlx.report.arms import MOST_NAMED
from rlx.report.curves import Band, draw, grey_lines, legend, legend_height
from rlx.report.merges import ALONE, Pair
from rlx.report.metrics import MERGE
from rlx.report.table import Cell, Column, Table
from rlx.report.tables import range_cell
from rlx.report.ways import DOTTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 0.9  # of the axis of CKA: what differs by less is alike
MEASURES = ("cosine", "cka", "barrier_height", "convexity_gap")


def alike_table(pairs: list[Pair]) -> Table:
    """A row for every two parents: means over seeds, with ranges."""
    columns = [Column("parents"), Column("cosine of"), *(Column(MERGE[f"merge/{name}"], True) for name in MEASURES)]
    rows = [
        [
            Cell(pair.label, note=ALONE if pair.strangers else ""),
            Cell(pair.of),
            *(_cell(pair, name) for name in MEASURES),
        ]
        for pair in pairs
    ]
    return Table(columns, rows)


def cka_figure(pairs: list[Pair]) -> "Figure | None":
    """CKA behind each layer, a line for the first pairs and grey ones for the others; None where all have one layer."""
    bands = [_band(pair) for pair in pairs]
    found = [(pair, band) for pair, band in zip(pairs, bands, strict=True) if band is not None]
    if not any(len(band.x) > 1 for _, band in found):
        return None
    named, others = found[:MOST_NAMED], found[MOST_NAMED:]
    looks = theme.looks([str(number) for number in range(len(named))])
    labels = {str(n): f"{pair.label} ({ALONE})" if pair.strangers else pair.label for n, (pair, _) in enumerate(named)}
    figure, (axes,) = theme.new_figure(2.8 + legend_height(labels, len(others)))
    grey_lines(axes, [band for _, band in others])
    for number, (pair, band) in enumerate(named):
        look = looks[str(number)]
        if pair.strangers:
            look = looks[str(number)] = theme.Look(look.color, look.marker, DOTTED)
        draw(axes, band, look)
    axes.set(xlabel="layer, from the first", ylabel="linear CKA")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(min(LEAST, axes.get_ylim()[0]), max(1.01, axes.get_ylim()[1]))
    legend(figure, labels, looks, lines=True, others=len(others))
    return figure


def _cell(pair: Pair, name: str) -> Cell:
    if name != "cka":
        return range_cell(pair.numbers(name))
    layers = [[value for value in row if value is not None] for row in pair.cka]
    return range_cell([sum(row) / len(row) for row in layers if row])


def _band(pair: Pair) -> Band | None:
    """CKA by layer over seeds; None where none is known."""
    rows = [row for row in pair.cka if len(row) == len(pair.cka[0])]
    values = np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64)
    if not values.size:
        return None
    seen = ~np.isnan(values).all(axis=0)
    values = values[:, seen]
    if not values.size:
        return None
    x = 1 + np.flatnonzero(seen).astype(np.float64)
    return Band(x, np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0))
