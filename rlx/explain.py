"""Hydra's and OmegaConf's errors as one line: what was expected, what came, what to do."""

import difflib
import re
import shlex
import traceback
from dataclasses import fields, is_dataclass
from typing import Any

from rlx.errors import ConfigError, RlxError, nearest
from rlx.options import OUTSIDE, ROOMS, discover

_PLUGINS = {"hydra/sweeper": ("optuna",), "hydra/launcher": ("joblib",)}
"""Options of Hydra that packages of the extra `sweep` bring."""
_EITHER = """expected a list of texts, as in 'plan.either=["stage=pretrain","stage=rl algorithm=grpo,ppo"]'"""

_LAYERS = (
    "expected a list of layers, which is repeated until there are model.n_layers, as in model.layers=[attention*3,gssm]"
)
_LISTS = {"plan.either": _EITHER, "model.layers": _LAYERS}
"""What fields expect that are lists of more than plain values."""


def explain(error: BaseException) -> str | None:
    """One line for an error that the user's input caused; None for a fault of ours."""
    chain = _chain(error)
    for link in chain:
        if isinstance(link, RlxError):
            return _flat(str(link))
    for rule in (_unknown_option, _unknown_key, _grammar, _missing, _bad_value, _null_group, _comma, _package):
        for link in chain:
            line = rule(link, chain)
            if line:
                return line
    return None


def unknown_key(composed: Any) -> None:
    """Raise for a key that no schema has: `+key=value` gets past Hydra.

    Raises:
        ConfigError: the key, where it stands, and the nearest name.
    """
    from omegaconf import DictConfig, OmegaConf

    def walk(node: Any, path: str) -> None:
        kind = OmegaConf.get_type(node)
        if not is_dataclass(kind):
            return
        known = [f.name for f in fields(kind)]
        for key in node:
            if key not in known and not (path == "" and key == "hydra"):
                raise ConfigError(f"unknown key {_join(path, str(key))}{nearest(str(key), known)}")
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                walk(child, _join(path, str(key)))

    walk(composed, "")


def _chain(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _flat(text: str) -> str:
    return " ".join(text.split())


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unknown_option(error: BaseException, chain: list[BaseException]) -> str | None:
    """`Could not find 'model/dence'`, with the options that there are."""
    text = str(error)
    match = re.search(r"Could not find '([^']+)'", text)
    if match is None:
        return None
    group, _, name = match[1].rpartition("/")
    listed = re.search(r"Available options in '[^']*':\s*((?:\s*\S+\n?)*)", text)
    known = re.findall(r"^\s+([\w-]+)$", listed[0], flags=re.MULTILINE) if listed else []
    if not group:
        return f"no config named {name}"
    where = re.search(r"In '([^']+)'", text)
    place = f"in {where[1]}: " if where and where[1] not in ("config", "hydra/config") else ""
    if name not in known and name in _PLUGINS.get(group, ()):
        return f"{place}no {group}={name}; it comes with: pip install 'rlx[sweep]'"
    return f"{place}no {group}={name}{nearest(name.replace('+', '_plus'), known)}"  # reinforce++, as papers write it


def _unknown_key(error: BaseException, chain: list[BaseException]) -> str | None:
    """`Key 'widht' is not in struct` and its variants, with the file or the override."""
    text = str(error)
    match = re.search(r"Key '([^']+)' (?:not in|is not in struct)(?: '([^']+)')?", text)
    if match is None:
        return None
    key = match[1]
    full = re.search(r"full_key: (\S+)", text)
    kind = re.search(r"object_type=(\w+)", text)
    place = _place(chain)
    if place and key in ("experiment", "scale"):
        return f"{place}a preset must begin with the line `# @package _global_`"
    name = (full[1] if full else key).strip("'\"")
    group, _, inner = name.partition(".")
    if place.startswith(f"in {group}/") and group in ROOMS:
        options = discover(group).values()
        if kind and kind[1] not in {each.config.__name__ for each in options}:
            whose = next((each.name for each in options if inner in _names(each.config)), next(iter(options)).name)
            return f"{place}the file does not say which option it changes; begin it with `defaults: [{whose}, _self_]`"
    if not inner:
        return f"{place}unknown key {name}{_below(name)}"
    outer, _, last = name.rpartition(".")
    known = _fields_of(kind[1] if kind else "", outer) or _names_in(chain)
    hint = nearest(last, known)
    if outer == "hydra.launcher" and "did you mean" not in hint:
        hint = _of_launchers(last) or hint
    if outer in ROOMS and (theirs := [name for name, each in discover(outer).items() if last in _names(each.config)]):
        hint = f"; {' and '.join(f'{outer}={name}' for name in theirs)} {'has' if len(theirs) == 1 else 'have'} it"
    if outer == "corpus.environment":
        hint = _beside_a_name(last) or hint
    return f"{place}unknown key {name}{hint}"


def _beside_a_name(field: str) -> str:
    """How a field of an environment is given inside a corpus; empty where none has it."""
    whose = [name for name, each in discover("environment").items() if field in _names(each.config)]
    return f"; name the environment with it: 'corpus.environment={{name:{whose[0]},{field}:...}}'" if whose else ""


def _names_in(chain: list[BaseException]) -> list[str]:
    """Fields of the dataclass that OmegaConf was looking into."""
    kinds = (getattr(link, "object_type", None) for link in chain)
    return next((_names(kind) for kind in kinds if isinstance(kind, type) and is_dataclass(kind)), [])


def _of_launchers(name: str) -> str:
    """`; hydra/launcher=parallel has slots` for a field of another launcher than the one that was chosen."""
    for option, found in discover("hydra/launcher").items():
        if near := difflib.get_close_matches(name, _names(found.config), n=1, cutoff=0.8):
            return f"; hydra/launcher={option} has {near[0]}"
    return ""


def _below(name: str) -> str:
    """`; did you mean stage.steps?` for a field whose group was left out, or the nearest key of the root."""
    from rlx.config import Config

    places = {f.name: [f.default_factory] for f in fields(Config) if is_dataclass(f.default_factory)}
    for group in (*ROOMS, *OUTSIDE):
        places[group.replace("/", ".")] = [found.config for found in discover(group).values()]
    found = [f"{place}.{name}" for place, kinds in places.items() if any(name in _names(kind) for kind in kinds)]
    if found:
        return f"; did you mean {' or '.join(found)}?"
    return nearest(name, [*_names(Config), "scale", "experiment"])


def _names(cls: Any) -> list[str]:
    return [field.name for field in fields(cls) if field.name[0] != "_"]


def _place(chain: list[BaseException]) -> str:
    """`in experiment/mine: ` where an error names a file."""
    for link in chain:
        match = re.search(r"In '([^']+)':", str(link))
        if match and match[1] != "config":
            return f"in {match[1]}: "
    return ""


def _fields_of(kind: str, place: str) -> list[str]:
    """Fields of the dataclass that an error names by its class's name, which classes of other groups may have too;
    `place` is the key that holds it."""
    from rlx.config import Config

    groups = sorted((*ROOMS, *OUTSIDE), key=lambda group: group.replace("/", ".") != place)
    for outer in (Config, *(found.config for group in groups for found in discover(group).values())):
        inner = [f.default_factory for f in fields(outer) if is_dataclass(f.default_factory)]
        for cls in (outer, *inner):
            if isinstance(cls, type) and cls.__name__ == kind:
                return _names(cls)
    return []


def _grammar(error: BaseException, chain: list[BaseException]) -> str | None:
    if type(error).__name__ != "OverrideParseException":
        return None
    override = str(getattr(error, "override", None) or "")
    key, _, value = override.partition("=")
    hint = "expected key=value"
    if key and value:
        parts = [f'"{part}"' for part in value.strip("[]").split(",")]
        quoted = shlex.quote(f"{key}=[{','.join(parts)}]" if value[0] == "[" else f'{key}="{value}"')
        hint = f"a value with `=`, brackets, quotes or unusual letters needs quotes twice, as in {quoted}"
    hint = _LISTS.get(key, hint)
    return f"cannot read the argument {override!r}: {hint}"


def _missing(error: BaseException, chain: list[BaseException]) -> str | None:
    if type(error).__name__ != "MissingMandatoryValue":
        return None
    match = re.search(r"full_key: (\S+)", str(error))
    return f"{match[1] if match else 'a value'} must be given"


def _bad_value(error: BaseException, chain: list[BaseException]) -> str | None:
    """A value of the wrong type, or outside an enum."""
    if type(error).__name__ not in ("ValidationError", "UnsupportedValueType", "ReadonlyConfigError"):
        return None
    text = str(error)
    full = re.search(r"full_key: (\S+)", text)
    first = text.splitlines()[0]
    choices = re.search(r"Invalid value '(.*)', expected one of \[(.*)\]", first)
    name = full[1] if full else "a value"
    if choices:
        return f"{_place(chain)}{name}={choices[1]}: expected one of {choices[2]}"
    typed = next((match[1] for link in chain if (match := re.search(r"merging override [^=]+=(.*)", str(link)))), None)
    value = re.search(r"[Vv]alue '(.*?)'", first)
    value = typed if typed is not None else value[1] if value else "null" if "None" in first else ""
    return f"{_place(chain)}{name}={value}: {_expected(first, name, value)}"


def _expected(first: str, name: str, value: str) -> str:
    """What a field takes, from the first line of OmegaConf's refusal of a value."""
    if "converted to Integer" in first:
        whole = re.fullmatch(r"-?\d+(\.\d*)?(e\+?\d\d?)?", value) and float(value).is_integer()
        return "expected a whole number" + (f", written out: {float(value):.0f}" if whole else "")
    if "converted to Float" in first:
        return "expected a number, such as 0.1 or 3e9"
    if "valid bool" in first:
        return "expected true or false"
    if "not a ListConfig" in first and name in _LISTS:
        return _LISTS[name]
    if "not a ListConfig" in first:
        return f"expected a list, as in {name}=[{value},...]"
    if "Incompatible value 'None'" in first or "not Optional" in first:
        return "it cannot be null"
    return _flat(first)


def _null_group(error: BaseException, chain: list[BaseException]) -> str | None:
    """`algorithm.group=3` while no algorithm is chosen: OmegaConf stumbles, and Hydra's frame knows the override."""
    if not re.search("Unexpected type for root|'NoneType' object has no attribute 'get'\n.*full_key", str(error)):
        return None
    locals_ = (frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__))
    keys = (getattr(names.get("override"), "key_or_group", None) for names in locals_)
    key = next(filter(None, keys), "a field")
    group = key.split(".")[0]
    options = sorted(discover(group)) if group in ROOMS else ["<option>"]
    choices = "|".join(options)
    return f"{key} was set, but no {group} is chosen; choose it too: {group}={choices}"


def _comma(error: BaseException, chain: list[BaseException]) -> str | None:
    """`seed=0,1` without `-m`."""
    match = re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", str(error))
    if match is None:
        return None
    name, value = match[1], match[2]
    if name == "checkpoint.keep":
        return f"{name}={value}: expected one of them, or two joined by `+`: {name}={value.replace(',', '+')}"
    return f"{name}={value}: a run takes one value; for a run of each put -m first, for a list write {name}=[{value}]"


def _package(error: BaseException, chain: list[BaseException]) -> str | None:
    composing = ("ConfigCompositionException", "MissingConfigException", "ConfigLoadError", "SearchPathException")
    reading = ("HydraException", "ConfigKeyError", "ConfigAttributeError", "InterpolationKeyError")
    if type(error).__name__ in composing + reading or str(error).startswith(
        ("Config group override", "Only one of --")
    ):
        return _flat(str(error))
    if type(error).__name__ in ("ScannerError", "ParserError"):
        return f"a YAML file cannot be read: {_flat(str(error))}"
    return None
