"""Arms of a stage: a config over its seeds; which of many are named in a figure, and what was read of their runs."""

from dataclasses import dataclass

from rlx.report.metrics import judged
from rlx.report.models import mean_over
from rlx.report.read import Entry, Plan

MOST_NAMED = 16  # a legend of more is not read
BEST = 10  # of more arms than that, these many are named
MOST_GREY = 100  # and so many of the others are drawn

Arms = dict[str, list[Entry]]


@dataclass(frozen=True)
class Choice:
    """Arms that are named, in the order of the plan, and the others, best first."""

    shown: Arms
    others: Arms
    metric: str  # that tells which are best
    drawn: Arms  # others that are drawn: all, or evenly many of the ranks


def trained(plan: Plan, stage: str) -> Arms:
    """The arms of a stage, those too that never began."""
    return {name: entries for name, entries in plan.groups.items() if entries[0].stage == stage}


def ranked(arms: Arms, metric: str) -> list[str]:
    """Names of arms, best first: by the mean over seeds of the last value; those without one come last."""
    lower = metric.endswith("loss")

    def key(name: str) -> tuple[bool, float]:
        value = mean_over([entry.run for entry in arms[name]], lambda run: run.last(metric))
        return value is None, (value or 0.0) * (1 if lower else -1)

    return sorted(arms, key=key)


def chosen(arms: Arms, stage: str, logged: list[str]) -> Choice:
    """All arms where a legend can name them, else the best."""
    metric = judged(stage, logged)
    if len(arms) <= MOST_NAMED:
        return Choice(arms, {}, metric, {})
    order = ranked(arms, metric)
    best = set(order[:BEST])
    others = {name: arms[name] for name in order[BEST:]}
    step = -(-len(others) // MOST_GREY)
    drawn = {name: others[name] for name in list(others)[::step]}
    return Choice({name: arms[name] for name in arms if name in best}, others, metric, drawn)


def noted(entries: list[Entry]) -> str:
    """How much of what the runs logged was read, where that is not all."""
    thinned = [entry.run for entry in entries if entry.run.history.kept < entry.run.history.rows]
    if not thinned:
        return ""
    most = thinned[0].most_rows
    runs = f"Of {len(thinned)} runs" if len(thinned) > 1 else "Of one run"
    return f" {runs} with more than {most} rows, {most} evenly spaced ones are read, and those with val/ or eval/."
