"""What a run was told: the options it chose, the fields of its config.yaml, and which of them were typed.

config.yaml is read as the text that rlx itself writes (block mappings, lists of dashes, long values continued on
indented lines), as labels compare texts and nothing else. So the report needs no YAML library.
"""

import re
import shlex
from pathlib import Path
from typing import Any

from rlx.runs.files import CONFIG

_LINE = re.compile(r"( *)(- )?(?:([\w./@+-]+):(?: (.*))?|(.*))")
_TYPED = re.compile(r"[+~]*([\w./@-]+)=(.*)", re.DOTALL)


def read_fields(folder: Path) -> dict[str, str]:
    """The fields of a run's config.yaml by dotted key, as text; empty where there is none."""
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []  # the keys that a line is inside of, with their indents
    listed: int | None = None  # the indent of the list that a line is inside of
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        indent = len(line) - len(line.lstrip())
        if match is None or not line.strip():
            continue
        inside = listed is not None and (indent > listed or (indent == listed and match[2]))
        if above and (match[2] or not match[3] or inside):
            key = ".".join(name for _, name in above)
            found[key] = f"{found.get(key, '')} {line.strip()}".strip()
            listed = indent if match[2] and not inside else listed
            continue
        listed = None
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, match[3] or ""))
        if match[4]:
            found[".".join(name for _, name in above)] = match[4]
    return found


def settings(folder: Path, info: dict[str, Any], command: str) -> dict[str, str]:
    """Options by group, and fields by dotted key; of a run that never began, what its command sets."""
    options = info.get("options")
    chosen = options if isinstance(options, dict) else {}
    found = read_fields(folder) | {str(group): str(option) for group, option in chosen.items()}
    return found or typed(command)


def typed(command: str) -> dict[str, str]:
    """What a command sets, in its order."""
    try:
        words = shlex.split(command)
    except ValueError:  # an open quote
        words = command.split()
    return {match[1]: match[2] for word in words if (match := _TYPED.fullmatch(word))}
