"""Programs of a small arithmetic language, which is a part of Python, carried out exactly and in bounded time.

What there is: assignments (also `+=` and its kin), `return`, expressions as statements, strings as statements
(docstrings), comments, `pass`, `if`/`elif`/`else`, and `for <name> in range(...)`; numbers, `True`, `False`, names, `+`
`-` `*` `/` `//` `%` `**`, one comparison, `and`, `or`, `not`, parentheses, and `min`, `max`, `sum`, `abs`, `round`,
`int`, of which the first three also take one list. All else is an error: attributes, other calls, imports, strings
inside of expressions, lambdas, comprehensions, `while`. A function takes no arguments.

Where this differs from Python: numbers are fractions, so `0.1 + 0.2` is `3/10`, a half is rounded to even as it is
written, `7 / 2 * 2` is 7, and `range(4 / 2)` is `range(2)`; a power has an integer exponent; no number has more than
`BITS` bits above or below the line, no program more than `LONGEST` characters, no run more than `STEPS` steps. There is
no parser or evaluator of Python behind this: text is read here from its first character, with a bound on nesting, and
becomes a list of instructions for a machine with a stack, so nothing recurses while it runs.
"""

import keyword
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

Number = int | Fraction

LONGEST = 4_000
"""Characters of the longest program that is read."""
BITS = 256
"""Bits of the largest numerator and denominator."""
STEPS = 5_000
"""Instructions that a run may take."""
NESTING = 20
"""Parentheses, prefix signs and powers inside of each other, and blocks inside of each other."""
PLACES = 50
"""Digits after the point that `round` may be asked for, before it or after it."""


class Result(NamedTuple):
    """What a program gave: a value, or None and the reason; `end` is where its text ends."""

    value: Number | None
    error: str
    end: int


class ProgramError(Exception):
    """The text is no program of the language, or its run breaks a bound; never leaves this file."""


def run_block(text: str) -> Result:
    """The value of the last statement of `text`, which has to be an expression."""
    return _run(text, 0, _Compiler.block)


def run_function(text: str, start: int = 0) -> Result:
    """What the function at `text[start:]`, `def name():` and its body, returns. `end` is where its body ends."""
    return _run(text, start, _Compiler.function)


def _run(text: str, start: int, read: "Callable[[_Compiler], None]") -> Result:
    tokens = _Tokens(text, start)
    try:
        compiler = _Compiler(tokens)
        read(compiler)
        value = _execute(compiler.code)
    except ProgramError as error:
        return Result(None, str(error), tokens.end)
    return Result(value, "", tokens.end)


Token = tuple[str, str]
"""A kind (number, name, mark, string, newline, indent, dedent, end) and the text."""

_TOKEN = re.compile(
    r"""[ \t]*(?:\#[^\n]*)?(?:(?P<newline>\n)|(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"""
    r"""|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<string>\"\"\"|'''|"[^"\\\n]*"|'[^'\\\n]*')"""
    r"""|(?P<mark>\*\*=|//=|\*\*|//|->|[-+*/%<>=!]=|[-+*/%<>=(),:\[\]])|(?P<end>\Z))"""
)
_LINE = re.compile(r"(?:[ \t]*(?:\#[^\n]*)?\n)*(?P<indent>[ \t]*)(?:\#[^\n]*)?")


class _Tokens:
    """The words of a program, read one at a time, so that text after its end is never looked at."""

    def __init__(self, text: str, start: int) -> None:
        self._stream = self._read(text, start)
        self.end = start
        """Where the last word that was read ends."""
        self.kind, self.text = "newline", "\n"

    def advance(self) -> Token:
        """The token at hand; the one after it is next."""
        token = self.kind, self.text
        self.kind, self.text = next(self._stream)
        return token

    def _read(self, text: str, start: int) -> Iterator[Token]:
        place, depth = start, 0
        limit = start + LONGEST
        indents = [0]
        while True:
            fresh = not depth
            if fresh:
                line = _LINE.match(text, place, limit)
                assert line is not None  # it matches nothing at all too
                place = line.end()
                yield from _indentation(indents, line["indent"] if place < len(text) else "")
            while True:
                found = _TOKEN.match(text, place, limit)
                if not found:
                    raise ProgramError("has a character that is not of the language")
                place, kind = found.end(), found.lastgroup or ""
                if kind == "end" and place < len(text):
                    raise ProgramError(f"longer than {LONGEST} characters")
                if kind == "newline" or kind == "end":
                    break
                word = found[kind]
                if kind == "mark":
                    depth += (word in "([") - (word in ")]")
                elif kind == "string" and word in _QUOTES:
                    place = _close(text, place, limit, word)
                elif kind == "number" and text[place : place + 1].isalnum():
                    raise ProgramError("has a number that runs into a word")
                self.end = place
                fresh = False
                yield kind, word
            if not fresh and (depth <= 0 or kind == "end"):
                depth = 0
                yield "newline", "\n"
            if kind == "end":
                yield from (("dedent", "") for _ in indents[1:])
                while True:
                    yield "end", ""


_QUOTES = ('"""', "'''")


def _close(text: str, place: int, limit: int, quotes: str) -> int:
    """Where the string ends that `quotes` began before `place`."""
    close = text.find(quotes, place, limit)
    if close < 0 or "\\" in text[place:close]:
        raise ProgramError("has a string without an end, or with a backslash")
    return close + len(quotes)


def _indentation(indents: list[int], blanks: str) -> Iterator[Token]:
    """Blocks that begin or end at a line that starts with `blanks`."""
    if "\t" in blanks:
        raise ProgramError("indented by a tab")
    width = len(blanks)
    if width > indents[-1]:
        if len(indents) > NESTING:
            raise ProgramError(f"blocks nested more than {NESTING} deep")
        indents.append(width)
        yield "indent", ""
    while width < indents[-1]:
        indents.pop()
        yield "dedent", ""
    if width != indents[-1]:
        raise ProgramError("indented unlike the lines above")


Instruction = tuple[str, Any]
"""A step of the machine, and what it needs: a number, a name, a function, where to go on."""


_BINARY: dict[str, tuple[int, Callable[[Number, Number], Number]]] = {
    "==": (4, lambda a, b: a == b),
    "!=": (4, lambda a, b: a != b),
    "<": (4, lambda a, b: a < b),
    "<=": (4, lambda a, b: a <= b),
    ">": (4, lambda a, b: a > b),
    ">=": (4, lambda a, b: a >= b),
    "+": (5, lambda a, b: a + b),
    "-": (5, lambda a, b: a - b),
    "*": (6, lambda a, b: a * b),
    "/": (6, lambda a, b: Fraction(a) / b),
    "//": (6, lambda a, b: a // b),
    "%": (6, lambda a, b: a % b),
}
"""Marks between two operands, with how tight they bind (`or` 1, `and` 2, `not` 3, signs 7, powers 8)."""
COMPARISON = 4
SIGN = 7


def _power(base: Number, exponent: Number) -> Number:
    if not isinstance(exponent, int):
        raise ProgramError("has an exponent that is no integer")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if (size - 1) * abs(exponent) > BITS:
        raise ProgramError(f"has a number of more than {BITS} bits")
    if exponent < 0:
        return Fraction(1) / base**-exponent
    return base**exponent


def _round(value: Number, places: Number | None = None) -> Number:
    if places is None:
        return round(value)
    if not isinstance(places, int) or abs(places) > PLACES:
        raise ProgramError(f"rounds to other than {-PLACES} to {PLACES} places")
    return round(Fraction(value), places)


def _absolute(value: Number) -> Number:
    return abs(value)


def _least(*values: Number) -> Number:
    return min(values)


def _largest(*values: Number) -> Number:
    return max(values)


def _total(*values: Number) -> Number:
    return sum(values)


_CALLS: dict[str, tuple[Callable[..., Number], int, int]] = {
    "min": (_least, 2, LONGEST),
    "max": (_largest, 2, LONGEST),
    "abs": (_absolute, 1, 1),
    "round": (_round, 1, 2),
    "int": (int, 1, 1),
}
"""Functions with the least and the largest number of arguments."""
_OF_LISTS = {"min": (_least, 1), "max": (_largest, 1), "sum": (_total, 0)}
"""Functions that take a list, with the least number of its items."""
_RESERVED = frozenset(keyword.kwlist) | {*_CALLS, *_OF_LISTS, "range"}


class _Compiler:
    """Reads tokens and writes instructions."""

    def __init__(self, tokens: _Tokens) -> None:
        self.code: list[Instruction] = []
        self._tokens = tokens
        self._nesting = 0
        self._in_function = False
        tokens.advance()

    def block(self) -> None:
        """The whole text: statements, the last of which leaves the value."""
        while self._tokens.kind != "end":
            compound = self._tokens.kind == "name" and self._tokens.text in ("if", "for")
            self._statement()
            if compound:
                self._emit("forget")
        self._emit("finish")

    def function(self) -> None:
        """`def name():` and an indented body."""
        self._in_function = True
        self._expect("def")
        self._name()
        self._expect("(")
        self._expect(")")
        if self._take("->"):
            self._tokens.advance()
        self._suite()
        self._emit("fail", "returns nothing")

    def _emit(self, do: str, argument: Any = None) -> int:
        self.code.append((do, argument))
        return len(self.code) - 1

    def _land(self, place: int) -> None:
        """The jump at `place` goes to here."""
        self.code[place] = self.code[place][0], len(self.code)

    def _take(self, text: str) -> bool:
        """Pass over the keyword or mark `text`; False where it is not next."""
        if self._tokens.text != text or self._tokens.kind not in ("name", "mark"):
            return False
        self._tokens.advance()
        return True

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise ProgramError(f"needs {text!r} where it has {self._tokens.text[:20]!r}")

    def _end_line(self) -> None:
        if self._tokens.advance()[0] != "newline":
            raise ProgramError("has more on a line than one statement")

    def _name(self) -> str:
        kind, text = self._tokens.advance()
        if kind != "name" or text in _RESERVED:
            raise ProgramError(f"needs a name where it has {text[:20]!r}")
        return text

    def _suite(self) -> None:
        """`:`, a line's end, and an indented block."""
        self._expect(":")
        self._end_line()
        if self._tokens.advance()[0] != "indent":
            raise ProgramError("needs an indented block after ':'")
        while self._tokens.kind != "dedent":
            self._statement()

    def _inner_suite(self) -> None:
        """A suite with more of the program after it."""
        self._suite()
        self._tokens.advance()

    def _statement(self) -> None:
        kind, text = self._tokens.kind, self._tokens.text
        if kind == "name" and text in ("if", "for"):
            self._tokens.advance()
            self._condition() if text == "if" else self._loop()
            return
        if kind == "string":
            self._tokens.advance()
            self._emit("forget")
        elif self._take("pass"):
            self._emit("forget")
        elif self._take("return"):
            if not self._in_function:
                raise ProgramError("returns outside of a function")
            self._expression()
            self._emit("return")
        else:
            self._simple()
        self._end_line()

    def _simple(self) -> None:
        """An assignment, or an expression."""
        begin = len(self.code)
        self._expression()
        mark = self._tokens.text
        operation = _BINARY.get(mark[:-1])
        if mark not in ("=", "**=") and (operation is None or operation[0] == COMPARISON or mark[-1] != "="):
            self._emit("value")
            return
        if len(self.code) != begin + 1 or self.code[begin][0] != "load":
            raise ProgramError("assigns to something that is no name")
        name = self.code[begin][1]
        self._tokens.advance()
        if mark == "=":
            self.code.pop()
        self._expression()
        if mark != "=":
            self._emit("binary", _power if operation is None else operation[1])
        self._emit("store", name)

    def _condition(self) -> None:
        """After `if` or `elif`: a condition, its block, and what else there is."""
        ends: list[int] = []
        while True:
            self._expression()
            skip = self._emit("unless")
            self._inner_suite()
            ends.append(self._emit("jump"))
            self._land(skip)
            if not self._take("elif"):
                break
        if self._take("else"):
            self._inner_suite()
        for end in ends:
            self._land(end)

    def _loop(self) -> None:
        """After `for`: a name, `in range(...)`, and a block."""
        name = self._name()
        self._expect("in")
        self._expect("range")
        self._expect("(")
        self._emit("range", self._items(")", 1, 3))
        begin = self._emit("next")
        self._emit("store", name)
        self._inner_suite()
        self._emit("jump", begin)
        self._land(begin)

    def _items(self, close: str, least: int, most: int) -> int:
        """Expressions between commas up to `close`; how many there are."""
        count = 0
        while not self._take(close):
            if count:
                self._expect(",")
                if self._take(close):
                    break
            self._expression()
            count += 1
        if not least <= count <= most:
            raise ProgramError(f"needs {least} to {most} expressions up to {close!r}, has {count}")
        return count

    def _expression(self, tightness: int = 1) -> None:
        """An expression of operators that bind at least as tight as `tightness`."""
        self._nesting += 1
        if self._nesting > NESTING:
            raise ProgramError(f"expressions nested more than {NESTING} deep")
        if tightness <= 3 and self._take("not"):
            self._expression(3)
            self._emit("not")
        else:
            self._operand()
        compared = False
        while True:
            mark = self._tokens.text
            if mark in ("and", "or") and tightness <= (own := 2 if mark == "and" else 1):
                self._tokens.advance()
                jump = self._emit(mark)
                self._expression(own + 1)
                self._land(jump)
                continue
            operation = _BINARY.get(mark)
            if operation is None or operation[0] < tightness or self._tokens.kind != "mark":
                break
            if operation[0] == COMPARISON:
                if compared:
                    raise ProgramError("chains comparisons")
                compared = True
            self._tokens.advance()
            self._expression(operation[0] + 1)
            self._emit("binary", operation[1])
        self._nesting -= 1

    def _operand(self) -> None:
        """A sign and what it binds, or an atom and its power."""
        if self._take("-"):
            self._expression(SIGN)
            self._emit("negate")
            return
        if self._take("+"):
            self._expression(SIGN)
            self._emit("plus")
            return
        self._atom()
        if self._take("**"):
            self._expression(SIGN)
            self._emit("binary", _power)

    def _atom(self) -> None:
        kind, text = self._tokens.advance()
        if kind == "number":
            self._emit("push", _literal(text))
        elif text == "(" and kind == "mark":
            self._expression()
            self._expect(")")
        elif kind == "name" and text in ("True", "False"):
            self._emit("push", text == "True")
        elif kind == "name" and (text in _CALLS or text in _OF_LISTS):
            self._call(text)
        elif kind == "name" and text not in _RESERVED:
            self._emit("load", text)
        else:
            raise ProgramError(f"needs an expression where it has {text[:20]!r}")

    def _call(self, name: str) -> None:
        self._expect("(")
        if name in _OF_LISTS and self._take("["):
            function, least = _OF_LISTS[name]
            count = self._items("]", least, LONGEST)
            self._expect(")")
        elif name in _CALLS:
            function, least, most = _CALLS[name]
            count = self._items(")", least, most)
        else:
            raise ProgramError(f"{name} needs a list")
        self._emit("call", (function, count))


def _literal(text: str) -> Number:
    """The number that digits, with a point or not, stand for."""
    if len(text) > BITS // 4:
        raise ProgramError(f"has a number of more than {BITS} bits")
    whole, _, rest = text.partition(".")
    if "." not in text:
        if text[0] == "0" and text.strip("0"):
            raise ProgramError("has a number with a leading zero")
        return int(text)
    return _plain(Fraction(int((whole + rest) or "0"), 10 ** len(rest)))


def _plain(value: Number) -> Number:
    """An integer where the value is whole.

    Raises:
        ProgramError: the value has too many bits.
    """
    if value.denominator == 1:
        value = int(value) if isinstance(value, Fraction) else value
    if value.numerator.bit_length() > BITS or value.denominator.bit_length() > BITS:
        raise ProgramError(f"has a number of more than {BITS} bits")
    return value


def _range(values: list[Number]) -> range:
    bounds = [value for value in values if isinstance(value, int)]
    if len(bounds) != len(values) or (len(bounds) == 3 and bounds[2] == 0):
        raise ProgramError("ranges over something other than integers")
    return range(*bounds)


def _execute(code: list[Instruction]) -> Number:
    """Carry out the instructions; the value returned or left at the end.

    Raises:
        ProgramError: a name without a value, a division by zero, a bound broken, or a result that is no number.
    """
    names: dict[str, Number] = {}
    stack: list[Number] = []
    loops: dict[int, Iterator[int]] = {}
    last: Number | None = None
    place = 0
    for _ in range(STEPS):
        do, argument = code[place]
        place += 1
        if do == "load":
            if argument not in names:
                raise ProgramError(f"uses {argument[:40]}, which has no value")
            stack.append(names[argument])
        elif do == "push":
            stack.append(argument)
        elif do == "binary":
            right, left = stack.pop(), stack.pop()
            try:
                stack.append(_plain(argument(left, right)))
            except ZeroDivisionError:
                raise ProgramError("divides by zero") from None
        elif do == "store":
            names[argument] = stack.pop()
            last = None
        elif do == "value":
            last = stack.pop()
        elif do == "forget":
            last = None
        elif do == "negate":
            stack.append(-stack.pop())
        elif do == "plus":
            stack.append(+stack.pop())
        elif do == "not":
            stack.append(not stack.pop())
        elif do in ("and", "or"):
            if bool(stack[-1]) == (do == "or"):
                place = argument
            else:
                stack.pop()
        elif do == "jump":
            place = argument
        elif do == "unless":
            if not stack.pop():
                place = argument
        elif do == "call":
            function, count = argument
            values = stack[len(stack) - count :]
            del stack[len(stack) - count :]
            stack.append(_plain(function(*values)))
        elif do == "range":
            values = stack[len(stack) - argument :]
            del stack[len(stack) - argument :]
            loops[place] = iter(_range(values))
        elif do == "next":
            number = next(loops[place - 1], None)
            if number is None:
                place = argument
            else:
                stack.append(_plain(number))
        else:
            value = stack.pop() if do == "return" else last if do == "finish" else None
            if value is None or isinstance(value, bool):
                raise ProgramError(argument or "leaves no number")
            return value
    raise ProgramError(f"takes more than {STEPS} steps")
