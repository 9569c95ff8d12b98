"""torch.compile for fixed shapes, made when it is asked for: importing its backend takes seconds.

Every shape is a compilation of its own. A size that becomes symbolic the second time it is met would save some, but
which code runs would then depend on what the process met before, and a resumed run would not get the same bits.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

RECOMPILES = 256
"""Shapes that one function may be compiled for; past it torch would go on uncompiled, unsaid."""


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled anew for each shape of its tensors."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the backend's own imports use what torch deprecates
        torch._dynamo.config.recompile_limit = RECOMPILES  # pyright: ignore[reportAttributeAccessIssue]
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # pyright: ignore[reportAttributeAccessIssue]
        return torch.compile(function, dynamic=False)


def halved(size: int, needed: int, smallest: int) -> int:
    """`size` halved as often as it stays at least `needed` and `smallest`: few sizes, so few compilations."""
    while size // 2 >= max(needed, smallest):
        size //= 2
    return size


def roomy(size: int, unit: int) -> int:
    """`size`, up to the nearest of `unit` times 1, 2, 3, 4, 6, 8, 12, ...: few sizes, at most half as much again."""
    power = unit
    while size > 2 * power:
        power *= 2
    return next(each for each in (power, 3 * power // 2, 2 * power) if each >= size and each % unit == 0)


def rounded(size: int, step: int = 16) -> int:
    """`size`, up to a multiple of `step`."""
    return -(-size // step) * step
