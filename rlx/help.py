"""`rlx --help`: the groups and their options, and every field of those that are typed."""

import textwrap
from collections.abc import Iterable, Sequence

from rlx.catalog import PRESETS, Catalog, Field, group_docs, root_fields
from rlx.errors import ConfigError, nearest

USAGE = """\
rlx stage=<stage> task=<task> [group=option ...] [group.field=value ...]

  rlx stage=pretrain task=countdown                  one run
  rlx stage=sft task=countdown init_from=<run>       go on from any run, at any checkpoint: <run>@<step>
  rlx -m stage=pretrain task=countdown seed=0,1,2    a sweep: every combination
  rlx stage=size model=dense model.depth=12          parameters, FLOPs and state of a model; no run is made
"""
DOCS = {
    "scale": "One dial over widths, steps and intervals; every number can be overridden.",
    "hydra/launcher": "Where the runs of a sweep or a study are carried out.",
    "experiment": "Presets, your own by --config-dir <folder>.",
}
FLAGS = {
    "--help": "this page; with group=option before it, the fields of those options too: rlx model=dense --help",
    "--cfg job": "the whole config that a command comes to, and no run",
    "--multirun, -m": "run every combination of the comma-separated values",
    "--config-dir <folder>": "read presets and options from this folder too",
    "--info searchpath": "the folders that are read",
    "--shell-completion, -sc": "the function for tab completion: install=bash, zsh, fish",
    "--version": "the version of rlx",
    "--hydra-help": "everything else that Hydra has",
}
INDENT = " " * 14
LONGEST = 40
"""Letters of a value that are shown."""


def page(arguments: Sequence[str]) -> str:
    """The help page of a command line.

    Raises:
        ConfigError: an option that its group does not have.
    """
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    catalog = Catalog.of(arguments)
    chosen, docs = catalog.chosen(overrides), {**group_docs(), **DOCS}
    parts = [USAGE, "group=option (* is taken when nothing else is typed)"]
    for group in catalog.groups():
        names = (f"{name}*" if chosen.get(group) == name else name for name in catalog.options(group))
        listed = textwrap.wrap(", ".join(names), 100, initial_indent=INDENT, subsequent_indent=INDENT)
        parts += [f"  {group + ':':<{len(INDENT) - 3}} {docs[group]}", *listed]
    parts += ["", "field=value", *_rows(root_fields())]
    typed = {text.lstrip("+").partition("=")[0] for text in overrides}
    for group in sorted(typed & chosen.keys()):
        name, known = chosen[group], catalog.options(group)
        if name not in known:
            raise ConfigError(f"no {group}={name}{nearest(name, known)}")
        if group not in PRESETS:
            rows = _rows(catalog.fields(group, name), f"{group.replace('/', '.')}.")
            parts += ["", f"{group}={name}", *(rows or ["  no fields"])]
    parts += ["", "flags", *_columns(FLAGS.items())]
    return "\n".join(parts)


def _rows(fields: Sequence[Field], prefix: str = "") -> list[str]:
    """Name, value and meaning of each field."""
    return _columns((name, value, doc) for name, value, doc in _flat(fields, prefix))


def _flat(fields: Sequence[Field], prefix: str) -> Iterable[tuple[str, str, str]]:
    for field in fields:
        if field.inner:
            yield from _flat(field.inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", textwrap.shorten(field.default, LONGEST, placeholder=" ..."), field.doc


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines of text in columns, the last as long as it is."""
    cells = list(rows)
    widths = [max(len(row[number]) for row in cells) for number in range(len(cells[0]))] if cells else []
    return [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
