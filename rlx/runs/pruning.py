"""What can go to free disk space: checkpoints, states to resume from, whole runs. Shown first, removed when told.

1. A run in use is not touched; a run is held by its lease while something of it goes, and looked at again then.
2. The newest checkpoint and that of `@best` stay, and what another run under the folder, or a plan's manifest, names
   as its parent; `even_parents` lifts the second rule.
3. The state to resume from goes from finished runs only: they still are parents. It stays where a run that is not
   finished takes it over (`init.state=all`).
4. A whole run goes only when every run that names it goes too, children first.
5. Folders are renamed before they are deleted, so what a kill leaves is a temporary, and the next pruning removes it.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlx.errors import BusyError, CheckpointError
from rlx.runs.checkpoints import Keep, best_step, checkpoint_path, log_steps
from rlx.runs.files import MANIFEST, OVERRIDES, TRAINER_STATE, StrPath, remove_directory, remove_stale
from rlx.runs.identity import RunName
from rlx.runs.lease import Lease
from rlx.runs.listing import ListedRun, size_of
from rlx.runs.metrics import MetricsLog
from rlx.runs.references import Kind, parse_reference
from rlx.runs.status import State, Status, read_status, state_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What may go."""

    keep: Keep | None = None
    """Checkpoints but these."""
    trainer_state: bool = False
    """What a finished run would be resumed from."""
    whole: bool = False
    """The runs themselves."""
    even_parents: bool = False
    """Also what other runs name as their parent."""


@dataclass(frozen=True, slots=True)
class Need:
    """A run that names another as its parent."""

    child: RunName | None
    """None: a run of a plan that lies elsewhere."""
    at: int | str | None
    """The step, "best", "last", or None."""
    resumes: bool
    """It is not finished, and takes over the parent's state besides its weights."""


@dataclass(slots=True)
class Removal:
    """What goes of one run, and why other things stay."""

    run: ListedRun
    folders: list[Path] = field(default_factory=list)
    what: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)
    seen: Status = field(init=False)
    """Its status as it was judged by."""

    def __post_init__(self) -> None:
        self.seen = self.run.status

    @property
    def size(self) -> int:
        """Bytes that go."""
        return sum(map(size_of, self.folders))


def needs_of(runs_dir: StrPath, runs: Sequence[ListedRun]) -> dict[RunName, list[Need]]:
    """Who names each run: as a parent in its run.json, in its command or config, or in a plan of the folder."""
    found: dict[RunName, list[Need]] = defaultdict(list)
    for run in runs:
        resumes = run.state is not State.finished and run.config.get("init.state") == "all"
        parents = [text for parent in run.record.get("parents", []) for text in _recorded(parent)]
        settings = [text for value in run.config.values() for text in _words(str(value))]
        for parent, at in _named([*_words(_command(run)), *settings, *parents]):
            found[parent].append(Need(run.name, at, resumes))
    for manifest in Path(runs_dir).glob(f"plans/*/{MANIFEST}"):
        for row in MetricsLog.read(manifest):
            command, place = str(row.get("command", "")), str(row.get("run", ""))
            resumes = _takes_state(command) and state_of(place) is not State.finished
            for parent, at in _named([*_words(command), *map(str, row.get("parents", []))]):
                found[parent].append(Need(RunName.of(place), at, resumes))
    return found


def plan(selected: Sequence[ListedRun], needs: dict[RunName, list[Need]], rule: Rule) -> list[Removal]:
    """What goes of each run by the rule, children before their parents."""
    going = _whole(selected, needs, rule) if rule.whole else []
    gone, staying = {run.name for run in going}, [run for run in selected if run not in going]
    return [
        *(Removal(run, [run.path], ["the whole run"]) for run in going),
        *(_part(run, [need for need in needs.get(run.name, []) if need.child not in gone], rule) for run in staying),
    ]


def carry_out(removals: Sequence[Removal], say: Callable[[str], None]) -> int:
    """Remove what is planned and return the bytes freed; `say` is given a line for each run that was left alone."""
    freed = 0
    for removal in removals:
        run = removal.run
        if not removal.folders or not run.path.is_dir():
            continue
        try:
            with Lease.acquire(run.path, notice=lambda _: None):
                if read_status(run.path) != removal.seen:
                    say(f"{run.shown}: left alone, it went on meanwhile")
                    continue
                freed += sum(map(_remove, removal.folders))
        except BusyError as error:
            say(f"left alone: {error}")
            continue
        with suppress(OSError):
            run.path.parent.rmdir()  # the last seed of its name
    return freed


def tidy(runs_dir: StrPath, runs: Sequence[ListedRun]) -> int:
    """Remove what prunings left that were killed, and return the bytes freed."""
    freed = 0
    for run in runs:
        if any(run.path.glob("**/.tmp-*")) and run.state is not State.running:
            with suppress(BusyError), Lease.acquire(run.path, notice=lambda _: None):
                freed += _swept(run.path)
    for folder in Path(runs_dir).iterdir():
        if RunName.of(folder / "seed0") is not None:
            freed += _swept(folder)
            with suppress(OSError):
                folder.rmdir()
    return freed


def _swept(folder: Path) -> int:
    """Remove the temporaries of dead processes in a folder, and return their bytes."""
    sizes = {path: size_of(path) for path in folder.glob("**/.tmp-*")}
    return sum(sizes.get(path, 0) for path in remove_stale(folder))


def _whole(selected: Sequence[ListedRun], needs: dict[RunName, list[Need]], rule: Rule) -> list[ListedRun]:
    """The runs that may go as a whole, children first."""
    going = {run.name: run for run in selected if run.state is not State.running}
    children = {name: {need.child for need in needs.get(name, [])} for name in going}
    while not rule.even_parents:
        staying = [name for name in going if not children[name] <= going.keys()]
        if not staying:
            break
        for name in staying:
            del going[name]
    ordered: list[ListedRun] = []

    def visit(name: RunName | None) -> None:
        run = going.pop(name, None) if name is not None else None
        if run is not None:
            for child in children[run.name]:
                visit(child)
            ordered.append(run)

    while going:
        visit(next(iter(going)))
    return ordered


def _part(run: ListedRun, needs: Sequence[Need], rule: Rule) -> Removal:
    """Checkpoints and states of one run."""
    removal = Removal(run)
    if run.state is State.running:
        removal.stays.append("it is in use")
        return removal
    named = set() if rule.even_parents else {need.at for need in needs}
    if rule.whole:
        removal.stays.append(f"the run: it is the parent of {_children(needs)}")
    gone = _surplus(run, rule.keep, removal) if rule.keep is not None else []
    held = [step for step in gone if step in named]
    if held:
        removal.stays.append(f"{_steps(held)}: parent of {_children([need for need in needs if need.at in held])}")
    gone = [step for step in gone if step not in held]
    if gone:
        removal.folders += [checkpoint_path(run.path, step) for step in gone]
        removal.what.append(_steps(gone))
    if rule.trainer_state:
        _add_states(removal, [step for step in run.steps_kept if step not in gone], needs)
    return removal


def _surplus(run: ListedRun, keep: Keep, removal: Removal) -> list[int]:
    """Steps of the checkpoints that the rule does not keep, and that are neither the newest nor the best."""
    if keep.log and run.planned is None:
        removal.stays.append("its checkpoints: the length of the run is not known")
        return []
    try:
        best = best_step(run.path)
    except CheckpointError as error:
        removal.stays.append(f"its checkpoints: {error}")
        return []
    goes_on = run.config.get("init.state") == "all"
    first = int(run.record["parents"][0].get("step") or 0) if goes_on and run.record.get("parents") else 0
    planned = {first + step for step in log_steps((run.planned or 0) - first, keep.log)}
    staying = {*run.steps_kept[-max(keep.last, 1) :], *planned, best}
    return [] if keep.all else [step for step in run.steps_kept if step not in staying]


def _add_states(removal: Removal, steps: Sequence[int], needs: Sequence[Need]) -> None:
    run = removal.run
    states = {step: (checkpoint_path(run.path, step) / TRAINER_STATE).parent for step in steps}
    states = {step: folder for step, folder in states.items() if folder.is_dir()}
    if not states:
        return
    if run.state is not State.finished:
        removal.stays.append(f"its state: it is {run.state.value}, and goes on from there")
        return
    points = {"best": run.best, "last": max(run.steps_kept), None: max(run.steps_kept)}
    named = {need.at if isinstance(need.at, int) else points.get(need.at) for need in needs if need.resumes}
    held = sorted(step for step in states if step in named)
    if held:
        resuming = _children([need for need in needs if need.resumes])
        removal.stays.append(f"the state of {_steps(held)}: {resuming} takes it over")
    gone = [folder for step, folder in states.items() if step not in held]
    if gone:
        removal.folders += gone
        removal.what.append(f"the state of {len(gone)} checkpoint{'s' if len(gone) > 1 else ''}")


def _remove(folder: Path) -> int:
    """Delete a folder and return its bytes."""
    size = size_of(folder)
    state = folder.name == Path(TRAINER_STATE).parent.name
    remove_directory(folder, beside=folder.parent.with_name(f"{folder.parent.name}-{folder.name}") if state else None)
    return size


def _named(words: Sequence[str]) -> Iterator[tuple[RunName, int | str | None]]:
    """Runs that words refer to, through links and as `hf:` folders too, and the point in each."""
    for word in words:
        with suppress(CheckpointError, ValueError):  # ValueError: a path with a null byte
            reference = parse_reference(word.removeprefix("hf:"))
            name = RunName.of(os.path.realpath(reference.run)) if reference.kind is Kind.run else None
            if name is not None:
                yield name, reference.at


def _recorded(parent: Any) -> Iterator[str]:
    """References to a parent as run.json has it: the step that was found, and the text as written."""
    if isinstance(parent, dict):
        yield str(parent.get("reference", ""))
        yield str(parent.get("folder", ""))
        if parent.get("run") and isinstance(parent.get("step"), int):
            yield f"{parent['run']}@{parent['step']}"


def _words(command: str) -> list[str]:
    """What may be a reference in a command: values, and items of lists."""
    return [word for word in re.split(r"[\s,=\[\]'\"{}]+", command) if "/" in word]


def _takes_state(command: str) -> bool:
    return "init.state=all" in re.split(r"[\s'\"]+", command)


def _command(run: ListedRun) -> str:
    try:
        return (run.path / OVERRIDES).read_text(encoding="utf-8")
    except OSError:
        return ""


def _children(needs: Sequence[Need]) -> str:
    names = sorted({str(need.child.path("")) if need.child else "a planned run" for need in needs})
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _steps(steps: Sequence[int]) -> str:
    shown = map(str, steps if len(steps) <= 6 else [*steps[:3], "...", *steps[-2:]])
    return f"checkpoint{'s' if len(steps) > 1 else ''} {', '.join(shown)}"
