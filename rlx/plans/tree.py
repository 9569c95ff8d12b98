"""A plan as a tree, before anything runs: arms below the arms that they begin from, with counts and costs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from rlx.plans.plan import Plan, PlannedRun
from rlx.progress import counted, duration
from rlx.runs.listing import columns, scaled
from rlx.runs.references import format_reference
from rlx.runs.status import State, state_of

MOST_ARMS = 60
"""Arms that are shown."""
WIDEST = 60
"""Letters of an arm's name that are shown."""


def tree(plan: Plan, *, basis: str = "") -> str:
    """Arms of a plan, and below them what is to be made; `basis` says what the expected time is taken from."""
    states = {run.run: state_of(run.run) for run in plan.runs}
    arms: dict[str, list[PlannedRun]] = {}
    for run in plan.runs:
        arms.setdefault(run.name, []).append(run)
    owner = {run.run: run.name for run in plan.runs}
    below: dict[str | None, list[str]] = {}
    for name, runs in arms.items():
        above = next((owner[parent] for parent in runs[0].parents if parent in owner), None)
        below.setdefault(above, []).append(name)
    shown = list(_walk(below, None, ""))
    rows = [_row(mark, arms[name], states) for mark, name in shown[:MOST_ARMS]]
    more = [f"  ... and {len(shown) - MOST_ARMS} more arms"] if len(shown) > MOST_ARMS else []
    return "\n".join([_head(plan, len(arms), states), columns(rows), *more, _total(plan.runs, states, basis)])


def spent(runs: Sequence[PlannedRun]) -> str:
    """`1.2 TFLOP`, with a + where the cost of some is not known; empty where none is."""
    known = [run.flops for run in runs if run.flops is not None]
    return f"{scaled(sum(known))}FLOP{'+' if len(known) < len(runs) else ''}" if known else ""


def time_of(runs: Sequence[PlannedRun]) -> str:
    """`2m05s`, one run after the other."""
    known = [run.seconds for run in runs if run.seconds is not None]
    return f"{duration(sum(known))}{'+' if len(known) < len(runs) else ''}" if known else ""


def _walk(below: Mapping[str | None, Sequence[str]], name: str | None, mark: str) -> Iterator[tuple[str, str]]:
    """Names with the lines that stand before them."""
    children = below.get(name, [])
    for number, child in enumerate(children):
        last = number == len(children) - 1
        yield ("" if name is None else mark + ("└─ " if last else "├─ ")), child
        yield from _walk(below, child, "" if name is None else mark + ("   " if last else "│  "))


def _head(plan: Plan, arms: int, states: Mapping[str, State]) -> str:
    seeds = sorted({run.seed for run in plan.runs})
    counts = f"{counted(len(plan.runs), 'run')}, {counted(arms, 'arm')}, seed{_ranges(seeds)}"
    return f"plan {format_reference(plan.folder)}: {counts}; {_tally(states.values())}"


def _row(mark: str, runs: Sequence[PlannedRun], states: Mapping[str, State]) -> tuple[str, ...]:
    label = runs[0].name if runs[0].name.isidentifier() else runs[0].label
    name = mark + (label if len(label) <= WIDEST else f"{label[: WIDEST - 3]}...")
    seeds = f"x{len(runs)}" if len(runs) > 1 else ""
    tally = _tally(states[run.run] for run in runs)
    folder = runs[0].run.rpartition("/")[0] if len(runs) > 1 else runs[0].run
    return (f"  {name}", seeds, tally, spent(runs), time_of(runs), folder)


def _total(runs: Sequence[PlannedRun], states: Mapping[str, State], basis: str) -> str:
    left = [run for run in runs if states[run.run] is not State.finished]
    if not left:
        return "all of them are finished"
    cost = ", ".join(filter(None, [spent(left), time_of(left) and f"about {time_of(left)} one after the other"]))
    return f"to make: {counted(len(left), 'run')}" + (f", {cost}" if cost else "") + (f" ({basis})" if basis else "")


def _tally(states: Iterable[State]) -> str:
    counts = Counter(state.value for state in states)
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _ranges(numbers: Sequence[int]) -> str:
    """` 3`, `s 0-4, 7`."""
    spans = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        ends = [number for _, number in group]
        spans.append(f"{ends[0]}" if len(ends) == 1 else f"{ends[0]}-{ends[-1]}")
    return f"{'s' if len(numbers) > 1 else ''} {', '.join(spans)}"
