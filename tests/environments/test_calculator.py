"""The calculator: against Python's fractions on expressions written here, and on text that is none."""

import ast
import operator
import re
from fractions import Fraction
from random import Random

import pytest

from rlx.environments.calculator import DIGITS, LONGEST, calculated

SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value_of(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        return -value_of(node.operand) if isinstance(node.op, ast.USub) else value_of(node.operand)
    if not isinstance(node, ast.BinOp):  # 5(6) is a call
        raise SyntaxError
    return SIGNS[type(node.op)](value_of(node.left), value_of(node.right))


def by_python(text: str) -> str:
    """What the parser of Python makes of it."""
    try:
        return str(value_of(ast.parse(text, mode="eval").body))
    except ZeroDivisionError:
        return "error: zero"
    except SyntaxError:
        return "error: form"


def written(random: Random, depth: int) -> str:
    if depth == 0 or random.random() < 0.2:
        return random.choice(["", "", "", "-", "+"]) + str(random.randrange(12))
    text = f"{written(random, depth - 1)}{random.choice('+-*/')}{written(random, depth - 1)}"
    return random.choice([text, f"({text})", f" {text} "])


def test_values_are_those_of_pythons_parser() -> None:
    random, found = Random(0), []
    for _ in range(4000):
        text = written(random, 3).strip()
        if random.random() < 0.2:  # one character less: often no expression any more
            place = random.randrange(len(text))
            text = (text[:place] + text[place + 1 :]).strip()
        if len(text) > LONGEST or re.search(r"\*\*|//|\b0[0-9]", text):  # other operators of Python's, and zeros
            continue
        found.append(calculated(text))
        expected = by_python(text)  # which reads all of it first: a division by zero may come before what is no form
        assert found[-1] == expected or (found[-1], expected) == ("error: zero", "error: form"), text
    assert {"error: zero", "error: form"} <= set(found) and sum("/" in each for each in found) > 300


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12*34", "408"),
        ("7/2", "7/2"),
        ("-6/4", "-3/2"),
        ("(1+2", "error: form"),
        ("1)", "error: form"),
        ("1+2)*3", "error: form"),
        ("", "error: form"),
        ("2**3", "error: form"),
        ("1 2", "error: form"),
        ("1\n+2", "error: form"),
        ("a", "error: form"),
        ("٣*2", "error: form"),
        ("1.5*2", "error: form"),
        ("5/(2-2)", "error: zero"),
        ("007", "7"),
        ("9" * DIGITS, "9" * DIGITS),
        ("9" * DIGITS + "+1", "error: size"),
        ("9" * DIGITS + "*" + "9" * DIGITS, "error: size"),
        ("0" * (DIGITS + 1), "error: size"),
        ("1/" + "3" * DIGITS, "1/" + "3" * DIGITS),
        ("1/" + "3" * DIGITS + "/7", "error: size"),
        ("(" * 31 + "1" + ")" * 31, "1"),
        (" " * (LONGEST - 1) + "1", "1"),
        (" " * LONGEST + "1", "error: size"),
    ],
)
def test_answers(text: str, answer: str) -> None:
    assert calculated(text) == answer
