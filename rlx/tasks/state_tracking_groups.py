"""Finite groups as tables of products."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations, product
from math import factorial

from rlx.errors import ConfigError

MOST_ELEMENTS = 720
"""Elements of the largest group: S6."""
Table = tuple[tuple[int, ...], ...]
"""`table[a][b]` is a * b; 0 is the identity."""


@lru_cache(maxsize=8)
def group(name: str) -> Table:
    """The table of `Z<n>` (numbers modulo n), `S<n>` (permutations of n), `A<n>` (the even ones), or of direct products
    of these, `A4xZ5`.

    Elements are in lexical order, of products with the last factor changing first; permutations are multiplied as they
    are carried out, the left one first: (a * b)(i) = b(a(i)).

    Raises:
        ConfigError: another name, or more than `MOST_ELEMENTS` elements.
    """
    factors = [_factor(part, name) for part in name.split("x")]
    size = 1
    for factor in factors:
        size *= len(factor)
        if size > MOST_ELEMENTS:
            raise ConfigError(f"task.group={name} has more than {MOST_ELEMENTS} elements; try task.group=A5")
    elements = [*product(*(range(len(factor)) for factor in factors))]
    place = {element: number for number, element in enumerate(elements)}
    return tuple(
        tuple(place[tuple(table[x][y] for table, x, y in zip(factors, a, b, strict=True))] for b in elements)
        for a in elements
    )


def _factor(part: str, name: str) -> Table:
    match = re.fullmatch(r"([ZSA])([1-9][0-9]{0,2})", part)
    if match is None:
        raise ConfigError(
            f"task.group must be Z<n>, S<n>, A<n> or a product of these, got {name!r}; try task.group=S3, A5 or A4xZ5"
        )
    kind, n = match[1], int(match[2])
    size = n if kind == "Z" else factorial(min(n, 9)) // (1 if kind == "S" else 2)
    if not 1 < size <= MOST_ELEMENTS:
        raise ConfigError(f"task.group={name}: {part} must have 2 to {MOST_ELEMENTS} elements; try task.group=A5")
    if kind == "Z":
        return tuple(tuple((a + b) % n for b in range(n)) for a in range(n))
    elements = [each for each in permutations(range(n)) if kind == "S" or _is_even(each)]
    place = {element: number for number, element in enumerate(elements)}
    return tuple(tuple(place[tuple(b[i] for i in a)] for b in elements) for a in elements)


def _is_even(permutation: Sequence[int]) -> bool:
    inversions = sum(a > b for place, a in enumerate(permutation) for b in permutation[place:])
    return inversions % 2 == 0
