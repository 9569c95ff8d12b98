"""`trace=tinyzero`: answers that are expressions, against Python's own parser and a peer's scorer."""

import ast
import importlib
import re
from collections import Counter
from fractions import Fraction
from random import Random
from typing import Any

import pytest

from rlx.expressions import evaluate
from rlx.tasks.countdown import Countdown, CountdownConfig
from rlx.tasks.countdown_expressions import LONGEST, verdict_on
from rlx.tasks.countdown_traces import Trace
from rlx.types import Example, Outcome, Split

INPUTS = (55, 8, 13, 19)


def countdown(**fields: Any) -> Countdown:
    return CountdownConfig(trace=Trace.tinyzero, **fields).build()


def outcome(text: str, target: int = 59, inputs: tuple[int, ...] = INPUTS) -> Outcome:
    example = Example(id="", prompt="", solution="", truth=(target, inputs))
    return countdown().verify(example, text).outcome


# Python's parser as the reference: what it reads, and only with the allowed operations


def by_python(text: str) -> Fraction | None:
    """The exact value of an expression, None where it is none or has none."""
    if not re.fullmatch(r"[-+*/() \t0-9]*", text):
        return None
    try:
        return value_of(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, TypeError):
        return None


def value_of(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        inner = value_of(node.operand)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        a, b = value_of(node.left), value_of(node.right)
        if isinstance(node.op, ast.Add):
            return a + b
        if isinstance(node.op, ast.Sub):
            return a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.Div):
            return a / b
    raise TypeError


def drawn(random: Random, numbers: list[str]) -> str:
    """An expression of all the numbers in any order: parentheses, blanks and signs where they may stand."""
    if len(numbers) == 1:
        text = numbers[0]
    else:
        cut = random.randrange(1, len(numbers))
        sides = [drawn(random, numbers[:cut]), drawn(random, numbers[cut:])]
        text = random.choice(("", " ")).join((sides[0], random.choice("+-*/"), sides[1]))
    if random.random() < 0.4:
        text = f"({text})"
    return f"{random.choice('+--')}{text}" if random.random() < 0.05 else text


def expressions(count: int) -> list[tuple[tuple[int, ...], str]]:
    """Inputs and an expression of them; in a third of the cases one character is another, missing or added."""
    random = Random(7)
    found: list[tuple[tuple[int, ...], str]] = []
    for _ in range(count):
        inputs = tuple(random.randint(1, 12) for _ in range(random.randint(3, 5)))
        text = drawn(random, random.sample(list(map(str, inputs)), len(inputs)))
        if random.random() < 0.33:
            place = random.randrange(len(text))
            text = text[:place] + random.choice(["", *"0123456789+-*/()  .x"]) + text[place + random.randint(0, 1) :]
        found.append((inputs, text))
    return found


def test_values_are_those_of_pythons_parser() -> None:
    kinds = Counter[str]()
    for inputs, text in expressions(4000):
        value = by_python(text)
        right = sorted(map(int, re.findall(r"\d+", text))) == sorted(inputs) and value is not None
        target = int(value) if value is not None and value.denominator == 1 else 77
        verdict = verdict_on(target, inputs, text)
        expected = Outcome.illegal if not right else Outcome.correct if value == target else Outcome.wrong
        assert verdict.outcome is expected, (text, inputs, target)
        assert not verdict_on(target + 1, inputs, text).correct
        kinds[expected.name] += 1
    assert min(kinds.values()) > 500 and len(kinds) == 3


def test_verdicts_agree_with_reasoning_gym() -> None:
    """Its scorer evaluates what it is given, so nothing but arithmetic goes there; full score is correct here.

    Characters that are no expression here may be one there (`!` and `**`), so they are left out.
    """
    pytest.importorskip("reasoning_gym")
    create_dataset: Any = importlib.import_module("reasoning_gym").create_dataset
    scorer = create_dataset("countdown", size=1, seed=0)
    agreed = Counter[bool]()
    for inputs, text in expressions(1200):
        if not re.fullmatch(r"[-+*/() 0-9]+", text) or re.search(r"\*\s*\*|/\s*/", text):
            continue
        value = by_python(text)
        for target in {int(value) if value is not None else 5, 24}:
            score = scorer.score_answer(text, {"metadata": {"numbers": list(inputs), "target": target}})
            assert verdict_on(target, inputs, text).correct == (score == 1), (text, inputs, target, score)
            agreed[score == 1] += 1
    assert min(agreed.values()) > 100 and len(agreed) == 2


# What is written


def test_solution_is_the_worked_one() -> None:
    task = countdown(max_number=99)
    steps = "13+19=32, 32/8=4, 55+4=59</think>\n<answer>55 + ((13 + 19) / 8)</answer>"
    example = Example(id="", prompt="", solution="", truth=(59, INPUTS))
    assert task.verify(example, steps).correct
    held = task.example(Split.test, 0)
    assert held.truth == (91, (75, 68, 59, 34))
    assert held.solution == "75*68=5100, 5100/34=150, 150-59=91</think>\n<answer>((75 * 68) / 34) - 59</answer>"
    assert "Make 91 from the numbers [75, 68, 59, 34] with + - * /" in held.prompt
    assert held.prompt.endswith("Assistant: I try the operations one by one.\n<think>")


@pytest.mark.parametrize("numbers", [3, 4, 6, 8])
def test_solutions_verify_and_say_one_thing_twice(numbers: int) -> None:
    """The operations thought and the expression answered reach the target; the problems are those of other traces."""
    task = countdown(numbers=numbers, max_number=12)
    plain = CountdownConfig(trace=Trace.operations, numbers=numbers, max_number=12).build()
    for split in Split:
        for index in range(40):
            example, other = task.example(split, index), plain.example(split, index)
            target, inputs = example.truth
            assert task.verify(example, example.solution).correct
            assert example.id == other.id
            thought, answer = example.solution.split("</think>\n<answer>")
            assert thought.replace(", ", ",") == other.solution
            assert by_python(answer.removesuffix("</answer>")) == target
            assert len(re.findall(r"\d+", answer)) == len(inputs)


# Verdicts


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("55 + ((13 + 19) / 8)", Outcome.correct),
        ("(13+19)/8+55", Outcome.correct),
        ("55 - -(13 + 19) / 8", Outcome.correct),
        ("\t 55+(13+19)/8\t", Outcome.correct),
        ("55 - (8 - 13) - 19 + 18", Outcome.illegal),
        ("55 - (8 - 13 * 19)", Outcome.wrong),
        ("55 + 8 + 13 + 19", Outcome.wrong),
        ("8/19*13 - 55", Outcome.wrong),
        ("55 + 4", Outcome.illegal),
        ("55 + (13 + 19) / 8 + 8 - 8", Outcome.illegal),
        ("55 + ((13 + 19) / 8", Outcome.illegal),
        ("55 + (13 + 19)) / 8", Outcome.illegal),
        ("55 + ((13 + 19) / 8) = 59", Outcome.illegal),
        ("055 + (13 + 19) / 8", Outcome.illegal),
        ("55.0 + (13 + 19) / 8", Outcome.illegal),
        ("55. + (13 + 19) / 8", Outcome.illegal),
        ("55 + (13 + 19) // 8", Outcome.illegal),
        ("55 ** 8 ** 13 ** 19", Outcome.illegal),
        ("55 8 13 19", Outcome.illegal),
        ("55(8)(13)(19)", Outcome.illegal),
        ("+55 8+13 19+", Outcome.illegal),
        ("55 + (13 + 19) / 8 + \u0663", Outcome.illegal),
        ("\u0665\u0665 + (13 + 19) / 8", Outcome.illegal),
        ("55 + (13 + 19) / 8 + \u00b2", Outcome.illegal),
        ("55 + (13 + 19) / 8 + \uff11 - \uff11", Outcome.illegal),
        ("55 + (13 + 19) \u00f7 8", Outcome.illegal),
        ("\u00a055 + (13 + 19) / 8", Outcome.illegal),
        ("[55, 8, 13, 19]", Outcome.illegal),
        ("__import__('os')", Outcome.illegal),
        ("()", Outcome.illegal),
        ("", Outcome.illegal),
    ],
)
def test_outcomes_of_answers(answer: str, expected: Outcome) -> None:
    assert outcome(f"13+19=32</think>\n<answer>{answer}</answer>") is expected


def test_values_in_between_may_be_fractions_and_negative() -> None:
    assert outcome("<answer>8 / (3 - 8 / 3)</answer>", 24, (3, 3, 8, 8)) is Outcome.correct
    assert outcome("<answer>(3 - 8) * (3 - 8)</answer>", 25, (3, 3, 8, 8)) is Outcome.correct
    assert outcome("<answer>-8 + 3 * 8 + 3</answer>", 19, (3, 3, 8, 8)) is Outcome.correct


def test_division_by_zero_is_illegal() -> None:
    assert outcome("<answer>7/(5 - 5)</answer>", 7, (5, 5, 7)) is Outcome.illegal
    assert outcome("<answer>(5 - 5)/7</answer>", 0, (5, 5, 7)) is Outcome.correct
    assert outcome("<answer>7/(5/5 - 1)</answer>", 7, (5, 5, 7, 1)) is Outcome.illegal


GOOD, BAD = "<answer>55 + (13 + 19) / 8</answer>", "<answer>55 + 8</answer>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, Outcome.correct),
        (f"{GOOD} \n\t\n", Outcome.correct),
        (f"{BAD} no: {GOOD}", Outcome.correct),
        (f"{GOOD} no: {BAD}", Outcome.illegal),
        (f"{BAD}\n{GOOD}", Outcome.correct),
        (f"<answer>{GOOD}", Outcome.correct),
        (f"{GOOD}</answer>", Outcome.malformed),
        (f"{GOOD}\nSo 59.", Outcome.malformed),
        (f"{GOOD} So 59.", Outcome.malformed),
        (f"{GOOD}\n<answer>", Outcome.malformed),
        ("<answer>55 + (13 + 19) /\n8</answer>", Outcome.malformed),
        ("55 + (13 + 19) / 8", Outcome.malformed),
        ("55 + (13 + 19) / 8</answer>", Outcome.malformed),
        ("<answer>55 + (13 + 19) / 8", Outcome.malformed),
        ("<Answer>55 + (13 + 19) / 8</Answer>", Outcome.malformed),
        ("</answer><answer>", Outcome.malformed),
        ("<answer></answer>", Outcome.illegal),
        ("", Outcome.malformed),
    ],
)
def test_where_the_answer_stands(text: str, expected: Outcome) -> None:
    assert outcome(text) is expected


def test_any_character_of_the_answer_counts() -> None:
    """Another character in the answer is another number, another sign or no expression."""
    task = countdown()
    for index in range(60):
        example = task.example(Split.val, index)
        start = example.solution.index("<answer>")
        for place in range(start, len(example.solution)):
            for other in "0123456789()x":
                if other != example.solution[place]:
                    text = example.solution[:place] + other + example.solution[place + 1 :]
                    assert not task.verify(example, text).correct, text


def test_long_and_deep_answers_are_read_in_time() -> None:
    room = LONGEST - 100
    deep = "(" * (room // 2) + "55 + (13 + 19) / 8" + ")" * (room // 2)
    assert outcome(f"<answer>{deep}</answer>") is Outcome.correct
    assert outcome(f"<answer>{'-' * 2 * (room // 2)}(55 + (13 + 19) / 8)</answer>") is Outcome.correct
    assert outcome(f"<answer>{'(' * room}</answer>") is Outcome.illegal
    assert outcome(f"<answer>{'9' * room}</answer>") is Outcome.illegal
    assert outcome("x" * room + GOOD) is Outcome.correct
    assert outcome("x" * LONGEST + GOOD) is Outcome.malformed
    assert evaluate(["8", "/", "19", "/", "13"]) == (8, 19 * 13)
