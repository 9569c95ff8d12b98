"""How solutions of word problems are written, and which way a completion is written; the rules: `rlx/tasks/math.py`."""

import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from rlx.tasks.math_answers import final_answer
from rlx.tasks.math_program import Number, run_block, run_function
from rlx.tasks.math_words import FACTORS, KINDS, NAMES, PARTS, SCENES, Problem, Rule, Slot, Story

OPEN, CLOSE = "<llm-code>", "</llm-code>"
HEADER = "def simple_math_problem():"
TAGGED_FIRST = "Let's solve this problem using Python code."
TAGGED_LAST = "So the answer is "


class Trace(Enum):
    """How a solution is written."""

    text = "text"
    code = "code"
    tagged = "tagged"
    answer = "answer"
    mixed = "mixed"


FORMATS = (Trace.text, Trace.code, Trace.tagged, Trace.answer)
"""The ways that `mixed` mixes."""


def write(problem: Problem, story: Story, trace: Trace, *, calculator: bool, docstring: bool) -> str:
    """The solution in one of `FORMATS`; with `calculator`, text has GSM8K's marks, `<<48/2=24>>`; with `docstring`,
    functions begin with the problem."""
    if trace is Trace.text:
        return "\n".join([*_steps(problem, story, calculator), f"#### {problem.answer}"])
    if trace is Trace.answer:
        return f"#### {problem.answer}"
    names = [f"{slot.person}_{slot.plural}".lower().replace(" ", "_") for slot in story.slots]
    lines = [f"{names[place]} = {_expression(rule, names)}" for place, rule in _needed(problem)]
    last = _expression(problem.question, names)
    if trace is Trace.tagged:
        block = "\n".join([OPEN, *lines, last, CLOSE])
        return f"{TAGGED_FIRST}\n{block}\n{TAGGED_LAST}\\boxed{{{problem.answer}}}"
    told = ['"""', story.text, '"""'] if docstring else []
    return "\n    ".join([HEADER, *told, *lines, f"result = {last}", "return result"])


def _needed(problem: Problem) -> list[tuple[int, Rule]]:
    return list(enumerate(problem.rules[: problem.needed]))


def _expression(rule: Rule, texts: Sequence[str]) -> str:
    """What is done, with the parents as they are in `texts`."""
    made = [texts[parent] for parent in rule.parents]
    pattern = KINDS[rule.kind].expression
    if not pattern:
        return " + ".join(made)
    return pattern.format(*made, **dict(zip("ab", map(str, rule.numbers), strict=False)))


def _steps(problem: Problem, story: Story, calculator: bool) -> list[str]:
    """A sentence for each quantity that has to be made, and one for the answer."""
    texts = [str(value) for value in problem.values]
    lines: list[str] = []
    for place, rule in _needed(problem):
        if rule.kind != "given":
            slot, value = story.slots[place], problem.values[place]
            shown = _equation(_expression(rule, texts), value, calculator)
            lines.append(f"{slot.person} {story.scene.verb} {shown} {slot.things(value)}.")
    if problem.question.kind != "value":
        shown = _equation(_expression(problem.question, texts), problem.answer, calculator)
        lines.append(_conclusion(problem, [story.slots[place] for place in problem.question.parents], story, shown))
    return lines


def _equation(expression: str, value: int, calculator: bool) -> str:
    mark = f"<<{expression.replace(' ', '')}={value}>>" if calculator else ""
    return f"{expression} = {mark}{value}"


def _conclusion(problem: Problem, parents: Sequence[Slot], story: Story, shown: str) -> str:
    """The sentence that makes the answer, `shown` being its equation."""
    kind, first = problem.question.kind, parents[0]
    if kind in ("total", "total_three"):
        return f"In total that is {shown}."
    if kind == "compare":
        return f"The difference is {shown}."
    if kind == "bags":
        return f"{first.person} fills {shown} {'bag' if problem.answer == 1 else 'bags'}."
    if kind == "price":
        return f"{first.person} gets {shown} dollars."
    return f"{first.person} keeps {shown} {first.things(problem.answer)}."


class Reading(NamedTuple):
    """What a completion says."""

    form: str
    """text, code, tagged or answer."""
    value: Number | None
    """What its program gives; None where it has none, or where it does not run."""
    answer: str | None
    """The final answer of its text, programs apart: of what follows a program that runs, else of all."""
    rest: bool
    """Whether text follows a program that runs."""
    error: str
    """Why its program does not run."""


_HEAD = re.compile(r"^def ", re.MULTILINE)
_FUNCTION = re.compile(r"def [^\n]*(?:\n(?:[ \t][^\n]*)?)*")
_FENCE = re.compile(r"(?:\s|#(?!###)[^\n]*)*+(?:```)?\s*")


def read(text: str) -> Reading:
    """Classify a completion and run its program, if it has one."""
    form, error, others = "text", "", text
    close = text.rfind(CLOSE)
    begin = text.rfind(OPEN, 0, close) if close >= 0 else -1
    if begin >= 0:
        result = run_block(text[begin + len(OPEN) : close].strip("\n"))
        if result.value is not None:
            return _after("tagged", result.value, text[close + len(CLOSE) :])
        form, error = "tagged", result.error
        others = text[:begin] + text[close + len(CLOSE) :]
    elif OPEN in text:
        form, error = "tagged", f"its block has no {CLOSE}"
        others = text[: text.rfind(OPEN)]
    heads = list(_HEAD.finditer(others))
    if heads:
        start = heads[-1].start()
        result = run_function(others, start)
        if result.value is not None:
            return _after("code", result.value, others[result.end :])
        form, error = (form, error) if form == "tagged" else ("code", result.error)
        body = _FUNCTION.match(others, start)
        others = others[:start] + (others[body.end() :] if body else "")
    answer = final_answer(others)
    if form == "text" and answer is not None and text.strip() == f"#### {answer}":
        form = "answer"
    return Reading(form, None, answer, False, error)


def _after(form: str, value: Number, rest: str) -> Reading:
    """The reading of a program that ran, and of the text after it, comments and a closing fence aside."""
    fence = _FENCE.match(rest)
    rest = rest[fence.end() :] if fence else rest
    return Reading(form, value, final_answer(rest) if rest else None, bool(rest), "")


_WORDS = re.compile(r"[A-Za-z]+")
_MARKS = " \n.,?'\"#:_()=+-*/<>{}\\"
_SENTENCES = """
    do number of with in each more fewer than Compared as many If were split into equal groups group would have The the
    is minus together and How total Counting how are there left puts all bags bag filled sells every for dollars get
    In that difference fills gets keeps So answer boxed Let s solve this problem using Python code llm def simple math
    result return times
"""


def trace_words() -> list[str]:
    """Words, digits and marks that problems and their solutions are made of."""
    texts = [_SENTENCES, *NAMES, *map(str.lower, NAMES), *FACTORS.values(), *PARTS.values()]
    for scene in SCENES:
        texts += [scene.verb, scene.base, scene.auxiliary, scene.packs, scene.whole, scene.loses]
        texts += [word for thing in scene.things for word in thing]
    words = sorted({word for text in texts for word in _WORDS.findall(text)})
    return [*words, *"0123456789", *_MARKS]
