"""The runs that there are: where each stands, what it measured, what it takes; and the filters that pick some.

A filter is `key=value`, `key!=value`, or one of `> >= < <=` (quoted, or a shell takes it for a redirection), and all
filters given must hold. `key=a,b` is either. Keys are

1. columns: state, task, model, stage, hash, seed, step, steps (planned), metric (the value shown), checkpoints (how
   many), size (bytes), age (since the last word of it), flops, lineage, commit;
2. groups, by the option that was chosen: `optim=muon`, `scale=cpu`;
3. fields of config.yaml by their dotted key: `model.d_model=64`, `optim.lr=1e-3`;
4. any metric that the run logged last: `val/loss<1.5`;
5. `has=best`, `checkpoint`, `trainer` (a state to resume from) or `eval`.

Numbers compare as numbers and may end in K, M, G, T, P (powers of 1000), an age in s, m, h, d, w. A filter without a
sign is part of the run directory's path. Neither torch nor Hydra is loaded, and metrics.jsonl is read from its end.
"""

import difflib
import math
import operator
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from rlx.errors import CheckpointError, ConfigError, RunError
from rlx.progress import counted, duration
from rlx.runs.checkpoints import best_step, list_checkpoints
from rlx.runs.files import EVAL, METRICS, RUN, STATUS, TRAINER_STATE, StrPath
from rlx.runs.identity import RunName
from rlx.runs.metrics import as_row
from rlx.runs.references import format_reference
from rlx.runs.run import read_config, read_record
from rlx.runs.status import State, Status, read_status, state_of

TAIL = 1 << 18
"""Bytes of metrics.jsonl that are read, from its end."""
SHOWN = ('eval/[^/"]+/pass@1', "val/pass@1", "reward", "val/loss", "train/loss")
"""The metric of a run: the first of these that it has."""
HAS = ("best", "checkpoint", "eval", "trainer")
PREFIXES = "KMGTP"
UNITS = {letter: 1000.0 ** (power + 1) for power, letter in enumerate(PREFIXES)}
AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_FILTER = re.compile(r"([\w./@-]+?)(!=|>=|<=|=|>|<)(.*)")


class ListedRun:
    """One run directory; what is asked of it is read then, once."""

    def __init__(self, path: Path, name: RunName) -> None:
        self.path, self.name = path, name

    @property
    def shown(self) -> str:
        """Its directory, as it pastes after `init_from=`."""
        return format_reference(self.path)

    @cached_property
    def state(self) -> State:
        return state_of(self.path)

    @cached_property
    def status(self) -> Status:
        """What its status file says."""
        return read_status(self.path)

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json; empty where it is damaged."""
        try:
            found = read_record(self.path)
        except RecursionError:
            return {}
        return found if isinstance(found, dict) else {}

    def part(self, name: str) -> dict[str, Any]:
        """An object in run.json."""
        found = self.record.get(name)
        return found if isinstance(found, dict) else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml by dotted keys."""
        return dict(_flat(read_config(self.path)))

    @cached_property
    def tail(self) -> bytes:
        """The last whole rows of metrics.jsonl."""
        try:
            with open(self.path / METRICS, "rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(max(0, length - TAIL))
                read = file.read()
        except OSError:
            return b""
        begin = read.find(b"\n") + 1 if length > TAIL else 0
        return read[begin : read.rfind(b"\n") + 1]

    @cached_property
    def last(self) -> dict[str, Any]:
        """The newest row."""
        return self._row_at(len(self.tail) - 1)

    def logged(self, pattern: str) -> tuple[str, float] | None:
        """Name and newest value of a metric; the pattern is a regular expression of its whole name."""
        found = deque(re.finditer(f'"({pattern})": '.encode(), self.tail), maxlen=1)
        name = found[0][1].decode(errors="replace") if found else ""
        value = self._row_at(found[0].start()).get(name) if found else None
        return (name, value) if is_number(value) else None

    def _row_at(self, place: int) -> dict[str, Any]:
        """The row that a byte of the tail belongs to."""
        begin = self.tail.rfind(b"\n", 0, max(place, 0)) + 1
        return as_row(self.tail[begin : self.tail.find(b"\n", begin)]) or {}

    @cached_property
    def metric(self) -> tuple[str, float] | None:
        """Name and value of what the run is judged by."""
        return next(filter(None, map(self.logged, SHOWN)), None)

    @cached_property
    def steps_kept(self) -> list[int]:
        """Steps of its checkpoints."""
        return [step for step, _ in list_checkpoints(self.path)]

    @cached_property
    def best(self) -> int | None:
        """The step of `@best`; None too where best.json is damaged."""
        try:
            return best_step(self.path)
        except CheckpointError:
            return None

    @cached_property
    def size(self) -> int:
        """Bytes of all its files."""
        return size_of(self.path)

    @cached_property
    def age(self) -> float | None:
        """Seconds since it last wrote something."""
        times = [_written(self.path / name) for name in (STATUS, RUN, METRICS)]
        return max(0.0, time.time() - max(times)) if any(times) else None

    @property
    def step(self) -> int | None:
        """The step of its newest row."""
        return _number(self.last.get("step", self.record.get("steps")))

    @property
    def planned(self) -> int | None:
        """Its length in steps."""
        return _number(self.record.get("planned_steps", self.record.get("steps")))

    @property
    def flops(self) -> float | None:
        """Operations that it spent itself."""
        return _number(self.last.get("flops/total", self.part("flops").get("total")))

    @cached_property
    def pace(self) -> float | None:
        """Seconds a step, over its latest steps: what came before the first, and another machine long ago, do not
        count. None before there are two.
        """
        first, last = self._row_at(0), self.last
        begun, ended, since, until = first.get("step"), last.get("step"), first.get("wall"), last.get("wall")
        if is_number(begun) and is_number(ended) and is_number(since) and is_number(until) and begun < ended:
            return (until - since) / (ended - begun)
        return None

    def as_json(self) -> dict[str, Any]:
        """Everything that is shown, and more, as JSON holds it."""
        return {
            "run": self.shown,
            **{key: column(self) for key, column in COLUMNS.items()},
            "reason": self.status.reason,
            "metric": {"name": self.metric[0], "value": self.metric[1]} if self.metric else None,
            "checkpoints": self.steps_kept,
            "best": self.best,
            "options": self.part("options"),
            "parents": self.record.get("parents", []),
        }

    def has(self, what: str) -> bool:
        """One of HAS."""
        kept = [path for _, path in list_checkpoints(self.path)]
        return {
            "best": lambda: self.best is not None,
            "checkpoint": lambda: bool(kept),
            "eval": lambda: (self.path / EVAL).is_file(),
            "trainer": lambda: any((path / TRAINER_STATE).parent.is_dir() for path in kept),
        }[what]()


COLUMNS: dict[str, Callable[[ListedRun], Any]] = {
    "state": lambda run: run.state.value,
    "task": lambda run: run.name.task,
    "model": lambda run: run.name.model,
    "stage": lambda run: run.name.stage,
    "hash": lambda run: run.name.hash,
    "seed": lambda run: run.name.seed,
    "step": lambda run: run.step,
    "steps": lambda run: run.planned,
    "metric": lambda run: run.metric[1] if run.metric else None,
    "checkpoints": lambda run: len(run.steps_kept),
    "size": lambda run: run.size,
    "age": lambda run: run.age,
    "flops": lambda run: run.flops,
    "lineage": lambda run: run.part("flops").get("lineage"),
    "commit": lambda run: run.part("git").get("commit"),
}


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition, parsed."""

    text: str
    key: str = ""
    """Empty: `text` is part of the path."""
    sign: str = ""
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> "Filter":
        """
        Raises:
            ConfigError: it cannot be meant.
        """
        match = _FILTER.fullmatch(text)
        if match is None:
            if re.search("[=<>]", text):
                raise ConfigError(f"{text!r} is no filter; expected key=value, such as stage=rl, or a part of the path")
            return cls(text)
        made = cls(text, *match.groups())
        if made.sign in SIGNS:
            number_of(made.value, made.key)
        if made.key == "state":
            _check_among("state", made.value, [state.value for state in State])
        if made.key == "has":
            _check_among("has", made.value, HAS)
        return made

    def holds(self, run: ListedRun) -> bool:
        """True when the run meets it."""
        if not self.key:
            return self.text.rstrip("/") in run.shown
        if self.key == "has":
            return any(map(run.has, self.value.split(","))) is (self.sign == "=")
        actual = self.actual(run)
        if self.sign in SIGNS:
            return is_number(actual) and SIGNS[self.sign](actual, number_of(self.value, self.key))
        values = [self.value] if self.value.startswith("[") else self.value.split(",")
        return any(_equal(actual, value, self.key) for value in values) is (self.sign == "=")

    def actual(self, run: ListedRun) -> Any:
        """What the run has under the key; None where it has nothing."""
        if self.key in COLUMNS:
            return COLUMNS[self.key](run)
        if self.key in run.part("options"):
            return run.part("options")[self.key]
        if self.key in run.config:
            return run.config[self.key]
        found = run.logged(re.escape(self.key))
        return found[1] if found else None

    def is_known(self, run: ListedRun) -> bool:
        """True when the key means something for this run."""
        known = self.key in ("", "has", *COLUMNS) or self.key in run.part("options")
        return known or self.key in run.config or run.logged(re.escape(self.key)) is not None


def find_runs(runs_dir: StrPath) -> list[ListedRun]:
    """Every run directory of a folder that can be read, by name and seed.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(runs_dir)
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {runs_dir}; name the one that holds the runs with --runs-dir")
    found = [
        ListedRun(Path(seed.path), name)
        for group in os.scandir(folder)
        if group.is_dir() and os.access(group, os.R_OK | os.X_OK)
        for seed in os.scandir(group)
        if (name := RunName.of(seed.path)) is not None and os.access(seed, os.R_OK | os.X_OK)
    ]
    return sorted(found, key=lambda run: (run.path.parent.name, run.name.seed))


def metric_of(run: StrPath, metric: str) -> float:
    """The newest value of a metric that a run logged.

    Raises:
        RunError: it logged none.
    """
    name = RunName.of(Path(run))
    assert name is not None
    listed = ListedRun(Path(run), name)
    found = listed.logged(re.escape(metric))
    if found is None:
        known = {name.decode(errors="replace") for name in re.findall(rb'"([^"]+)": ', listed.tail)}
        raise RunError(f"{listed.shown} measured no {metric}; it measured {', '.join(sorted(known)) or 'nothing'}")
    return found[1]


def select(runs: Sequence[ListedRun], filters: Sequence[Filter]) -> list[ListedRun]:
    """The runs that meet every filter.

    Raises:
        ConfigError: a key that no run has, with the nearest that there is.
    """
    for condition in filters:
        if runs and not any(condition.is_known(run) for run in runs):
            raise ConfigError(f"no run has {condition.key}{_nearest(condition.key, runs)}")
    return [run for run in runs if all(condition.holds(run) for condition in filters)]


def nothing_found(runs: Sequence[ListedRun], filters: Sequence[Filter]) -> str:
    """Why no run was picked, in a line."""
    if not runs:
        return "there are no runs"
    for condition in filters:
        if not any(condition.holds(run) for run in runs):
            known = condition.key not in ("", "has")
            values = sorted({str(value) for run in runs if known and (value := condition.actual(run)) is not None})
            there = f"; {condition.key} is {', '.join(values[:8])}" if 0 < len(values) <= 8 else ""
            return f"none of {len(runs)} runs has {condition.text}{there}"
    return f"none of {len(runs)} runs has all of {' '.join(condition.text for condition in filters)}"


def table(runs: Sequence[ListedRun]) -> str:
    """The runs in columns, with a last line that adds them up."""
    header = ("state", "run", "step", "metric", "checkpoints", "size", "age", "FLOPs")
    rows = [header, *(_cells(run) for run in runs)]
    total = sum(run.flops or 0.0 for run in runs)
    end = f"{counted(len(runs), 'run')}, {scaled(sum(run.size for run in runs))}B, {scaled(total)}FLOP"
    return f"{columns(rows)}\n{end}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text in columns."""
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def scaled(number: float) -> str:
    """Three figures and a prefix, for a unit to follow: `1.23 M`, `517 `."""
    power = 0
    while power < len(PREFIXES) and float(f"{number:.3g}") >= 1000:
        number, power = number / 1000, power + 1
    return f"{float(f'{number:.3g}'):g} {('', *PREFIXES)[power]}"


def size_of(path: StrPath) -> int:
    """Bytes of a file, or of all files below a folder; what goes away meanwhile counts as nothing."""
    try:
        if not os.path.isdir(path):
            return os.stat(path).st_size
        return sum(size_of(e.path) if e.is_dir(follow_symlinks=False) else _size(e) for e in os.scandir(path))
    except FileNotFoundError:
        return 0


def number_of(text: str, key: str) -> float:
    """A number as it is typed: 100, 1e-3, 10K, 1.5G; an age may be 90m, 2d.

    Raises:
        ConfigError: it is none.
    """
    units = AGES if key == "age" else UNITS
    unit = text[-1:] if key == "age" else text[-1:].upper()
    try:
        return float(text[:-1]) * units[unit] if unit in units else float(text)
    except ValueError:
        raise ConfigError(
            f"{key} is compared with {text!r}; expected a number, perhaps with {', '.join(units)}"
        ) from None


def is_number(value: Any) -> TypeGuard[float]:
    """True for what a float can hold: JSON has whole numbers of any length."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, float) or (whole and abs(value) <= sys.float_info.max)


def _number(value: Any) -> Any:
    """The value if it is a number, else None."""
    return value if is_number(value) else None


def _cells(run: ListedRun) -> tuple[str, ...]:
    progress = "" if run.step is None else f"{run.step}/{run.planned}" if run.planned else str(run.step)
    name, value = run.metric or ("", 0.0)
    metric = f"{name.removeprefix(f'eval/{run.name.task}/')} {value:.4g}" if name else ""
    age = "" if run.age is None else duration(run.age) if run.age < AGES["d"] else f"{run.age / AGES['d']:.0f}d"
    spent = "" if run.flops is None else scaled(run.flops)
    return (run.state.value, run.shown, progress, metric, _kept(run), f"{scaled(run.size)}B", age, spent)


def _kept(run: ListedRun) -> str:
    """`100, 200, 400*`: the best has a star, and of many the ends are shown."""
    steps = [f"{step}*" if step == run.best else str(step) for step in run.steps_kept]
    return ", ".join(steps) if len(steps) <= 4 else f"{steps[0]}, {steps[1]} ... {steps[-1]} ({len(steps)})"


def _equal(actual: Any, value: str, key: str) -> bool:
    if is_number(actual):
        try:
            return math.isclose(actual, number_of(value, key), rel_tol=1e-9)
        except ConfigError:
            return False
    if isinstance(actual, bool):
        return str(actual).lower() == value.lower()
    if actual is None:
        return value.lower() in ("null", "none")
    return _plain(str(actual)) == _plain(value) if isinstance(actual, list) else str(actual) == value


def _plain(text: str) -> str:
    """A list as people type it, without blanks and quotes."""
    return re.sub(r"[\s'\"]", "", text)


def _check_among(key: str, value: str, known: Sequence[str]) -> None:
    for part in value.split(","):
        if part not in known:
            raise ConfigError(f"{key}={part}: expected one of {', '.join(known)}")


def _nearest(key: str, runs: Sequence[ListedRun]) -> str:
    known = set(COLUMNS).union(*(run.part("options") for run in runs), *(run.config for run in runs))
    if "/" in key:
        known = {name.decode(errors="replace") for run in runs for name in re.findall(rb'"([^"]+/[^"]+)": ', run.tail)}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    there = "" if "/" in key else f"; there are {', '.join((*COLUMNS, 'has'))}, groups and fields of config.yaml"
    return f"; did you mean {near[0]}?" if near else there


def _flat(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _size(entry: os.DirEntry[str]) -> int:
    return entry.stat(follow_symlinks=False).st_size


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
