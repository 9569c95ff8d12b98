"""A document as people read it: its text, and under it what counts in the loss."""

from collections.abc import Iterator
from itertools import groupby

from rlx.data.documents import Document
from rlx.data.tokenizers.base import Tokenizer

WIDTH = 100
"""Characters a line."""
LINES = 20
"""Lines of text shown of a document."""
COUNTS = "^"
"""Stands under a character whose token counts in the loss."""


def show(document: Document, tokenizer: Tokenizer) -> list[str]:
    """Lines of text, each followed by its marks where one of its characters counts; special tokens by name, line ends
    as `↵`."""
    marked: list[tuple[str, str]] = []
    for counts, run in groupby(zip(document.counted(), document.ids, strict=True), key=lambda pair: pair[0]):
        marked += [(character, COUNTS if counts else " ") for character in _text([id for _, id in run], tokenizer)]
    lines = list(_lines(marked))
    found = []
    for line in lines[:LINES]:
        found.append("".join(character for character, _ in line))
        marks = "".join(mark for _, mark in line).rstrip()
        found += [marks] if marks else []
    return [*found, f"... {len(lines) - LINES} lines more"] if len(lines) > LINES else found


def _text(ids: list[int], tokenizer: Tokenizer) -> str:
    """The text of tokens, special ones by name."""
    runs = groupby(ids, key=tokenizer.special_ids.__contains__)
    return "".join(
        "".join(tokenizer.inner.id_to_token(number) or "?" for number in run) if special else tokenizer.decode([*run])
        for special, run in runs
    )


def _lines(marked: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Characters that can be printed, in lines."""
    line: list[tuple[str, str]] = []
    for character, mark in marked:
        told = "↵" if character == "\n" else character if character.isprintable() else repr(character)[1:-1]
        line += [(each, mark) for each in told]
        if character == "\n" or len(line) >= WIDTH:
            yield line
            line = []
    if line:
        yield line
