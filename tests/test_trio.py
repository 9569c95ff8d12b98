"""An option is three files: `rlx/<room>/<name>.py`, `conf/<group>/<name>.yaml`, `tests/<room>/test_<name>.py`.

What is missing is named. Groups whose options are too small for a test file of their own need a test that mentions
them; `trainer` and `logger` have values only, which test_presets.py builds.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlx.options import OUTSIDE, ROOMS, Option, discover, room_of

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PRESETS = ("scale", "experiment")
"""Folders of conf/ whose files set values of several groups."""
OWN_TEST = ("adapter", "task", "model", "stage", "algorithm", "environment", "merge", "optim", "schedule",
            *OUTSIDE)  # fmt: skip
MENTIONED = ("corpus", "tokenizer", "decode", "study")
NAME = re.compile(r"[a-z][a-z0-9_]*")


@cache
def found() -> list[Option]:
    return [option for group in (*ROOMS, *OUTSIDE) for option in discover(group).values()]


def files(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in CONF.glob(pattern))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def schemas(path: Path) -> list[str]:
    """Schemas that a file's defaults list names, as `group=option`."""
    entries = (yaml.safe_load(path.read_text()) or {}).get("defaults", [])
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    pattern = re.compile(r"/schema/([\w/]+)@_here_")
    return [f"{match[1]}={value}" for key, value in pairs if (match := pattern.fullmatch(key))]


def own_tests(option: Option) -> Iterator[Path]:
    """Where an option's test file may stand: beside its room's tests, or one folder up."""
    folder = ROOT.joinpath("tests", *room_of(option.group).split(".")[1:])
    yield folder / f"test_{option.name}.py"
    if folder.parent != ROOT / "tests":
        yield folder.parent / f"test_{option.name}.py"


@cache
def texts() -> str:
    """All tests but those at the top that run over every option found."""
    return "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")) if path.name not in GUARDS)


GUARDS = ("test_rooms.py", "test_trio.py", "test_presets.py", "test_install.py")
by_name = pytest.mark.parametrize("option", found(), ids=lambda option: f"{option.group}={option.name}")


@by_name
def test_an_option_is_where_its_name_says(option):
    assert NAME.fullmatch(option.name), f"{option.name}: run directories are <task>-<model>-<stage>-<hash>; write a_b"
    module, room = option.config.__module__, room_of(option.group)
    assert module.startswith(f"{room}."), f"{option.group}={option.name} is in {module}, expected {room}.{option.name}"
    assert not module.endswith(".base"), f"{option.group}={option.name} is in base.py; move it to {option.name}.py"


@by_name
def test_an_option_has_its_yaml(option):
    path = CONF / option.group / f"{option.name}.yaml"
    assert path.is_file(), f"{shown(path)} is missing"
    assert f"{option.group}={option.name}" in schemas(path), f"{shown(path)} does not name the schema of {option.name}"


@by_name
def test_an_option_has_its_test(option):
    name = re.compile(rf"\b{option.name}\b")
    if option.group in OWN_TEST:
        places = list(own_tests(option))
        there = [path for path in places if path.is_file()]
        assert there, f"{shown(places[0])} is missing"
        assert name.search(there[0].read_text()), f"{shown(there[0])} does not mention {option.name}"
    if option.group in MENTIONED:
        room = room_of(option.group)
        ways = (f"{option.group}={option.name}", f"{room}.{option.name}", f'"{option.name}"')
        assert any(way in texts() for way in ways), f"no test mentions {ways[0]} (or {ways[1]})"


OUTER = tuple(f"{group}/*.yaml" for group in OUTSIDE)


@pytest.mark.parametrize("path", files("*/*.yaml", *OUTER), ids=shown)
def test_a_yaml_belongs_to_an_option(path):
    group = path.parent.relative_to(CONF).as_posix()
    assert NAME.fullmatch(path.stem), f"{shown(path)}: letters, digits and underscores only; names stand in paths"
    if group in PRESETS:
        first = path.read_text().splitlines()[0]
        assert first.strip() == "# @package _global_", f"{shown(path)} must begin with `# @package _global_`"
        return
    groups = (*ROOMS, *PRESETS, *OUTSIDE)
    assert group in groups, f"conf/{group} is no group; there are {', '.join(groups)}"
    names = schemas(path)
    assert len(names) == 1, f"{shown(path)} must begin `defaults: [/schema/{group}@_here_: <option>, _self_]`"
    known = [f"{option.group}={option.name}" for option in found()]
    assert names[0] in known and names[0].startswith(f"{group}="), f"{shown(path)} names {names[0]}, no such option"
    defaults: list[Any] = yaml.safe_load(path.read_text())["defaults"]
    assert defaults[-1] == "_self_", f"{shown(path)}: _self_ is written, and last"


def test_there_is_nothing_else_in_conf():
    """`at/<group>/<scale>/<option>.yaml` is read if it is there: a misspelt one would be ignored."""
    root = (CONF / "config.yaml").read_text()
    for path in files("at/**/*.yaml"):
        parts = path.relative_to(CONF / "at").with_suffix("").parts
        assert len(parts) == 3, f"{shown(path)} is not at/<group>/<scale>/<option>.yaml"
        group, scale, name = parts
        assert f"optional at/{group}@{group}: ${{scale}}/${{{group}}}" in root, f"conf/config.yaml reads no at/{group}"
        assert (CONF / "scale" / f"{scale}.yaml").is_file(), f"{shown(path)}: there is no scale={scale}"
        assert (CONF / group / f"{name}.yaml").is_file(), f"{shown(path)}: there is no {group}={name}"
    known = {CONF / "config.yaml", *files("*/*.yaml", *OUTER, "at/**/*.yaml")}
    assert not [shown(path) for path in files("**/*.yaml", "**/*.yml") if path not in known]
