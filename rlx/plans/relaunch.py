"""A plan taken up again: by the launcher that it had, or with other resources, from the folder where it was typed."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from rlx.errors import ConfigError, nearest
from rlx.options import discover
from rlx.plans.launchers.base import LauncherConfig
from rlx.plans.plan import Plan, fits, read_manifest, read_settings


def launcher_of(settings: Mapping[str, Any], name: str | None, changes: Sequence[str]) -> LauncherConfig:
    """The launcher that a plan had (a foreign one is replaced by `sequential`), or another, with fields as typed.

    Raises:
        ConfigError: there is no such launcher or field, or the value is none for it.
    """
    known = discover("hydra/launcher")
    had = str(settings.get("option", "sequential"))
    name = name or (had if had in known else "sequential")
    if name not in known:
        raise ConfigError(f"there is no launcher {name}{nearest(name, known)}")
    kind = known[name].config
    names, declared = sorted(each.name for each in fields(kind) if each.name[0] != "_"), get_type_hints(kind)
    before = settings.items() if name == had else ()
    values = {key: value for key, value in before if key in names and fits(value, declared[key])}
    for text in changes:
        key, mark, value = text.removeprefix("hydra.launcher.").partition("=")
        if not mark:
            raise ConfigError(f"{text}: expected field=value, such as time=8:00:00")
        if key not in names:
            raise ConfigError(f"the launcher {name} has no {key}{nearest(key, names) or '; there are none'}")
        try:
            values[key] = value_of(declared[key], value)
        except ValueError as error:
            raise ConfigError(f"{text}: expected {error}") from None
    return kind(**values)


def value_of(declared: Any, text: str) -> Any:
    """A field's value, of the type that is declared for it.

    Raises:
        ValueError: it is none; says what was expected.
    """
    allowed = get_args(declared) if get_origin(declared) is not list else ()
    if NoneType in allowed and text in ("null", "None"):
        return None
    kind = next((each for each in allowed if each is not NoneType), declared)
    if get_origin(kind) is list:
        if not re.fullmatch(r"\[.*\]", text):
            raise ValueError("a list, such as [a,b]")
        parts = next(csv.reader([text[1:-1]], skipinitialspace=True), [])  # "a,b" in quotes is one
        return [value_of(get_args(kind)[0], part.strip()) for part in parts if part.strip()]
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError("a whole number" if kind is int else "a number") from None
    return text


def go_home(folder: Path) -> Plan:
    """Change to the folder from which the plan's commands find their runs where they are now, and read it there.

    That is where it was typed, unless the folder of runs was moved since. Commands that name a folder of runs by its
    whole path are changed where that was moved.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = folder.absolute()
    plan, rows = Plan.read(folder), read_manifest(folder)
    runs_dir, written = folder.parent.parent, Path(rows[0]["run"]).parent.parent
    typed = Path(read_settings(folder).get("directory", "."))
    if written.is_absolute():
        if typed.is_dir():
            os.chdir(typed)
        for run in plan.runs:
            run.arguments = [moved(text, str(written), str(runs_dir)) for text in run.arguments]
        plan.conclusions = [[moved(text, str(written), str(runs_dir)) for text in each] for each in plan.conclusions]
        return plan
    home = next((place for place in (typed, *runs_dir.parents) if _is(place / written, runs_dir)), None)
    if home is None:
        raise ConfigError(f"the commands of {folder} look for {written}, which is not found from any folder above it")
    os.chdir(home)
    return Plan.read(written / "plans" / folder.name)


def moved(text: str, old: str, new: str) -> str:
    """An argument with a folder's path replaced, where it stands whole."""
    return text if old == new else re.sub(rf"(?<![\w./-]){re.escape(old)}(?=[/\],@\"']|$)", lambda _: new, text)


def _is(place: Path, runs_dir: Path) -> bool:
    return place.is_dir() and place.samefile(runs_dir)
