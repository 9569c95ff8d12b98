"""What a model descends from, by the parents that each run.json names.

Runs are known by the hash and seed of their names, not by where they lie: a tree that was moved is still one. Folders
that others saved are known by their content, and have no ancestors.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlx.errors import CheckpointError
from rlx.runs.checkpoints import step_of
from rlx.runs.files import CHECKPOINTS
from rlx.runs.identity import RunName, content_hash
from rlx.runs.run import read_record


def run_of(folder: Path) -> Path | None:
    """The run whose checkpoint a folder is; None for any other folder."""
    return folder.parent.parent if step_of(folder.name) is not None and folder.parent.name == CHECKPOINTS else None


def lineage_of(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """The model itself and its ancestors, the nearest first: its run, its checkpoint, and its folder, there or not.

    Of a run whose files are gone its children know the ancestors.
    """
    left, seen = [folder], set()
    while left:
        here = left.pop(0)
        run, point = _named(here)
        if point in seen:
            continue
        seen.add(point)
        yield run, point, here
        record = None if (place := run_of(here)) is None else read_record(place)
        left += map(Path, ancestors_in(record or {}))


def ancestors_in(record: Mapping[str, Any]) -> list[str]:
    """Folders of the parents that a run.json names, and then those of their ancestors."""
    parents = [parent["folder"] for parent in record.get("parents", []) if "folder" in parent]
    return list(dict.fromkeys([*parents, *record.get("ancestors", [])]))


def related(first: Path, second: Path) -> bool:
    """True where two models come from one run, which may be one of them."""
    return bool({run for run, _, _ in lineage_of(first)} & {run for run, _, _ in lineage_of(second)})


def common_ancestor(folders: Sequence[Path]) -> Path | None:
    """The checkpoint nearest to the first model that all descend from; None without one.

    Where one of several models is an ancestor of the others, what it descends from itself is taken if there is
    anything: differences from it would say nothing of the model itself.
    """
    others = [{point for _, point, _ in lineage_of(folder)} for folder in folders[1:]]
    shared = {point: here for _, point, here in lineage_of(folders[0]) if all(point in known for known in others)}
    own = {_named(folder)[1] for folder in folders}
    proper = [here for point, here in shared.items() if point not in own]
    return next(iter(proper if proper or len(folders) == 1 else shared.values()), None)


def _named(folder: Path) -> tuple[str, str]:
    """What a checkpoint's run is known by, and the checkpoint itself."""
    run = run_of(folder)
    if run is None:
        try:
            known = content_hash(str(folder))
        except CheckpointError:  # it is gone: then by its place
            known = str(folder.absolute())
        return known, known
    name = RunName.of(run.absolute())
    known = str(run.absolute()) if name is None else f"{name.hash}/seed{name.seed}"
    return known, f"{known}@{step_of(folder.name)}"
