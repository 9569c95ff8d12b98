"""The small language against Python itself, on programs made here, and against texts that mean harm."""

import ast
import time
import warnings
from fractions import Fraction
from random import Random
from typing import Any

import pytest

from rlx.tasks.math_program import BITS, LONGEST, NESTING, PLACES, STEPS, Result, run_block, run_function

GSM8K_LIKE = '''\
def simple_math_problem() -> int:
    """
    Nadia's 48 pens were shared; she's got (half) of them # and 3 more.
"""
    pens_first = 48  # given
    pens_second = pens_first / 2
    total = (pens_first +
             pens_second)
    if total > 100:
        total = 0
    elif total == 72:
        total += 1
    else:
        total = 5
    for day in range(1, 4):
        total *= 2
        total -= day
    result = round(total / 7, 1)
    return result
'''


class Writer:
    """Random programs, each as the language has it and as Python computes it in fractions."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.names = ["a"]

    def number(self) -> str:
        return self.random.choice(["0", "1", "2", "3", "4", "5", "7", "10", "12", "45", "0.5", "2.25", ".1", "3."])

    def expression(self, depth: int) -> str:
        choose = self.random.random()
        if depth == 0 or choose < 0.15:
            return self.random.choice([self.number(), self.random.choice(self.names)])
        below = [self.expression(depth - 1) for _ in range(3)]
        if choose < 0.55:
            return f"{below[0]} {self.random.choice(['+', '-', '*', '/', '//', '%'])} {below[1]}"
        if choose < 0.65:
            return f"({below[0]})"
        if choose < 0.70:
            return f"-{below[0]}"
        if choose < 0.75:
            return f"({below[0]}) ** {self.random.choice(['0', '1', '2', '-1', '-2'])}"
        if choose < 0.80:
            return f"({below[0]} {self.random.choice(['<', '<=', '>', '>=', '==', '!='])} {below[1]})"
        if choose < 0.85:
            return f"({below[0]} {self.random.choice(['and', 'or'])} not {below[1]})"
        call = self.random.choice(["min({0}, {1})", "max({0}, {1}, {2})", "sum([{0}, {1}])", "max([{0}, {2}])",
                                   "abs({0})", "int({0})", "round({0})", "round({0}, 1)"])  # fmt: skip
        return call.format(*below)

    def statements(self, indent: str, count: int, deep: int) -> list[str]:
        lines: list[str] = []
        for _ in range(count):
            choose = self.random.random()
            if choose < 0.6 or not deep:
                target = self.random.choice(["a", "b", "c", "total"])
                sign = self.random.choice(["=", "=", "=", "+=", "-=", "*=", "/="])
                if target not in self.names and self.random.random() < 0.95:
                    sign = "="
                lines.append(f"{indent}{target} {sign} {self.expression(2)}")
                self.names.append(target)
            elif choose < 0.8:
                lines.append(f"{indent}if {self.expression(2)}:")
                lines += self.statements(indent + "  ", 1, deep - 1)
                lines.append(f"{indent}elif {self.expression(1)}:")
                lines += self.statements(indent + "  ", 1, deep - 1)
                lines.append(f"{indent}else:")
                lines += self.statements(indent + "  ", 2, deep - 1)
            else:
                lines.append(f"{indent}for i in range({self.random.choice(['3', '1, 4', '6, 0, -2'])}):")
                lines += self.statements(indent + "  ", 2, deep - 1)
        return lines

    def function(self) -> str:
        lines = ["def solve():", '    """Of 3 things."""', f"    a = {self.number()}"]
        lines += self.statements("    ", 4, 2)
        return "\n".join([*lines, f"    return {self.expression(2)}"])


class InFractions(ast.NodeTransformer):
    """Python's tree of a text that was made here, with exact numbers, and the last statement's value in `_`."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.parse(f"Fraction('{node.value}')", mode="eval").body if type(node.value) is float else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Div | ast.Pow):
            node.left = self.exact(node.left)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> list[ast.stmt]:
        assert isinstance(node.target, ast.Name)
        value = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        return self.visit_Assign(ast.Assign([node.target], value))

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        self.generic_visit(node)
        return [node, *ast.parse("_ = None").body]

    def visit_Pass(self, node: ast.Pass) -> list[ast.stmt]:
        return ast.parse("_ = None").body

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        self.generic_visit(node)
        return ast.Assign([ast.Name("_", ast.Store())], node.value)

    @staticmethod
    def exact(node: ast.expr) -> ast.expr:
        return ast.Call(ast.Name("Fraction", ast.Load()), [node], [])


def python_runs(text: str, name: str) -> Any:
    """What Python makes of a text that was made here; None where it raises, or where the value is no number."""
    space: dict[str, Any] = {"Fraction": Fraction}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.fix_missing_locations(InFractions().visit(ast.parse(text)))
            exec(compile(tree, "text", "exec"), space)
            value = space[name]() if name == "solve" else space.get(name)
    except (ArithmeticError, NameError, SyntaxError, TypeError, ValueError):
        return None
    return None if isinstance(value, bool) or not isinstance(value, int | Fraction) else value


def test_programs_give_what_python_gives() -> None:
    given = failed = 0
    for seed in range(700):
        text = Writer(seed).function()
        expected = python_runs(text, "solve")
        found = run_function(text)
        if "bits" in found.error:
            continue
        assert found.value == expected, f"{text}\n{found}"
        assert found.end == len(text)
        given, failed = given + (expected is not None), failed + (expected is None)
    assert given > 150 and failed > 150


def test_text_that_is_accepted_is_python_and_gives_the_same() -> None:
    """Tokens in any order: what this language accepts, Python accepts too, with the same value."""
    random = Random(0)
    tokens = ["a", "b", "1", "2", "30", "0.5", "+", "-", "*", "/", "//", "%", "(", ")", "<", "==", ",", "min(", "max([",
              "])", "sum([", "abs(", "and", "or", "not", "\n", "=", "+=", "a =", "b = 3\n", "# c\n", "if 1:\n  a = 2\n",
              "else:\n  a = 5\n", "pass", "'x'", "True"]  # fmt: skip
    accepted = 0
    for _ in range(30_000):
        text = "a = 4\n" + " ".join(random.choices(tokens, k=random.randint(1, 7))).replace("\n ", "\n")
        found = run_block(text + "\n")
        if found.value is None:
            continue
        accepted += 1
        assert python_runs(text, "_") == found.value, text
    assert accepted > 500


@pytest.mark.parametrize(
    "text, value",
    [
        ("-2 ** 2", -4),
        ("2 ** -1", Fraction(1, 2)),
        ("2 ** 3 ** 2", 512),
        ("-7 // 2", -4),
        ("-7 % 3", 2),
        ("7 / 2 * 2", 7),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("round(2.5) + round(3.5)", 6),
        ("round(2.675, 2)", Fraction("2.68")),
        ("round(1234, -2)", 1200),
        ("int(-3.7)", -3),
        ("10 - 4 - 3", 3),
        ("8 / 4 / 2", 1),
        ("not 0 + 1 == 2 and 5", 5),
        ("0 or 6", 6),
        ("x = 3\nx\n\n# the end\n", 3),
        ("x = [\n1]", None),
        ("sum([1,\n 2,\n 3])", 6),
        ("if 1 < 2:\n    x = 4\nx", 4),
        ("1 ** 10000000000", 1),
        ("return 1", None),
        ("x = 1\n'''a'b'''\nx", 1),
        ('x = 1\n"""a\\"""\nx', None),
    ],
)
def test_worked_expressions(text: str, value: Any) -> None:
    assert run_block(text).value == value


def test_a_function_ends_where_its_body_does() -> None:
    rest = "\nIt's done: #### 85 $\n"
    found = run_function(f"So:\n{GSM8K_LIKE}{rest}", 4)
    assert found == Result(Fraction(819, 10), "", 4 + len(GSM8K_LIKE.rstrip()))
    space: dict[str, Any] = {}
    exec(GSM8K_LIKE, space)
    assert space["simple_math_problem"]() == 81.9


HARM = {
    "power tower": "9**9**9",
    "large power": "2 ** 100000000",
    "large fraction power": "(1/3) ** 99999",
    "large negative power": "3 ** -99999",
    "doubling": "x = 9\nfor i in range(4000):\n  x *= x\nx",
    "fractions grow": "x = 0\nfor i in range(1, 4000):\n  x += 1 / i\nx",
    "long loop": "for i in range(10 ** 60):\n  x = i\nx",
    "nested loops": "for i in range(9999):\n  for j in range(9999):\n    x = 1\nx",
    "while": "while True:\n  pass",
    "parentheses": "(" * 100_000 + "1" + ")" * 100_000,
    "short parentheses": "(" * 200 + "1" + ")" * 200,
    "lists": "sum([" * 100_000,
    "signs": "-" * 3_000 + "1",
    "nots": "not " * 900 + "1",
    "powers": "1" + "**1" * 1_200,
    "blocks": "".join(" " * depth + "if 1:\n" for depth in range(60)) + " " * 60 + "1",
    "long number": "9" * 1_000_000,
    "long decimals": "0." + "9" * 1_000_000,
    "long name": "a" * 1_000_000,
    "long line": "1" + "+1" * 1_000_000,
    "long blanks": " " * 1_000_000 + "1",
    "long lines": "\n" * 1_000_000,
    "long comment": "#" * 1_000_000,
    "open strings": '"""' * 1 + "'''" * 5_000,
    "unicode name": "\u00e9 = 1\n\u00e9",
    "unicode digits": "\u0661 + \uff11",
    "import": "import os\n1",
    "call": "__import__('os')",
    "attribute": "(1).__class__",
    "f-string": "f'{1}'",
    "walrus": "(x := 1)",
    "lambda": "(lambda: 1)()",
    "comprehension": "sum([x for x in range(9)])",
    "generator": "sum(x for x in range(9))",
    "string product": "'a' * 9",
    "string value": "'72'",
    "list value": "[1]",
    "list product": "[0] * 10 ** 9",
    "truth": "1 < 2",
    "eval": "eval('1')",
    "print": "print(1)",
    "nul": "1\x002",
    "surrogate": "\ud800",
    "no value": "x = 1",
    "unknown name": "x",
    "division": "1 / (1 - 1)",
    "modulo": "1 % 0",
    "zero to minus": "0 ** -1",
    "root": "2 ** 0.5",
    "round far": "round(1, 10 ** 9)",
    "range of halves": "for i in range(1 / 2):\n  1\n1",
    "range of step 0": "for i in range(1, 9, 0):\n  1\n1",
    "keyword": "if = 1\nif",
    "own name": "max = 3\nmax",
    "two statements": "1 2",
    "tab": "if 1:\n\t1",
    "other indent": "if 1:\n    1\n  2",
    "recursion": "def f():\n  return f()\nf()",
    "exponent form": "1e9",
    "hexadecimal": "0x10",
    "leading zero": "010",
    "nothing": "",
}


@pytest.mark.parametrize("text", HARM.values(), ids=HARM)
def test_harm_is_an_error_soon(text: str) -> None:
    body = "\n".join(f"  {line}" for line in text.split("\n"))
    for run in (lambda: run_block(text), lambda: run_function(f"def f():\n{body}")):
        begin = time.process_time()
        found = run()
        assert time.process_time() - begin < 5
        assert found.value is None and 0 < len(found.error) < 200


def test_bounds_are_where_they_are_said_to_be() -> None:
    assert run_block(f"2 ** {BITS - 1}").value == 2 ** (BITS - 1)
    assert run_block(f"2 ** {BITS}").value is None
    assert run_block(f"1 / 2 ** {BITS - 1}").value == Fraction(1, 2 ** (BITS - 1))
    assert run_block(f"1 / 2 ** {BITS - 1} / 2").value is None
    assert run_block(f"round(1 / 8, {PLACES})").value == Fraction(1, 8)
    assert run_block(f"round(1 / 8, {PLACES + 1})").value is None
    assert run_block(f"2 ** {BITS - 1} + 2 ** {BITS - 1}").value is None
    assert run_block("(" * (NESTING - 1) + "1" + ")" * (NESTING - 1)).value == 1
    assert run_block("(" * NESTING + "1" + ")" * NESTING).value is None
    assert run_block("1" + " " * (LONGEST - 3) + "+1").value == 2
    assert run_block("1" + " " * (LONGEST - 3) + "+1+1").value is None
    assert run_block("9" * (BITS // 4)).value == int("9" * (BITS // 4))
    assert run_block("9" * (BITS // 4 + 1)).value is None
    assert run_function("def f():\n  return 1\n" + "It's " * LONGEST).value == 1
    loop = "x = 0\nfor i in range({0}):\n  x = x + 1\nx"
    turns = (STEPS - 6) // 7
    assert run_block(loop.format(turns)).value == turns
    assert run_block(loop.format(turns + 1)).value is None


def test_any_text_is_a_result() -> None:
    """Characters of programs, and programs with one character changed."""
    random = Random(1)
    alphabet = "ab1.5+-*/%()[]<>=!,:#'\"\\ \n\t_and or not if else for in range def return"
    for _ in range(1_500):
        text = "".join(random.choices(alphabet, k=random.randint(1, 40)))
        assert isinstance(run_block(text), Result)
        place = random.randrange(len(GSM8K_LIKE))
        damaged = GSM8K_LIKE[:place] + random.choice(alphabet) + GSM8K_LIKE[place + 1 :]
        assert isinstance(run_function(damaged), Result)


@pytest.mark.parametrize("text", ["5\nif False:\n    x = 1", "5\nfor i in range(0):\n    x = 1", "if True:\n    5"])
def test_a_block_that_ends_in_a_compound_statement_has_no_value(text: str) -> None:
    assert run_block(text).value is None
