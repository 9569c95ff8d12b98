"""Exact values of expressions of whole numbers, + - * / and parentheses; text is never handed to Python."""

from collections.abc import Sequence

PRECEDENCE = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "negative": 3}


def evaluate(tokens: Sequence[str]) -> tuple[int, int] | None:
    """The exact value of an expression as (numerator, denominator), not reduced; None for what is no expression.

    A sign may stand before an operand. Operators wait on a stack until one that binds no tighter comes (Dijkstra's
    shunting yard), so deep nesting costs memory in proportion. Numbers must be short.

    Raises:
        ZeroDivisionError: a division by zero, perhaps before what is no expression.
    """
    values: list[tuple[int, int]] = []
    waiting: list[str] = []
    operand = True  # what comes next
    for token in tokens:
        if operand:
            if "0" <= token[0] <= "9":
                values.append((int(token), 1))
                operand = False
            elif token == "(":
                waiting.append(token)
            elif token == "-":
                waiting.append("negative")
            elif token != "+":
                return None
        elif token == ")":
            _apply(values, waiting, 1)
            if not waiting:
                return None
            waiting.pop()
        elif token in "+-*/":
            _apply(values, waiting, PRECEDENCE[token])
            waiting.append(token)
            operand = True
        else:
            return None
    if operand:
        return None
    _apply(values, waiting, 1)
    return None if waiting else values[0]


def _apply(values: list[tuple[int, int]], waiting: list[str], least: int) -> None:
    """Carry out the waiting operators from the last one on that bind at least so tightly."""
    while waiting and PRECEDENCE[waiting[-1]] >= least:
        sign = waiting.pop()
        c, d = values.pop()
        if sign == "negative":
            values.append((-c, d))
            continue
        a, b = values.pop()
        if sign == "*":
            values.append((a * c, b * d))
        elif sign == "/":
            if not c:
                raise ZeroDivisionError
            values.append((a * d, b * c))
        else:
            values.append((a * d + (c * b if sign == "+" else -c * b), b * d))
