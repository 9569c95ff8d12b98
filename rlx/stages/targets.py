"""Folders that a stage makes where it is told to, outside of any run."""

import os
from pathlib import Path

from rlx.errors import ConfigError
from rlx.runs.files import explained
from rlx.runs.references import format_reference, is_pasteable


def new_folder(to: str | None, stage: str) -> tuple[Path, str]:
    """The place that `stage.to` names, and how it is written on a command line.

    Raises:
        ConfigError: none is given, something is there, or its name would need quoting.
    """
    if not to:
        raise ConfigError(f"stage={stage} needs stage.to=<folder>, a new one")
    target = Path(os.path.abspath(Path(to).expanduser()))
    shown = format_reference(target)
    if not is_pasteable(shown):
        raise ConfigError(f"stage.to={to!r} has characters that a command line would need to quote")
    if os.path.lexists(target) and not (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
        raise ConfigError(f"stage.to={to} is there already, and not an empty folder; name a new one")
    if any(parent.is_file() for parent in target.parents):
        raise ConfigError(f"stage.to={to} is inside a file; name a place in a folder")
    return target, shown


def make_room(target: Path) -> None:
    """Make the folders above, and remove an empty one that is there."""
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            target.rmdir()
