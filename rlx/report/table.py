"""A table that prints in a terminal, in Markdown and in HTML. It knows nothing of runs."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 120  # columns of a terminal
NARROWEST = 10  # a column of words is not wrapped below this


@dataclass(frozen=True)
class Cell:
    """What a cell says, and what it says less loudly: a note, and a command to copy."""

    text: str
    note: str = ""
    code: str = ""
    badge: str = ""  # holds, fails, undecided, or the state of a run; shown as a coloured mark in HTML

    @property
    def plain(self) -> str:
        """Text and note on one line."""
        return " ".join(f"{self.text} {self.note}".split())

    def html(self) -> str:
        """The inside of a <td>."""
        text = escape(self.text)
        parts = [f'<span class="badge {_word(self.badge)}">{text}</span>' if self.badge else text]
        parts += [f'<span class="note">{escape(self.note)}</span>'] if self.note else []
        parts += [f"<code>{escape(self.code)}</code>"] if self.code else []
        return "".join(parts)


@dataclass(frozen=True)
class Column:
    """A heading; numbers are right-aligned."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns."""

    columns: Sequence[Column]
    rows: list[list[Cell]] = field(default_factory=list)

    def text(self) -> str:
        """Aligned lines for a terminal; columns of words are wrapped so that lines stay within 120 columns."""
        plain = [[column.title for column in self.columns]] + [[cell.plain for cell in row] for row in self.rows]
        widths = self._widths(plain)
        lines = [line for row in plain for line in self._wrapped(row, widths)]
        heading = len(self._wrapped(plain[0], widths))
        lines.insert(heading, "  ".join("-" * width for width in widths))
        return "\n".join(line.rstrip() for line in lines)

    def markdown(self) -> str:
        """A table as GitHub reads it."""
        heads = [_cell_markdown(column.title) for column in self.columns]
        rules = ["---:" if column.numeric else "---" for column in self.columns]
        rows = [[_cell_markdown(cell.plain) for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rules, *rows])

    def html(self) -> str:
        """A <table>, everything escaped."""
        marks = [' class="num"' if column.numeric else "" for column in self.columns]
        heads = "".join(
            f'<th scope="col"{mark}>{escape(column.title)}</th>'
            for mark, column in zip(marks, self.columns, strict=True)
        )
        rows = "\n".join(
            "<tr>" + "".join(f"<td{mark}>{cell.html()}</td>" for mark, cell in zip(marks, row, strict=True)) + "</tr>"
            for row in self.rows
        )
        return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"

    def _widths(self, plain: list[list[str]]) -> list[int]:
        widths = [max(len(row[index]) for row in plain) for index in range(len(self.columns))]
        words = [index for index, column in enumerate(self.columns) if not column.numeric]
        while sum(widths) + 2 * (len(widths) - 1) > WIDTH:
            widest = max(words, key=lambda index: widths[index], default=None)
            if widest is None or widths[widest] <= NARROWEST:
                break
            widths[widest] -= 1
        return widths

    def _wrapped(self, row: list[str], widths: list[int]) -> list[str]:
        cells = [textwrap.wrap(text, width) or [""] for text, width in zip(row, widths, strict=True)]
        height = max(map(len, cells))
        cells = [lines + [""] * (height - len(lines)) for lines in cells]
        return ["  ".join(map(self._aligned, line, widths, self.columns)) for line in zip(*cells, strict=True)]

    @staticmethod
    def _aligned(text: str, width: int, column: Column) -> str:
        return text.rjust(width) if column.numeric else text.ljust(width)


def _word(name: str) -> str:
    """A badge as a class name: letters only, so that no data reaches an attribute."""
    return "".join(letter for letter in name if letter.isascii() and letter.isalpha()).lower()


def _cell_markdown(text: str) -> str:
    for mark in "\\|`*_<>[]":
        text = text.replace(mark, "\\" + mark)
    return text
