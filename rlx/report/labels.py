"""Arms are called by what differs between them: `model.d_model=64`, not `countdown-dense-pretrain-h37a626e994`.

Among the arms of a stage, what was typed and differs is named, and of the rest only what tells two arms apart that
would else be called the same; a field counts only among arms that chose the same option of its group. A parent is
called by its own label, and only where nothing else tells its children apart; an evaluation by what it is of. Where a
page has several stages the stage stands before: `rl: algorithm.group_size=8`.

What a plan's manifest says wins; a row that has nothing but the name of the arm's folder says nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlx.report.fields import settings, typed

if TYPE_CHECKING:
    from rlx.report.read import Entry

LONGEST = 34  # as much as figures show of a label; longer ones leave the groups of their keys out
LONGEST_VALUE = 24
EVALUATES = "eval of "
ORDER = ("pretrain", "sft", "rl", "merge", "eval")
PARENTS = ("init_from", "merge.models")
WITHOUT_EFFECT = ("seed", "runs_dir", "logger", "checkpoint", "trainer", "stage.ceiling")
_SEED = re.compile(r"(/|^)seed\d+(?=$|[\s@'\"])")
_RUN = re.compile(r"[^\s'\"]*?([\w.]+-[\w.]+-[\w.]+-h[0-9a-f]{4,})")
_LISTED = re.compile(r",\s*|\s+- ")  # between the items of a list, as it is typed or as config.yaml has it
_TAIL = re.compile(r"[^-]+-[^-]+-([^-]+-h[0-9a-f]+)")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)")

Settings = dict[str, str]


def labelled(entries: "list[Entry]") -> "list[Entry]":
    """The entries, with labels for those that have none of their own."""
    arms = {
        entry.name: entry for entry in reversed(entries) if entry.label == entry.name == folder_name(entry.run.path)
    }
    if not arms:
        return entries
    several = len({entry.stage for entry in arms.values()} - {"eval"}) > 1
    labels: dict[str, str] = {entry.name: entry.label for entry in entries if entry.name not in arms}
    for stage in sorted({entry.stage for entry in arms.values()}, key=stage_order):
        names = [name for name in reversed(arms) if arms[name].stage == stage]
        before = f"{stage}: " if several and stage and stage != "eval" else ""
        for name, what in _told_apart([arms[name] for name in names], labels, stage, LONGEST - len(before)).items():
            labels[name] = f"{before}{what}" if what else before.removesuffix(": ") or tail(name)
    return [replace(entry, label=labels[entry.name]) for entry in entries]


def differing(entries: "list[Entry]") -> dict[str, dict[str, str]]:
    """What tells the arms of a stage apart: for each key the value of each arm that has one, by the arm's name."""
    arms = {entry.name: _settings(entry) for entry in reversed(entries)}
    said = list(dict.fromkeys(key for entry in entries for key in typed(entry.command)))
    keys = [key for key in _keys(arms, said, first=()) if key not in PARENTS]
    return {key: {name: _value(arms[name][key]) for name in reversed(arms) if key in arms[name]} for key in keys}


def in_order(entries: "list[Entry]") -> "list[Entry]":
    """Stages as they follow each other, arms by their labels with numbers as numbers, then seeds."""
    return sorted(entries, key=lambda entry: (stage_order(entry.stage), natural(entry.label), entry.name, entry.seed))


def arm_label(entry: "Entry") -> str:
    """The label without its stage, for a figure of one stage."""
    return entry.label.removeprefix(f"{entry.stage}: ")


def natural(text: str) -> list[tuple[float, str]]:
    """A key that sorts numbers in texts as numbers."""
    parts = _NUMBER.split(text)
    return [(float(part), "") if number % 2 else (-1.0, part) for number, part in enumerate(parts)]


def folder_name(path: Path) -> str:
    """The name of the arm that a run directory belongs to."""
    return path.parent.name if path.name.startswith("seed") else path.name


def stage_order(stage: str) -> tuple[int, str]:
    """pretrain first, unknown stages last."""
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), stage)


def _told_apart(entries: "list[Entry]", labels: dict[str, str], stage: str, longest: int) -> dict[str, str]:
    """What each arm is called among those of its stage; an only one needs no name, unless it evaluates something."""
    arms = {entry.name: _settings(entry) for entry in entries}
    said = list(dict.fromkeys(key for entry in entries for key in typed(entry.command)))
    keys = _keys(arms, said, first=PARENTS if stage == "eval" else ())
    told = {name: _sentence(arm, keys, labels, stage, whole=True) for name, arm in arms.items()}
    if max(map(len, told.values())) > longest:
        told = {name: _sentence(arm, keys, labels, stage, whole=False) for name, arm in arms.items()}
    several = len(arms) > 1
    twice = {text for text in told.values() if list(told.values()).count(text) > 1 or (not text and several)}
    return {name: f"{text} {tail(name)}".strip() if text in twice else text for name, text in told.items()}


def _settings(entry: "Entry") -> Settings:
    """What may tell arms apart: no seeds, no places, nothing that leaves results alone."""
    found = settings(entry.run.path, entry.run.info, entry.command)
    told = (key for key in found if not {key, _top(key)} & {*WITHOUT_EFFECT} or key.endswith("precision"))
    counts = {key: found[key] for key in told}
    return {key: _SEED.sub("", value) if key in PARENTS else value for key, value in counts.items()}


def _keys(arms: dict[str, Settings], said: list[str], first: Iterable[str]) -> list[str]:
    """The keys that labels name."""
    known = dict.fromkeys(key for arm in arms.values() for key in arm)
    given = [key for key in said if key in known and key not in PARENTS]
    rest = [key for key in known if key not in given and key not in PARENTS]
    chosen: list[str] = [key for key in first if any(arm.get(key, "null") != "null" for arm in arms.values())]
    cells = _cells(arms, chosen)
    for key in [*given, *rest, *PARENTS]:
        if key in chosen or not _differs(arms, key):
            continue
        finer = _cells(arms, [*chosen, key])
        if key in given or finer > cells:
            chosen.append(key)
            cells = finer
    return chosen


def _differs(arms: dict[str, Settings], key: str) -> bool:
    """True when arms that have the same option of the key's group have different values."""
    values: dict[str, set[str]] = {}
    for arm in arms.values():
        if key in arm:
            option = arm.get(_top(key), "") if "." in key else ""
            values.setdefault(option, set()).add(arm[key])
    return any(len(found) > 1 for found in values.values())


def _cells(arms: dict[str, Settings], keys: list[str]) -> int:
    return len({tuple(arm.get(key) for key in keys) for arm in arms.values()})


def _sentence(arm: Settings, keys: list[str], labels: dict[str, str], stage: str, *, whole: bool) -> str:
    ends = [key.rpartition(".")[2] for key in keys]
    words = []
    for key, end in zip(keys, ends, strict=True):
        if key in PARENTS and arm.get(key, "null") != "null":
            words.append(f"{EVALUATES if stage == 'eval' else 'from '}{_parents(arm[key], labels)}")
        elif key in arm:
            words.append(f"{key if whole or ends.count(end) > 1 else end}={_value(arm[key])}")
    return " ".join(words)


def _parents(text: str, labels: dict[str, str]) -> str:
    """References to runs, by the labels of these runs or the end of their names; several with "and" between them."""

    def shown(match: re.Match[str]) -> str:
        return labels.get(match[1]) or tail(match[1])

    several = _LISTED.split(text.strip("[]- "))
    return " and ".join(_RUN.sub(shown, each) if _RUN.search(each) else _value(Path(each).name) for each in several)


def tail(name: str) -> str:
    """`pretrain-h37a626e994` of a run's folder; another name is left whole."""
    found = _TAIL.fullmatch(name)
    return found[1] if found else name


def _value(text: str) -> str:
    text = text.strip("'\"")
    return text if len(text) <= LONGEST_VALUE else f"…{text[1 - LONGEST_VALUE :]}"


def _top(key: str) -> str:
    return key.partition(".")[0]
