"""What merge runs measured: of the result, of each parent, of the ceiling, and of the way between two parents.

Arms that differ in `merge.weight` alone are one line along the way between the same two parents. Parents are known by
their runs: one that has the merge's own seed in every run is one parent over the seeds, and so is one that is the same
run in all of them. A ceiling is only looked at beside a merge, so it tells no lines apart.

Files that are torn, or that an older merge did not write, are merges with less to show.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from rlx.report.arms import Arms, trained
from rlx.report.fields import settings, typed
from rlx.report.history import FEWEST_ROWS, as_number
from rlx.report.labels import differing, folder_name, labelled, tail
from rlx.report.read import Entry, Plan, as_dict, own_entry, read_run

LONGEST = 44  # letters of a parent's name
WEIGHT, ALIGN, CEILING = "merge.weight", "merge.align", "stage.ceiling"
RESULT, CEILING_MODEL = "result", "ceiling"
ALONE = "no shared ancestor"
_SEED = re.compile(r"seed(\d+)")
_REFERENCE = re.compile(r"(.+?)(?:/checkpoints/step-0*(\d+)|@([^@/]+))?/?")


@dataclass(frozen=True)
class Member:
    """A parent, a ceiling or a base: the folder of its seeds, and which of them."""

    folder: str
    seed: int | None = None  # None: the merge's own
    point: str = ""  # what stands behind the @


Members = tuple[Member, ...]


@dataclass(frozen=True)
class Seen:
    """A model over seeds: the runs that measured it, with the name that their files have for it."""

    label: str
    where: list[tuple[Entry, str]]

    def values(self, key: Callable[[str], str]) -> list[float]:
        """The values of a metric, whose name follows from the model's."""
        found = (value_of(entry, key(which)) for entry, which in self.where)
        return [value for value in found if value is not None]

    def evaluations(self, task: str) -> list[dict[str, Any]]:
        """What eval.json says of it on a task, one a seed."""
        found = (evaluation_of(entry, which, task) for entry, which in self.where)
        return [evaluation for evaluation in found if evaluation]


@dataclass(frozen=True)
class Line:
    """Merges of the same two parents that differ in their weight alone."""

    label: str  # what tells it from other lines between these parents
    parents: Members
    strangers: bool
    points: dict[float, list[Entry]]  # by weight

    def values(self, weight: float, key: str) -> list[float]:
        """The values of a metric at a weight."""
        return [value for entry in self.points[weight] if (value := value_of(entry, key)) is not None]

    def way(self) -> list[float]:
        """The loss on the straight way between the parents, a mean over seeds; empty where it was not measured."""
        entries = [entry for found in self.points.values() for entry in found]
        ways: dict[Any, list[float]] = {}
        for entry in entries:
            if way := _way(entry):
                ways.setdefault((entry.seed, members_of(entry)), way)
        alike = [way for way in ways.values() if len(way) == len(next(iter(ways.values())))]
        return [fmean(losses) for losses in zip(*alike, strict=True)]


@dataclass(frozen=True)
class Pair:
    """How alike two parents are, over seeds."""

    label: str
    of: str  # what the cosine is of
    strangers: bool
    seeds: list[dict[str, Any]]  # of merge.json's `pairs`

    def numbers(self, name: str) -> list[float]:
        """The values of one measure."""
        return [value for pair in self.seeds if (value := as_number(pair.get(name))) is not None]

    @property
    def cka(self) -> list[list[float | None]]:
        """By seed: the values behind the layers."""
        rows = [pair.get("cka") for pair in self.seeds]
        return [[as_number(value) for value in row] for row in rows if isinstance(row, list) and row]


@dataclass(frozen=True)
class Merges:
    """All merges of a plan."""

    arms: Arms
    called: dict[str, str]  # the arms, by what tells them apart but for the parents
    members: dict[str, Members]  # the parents of each arm that began
    alone: set[str]  # arms with parents that share no ancestor
    parents: dict[Member, Seen]
    ceilings: dict[Member, Seen]
    lines: list[Line]
    pairs: list[Pair]

    @property
    def entries(self) -> list[Entry]:
        """Every run."""
        return [entry for found in self.arms.values() for entry in found]

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks that merges were evaluated on."""
        return self._named("eval/", "/pass@1")

    @cached_property
    def sources(self) -> list[str]:
        """Sources of held-out documents, where there are several."""
        return self._named("val/loss/", "")

    def _named(self, start: str, end: str) -> list[str]:
        keys = dict.fromkeys(key for entry in self.entries for key in row_of(entry))
        return [key[len(start) : len(key) - len(end)] for key in keys if key.startswith(start) and key.endswith(end)]

    def between(self, parents: Members) -> str:
        """What parents are called together, in their order."""
        return " → ".join(self.parents[member].label for member in parents)


def loss_key(source: str = "") -> Callable[[str], str]:
    """Of a model's name: the metric of its held-out loss."""
    end = f"/{source}" if source else ""
    return lambda which: f"val/loss{end}" if which == RESULT else f"merge/{which}/val_loss{end}"


def accuracy_key(task: str) -> Callable[[str], str]:
    """Of a model's name: the metric of its pass@1."""
    return lambda which: f"eval/{task}/pass@1" if which == RESULT else f"merge/{which}/{task}/pass@1"


def row_of(entry: Entry) -> dict[str, Any]:
    """What a merge logged: its newest row."""
    return entry.run.rows[-1] if entry.run.rows else {}


def value_of(entry: Entry, key: str) -> float | None:
    """A metric of a merge."""
    return as_number(row_of(entry).get(key))


def evaluation_of(entry: Entry, which: str, task: str) -> dict[str, Any]:
    """What eval.json says of a model on a task; empty where it says nothing."""
    found = as_dict(entry.run.evaluation)
    if which != RESULT:
        return as_dict(as_dict(as_dict(as_dict(found.get("models")).get(which)).get("tasks")).get(task))
    return found if found.get("task") == task else as_dict(as_dict(found.get("tasks")).get(task))


def members_of(entry: Entry) -> Members:
    """The parents of a merge, as merge.json has them, or run.json before there is one; none of one that never began."""
    models = entry.run.merge.get("models")
    if not isinstance(models, list):
        rows = entry.run.info.get("parents")
        models = [as_dict(row).get("reference") for row in rows] if isinstance(rows, list) else []
    return tuple(_member(str(reference)) for reference in models)


def ceiling_of(entry: Entry) -> Members:
    """The ceiling of a merge, if it has one."""
    reference = _setting(entry, CEILING, "null")
    return () if reference == "null" else (_member(reference),)


def read_merges(plan: Plan) -> Merges:
    """The merges of a plan, whatever became of them."""
    arms = trained(plan, "merge")
    parents, ceilings = _same(arms, members_of), _same(arms, ceiling_of)
    entries = [entry for found in arms.values() for entry in found]
    named = [*parents.values(), *ceilings.values(), *map(_base_of, entries)]
    labels = _labels({member for found in named for member in found}, entries, plan)
    return Merges(
        arms=arms,
        called=_weighted(arms),
        members=parents,
        alone={name for name, entries in arms.items() if any(_strangers(entry) for entry in entries)},
        parents=_seen(arms, parents, members_of, labels, "parent_{}"),
        ceilings=_seen(arms, ceilings, ceiling_of, labels, CEILING_MODEL),
        lines=_lines(arms, parents),
        pairs=_pairs(arms, parents, labels),
    )


def is_measured(merges: Merges) -> bool:
    """False where weights alone were merged."""
    return bool(merges.pairs) or any(value_of(entry, loss_key()(RESULT)) is not None for entry in merges.entries)


def _member(reference: str) -> Member:
    found = None if reference.startswith("hf:") else _REFERENCE.fullmatch(reference)
    if found is None:
        return Member(reference)
    path, point = Path(found[1]), found[2] or found[3]
    seed = _SEED.fullmatch(path.name)
    folder = str(path.parent if seed else path)
    return Member(folder, int(seed[1]) if seed else None, f"@{point}" if point else "")


def _same(arms: Arms, members: Callable[[Entry], Members]) -> dict[str, Members]:
    """The models that each arm names: those with the merge's own seed without it; arms that name the same ones of the
    same seeds have the same."""
    known: dict[Members, Members] = {}
    found: dict[str, Members] = {}
    for name, entries in arms.items():
        named = [(entry.seed, given) for entry in entries if (given := members(entry))]
        if named:
            seed, first = named[0]
            own = tuple(replace(each, seed=None) if each.seed == seed else each for each in first)
            ways = [own, *(given for _, given in named)]
            found[name] = next((known[way] for way in ways if way in known), own)
            for way in ways:
                known.setdefault(way, found[name])
    return found


def _seen(
    arms: Arms, named: dict[str, Members], members: Callable[[Entry], Members], labels: dict[Member, str], which: str
) -> dict[Member, Seen]:
    """Each model that arms name, with one run for each of its seeds that measured it."""
    where: dict[Member, dict[Any, tuple[Entry, str]]] = {each: {} for found in named.values() for each in found}
    for name, found in named.items():
        for entry in arms[name]:
            for number, (known, own) in enumerate(zip(found, members(entry), strict=False)):
                called = which.format(number)
                if value_of(entry, loss_key()(called)) is not None:
                    where[known].setdefault((own, entry.seed), (entry, called))
    return {member: Seen(labels[member], list(found.values())) for member, found in where.items()}


def _labels(members: Iterable[Member], entries: Sequence[Entry], plan: Plan) -> dict[Member, str]:
    """Models by what the page calls their runs, or by what differs between these alone."""
    known = {folder_name(entry.run.path): entry.label for entry in plan.entries}
    places: dict[str, tuple[str, Path]] = {}
    for entry in entries:
        for each in (*members_of(entry), *ceiling_of(entry), *_base_of(entry)):
            seed = entry.seed if each.seed is None else each.seed
            places.setdefault(each.folder, (f"{each.folder}/seed{seed}", entry.run.path))
    runs = [read_run(shown, near, FEWEST_ROWS) for shown, near in places.values()]
    among = {entry.name: entry.label for entry in labelled([own_entry(run) for run in runs if run.info])}
    return {each: _label(each, known, among) for each in members}


def _label(member: Member, *known: dict[str, str]) -> str:
    """The first name that is short enough to stand in a label."""
    name = Path(member.folder).name
    short = (label for labels in known if (label := labels.get(name)) and len(label) <= LONGEST)
    seed = "" if member.seed is None else f" seed {member.seed}"
    return f"{next(short, tail(name))}{member.point}{seed}"


def _base_of(entry: Entry) -> Members:
    """What differences were taken from, if anything."""
    base = entry.run.merge.get("base")
    if not isinstance(base, str) or not base:
        return ()
    found = _member(base)
    return (Member(found.folder, None if found.seed == entry.seed else found.seed),)


def _strangers(entry: Entry) -> set[tuple[int, int]]:
    """Pairs of parents without a common ancestor."""
    pairs = entry.run.merge.get("unrelated")
    return {two for pair in pairs if (two := _two(pair)) is not None} if isinstance(pairs, list) else set()


def _lines(arms: Arms, parents: dict[str, Members]) -> list[Line]:
    """Merges of two parents that have a weight."""
    weights = {name: weight for name, entries in arms.items() if (weight := _weight(entries[0])) is not None}
    swept = {name: arms[name] for name in weights if len(parents.get(name, ())) == 2}
    called = _called(swept)
    lines: dict[tuple[str, Members], Line] = {}
    for name, entries in swept.items():
        strangers = any(_strangers(entry) for entry in entries)
        line = lines.setdefault(
            (called[name], parents[name]), Line(called[name], parents[name], strangers=strangers, points={})
        )
        line.points.setdefault(weights[name], []).extend(entries)
    return list(lines.values())


def _weight(entry: Entry) -> float | None:
    try:
        weight = float(_setting(entry, WEIGHT, "null"))
    except ValueError:
        return None
    return weight if isfinite(weight) else None


def _called(arms: Arms) -> dict[str, str]:
    """Arms by what tells them apart but for the weight and the parents; their method where nothing does."""
    told = differing([entry for entries in arms.values() for entry in entries])
    words: dict[str, list[str]] = {name: [] for name in arms}
    for key, values in told.items():
        for name, value in values.items() if key != WEIGHT else ():
            words[name].append(value if key == "merge" else f"{key.removeprefix('merge.')}={value}")
    return {name: " ".join(words[name]) or _setting(entries[0], "merge", "merge") for name, entries in arms.items()}


def _weighted(arms: Arms) -> dict[str, str]:
    """The same with the weight."""
    weights = {name: _weight(entries[0]) for name, entries in arms.items()}
    return {
        name: text if weights[name] is None else f"{text} weight={weights[name]:g}"
        for name, text in _called(arms).items()
    }


def _setting(entry: Entry, key: str, default: str) -> str:
    """What a run was told, also of one that did not come to write it down."""
    given = typed(entry.command) | settings(entry.run.path, entry.run.info, entry.command)
    return given.get(key, default).strip("'\"")


def _way(entry: Entry) -> list[float]:
    """The loss on the way between the two parents of a merge."""
    pairs = _likeness(entry)
    way = pairs[0].get("path") if len(pairs) == 1 else None
    losses = [as_number(loss) for loss in way] if isinstance(way, list) else []
    return [loss for loss in losses if loss is not None] if None not in losses else []


def _likeness(entry: Entry) -> list[dict[str, Any]]:
    pairs = as_dict(entry.run.merge.get("likeness")).get("pairs")
    return [as_dict(pair) for pair in pairs] if isinstance(pairs, list) else []


def _pairs(arms: Arms, parents: dict[str, Members], labels: dict[Member, str]) -> list[Pair]:
    """Every two parents of a merge that were compared, each seed of them once."""
    found: dict[Any, dict[Any, dict[str, Any]]] = {}
    strange = set()
    for name, members in parents.items():
        for entry in arms[name]:
            base = " and ".join(labels[each] for each in _base_of(entry))
            for (one, other), pair in _compared(entry, min(len(members), len(members_of(entry)))):
                of = f"differences from {base}" if base else "weights"
                key = (members[one], members[other], of, _setting(entry, ALIGN, "none"))
                own = members_of(entry)
                found.setdefault(key, {}).setdefault((entry.seed, own[one], own[other]), pair)
                strange |= {key} if (one, other) in _strangers(entry) else set()
    return [
        Pair(_pair_label(labels, *key), key[2], key in strange, list(seeds.values())) for key, seeds in found.items()
    ]


def _pair_label(labels: dict[Member, str], one: Member, other: Member, of: str, aligned: str) -> str:
    by = "" if aligned == "none" else f", aligned by {aligned}"
    return f"{labels[one]} → {labels[other]}{by}"


def _compared(entry: Entry, parents: int) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """Two parents by their numbers, with what was measured of them."""
    for pair in _likeness(entry):
        ends = _two(pair.get("parents"))
        if ends is not None and max(ends) < parents:
            yield ends, pair


def _two(value: Any) -> tuple[int, int] | None:
    """The numbers of two parents; None for anything else."""
    if not isinstance(value, list) or len(value) != 2 or not all(type(end) is int and end >= 0 for end in value):
        return None
    return value[0], value[1]
