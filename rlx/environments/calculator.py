"""A calculator for text that a model wrote: exact, bounded, and never Python's.

Whole numbers, + - * / and parentheses, blanks between them. A value is a whole number or a reduced fraction, `7/2`.
What has none is answered with one of three errors: `error: form` (no expression), `error: zero` (a division by zero)
and `error: size` (an expression, a number or a value that is too long). Time and memory are bounded by `LONGEST`.
"""

import re
from fractions import Fraction

from rlx.expressions import evaluate

LONGEST = 64
"""Characters of an expression."""
DIGITS = 24
"""Digits of a number, and of the value's numerator and denominator."""
ERROR = "error: "
"""What answers begin with that are no values."""
FORM, ZERO, SIZE = f"{ERROR}form", f"{ERROR}zero", f"{ERROR}size"
_TOKEN = re.compile(r"[0-9]+|[^0-9 ]")


def calculated(text: str) -> str:
    """The value of an expression, or the error."""
    if len(text) > LONGEST:
        return SIZE
    tokens: list[str] = _TOKEN.findall(text)
    if max(map(len, tokens), default=0) > DIGITS:
        return SIZE
    try:
        found = evaluate(tokens)
    except ZeroDivisionError:
        return ZERO
    if found is None:
        return FORM
    value = Fraction(*found)
    return SIZE if max(abs(value.numerator), value.denominator) >= 10**DIGITS else str(value)
