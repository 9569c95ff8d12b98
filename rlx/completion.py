"""What Tab offers: `rlx -sc install=bash` prints the function, `rlx -sc query=bash` answers it.

1. Neither Hydra nor torch is loaded, so an answer takes a tenth of a second; only words that begin with `hydra`, but
   for the launcher, are left to Hydra, whose plugins they name.
2. The word is judged up to the cursor, and candidates are whole words; the function takes off what readline keeps.
   So `COMP_WORDBREAKS` stays as it is, and `init_from=<run>@<step>` completes although `@` breaks words.
3. Only text that a shell takes as it stands is offered.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlx.catalog import PRESETS, Catalog, Field, root_fields
from rlx.errors import RlxError
from rlx.options import OUTSIDE, ROOMS
from rlx.runs.checkpoints import best_step, list_checkpoints
from rlx.runs.identity import RunName
from rlx.runs.references import is_pasteable

FLAGS = ("--cfg", "--config-dir", "--help", "--hydra-help", "--info", "--multirun", "--resolve", "--shell-completion",
         "--version")  # fmt: skip
_OWN = tuple(f"{word}{mark}" for group in OUTSIDE for word, mark in ((group, "="), (group.replace("/", "."), ".")))
"""How words of Hydra's begin that are answered here."""
BASH = """\
_rlx_complete()
{
    local IFS=$' \\t\\n' word=${COMP_LINE:0:$COMP_POINT} kept found
    word=${word##* }
    kept=${word%"${word##*[${COMP_WORDBREAKS:- }]}"}
    kept=${kept%@}
    COMPREPLY=()
    for found in $(COMP_LINE=${COMP_LINE:0:$COMP_POINT} "${COMP_WORDS[0]/#~/$HOME}" -sc query=bash 2> /dev/null); do
        COMPREPLY+=("${found#"$kept"}")
    done
}
complete -o nospace -o default -F _rlx_complete rlx"""
"""readline keeps what stands before the last word break, and a break that is `@` belongs to what it replaces."""


def answer(request: str, line: str) -> str | None:
    """What `rlx -sc <request>` prints for the command line of a shell; None where Hydra is to answer."""
    action, _, shell = request.partition("=")
    if action == "query":
        word = line.split()[-1] if line and not line[-1].isspace() else ""
        of_hydra = word.lstrip("+").startswith("hydra") and not word.startswith(_OWN)
        return None if of_hydra else "\n".join(complete(line))
    if shell in ("bash", "zsh") and action == "install":
        return BASH if shell == "bash" else f"autoload -Uz bashcompinit\nbashcompinit\n{BASH}"
    return "complete -r rlx; unset -f _rlx_complete" if shell in ("bash", "zsh") and action == "uninstall" else None


def complete(line: str) -> list[str]:
    """Words that may stand where the line ends, each whole; [] where nothing is known (a shell then offers files)."""
    words = line.split()[1:]
    word = words.pop() if words and not line[-1].isspace() else ""
    if words and words[-1] in ("--config-dir", "-cd"):
        return []
    if word.startswith("-"):
        return [flag for flag in FLAGS if flag.startswith(word)]
    plus = word[: len(word) - len(word.lstrip("+"))]
    catalog, overrides = Catalog.of(words), [text for text in words if "=" in text]
    found = _values(catalog, overrides, word) if "=" in word else _keys(catalog, overrides, word.lstrip("+"))
    return sorted({plus + text if "=" not in word else text for text in found if is_pasteable_word(text)})


def is_pasteable_word(text: str) -> bool:
    """True when an override means the same to a shell without quotes."""
    return is_pasteable(re.sub(r"[=,\[\]]", "", text) or "x")


def _keys(catalog: Catalog, overrides: Sequence[str], word: str) -> Iterator[str]:
    """`stage=`, `model.`, `seed=`; below a group the fields of the option that is chosen."""
    if "." in word:
        for name, field in _fields(catalog, overrides).items():
            if name.startswith(word) and "." not in name[len(word) :]:
                yield f"{name}." if field.inner else f"{name}="
        return
    chosen = catalog.chosen(overrides) if word else {}
    for group in catalog.groups():
        if group.startswith(word):
            yield f"{group}="
            if group in chosen and group in ROOMS:
                yield f"{group}."
    for field in root_fields():
        if field.name.startswith(word):
            yield f"{field.name}." if field.inner else f"{field.name}="


def _values(catalog: Catalog, overrides: Sequence[str], word: str) -> Iterator[str]:
    """`stage=pretrain`, `model.tie_embeddings=false`, `init_from=runs/...`; after a comma the next of a sweep."""
    key, _, value = word.lstrip("+").partition("=")
    cut = max(word.rfind(mark) for mark in "=,[") + 1
    before, part = word[:cut], word[cut:]
    if key in (*ROOMS, *PRESETS, *OUTSIDE):
        found = [name for name in catalog.options(key) if name not in value.split(",")[:-1]]
    else:
        field = _field(catalog, overrides, key)
        found = [] if field is None else _values_of(field, part)
    yield from (before + value for value in found if value.startswith(part))


def _values_of(field: Field, part: str) -> Sequence[str]:
    if field.choices:
        return field.choices
    if "str" in field.kind:
        return [*_paths(part), *([field.default] if field.default not in ("", "[]", "null") and not part else [])]
    return [field.default]


def _field(catalog: Catalog, overrides: Sequence[str], key: str) -> Field | None:
    """The field of a key; of any option that has it, where none of its group is chosen yet."""
    group = key.partition(".")[0]
    options = catalog.options(group) if group in ROOMS and group not in catalog.chosen(overrides) else []
    found = (
        _fields(catalog, [*overrides, *more]).get(key) for more in ([], *([f"{group}={name}"] for name in options))
    )
    return next((field for field in found if field is not None), None)


def _fields(catalog: Catalog, overrides: Sequence[str]) -> dict[str, Field]:
    """Every field of the command by its dotted key."""
    found = {field.name: field for field in root_fields()}
    for group, option in catalog.chosen(overrides).items():
        if group in (*ROOMS, *OUTSIDE):
            found.update({f"{group.replace('/', '.')}.{field.name}": field for field in catalog.fields(group, option)})
    todo = list(found.items())
    while todo:
        name, field = todo.pop()
        inner = {f"{name}.{each.name}": each for each in field.inner}
        found.update(inner)
        todo += inner.items()
    return found


def _paths(part: str) -> Iterator[str]:
    """Files and folders that begin so; a run as it is named after `init_from=`, then its checkpoints after `@`."""
    folder, mark, _ = part.rpartition("@")
    if mark and _is_run(folder):
        yield from (f"{folder}@{point}" for point in _points(Path(folder)))
        return
    above, name = os.path.split(part)
    try:
        entries = sorted(os.scandir(os.path.expanduser(above) or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = os.path.join(above, entry.name)
        if entry.name.startswith(name) and (name.startswith(".") or not entry.name.startswith(".")):
            yield f"{path}/" if entry.is_dir() and not _is_run(entry.path) else path


def _is_run(path: str) -> bool:
    return RunName.of(os.path.abspath(path)) is not None


def _points(run: Path) -> list[str]:
    """What may stand behind the `@` of a run."""
    steps = [str(step) for step, _ in list_checkpoints(run)]
    try:
        best = best_step(run)
    except RlxError:
        best = None
    return [*steps, "last", *(["best"] if best is not None else [])]
