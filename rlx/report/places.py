"""Which run directories are meant: a run, a folder of its seeds, a folder of runs, or a pattern of any of these.

A pattern has `*`, `?` or `[...]` as a shell's; what it matches that is no run is passed over. On Hydra's command line
`*` and `?` may stand as they are, `stage.runs=[runs/countdown-*]` (some shells want quotes around all of it), while
brackets and `~` need quotes of Hydra's too: `"stage.runs=['runs/*-h[0-9]*']"`. A path that is there is taken as it is,
whatever its letters.
"""

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlx.errors import RlxError
from rlx.runs.files import EVAL, MANIFEST, METRICS, RUN, STATUS

_SEED = re.compile(r"seed\d+")
LOOKED_FOR = "a run directory, a folder of seeds, a folder of runs, or a pattern such as runs/countdown-*"


def find_places(given: Iterable[Path | str]) -> list[Path]:
    """Every run directory that is meant, once each, in a fixed order for each thing given.

    Raises RlxError, one line, for a thing that leads to none.
    """
    found: dict[Path, Path] = {}
    for text in given:
        for place in _meant(str(text)):
            found.setdefault(place.resolve(), place)
    return list(found.values())


def _meant(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if path.exists():
        places = list(_runs(path))
        if not places:
            there = "a plan: give it as stage.plan=" if (path / MANIFEST).exists() else "no run in it or below it"
            raise RlxError(f"{text} is not a run directory, and there is {there}; expected {LOOKED_FOR}")
        return places
    if not glob.has_magic(text):
        raise RlxError(f"no run directory at {text}; expected {LOOKED_FOR}")
    matched = sorted(glob.glob(str(path), recursive=True), key=_by_number)
    places = [place for match in matched for place in _runs(Path(match))]
    if not places:
        what = f"{len(matched)} paths match it, none with a run in it" if matched else "nothing matches it"
        raise RlxError(f"no run directory at {text}: {what}; expected {LOOKED_FOR}")
    return places


def _runs(path: Path) -> Iterator[Path]:
    """The run that a folder is, or those one or two levels below it."""
    if _is_run(path):
        yield path
        return
    seeds = _folders(path, "seed*")
    if seeds:
        yield from (seed for seed in seeds if _SEED.fullmatch(seed.name) or _is_run(seed))
    else:
        below = [seed for arm in _folders(path, "*") for seed in ([arm] if _is_run(arm) else _folders(arm, "seed*"))]
        yield from (seed for seed in below if _is_run(seed) or _SEED.fullmatch(seed.name))


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in (RUN, STATUS, METRICS, EVAL))


def _folders(path: Path, pattern: str) -> list[Path]:
    found = (folder for folder in path.glob(pattern) if folder.is_dir() and not folder.name.startswith("."))
    return sorted(found, key=lambda folder: _by_number(folder.name))


def _by_number(name: str) -> tuple[str, int, str]:
    """seed2 before seed10."""
    digits = re.search(r"\d*$", name)
    number = digits[0] if digits else ""
    return name[: len(name) - len(number)], int(number or 0), name
