"""What was measured of a model, kept on the disk: merges that share parents measure them once.

The folder is `merges` in the cache (`RLX_CACHE`, else `~/.cache/rlx`). A key covers the weights, all that is asked, how
is computed, and rlx's own code; what it finds is what would be measured anew, and the ledger counts it like that.
"""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from rlx.data.stored import CACHE, cache_folder
from rlx.errors import RunError
from rlx.runs.checksums import sums_of
from rlx.runs.files import write_bytes
from rlx.runs.identity import content_hash
from rlx.runs.model_directory import model_files


def kept(parts: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, or gave when it was asked of the same `parts` (JSON values).

    Where the cache cannot be written that is said, and nothing is kept.
    """
    import torch

    text = json.dumps([parts, _code(), torch.__version__], sort_keys=True)
    path = cache_folder("merges") / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict):
        return found
    text = json.dumps(make())  # with NaN as it is, which is a measurement too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
    except (OSError, RunError) as error:
        print(f"  what was measured is not kept: {error}; set {CACHE} to a folder with room", flush=True)
    return json.loads(text)


def weights_hash(folder: Path) -> str:
    """What a model folder holds: the sums that were written with it, where they are of all its files, else its content.

    Raises:
        CheckpointError: it is no model folder, or its sums are damaged.
    """
    sums, names = sums_of(folder), [path.name for path in model_files(folder)]
    if not all(name in sums for name in names):
        return content_hash(str(folder))
    return hashlib.sha256(json.dumps({name: sums[name] for name in sorted(names)}).encode()).hexdigest()


@cache
def _code() -> str:
    """A digest of rlx's source."""
    home, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        digest.update(str(path.relative_to(home)).encode() + path.read_bytes())
    return digest.hexdigest()
