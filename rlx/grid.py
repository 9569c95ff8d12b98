"""What `-m` means: the commands of a sweep, from arguments with several values.

1. `key=a,b`, `range(..)`, `glob(..)`, `choice(..)` are axes, and every combination is a command: the last axis turns
   fastest, as in Hydra. A key that stands twice counts as it stands last.
2. Axes with an equal tag, `a=tag(w,choice(1,2)) b=tag(w,choice(3,4))`, are walked together, as one axis.
3. `plan.either=["stage=pretrain","stage=rl algorithm=grpo,ppo"]` is a union: each text is a sweep of its own together
   with the arguments beside it, whose keys it replaces.
"""

import itertools
import math
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep, Sweep

from rlx.errors import ConfigError

MOST = 100_000
"""Commands of a sweep, and values of an axis; more are taken for a slip."""
Axis = list[tuple[str, ...]]
"""The positions of an axis: each the overrides that stand there, one of every key that it walks."""


def expand(arguments: Sequence[str], either: Sequence[str] = (), loader: Any = None) -> list[list[str]]:
    """The commands, each a list of overrides, in order.

    Args:
        either: texts of overrides, of which one at a time stands beside the arguments.
        loader: Hydra's, which finds what `glob(..)` of a group means.

    Raises:
        ConfigError: axes of one tag differ in length, an axis has no end of values, or there are more than MOST.
        OverrideParseException: an argument that cannot be read.
    """
    parser = OverridesParser.create(config_loader=loader)
    common = parser.parse_overrides(list(arguments))
    branches = []
    for text in either or [""]:
        branch = parser.parse_overrides(_split(text))
        keys = {override.get_key_element() for override in branch}
        kept = [override for override in common if override.get_key_element() not in keys]
        branches.append(axes([*kept, *branch]))
    _check_number(branches)
    return [list(itertools.chain(*place)) for branch in branches for place in itertools.product(*branch)]


def swept(commands: Sequence[Sequence[str]]) -> set[str]:
    """Keys that differ between commands: in their value, or by being there at all."""
    pairs: list[dict[str, str]] = []
    for command in commands:
        parts = (text.partition("=") for text in command)
        pairs.append({key: value for key, _, value in parts})
    keys = {key for each in pairs for key in each}
    return {key for key in keys if len({each.get(key) for each in pairs}) > 1}


def axes(overrides: Sequence[Override]) -> list[Axis]:
    """The axes of a sweep, in the order of their first keys."""
    last = {override.get_key_element(): override for override in overrides}
    found: dict[str, Axis] = {}
    walked: dict[str, str] = {}
    for key, override in last.items():
        places: Axis = [(text,) for text in _values(key, override)]
        value = override.value()
        tags = sorted(value.tags) if isinstance(value, Sweep) else []
        if not tags:
            found[f"key {key}"] = places
            continue
        tag = tags[0]
        if len(tags) > 1:
            raise ConfigError(f"{override.input_line}: expected one tag an axis, got {', '.join(tags)}")
        zipped = found.get(f"tag {tag}")
        if zipped is None:
            walked[tag] = key
            found[f"tag {tag}"] = places
        elif len(zipped) != len(places):
            raise ConfigError(
                f"{walked[tag]} and {key} are walked together by the tag {tag}, but one has {len(zipped)} values and "
                f"the other {len(places)}"
            )
        else:
            found[f"tag {tag}"] = [(*before, *after) for before, after in zip(zipped, places, strict=True)]
    return list(found.values())


def _check_number(branches: Sequence[Sequence[Axis]]) -> None:
    """Raise ConfigError for more than MOST commands, before they are made."""
    count = sum(math.prod(map(len, branch)) for branch in branches)
    if count > MOST:
        widest = max(branches, key=lambda branch: math.prod(map(len, branch)))
        lengths = [f"{axis[0][0].partition('=')[0]} ({len(axis)})" for axis in widest if len(axis) > 1]
        raise ConfigError(f"{' x '.join(lengths)}: {count:,} commands are more than {MOST:,}; give fewer values")


def _values(key: str, override: Override) -> list[str]:
    """The overrides of one value each."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line}: an interval has no end of values; name some, as in {key}=1e-3,3e-4, or search it "
            "with hydra/sweeper=optuna"
        )
    swept = override.value()
    if isinstance(swept, RangeSweep) and not _length(swept) <= MOST:  # true of NaN too
        raise ConfigError(f"{override.input_line}: these are more than {MOST:,} values; give fewer")
    values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise ConfigError(f"{override.input_line}: there is no such value")
    return values


def _length(swept: RangeSweep) -> float:
    """How many values a range has, of which Hydra would make a list to sort or shuffle it."""
    start, stop, step = swept.start or 0, swept.stop or 0, swept.step
    return -((start - stop) // step) if step else math.inf


def _split(text: str) -> list[str]:
    """The overrides of one text of `plan.either`, as a shell would split them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"plan.either: cannot read {text!r}: {error}") from None
