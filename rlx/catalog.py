"""Groups, options and their fields, read from the files that define them without running one.

Help and tab completion are asked for at a prompt, and option files import torch, which takes a second or more. So
groups and options are the folders and files of conf/ (and of `--config-dir`), and fields are read from the source of
their dataclasses. What a whole command comes to is Hydra's to say: `rlx ... --cfg job`.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from rlx.options import OUTSIDE, ROOMS, room_of

CONF = Path(next(iter(import_module("rlx.conf").__path__)))
FIRST = "config"
"""The file of conf/ that every command begins with."""
PACKAGE = Path(__file__).parent
PRESETS = ("scale", "experiment")
"""Groups whose options set values of several groups."""


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a config."""

    name: str
    kind: str
    """Its type, as the source has it."""
    default: str
    """Its value as YAML has it; empty where there is none."""
    doc: str
    choices: tuple[str, ...] = ()
    """The values that there are, where they are few."""
    inner: tuple["Field", ...] = ()
    """Keys below it."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """What can be typed, in the package's own files and in the folders given."""

    folders: tuple[Path, ...]
    """Where YAML files are looked for; the first that has one wins."""

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "Catalog":
        """The package's, and that of a `--config-dir` among the arguments."""
        found = [CONF]
        for number, argument in enumerate(arguments):
            name, mark, value = argument.partition("=")
            if name in ("--config-dir", "-cd"):
                value = value if mark else "".join(arguments[number + 1 : number + 2])
                found.append(Path(value).expanduser())
        return cls(tuple(found))

    def options(self, group: str) -> list[str]:
        """Names that may stand after `group=`."""
        return sorted({path.stem for folder in self.folders for path in folder.glob(f"{group}/*.yaml")})

    def groups(self) -> list[str]:
        """Groups that have an option."""
        return [group for group in (*ROOMS, *PRESETS, *OUTSIDE) if self.options(group)]

    def chosen(self, overrides: Sequence[str]) -> dict[str, str]:
        """Option by group: the defaults of conf/config.yaml, then a preset's, then those typed; none for null."""
        pairs = (text.lstrip("+").partition("=") for text in overrides)
        typed = {key: value for key, _, value in pairs}
        found = _choices(_read(CONF / f"{FIRST}.yaml"))
        if "experiment" in typed:
            found.update(_choices(self._yaml("experiment", typed["experiment"])))
        found |= {group: value for group, value in typed.items() if group in (*ROOMS, *PRESETS, *OUTSIDE)}
        return {group: value for group, value in found.items() if value != "null"}

    def fields(self, group: str, option: str, above: tuple[str, ...] = ()) -> list[Field]:
        """Fields of an option, with the values of its YAML and of the option that it changes; [] if there is none.

        `above` are the options that change this one: files that name each other end there.
        """
        values = self._yaml(group, option)
        schema = next((value for key, value in _entries(values) if key.startswith(f"/schema/{group}@")), option)
        above = (*above, option)
        changed = [name for name in values.get("defaults") or [] if name in self.options(group) and name not in above]
        place = _option_class(group, str(schema))
        found = self.fields(group, changed[0], above) if changed else _fields(*place) if place else []
        return [_with(field, values) for field in found]

    def _yaml(self, group: str, option: str) -> dict[str, Any]:
        places = (folder / group / f"{option}.yaml" for folder in self.folders)
        return next((_read(path) for path in places if path.is_file()), {})


def root_fields() -> list[Field]:
    """Keys that stand at the top of a command and are no groups."""
    return [field for field in _fields("rlx.config", "Config") if field.name not in ROOMS]


def group_docs() -> dict[str, str]:
    """What each group is, in a line."""
    return {field.name: field.doc for field in _fields("rlx.config", "Config") if field.name in ROOMS}


def _read(path: Path) -> dict[str, Any]:
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read if isinstance(read, dict) else {}


def _entries(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Pairs of a defaults list."""
    for entry in values.get("defaults") or []:
        yield from entry.items() if isinstance(entry, dict) else ()


def _choices(values: dict[str, Any]) -> dict[str, str]:
    """Options that a defaults list names: `model: dense`, or `override /model: dense` in a preset."""
    plain = ((key.removeprefix("override ").lstrip("/"), value) for key, value in _entries(values))
    return {key: value for key, value in plain if key in (*ROOMS, *PRESETS, *OUTSIDE) and isinstance(value, str)}


def _with(field: Field, values: dict[str, Any]) -> Field:
    """The field with the value that a YAML file gives it, if it does."""
    if field.name not in values:
        return field
    value = values[field.name]
    if field.inner and isinstance(value, dict):
        inner = tuple(_with(each, value) for each in field.inner)
        return Field(field.name, field.kind, field.default, field.doc, field.choices, inner)
    return Field(field.name, field.kind, _as_yaml(value), field.doc, field.choices, field.inner)


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


@cache
def _option_class(group: str, name: str) -> tuple[str, str] | None:
    """Module and name of the class under `@option(group, name)`."""
    decorator = re.compile(rf'^@option\("{group}", "{re.escape(name)}"[^\n]*\n(?:@[^\n]*\n)*class (\w+)', re.MULTILINE)
    folder = PACKAGE.joinpath(*room_of(group).split(".")[1:])
    files = sorted(folder.glob("*.py"), key=lambda path: path.stem != name)  # most are alone in a file of their name
    for path in files:
        match = decorator.search(path.read_text(encoding="utf-8"))
        if match:
            return f"{room_of(group)}.{path.stem}", match[1]
    return None


@cache
def _fields(module: str, name: str) -> list[Field]:
    """Fields of a dataclass, its parents' first."""
    found: dict[str, Field] = {}
    place = _class(module, name)
    if place is None:
        return []
    module, node = place
    for base in reversed(node.bases):  # the order of dataclasses
        if isinstance(base, ast.Starred):  # model=hybrid: the settings of all mixers
            found.update({field.name: field for other, cls in reversed(_mixers()) for field in _fields(other, cls)})
        else:
            found.update({field.name: field for field in _fields(module, ast.unparse(base))})
    docs = [*node.body[1:], None]
    for statement, after in zip(node.body, docs, strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            kind = ast.unparse(statement.annotation)
            key = statement.target.id
            if not kind.startswith("ClassVar") and not key.startswith("_"):
                found[key] = Field(key, kind, _default(statement.value), _doc(after), *_below(module, kind))
    return list(found.values())


def _mixers() -> list[tuple[str, str]]:
    """Modules and names of the classes under `@layer(...)`, but for those that others of them extend."""
    decorator = re.compile(r"^@layer\([^\n]*\n(?:@[^\n]*\n)*class (\w+)\((\w+)", re.MULTILINE)
    found, extended = [], set()
    for path in sorted(PACKAGE.joinpath("models", "layers").glob("*.py")):
        for name, base in decorator.findall(path.read_text(encoding="utf-8")):
            found.append((f"rlx.models.layers.{path.stem}", name))
            extended.add(base)
    return [(module, name) for module, name in found if name not in extended]


def _below(module: str, kind: str) -> tuple[tuple[str, ...], tuple[Field, ...]]:
    """Choices and inner fields of a type: an Enum's names, true and false, a dataclass's fields."""
    name = kind.removesuffix(" | None")
    if name == "bool":
        return ("false", "true"), ()
    place = _class(module, name) if name.isidentifier() else None
    if place is None:
        return (), ()
    if any(ast.unparse(base) == "Enum" for base in place[1].bases):
        targets = (s.targets[0] for s in place[1].body if isinstance(s, ast.Assign))
        return tuple(target.id for target in targets if isinstance(target, ast.Name)), ()
    return (), tuple(_fields(module, name))


def _default(node: ast.expr | None) -> str:
    """A default as YAML has it; what only Python can compute as the source has it."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "recorded":
        return _default(node.args[0])
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "content":
        return "null"
    if node is None or isinstance(node, ast.Call):  # field(default_factory=...)
        made = [key.value for key in node.keywords if key.arg == "default_factory"] if node else []
        if made and isinstance(made[0], ast.Lambda):
            return _default(made[0].body)
        factories = [ast.unparse(factory) for factory in made]
        return {"list": "[]", "dict": "{}"}.get("".join(factories).partition("[")[0], "")
    if isinstance(node, ast.Attribute):
        return node.attr
    try:
        return _as_yaml(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


def _doc(node: ast.stmt | None) -> str:
    """The text under a field."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


@cache
def _class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Where a class that a module names is defined: there, or in a module of rlx that it imports the name from."""
    tree = _tree(module)
    if tree is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlx."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _class(str(node.module), alias.name)
    return None


@cache
def _tree(module: str) -> ast.Module | None:
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None
