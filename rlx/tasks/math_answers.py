"""The final answer of a text, and whether two answers are the same.

Where the answer is (`final_answer`), the first of these that the text has, so that a mark made for answers goes before
words, and words before a bare number:
1. what follows the last `####` on its line, as GSM8K ends its solutions;
2. what is inside the last `\\boxed{...}`, as MATH does;
3. what follows the last "answer is", "answer:" or "answer =", up to the end of the line or sentence;
4. the last number.
A mark that is there and holds nothing, or a box that is never closed, is no answer: the text is not searched further.

Which answers are the same (`same_answer`). A gold answer that is a number is matched by numbers alone and exactly, as
fractions: `1/2`, `0.5`, `\\frac{1}{2}` and `.50` are the same, `0.333` is not `1/3`. Any other is matched by the same
text, or, unless it is a word or has an index (`\\text{even}`, `4210_7`), by an equal expression (math_expressions.py)
with the same relations, brackets and case of letters.
What is written around a number, by rule:
- blanks, `$...$`, `\\(...\\)`, `\\[...\\]`, `\\left`, `\\right`, spacing commands, a full stop at the end and `x =` go;
- so does a dollar sign before a number, and a percent sign after it: 50% is 50, not 0.5;
- commas go where they part groups of three digits; elsewhere they make the text no number (`1,2` is a pair);
- after a number, words are its unit and go (`72 clips`, `5 km per hour`, `3 \\text{cm}^2`), but for those that change
  it (half, fifths, dozen, million, squared, ...); a letter alone, or two that are no unit, are variables;
- mixed numbers are `1 1/2` or `1\\frac{1}{2}`.

    >>> final_answer("48/2 = 24, 48 + 24 = 72\\n#### 72"), same_answer("72", "$72.00")
    ('72', True)
"""

import re
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache

from rlx.tasks.math_expressions import LONGEST, check_installed, is_readable, same_expression

TAIL = 4096
"""Characters at the end of a text in which the last number is looked for."""
DIGITS = 60
"""Digits of the longest number, before the point and after it."""

_ANSWER_IS = re.compile(r"\banswer(?: is| ?[:=])[ \t]*:?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n")
_LAST_NUMBER = re.compile(r"(?:(?<![\w.)])-)?\$?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?%?")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")

_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_SIZES = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\!")
_PARTED = re.compile(r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9]{3})")
_SPACING = re.compile(r"\\[,;: ]|~")
_FRAC = re.compile(r"\\[dt]frac(?![A-Za-z])")
_IN_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degrees?(?![A-Za-z])")
_HEAD = re.compile(r"(?:[A-Za-z]\s*=\s*)?(?P<sign>\$\s*[-+]|[-+]?\s*\$?)\s*")
_UNIT = re.compile(r"\s*%|\s+[A-Za-z]{2,}(?:[ ./*-]+[A-Za-z]+)*(?:\^\{?[0-9]\}?)?")
_SHORT_UNITS = frozenset(
    ("cm", "dm", "ft", "g", "hr", "kg", "km", "l", "lb", "m", "mg", "mi", "ml", "mm", "oz", "s", "sq", "yd", "a", "an",
     "of", "in", "at", "on", "by")
)  # fmt: skip
_NOT_UNITS = frozenset(
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
     "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty",
     "sixty", "seventy", "eighty", "ninety", "half", "halves", "third", "thirds", "quarter", "quarters", "dozen",
     "dozens", "score", "scores", "gross", "hundred", "hundreds", "thousand", "thousands", "million", "millions",
     "billion", "billions", "trillion", "trillions", "and", "mod", "sqrt", "root", "times", "plus", "minus", "over",
     "point", "squared", "cubed", "factorial", "choose", "power", "below", "above", "less", "more", "not", "wrong",
     "sin", "cos", "tan", "log", "exp", "zillion", "zero", "divided", "multiplied")
)  # fmt: skip
_PART = re.compile(r"(?!month|cloth|tooth|booth|mouth|moth)[a-z]+ths?")
"""Fifths, hundredths and their kin."""
_RELATION = re.compile(r"<=|>=|!=|[=<>]|\\(?:leq?|geq?|neq?|lt|gt|approx|sim|equiv|in)(?![A-Za-z])")
_NAMED = re.compile(r"^[A-Za-z]=")
_INTERVAL = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]](?:\\cup[(\[][^()\[\]]*,[^()\[\]]*[)\]])*")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_AROUND = re.compile(r"(\(|\[|\\\{)(.*)(\)|\]|\\\})", re.DOTALL)
_LETTERS = re.compile(r"[A-Za-z]+")
_DIGITS = rf"[0-9]{{1,{DIGITS}}}"
_WHOLE = rf"(?:[0-9]{{1,3}}(?:,[0-9]{{3}}){{1,{DIGITS // 3 - 1}}}|{_DIGITS})"
_DECIMAL = re.compile(rf"(?P<whole>{_WHOLE})?(?:\.(?P<places>[0-9]{{0,{DIGITS}}}))?")
_FRACTION = re.compile(
    rf"(?:(?P<mixed>{_DIGITS})(?:\s+(?=[0-9])|\s*(?=\\)))?(?:\\frac\s*(?:"
    rf"\{{\s*(?P<minus>-?)\s*(?P<a>{_WHOLE})\s*\}}\s*\{{\s*(?P<b>{_WHOLE})\s*\}}|(?P<c>[0-9])\s*(?P<d>[0-9]))"
    rf"|(?P<e>{_WHOLE})\s*/\s*(?P<f>{_WHOLE}))"
)
_WORD = re.compile(r"(?=.*[A-Za-z]{3})[A-Za-z ]+|\([A-Za-z]\)")


def final_answer(text: str) -> str | None:
    """The answer that a text gives, without blanks around it; None where it gives none, or one of more than 300
    characters. Takes time in proportion to the text."""
    found = _found(text)
    return found if found and len(found) <= LONGEST else None


def _found(text: str) -> str | None:
    place = text.rfind("####")
    if place >= 0:
        return text[place + 4 :].partition("\n")[0].strip()
    box = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if box >= 0:
        return _inside(text, box)
    marks = list(_ANSWER_IS.finditer(text))
    if marks:
        rest = text[marks[-1].end() :][: 2 * LONGEST].lstrip()
        return _SENTENCE_END.split(rest, 1)[0].strip(" \t*")
    numbers = _LAST_NUMBER.findall(text[-TAIL:])
    return numbers[-1].rstrip(",") if numbers else None


def _inside(text: str, box: int) -> str | None:
    """What the braces after `box` hold; None when they are not closed."""
    opened = _BOX.match(text, box)
    if opened is None:
        return None
    depth = 1
    for place in range(opened.end(), min(len(text), opened.end() + LONGEST + 1)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return text[opened.end() : place].strip()
    return None


def check_answers(golds: Iterable[str]) -> None:
    """Raise ConfigError when some of these answers can only be compared by math-verify and it is not installed."""
    if any(_kind(gold) == "expression" for gold in golds):
        check_installed()


def same_answer(gold: str, answer: str) -> bool:
    """True when `answer`, a text as `final_answer` gives it, is what `gold` is.

    Raises:
        RunError: `gold` is an expression, and the process that compares them does not start.
    """
    if len(gold) > LONGEST or len(answer) > LONGEST or not (gold.isascii() and answer.isascii()):
        return False
    return _same(gold, answer)


@lru_cache(maxsize=1 << 14)
def _same(gold: str, answer: str) -> bool:
    value = number(gold)
    if value is not None:
        return number(answer) == value
    mine, theirs = _plain(gold), _plain(answer)
    if not mine or not theirs:
        return False
    kind = _kind(gold)
    if kind == "word":
        return _word(mine) == _word(theirs)
    if mine == theirs:
        return True
    return (
        kind == "expression"
        and _comparable(_cleaned(gold), _cleaned(answer))
        and same_expression(_cleaned(gold), _cleaned(answer))
    )


def _comparable(gold: str, answer: str) -> bool:
    """False for an answer of which math-verify would read a part alone, or a wider meaning: with
    relations or words that the gold answer does not have, in other brackets, or with letters of the other case."""
    words = _LETTERS.findall(" ".join(_IN_TEXT.findall(answer)).lower())
    if not all(map(_names_a_unit, words)) and not _IN_TEXT.search(gold):
        return False
    gold, answer = ("".join(text.split()) for text in (gold, answer))
    asked = _RELATION.findall(gold)
    if "=" not in asked and answer[:1] not in gold:
        answer = _NAMED.sub("", answer)
    given = _RELATION.findall(answer)
    if len(given) != len(asked) and (given or not _INTERVAL.fullmatch(answer)):
        return False
    if _brackets(gold) != _brackets(answer) and not asked:
        return False
    mine, theirs = (set(_COMMAND.sub("", text)) for text in (gold, answer))
    return not any(letter.isalpha() and letter.swapcase() in mine for letter in theirs - mine)


def _brackets(text: str) -> tuple[str, str] | None:
    """The brackets around a tuple, an interval or a set; None for any other text."""
    found = _AROUND.fullmatch(text)
    return (found[1], found[3]) if found and ("," in found[2] or (found[1], found[3]) != ("(", ")")) else None


def number(text: str) -> Fraction | None:
    """The number that an answer is, by the rules above; None for any other text."""
    if len(text) > LONGEST or not text.isascii():
        return None
    if text.isdigit() and len(text) <= DIGITS:  # most are
        return Fraction(int(text))
    text = _IN_TEXT.sub(r" \1", _DEGREES.sub(" degrees", _cleaned(text))).strip()
    head = _HEAD.match(text)
    assert head is not None  # it matches nothing at all too
    sign = -1 if "-" in head["sign"] else 1
    for pattern in (_FRACTION, _DECIMAL):
        found = pattern.match(text, head.end())
        if found is not None and found.end() > head.end() and _ends(text, found.end()):
            value = _fraction(found) if pattern is _FRACTION else _decimal(found)
            return None if value is None else sign * value
    return None


def _ends(text: str, place: int) -> bool:
    """True when a number may end at `place`: nothing follows, or a unit."""
    rest = text[place:]
    return not rest or (_UNIT.fullmatch(rest) is not None and all(map(_names_a_unit, _LETTERS.findall(rest.lower()))))


def _names_a_unit(word: str) -> bool:
    """True for a word after a number that leaves it as it is."""
    if len(word) < 3:
        return word in _SHORT_UNITS
    return word not in _NOT_UNITS and not _PART.fullmatch(word)


def _fraction(found: re.Match[str]) -> Fraction | None:
    above, below = (found["a"] or found["c"] or found["e"]), (found["b"] or found["d"] or found["f"])
    part = _whole(above), _whole(below)
    if not part[1] or (found["mixed"] and found["minus"]):
        return None
    value = Fraction(*part)
    return -value if found["minus"] else value + _whole(found["mixed"] or "0")


def _decimal(found: re.Match[str]) -> Fraction | None:
    whole, places = found["whole"] or "", found["places"] or ""
    if not whole and not places:
        return None
    return Fraction(int(whole.replace(",", "") + places), 10 ** len(places))


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _cleaned(text: str) -> str:
    """An answer without what says nothing about its value."""
    text = text.strip().removesuffix(".").rstrip()
    for begin, end in _DELIMITERS:
        if text.startswith(begin) and text.endswith(end) and len(text) > len(begin) + len(end):
            text = text[len(begin) : -len(end)]
            break
    if text.startswith("$") and text.count("$") == 2 and "\\$" not in text:  # `$72$ dollars`
        text = text.replace("$", "")
    text = _SPACING.sub(" ", _PARTED.sub(",", _SIZES.sub("", text)))
    text = _FRAC.sub(r"\\frac", text).replace("\\$", "$").replace("\\%", "%")
    return text.strip().removesuffix(".").rstrip()


def _plain(text: str) -> str:
    """An answer's text, to be compared."""
    return "".join(_IN_TEXT.sub(r"\1", _cleaned(text)).split())


def _word(text: str) -> str:
    return text.removeprefix("(").removesuffix(")").lower()


def _kind(gold: str) -> str:
    """How a gold answer is compared: as a number, a word, a text or an expression."""
    if number(gold) is not None:
        return "number"
    cleaned = _cleaned(gold)
    if _WORD.fullmatch(_IN_TEXT.sub(r"\1", cleaned).strip()):
        return "word"
    return "expression" if "_" not in cleaned and is_readable(cleaned) else "text"
