"""How problems and solutions of `task=graph` are written, read back and checked; the rules: `rlx/tasks/graph.py`."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

WORDS = ("graph", "task", "work", "decision", "to", "or")
MARKS = (":", "[", "(", ",", ")", "]", "/")
OPEN, BETWEEN, CLOSE = "work : [ ", "] decision : [ ", "]"
AROUND = len(f"{OPEN}{BETWEEN}{CLOSE}".split())
"""Words of a solution besides its labels."""


class Answer(NamedTuple):
    """What a completion says."""

    work: list[str]
    decision: list[str]


def prompt(edges: Iterable[tuple[str, str]], start: str, targets: tuple[str, str]) -> str:
    pairs = " ".join([f"{u} {v}" for u, v in edges])
    return f"graph : [ {pairs} ] task : {start} to {targets[0]} or {targets[1]} / "


def solution(work: Iterable[str], target: str) -> str:
    listed = "".join([f"{label} " for label in work])
    return f"{OPEN}{listed}{BETWEEN}{target} {CLOSE}"


def parse(text: str) -> Answer | None:
    """The two lists of a completion, whatever they list; None where it is not in the format."""
    if not (text.startswith(OPEN) and text.endswith(f" {CLOSE}")):
        return None
    work, between, decision = text[len(OPEN) : -len(CLOSE)].partition(BETWEEN)
    if not between:
        return None
    return Answer(_listed(work), _listed(decision))


def _listed(text: str) -> list[str]:
    """Labels with a blank after each; what is written otherwise has an empty one among them."""
    labels = text.split(" ")
    return labels[:-1] if not labels[-1] else [""]


def steps_on(work: Sequence[str], start: str, beside: Mapping[str, Sequence[str]]) -> int:
    """How many of the labels are the start, or beside one that is listed before; all are only if the start is first."""
    if _is_walk(work, start, beside):
        return len(work)
    found, near = 0, {start}
    for label in work:
        found += label in near
        near.update(beside.get(label, ()))
    return found


def _is_walk(work: Sequence[str], start: str, beside: Mapping[str, Sequence[str]]) -> bool:
    """Whether the first label is the start and each other one beside the one before it: the common case, found
    in less time than the rule."""
    return bool(work) and work[0] == start and all(there in beside[here] for here, there in pairwise(work))
