"""Where the parents of a merge come from, and what differences are taken from."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from rlx.errors import ConfigError
from rlx.merges.base import Align
from rlx.options import option_of
from rlx.runs.ancestry import common_ancestor, related, run_of
from rlx.runs.model_directory import is_model_directory
from rlx.runs.references import parse_reference, resolve

if TYPE_CHECKING:
    from rlx.merges.base import MergeConfig


def base_of(merge: "MergeConfig", folders: Sequence[Path]) -> Path | None:
    """The model that differences are taken from: the one that is named, or the nearest ancestor of all parents.

    Raises:
        ConfigError: the method needs one, and there is none.
        CheckpointError: the one that is named is not there.
    """
    if merge.base is not None:
        return resolve(parse_reference(merge.base))
    if merge.align is not Align.none:
        return None  # its units are not in the order that the parents' are put in
    found = common_ancestor(folders)
    if found is not None and is_model_directory(found):
        return found
    if merge.needs_base:
        gone = f"the parents' ancestor {found} is not there any more" if found else "the parents have none in common"
        raise ConfigError(f"merge={option_of(merge).name} needs a base, and {gone}; give merge.base=<run>")
    return None


def strangers(folders: Sequence[Path]) -> list[list[int]]:
    """Pairs of parents, by their numbers, that have no ancestor in common."""
    pairs = combinations(range(len(folders)), 2)
    return [[one, other] for one, other in pairs if not related(folders[one], folders[other])]


def unrelated(names: Sequence[str], folders: Sequence[Path], pairs: Sequence[Sequence[int]]) -> list[str]:
    """A sentence on the parents that came from nowhere known, and one on each other pair without an ancestor."""
    foreign = {n for pair in pairs for n in pair if run_of(folders[n]) is None}
    told = []
    if foreign:
        who = " and ".join(names[n] for n in sorted(foreign))
        told.append(f"nothing says where {who} came from: no ancestor is known that the parents share")
    for one, other in pairs:
        if not foreign & {one, other}:
            told.append(
                f"{names[one]} and {names[other]} share no ancestor: their weights have nothing to do with each other, "
                "and what lies between them is usually no model"
            )
    return told
