"""A plan on the screen: how far it is, a row a run, why some failed, and what to type next."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlx.plans.plan import Plan
from rlx.plans.standing import AGAIN, ORDER, Standing
from rlx.progress import duration
from rlx.runs.lease import Holder
from rlx.runs.listing import columns
from rlx.runs.references import format_reference

COLUMNS = ("state", "run", "step", "", "age", "left", "task", "directory")
SPARE = ("directory", "", "age", "task")
"""Columns that are left out, in this order, where the screen is too narrow."""
ENOUGH = 36
"""Letters of a run's name that are worth more than a spare column."""
LEAST = 12
"""Letters of a run's name that are always shown."""
REASONS = 20
"""Different reasons that are shown."""
USUAL = frozenset({"", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit", "Cleaning"})
"""Why tasks wait when nobody needs to do anything."""


@dataclass(frozen=True, slots=True)
class Screen:
    """What there is room for; None: as much as it takes."""

    width: int | None = None
    height: int | None = None


def table(
    plan: Plan,
    found: Sequence[Standing],
    by: Sequence[Holder] = (),
    *,
    most: int | None = None,
    screen: Screen = Screen(),
    advice: bool = True,
) -> str:
    """How far the plan is, its runs, those that go on first, why some did not finish, and the command to type next.

    Args:
        by: processes that carry the plan out.
        most: rows that are shown.
        screen: lines are made no longer and no more than this; reasons are cut only where there is a height.
    """
    ordered = sorted(found, key=lambda standing: ORDER.index(standing.state))
    end = [*_reasons(ordered), *([_advice(plan, ordered, by)] if advice else [])]
    if screen.height is not None:
        end = [_cut(line, screen.width) for line in end[: max(1, screen.height // 4)]]
        most = max(1, screen.height - len(end) - 5)
    lines = [*_head(plan, ordered, by)]
    if rows := [_row(standing) for standing in ordered[:most]]:
        lines.append(fitted(rows, screen.width))
    if len(rows) < len(ordered):
        lines.append(f"... and {len(ordered) - len(rows)} more: {counts(ordered[len(rows) :])}")
    return "\n".join([*lines, *end])


def counts(found: Sequence[Standing]) -> str:
    """`3 running, 2 failed, 40 finished`."""
    states = [standing.state for standing in found]
    return ", ".join(f"{states.count(state)} {state}" for state in ORDER if state in states)


def fitted(rows: Sequence[tuple[str, ...]], width: int | None) -> str:
    """Rows in columns that have something in them: spare ones are left out, and then names cut, to fit the width."""
    kept = [number for number in range(len(COLUMNS)) if any(row[number] for row in rows)]
    size = [max(len(row[number]) for row in (COLUMNS, *rows)) for number in range(len(COLUMNS))]
    name = COLUMNS.index("run")

    def room() -> int:
        """Letters that are left for the names."""
        return (width or 10_000) - sum(2 + size[number] for number in kept if number != name)

    for spare in map(COLUMNS.index, SPARE):
        if room() < min(size[name], ENOUGH) and spare in kept:
            kept.remove(spare)
    cut = [(*row[:name], short(row[name], max(LEAST, room())), *row[name + 1 :]) for row in rows]
    return columns([[row[number] for number in kept] for row in (COLUMNS, *cut)])


def short(title: str, length: int) -> str:
    """A run's name in so many letters: `lr=1` instead of `optim.lr=1`, then its middle is left out; the seed stays."""
    if len(title) > length:
        title = re.sub(r"(^|\s)[\w./@]+\.(\w+=)", r"\1\2", title)
    if len(title) <= length:
        return title
    end = title[title.rfind(" ") :]
    return f"{title[: max(1, length - len(end) - 1)]}…{end}"[:length]


def headline(plan: Plan, found: Sequence[Standing], at_once: int | None = None) -> str:
    """`sweep-h12 ███····  12/40  about 3m left`; `at_once` as for `left_of`."""
    done = sum(standing.state == "finished" for standing in found)
    filled = int(30 * done / max(1, len(found)))
    left = left_of(found, at_once)
    told = "" if left is None else f"  about {duration(left)} left"
    return f"{plan.name}  {'█' * filled}{'·' * (30 - filled)} {done}/{len(found)}{told}"


def _head(plan: Plan, found: Sequence[Standing], by: Sequence[Holder]) -> tuple[str, str]:
    who = f"; carried out by {', '.join(map(str, by))}" if by else ""
    return headline(plan, found), f"{counts(found)}{who}  ({time.strftime('%H:%M:%S')})"


def left_of(found: Sequence[Standing], at_once: int | None = None) -> float | None:
    """Seconds until all that runs or waits is done; None where nobody knows.

    Args:
        at_once: how many runs go on together; None: as many as do so now.
    """
    running = [standing for standing in found if standing.state == "running"]
    at_once, length = at_once or len(running), _lengths(found)
    if not at_once:
        return None
    lasting = [standing.left if standing.left is not None else length(standing) for standing in running]
    waiting = [length(each) for each in found if each.state in ("starting", "requeued", "queued")]
    known = [seconds for seconds in (*lasting, *waiting) if seconds is not None]
    return max(max(known), sum(known) / at_once) if known and len(known) == len(lasting) + len(waiting) else None


def _lengths(found: Sequence[Standing]) -> Callable[[Standing], float | None]:
    """How long a run takes: what was expected, as the expectation turned out for others; without one, as long as they.
    The others are those of its stage, or all where there are none.
    """
    known: dict[str, tuple[float, float | None]] = {}
    for stage in {each.planned.stage for each in found}:
        took = [each for each in found if each.whole is not None]
        like = [each for each in took if each.planned.stage == stage] or took
        planned = [each.planned.seconds for each in found if each.planned.seconds is not None]
        known[stage] = _turned_out(like), _mean([each.whole or 0.0 for each in like] or planned)

    def length(run: Standing) -> float | None:
        turned_out, usual = known[run.planned.stage]
        return usual if run.planned.seconds is None else run.planned.seconds * turned_out

    return length


def _turned_out(runs: Sequence[Standing]) -> float:
    """Seconds that runs took, as a multiple of those that were expected."""
    pairs = [(run.whole, run.planned.seconds) for run in runs if run.whole and run.planned.seconds]
    return sum(whole for whole, _ in pairs) / sum(seconds for _, seconds in pairs) if pairs else 1.0


def _mean(numbers: Sequence[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def _row(standing: Standing) -> tuple[str, ...]:
    run = standing.listed
    progress = "" if run.step is None else f"{run.step}/{run.planned}" if run.planned else str(run.step)
    filled = min(10, int(10 * run.step / run.planned)) if run.step is not None and run.planned else 0
    bar = "█" * filled + "·" * (10 - filled) if progress and run.planned and standing.state != "finished" else ""
    age = "" if run.age is None else duration(run.age)
    left = "" if standing.left is None else duration(standing.left)
    task = standing.place.task if standing.place else ""
    return (standing.state, standing.planned.title, progress, bar, age, left, task, run.shown)


def _reasons(found: Sequence[Standing]) -> list[str]:
    """Each reason once, with whom it concerns."""
    whom: dict[str, list[str]] = {}
    for standing in found:
        waits = standing.state in ("queued", "requeued") and standing.reason not in USUAL
        if waits or (standing.state in ("failed", "blocked", "interrupted", "absent") and standing.reason):
            whom.setdefault(standing.reason, []).append(standing.planned.title)
    lines = []
    for reason, titles in list(whom.items())[:REASONS]:
        more = f" and {len(titles) - 1} more" if len(titles) > 1 else ""
        lines.append(f"{short(titles[0], ENOUGH)}{more}: {reason}")
    return lines


def _advice(plan: Plan, found: Sequence[Standing], by: Sequence[Holder]) -> str:
    """What to type next."""
    place = format_reference(plan.folder)
    again = sum(standing.state in AGAIN for standing in found)
    if by or any(standing.state in ("running", "starting", "requeued", "queued") for standing in found):
        return f"python -m rlx.plans watch {place}"
    if any(standing.state == "unknown" for standing in found):
        return f"Slurm does not answer here: what it still holds is not known; python -m rlx.plans status {place}"
    if again:
        return f"python -m rlx.plans retry {place}  (makes {again} of them again)"
    if any(standing.state == "cancelled" for standing in found):
        return f"python -m rlx.plans retry {place} --state cancelled  (or collect what there is)"
    return f"python -m rlx.plans collect {place}"


def _cut(line: str, width: int | None) -> str:
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"
