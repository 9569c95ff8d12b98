"""A plain Sudoku solver, written for the tests alone: lists, sets and backtracking."""

from collections.abc import Iterator, Sequence
from functools import cache

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}


@cache
def near(place: int, size: int) -> list[int]:
    """The other places in the place's row, column and box."""
    high, wide = BOXES[size]
    row, column = divmod(place, size)
    found = []
    for other in range(size * size):
        r, c = divmod(other, size)
        same_box = (r // high, c // wide) == (row // high, column // wide)
        if other != place and (r == row or c == column or same_box):
            found.append(other)
    return found


def allowed(board: Sequence[int], place: int, size: int) -> set[int]:
    """Digits that are in no other cell of the place's row, column and box."""
    return set(range(1, size + 1)) - {board[other] for other in near(place, size)}


def solutions(board: Sequence[int], size: int, limit: int = 2) -> list[list[int]]:
    """The first solutions of a board, at most `limit`."""
    found: list[list[int]] = []
    for solution in _solutions(list(board), size):
        found.append(solution)
        if len(found) == limit:
            break
    return found


def _solutions(board: list[int], size: int) -> Iterator[list[int]]:
    empty = [(allowed(board, place, size), place) for place, digit in enumerate(board) if not digit]
    if not empty:
        yield board.copy()
        return
    digits, place = min(empty, key=lambda each: len(each[0]))
    for digit in digits:
        board[place] = digit
        yield from _solutions(board, size)
    board[place] = 0


def is_grid(board: Sequence[int], size: int) -> bool:
    return all(allowed(board, place, size) == {digit} for place, digit in enumerate(board))
