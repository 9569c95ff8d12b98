"""Where a run lies: a name made of what it is.

`<runs_dir>/<task>-<model>-<stage>-<hash>/seed<n>`. The hash covers each used group's option and version and the fields
that change results and differ from their default, so that a new field at its old meaning moves no hash. A parent
enters by its own hash, by its reference as written, and by its seed, written `same` when it is the child's.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlx.options import option_of, plain_value
from rlx.rows import Files, fingerprint
from rlx.runs.references import Kind, parse_reference

HASH_DIGITS = 10
READERS = 4
"""Folders whose files are read at the same time."""
BLOCK = 1 << 20
"""Bytes that are read at once where files are summed."""
_NAME = re.compile(r"(?P<task>[a-z0-9_]+)-(?P<model>[a-z0-9_]+)-(?P<stage>[a-z0-9_]+)-(?P<hash>h[0-9a-f]+)")
_SEED = re.compile(r"seed(\d+)")


@dataclass(frozen=True, slots=True)
class RunName:
    """What the name of a run directory says."""

    task: str
    model: str
    stage: str
    hash: str
    seed: int

    @classmethod
    def of(cls, folder: str | Path) -> "RunName | None":
        """Read `.../<task>-<model>-<stage>-<hash>/seed<n>`; None for any other path."""
        path = Path(folder)
        name, seed = _NAME.fullmatch(path.parent.name), _SEED.fullmatch(path.name)
        if name is None or seed is None:
            return None
        return cls(name["task"], name["model"], name["stage"], name["hash"], int(seed[1]))

    def path(self, runs_dir: str | Path) -> Path:
        return Path(runs_dir) / f"{self.task}-{self.model}-{self.stage}-{self.hash}" / f"seed{self.seed}"


def described(config: Any, *, named: bool = True) -> dict[str, Any]:
    """A config object as its hash sees it: option and version, and the fields that differ from their defaults.

    `named=False` leaves the option's name out (for groups whose choice alone changes nothing) and compares with the
    defaults of the group's base class.
    """
    found = option_of(config)
    base = _base(found.config)
    part: dict[str, Any] = {"option": found.name, "version": found.version} if named else {}
    part.update(changed(config, found.config if named else base))
    return part


def changed(config: Any, against: type) -> dict[str, Any]:
    """Fields of a dataclass object that count and differ from the defaults of `against`; data files by their content.

    Raises:
        ConfigError: a data file or folder is not there.
    """
    defaults = {f.name: _default(f) for f in fields(against)}
    out = {}
    for f in fields(config):
        value, counts = plain_value(getattr(config, f.name)), f.metadata.get("identity", True)
        if counts and value != defaults.get(f.name, MISSING):
            out[f.name] = _content(config, f) if counts == "content" else _seen(getattr(config, f.name))
    return out


def _content(config: Any, f: Any) -> str:
    """What the files hold that a field of `content()` names."""
    chosen = [getattr(config, name) for name in f.metadata.get("files", ())]
    return fingerprint(getattr(config, f.name), Files(*chosen) if f.metadata.get("texts") else None)


def _seen(value: Any) -> Any:
    """A field's value as the hash sees it."""
    if isinstance(value, dict):
        return {str(key): _seen(item) for key, item in value.items()}
    if hasattr(value, "stands_for"):
        parts = value.stands_for()
        return {name: described(part) if is_dataclass(part) else plain_value(part) for name, part in parts.items()}
    return plain_value(value)


def parent_identity(reference: str, seed: int) -> dict[str, Any]:
    """How a parent enters its child's hash; nothing on the disk is read for a run of ours."""
    parsed = parse_reference(reference)
    if parsed.kind is Kind.random:
        return {"random": True}
    name = RunName.of(parsed.run)
    if name is not None:
        same = "same" if name.seed == seed else name.seed
        return {"run": name.hash, "at": parsed.at or "last", "seed": same}
    return {"content": content_hash(reference)}


def parent_identities(references: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """`parent_identity` of each; the files of several folders are read at the same time."""
    others = [text for text in references if RunName.of(parse_reference(text).run) is None and text != "random"]
    if len(others) > 1:
        with ThreadPoolExecutor(max_workers=min(len(others), READERS)) as pool:
            list(pool.map(content_hash, others))
    return [parent_identity(reference, seed) for reference in references]


def content_hash(reference: str) -> str:
    """A digest of a model folder's files: of their names and XXH3 sums of 128 bits.

    It tells models apart, at the speed of memory; whether a file is what somebody published, SHA-256 says.

    Raises:
        CheckpointError: the reference is no model folder, or a file cannot be read.
    """
    from rlx.runs.model_directory import model_files
    from rlx.runs.references import resolve
    from rlx.runs.tensor_files import unreadable

    digest = hashlib.sha256()
    for path in model_files(resolve(parse_reference(reference))):
        digest.update(path.name.encode())
        try:
            found = path.stat()
            digest.update(_sum(path, found.st_size, found.st_mtime_ns, found.st_ino))
        except OSError as error:
            raise unreadable(path, error) from error
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _sum(path: Path, *version: int) -> bytes:
    """What a file holds; `version` says whether it is still the same one."""
    from xxhash import xxh3_128

    found, block = xxh3_128(), memoryview(bytearray(BLOCK))
    with open(path, "rb", buffering=0) as file:
        while read := file.readinto(block):  # type: ignore[attr-defined]
            found.update(block[:read])
    return found.digest()


def digest(parts: Any) -> str:
    """`h` and ten hexadecimal digits: never a number to Hydra, whatever the digits."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return "h" + hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def _default(f: Any) -> Any:
    if f.default is not MISSING:
        return plain_value(f.default)
    return plain_value(f.default_factory()) if f.default_factory is not MISSING else MISSING


def _base(cls: type) -> type:
    """The room's base config: the dataclass right under the options."""
    return next(c for c in reversed(cls.__mro__) if is_dataclass(c))
