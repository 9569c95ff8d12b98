"""Errors that are the user's to mend: one line saying what was expected, what came, what to do.

`rlx.cli` prints the line and exits with `exit_code`; no traceback is shown for these.
"""

import difflib
from collections.abc import Iterable


class RlxError(Exception):
    """A mistake in what was asked for, told in one line."""

    exit_code = 2


class ConfigError(RlxError):
    """A value, key or combination of options that cannot be run."""


class CheckpointError(RlxError):
    """A run, checkpoint or model folder that was named but cannot be used."""


class BusyError(RlxError):
    """The run directory is in use by another process."""


class RunError(RlxError):
    """A run that started and could not go on (NaN, data that ran dry, no disk)."""

    exit_code = 1


class DivergedError(RunError):
    """A loss, a gradient or probabilities that are not finite.

    Args:
        part: where in the step that was found: loss, gradient, probabilities.
        figures: the numbers at hand, by name.
    """

    def __init__(self, message: str, *, part: str = "", **figures: float) -> None:
        super().__init__(message)
        self.part, self.figures = part, figures


class UnknownTextError(RunError):
    """Text that a tokenizer has no token for.

    Args:
        piece: the character, or the word of a tokenizer that knows words only.
        text: what it stands in.
        place: where in the text it begins.

    Attributes:
        source: whose text it is, such as task=math; empty until somebody says it who knows.
    """

    def __init__(self, piece: str, text: str, place: int = 0) -> None:
        super().__init__(piece, text, place)
        self.piece, self.text, self.place, self.source = piece, text, place, ""

    def __str__(self) -> str:
        start = max(0, self.place - 20)
        whose = f", which {self.source} writes" if self.source else ""
        return (
            f"the tokenizer has no token for {self.piece!r} (in {self.text[start : start + 40]!r}){whose}; train with "
            "tokenizer.extend=true, which adds one, or begin with tokenizer=bpe, which writes any text"
        )


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, SIGUSR1, Ctrl-C) and has saved what it needs to go on."""

    exit_code = 75


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean width?`, or the names that there are."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [each for each in known if each.startswith(name)]
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(sorted(known))}" if known else ""
