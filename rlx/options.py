"""Options of the command line's groups, found by folder: there is no list to edit.

`group=name` is the class decorated with `@option("group", "name")` in `rlx/<room>/<name>.py`; `ROOMS` says which
room holds a group. Standard library only.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Protocol, TypeVar, get_args, get_origin

ROOMS: dict[str, str] = {
    "task": "rlx.tasks",
    "stage": "rlx.stages",
    "model": "rlx.models",
    "corpus": "rlx.data.corpora",
    "tokenizer": "rlx.data.tokenizers",
    "adapter": "rlx.adapters",
    "algorithm": "rlx.algorithms",
    "environment": "rlx.environments",
    "merge": "rlx.merges",
    "decode": "rlx.decoding",
    "optim": "rlx.optim",
    "schedule": "rlx.optim.schedules",
    "trainer": "rlx.trainers",
    "logger": "rlx.runs.loggers",
    "study": "rlx.studies",
}
OUTSIDE: dict[str, str] = {"hydra/launcher": "rlx.plans.launchers"}
"""Groups of Hydra's own that have options of ours: they say where runs are carried out, and are no part of a run."""


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of a group: its config class, and a version raised when a default or a meaning changes."""

    group: str
    name: str
    config: type
    version: int


_options: dict[tuple[str, str], Option] = {}
_by_class: dict[type, Option] = {}
C = TypeVar("C", bound=type)


def option(group: str, name: str, *, version: int = 1) -> Callable[[C], C]:
    """Register the decorated config class as `group=name`.

    Raises:
        ValueError: unknown group, or the name is taken by another module.
    """
    if group not in (*ROOMS, *OUTSIDE):
        raise ValueError(f"group {group!r} has no room; known: {', '.join((*ROOMS, *OUTSIDE))}")

    def register(cls: C) -> C:
        known = _options.get((group, name))
        if known is not None and known.config.__qualname__ != cls.__qualname__:
            raise ValueError(f"{group}={name} is defined twice: {known.config.__module__} and {cls.__module__}")
        found = Option(group, name, cls, version)
        _options[group, name] = found
        _by_class[cls] = found
        return cls

    return register


def room_of(group: str) -> str:
    """The package that holds a group's options."""
    return ROOMS.get(group) or OUTSIDE[group]


def discover(group: str) -> dict[str, Option]:
    """Import the group's room and return its options by name."""
    name = room_of(group)
    room = importlib.import_module(name)
    for module in pkgutil.iter_modules(room.__path__):
        if not module.ispkg:
            importlib.import_module(f"{name}.{module.name}")
    return {name: found for (g, name), found in sorted(_options.items()) if g == group}


def option_of(config: Any) -> Option:
    """The option that a config object belongs to (its class, or the nearest parent that is an option)."""
    for cls in type(config).__mro__:
        if cls in _by_class:
            return _by_class[cls]
    raise KeyError(f"{type(config).__name__} is not an option")


def recorded(default: Any) -> Any:
    """A config field that is written to run.json but does not change results: it is left out of the run's hash."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"identity": False})
    return field(default=default, metadata={"identity": False})


def content(*files: str, texts: bool = False) -> Any:
    """A config field (str | None, None unless given) that names a file, a folder or a data set as `rlx.rows` reads
    them: it enters the run's hash by what it holds, so that a moved file keeps the run's place and a changed one makes
    a new place. config.yaml has it as written, and a relative path begins where the command is typed.

    Args:
        files: of a source of texts, names of the config's fields that choose its files, as `rlx.rows.Files` has them;
            by these alone they enter.
        texts: it is a source of texts, none of whose files are chosen.
    """
    return field(default=None, metadata={"identity": "content", "files": files, "texts": texts or bool(files)})


class StandsFor(Protocol):
    """A value inside a config that stands for other options, as a mixture's source does for a task."""

    def stands_for(self) -> dict[str, Any]:
        """What a run's hash sees in the place of the value's fields: configs of options, and plain values."""
        ...


def plain_value(value: Any) -> Any:
    """A config value as JSON holds it: enums by name, dataclasses and dicts by key; whole floats stay floats."""
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_value(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return value


def field_value(name: str, value: Any, kind: Any) -> Any:
    """A field as JSON or YAML holds it, as the config class annotates it: enums by name, whole numbers where floats
    stand.

    Raises:
        ValueError: a value of another type.
    """
    for choice in get_args(kind) if isinstance(kind, UnionType) else (kind,):
        plain = get_origin(choice) or choice
        if issubclass(plain, Enum) and isinstance(value, str) and value in plain.__members__:
            return plain[value]
        if type(value) is plain or (plain is float and type(value) is int):
            return plain(value) if plain is float else value
    raise ValueError(f"{name}={value!r} is not {_told(kind)}")


def _told(kind: Any) -> str:
    """What is expected of a value of this kind: the names of a choice, else the type's."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(kind.__members__)}"
    return getattr(kind, "__name__", str(kind))
