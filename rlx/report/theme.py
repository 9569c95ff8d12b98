"""How figures look: one palette safe for colour-blind readers, one look a model, text that stays text.

Figures are drawn with matplotlib's object interface: no pyplot, no global state, no display. In the page their colours
become CSS variables, so they follow the reader's light or dark theme; in the PDF they are the light ones. Text is set
with DejaVu's widths and shown in the page's font, which is narrower, so nothing overlaps.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), yellow left out: it vanishes on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b5ea7", "#8a8f98")
DARK_PALETTE = ("#4aa8e0", "#f0884a", "#3cc79d", "#de9cc2", "#f0b93f", "#7cc7f2", "#a58bd0", "#a2a8b1")
INK, MUTED, GRID = "#1d2329", "#626c77", "#e4e7eb"
PAGE = "#fdfdfc"  # behind a figure, in open marks
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
WIDTH = 8.6  # inches; the page shows figures at its full width

RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelsize": 8,
    "xtick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.color": MUTED,
    "ytick.labelsize": 8,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Look:
    """How one model is drawn, in every figure."""

    color: str
    marker: str
    dash: Any


def looks(names: list[str]) -> dict[str, Look]:
    """A look a name: the colours first, then the colours again with other dashes."""
    return {
        name: Look(PALETTE[i % 8], MARKERS[(i + i // 8) % 8], DASHES[(i // 8) % len(DASHES)])
        for i, name in enumerate(names)
    }


def clean(text: str, longest: int = 34) -> str:
    """A label that matplotlib draws as it is: one line, no control characters, not hidden by a leading underscore."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return f" {text}" if text.startswith("_") else text or " "


@contextmanager
def applied(slug: str) -> Iterator[None]:
    """matplotlib with this look; `slug` makes the ids in a figure its own, and the same in every run."""
    import matplotlib

    settings: Any = {**matplotlib.rcParamsDefault, **RC, "svg.hashsalt": slug}  # not the user's matplotlibrc
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> "tuple[Figure, list[Any]]":
    """A figure of full width and its axes, row by row. Call within `applied`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.04, hspace=0.06)  # type: ignore[union-attr]
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def settle(figure: "Figure", slug: str) -> None:
    """Lays the figure out once, for every format it is saved in."""
    with applied(slug):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def svg(figure: "Figure", slug: str, title: str) -> str:
    """An <svg> to put in a page: no header, no metadata, ids of its own, colours as CSS variables."""
    buffer = io.StringIO()
    with applied(slug):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)  # the page's own has it
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{slug}-", text)
    text = re.sub(r"(font: [^;\"]*?\dpx) [^;\"]*", r"\1 var(--font)", text)
    plain = {"ink": INK, "muted": MUTED, "grid": GRID, "page": PAGE}
    for name, color in (plain | {f"c{i}": color for i, color in enumerate(PALETTE)}).items():
        text = text.replace(color, f"var(--{name})")
    return text


def pdf(figure: "Figure", slug: str, creator: str) -> bytes:
    """The figure as a PDF without dates."""
    buffer = io.BytesIO()
    with applied(slug):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": creator})
    return buffer.getvalue()
