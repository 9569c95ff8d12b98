"""Arithmetic against Python's integers, hand-worked texts, the papers' formats and statements, and shortcuts."""

import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise, product
from random import Random
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from rlx.errors import ConfigError
from rlx.tasks.arithmetic import Arithmetic, ArithmeticConfig
from rlx.tasks.arithmetic_problems import Operation, Problem, Rules, running_sums
from rlx.tasks.arithmetic_traces import Trace, trace_format
from rlx.types import Example, Outcome, Split

SIGN = {Operation.add: "+", Operation.subtract: "-", Operation.multiply: "*"}
EVERY = list(product(Operation, Trace))
EVERY_ID = [f"{operation.name}-{trace.name}" for operation, trace in EVERY]


def arithmetic(operation: Operation = Operation.add, trace: Trace = Trace.plain, **fields: Any) -> Arithmetic:
    return ArithmeticConfig(operation=operation, trace=trace, **fields).build()


def pairs(operation: Operation, count: int, first: int, second: int | None = None, seed: int = 0) -> list[Problem]:
    """Pairs of numbers of up to `first` digits (and `second`), drawn here."""
    random = Random(seed)
    found = []
    for _ in range(count):
        n = random.randint(1, first)
        a, b = (random.randint(10 ** (d - 1), 10**d - 1) for d in (n, second or n))
        if operation is Operation.subtract:
            a, b = max(a, b), min(a, b)
        found.append(Problem((a, b), SIGN[operation]))
    return found


def texts(operation: Operation, trace: Trace, problem: Problem, modulus: int = 10, removed: int = 0) -> tuple[str, str]:
    """Prompt and solution of a problem."""
    rules = Rules(operation, modulus)
    form = trace_format(trace, rules, removed)
    digits = str(rules.value(problem)).zfill(rules.answer_width(problem))[::-1]
    return form.prompt(problem), form.work(problem) + form.answer(digits)


def example(*numbers: int, signs: str = "+") -> Example:
    return Example(id="", prompt="", solution="", truth=(numbers, signs))


def examples(task: Arithmetic, count: int = 200, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


def ids(task: Arithmetic, split: Split, count: int) -> list[str]:
    return [one.id for one in examples(task, count, split)]


# Texts worked by hand

CHAIN = Problem((7, 3, 5), "*-")
LONG_CHAIN = Problem((96, 7, 50), "+*")


@pytest.mark.parametrize(
    ("operation", "trace", "problem", "prompt", "solution"),
    [
        (Operation.add, Trace.plain, Problem((29, 57), "+"), "29+57=", "86"),
        (Operation.add, Trace.reversed, Problem((29, 57), "+"), "29+57=", "680"),
        (Operation.add, Trace.scratchpad, Problem((29, 57), "+"), "29+57\n", "9+7+0=16\n2+5+1=8\n=86"),
        (Operation.add, Trace.turing, Problem((29, 57), "+"), "$29+57|", "2j+5h#0#|c9+f7#1#6|29+57#0#68|=680."),
        (Operation.add, Trace.turing, Problem((99, 1), "+"), "$99+01|", "9j+0b#0#|j9+a1#1#0|99+01#1#00|=001."),
        (Operation.add, Trace.icot, Problem((29, 57), "+"), "92+75||", "92+7(630)+05####680"),
        (Operation.add, Trace.reversed, Problem((7, 123), "+"), "007+123=", "0310"),
        (Operation.add, Trace.plain, Problem((7, 123), "+"), "7+123=", "130"),
        (Operation.subtract, Trace.plain, Problem((512, 478), "-"), "512-478=", "34"),
        (Operation.subtract, Trace.plain, Problem((40, 40), "-"), "40-40=", "0"),
        (Operation.subtract, Trace.reversed, Problem((512, 478), "-"), "512-478=", "430"),
        (
            Operation.subtract, Trace.scratchpad, Problem((512, 478), "-"),
            "512-478\n", "12-8-0=4\n11-7-1=3\n5-4-1=0\n=34",
        ),
        (
            Operation.subtract, Trace.turing, Problem((512, 478), "-"),
            "$512-478|", "51c-47i#0#|5b2-4h8#1#4|f12-e78#1#43|512-478#0#430|=430.",
        ),
        (Operation.subtract, Trace.icot, Problem((512, 478), "-"), "215-874||", "215-8(405)-07(434)-004####430"),
        (Operation.multiply, Trace.plain, Problem((76, 3), "*"), "76*3=", "228"),
        (Operation.multiply, Trace.reversed, Problem((12, 3), "*"), "12*3=", "630"),
        (
            Operation.multiply, Trace.scratchpad, Problem((76, 58), "*"),
            "76*58\n", "6*8+0=48\n6*5+7*8+4=90\n7*5+9=44\n=4408",
        ),
        (Operation.multiply, Trace.turing, Problem((76, 3), "*"), "$76*3|", "7g*3#0#|h6*3#1#8|76*3#2#82|=822."),
        (
            Operation.multiply, Trace.turing, Problem((76, 58), "*"),  # 6 * 58 = 348, 7 * 58 + 34 = 440
            "$76*58|", "7g*58#00#|h6*58#43#8|76*58#44#80|=8044.",
        ),
        (Operation.multiply, Trace.icot, Problem((76, 3), "*"), "67*3||", "822####822"),
        (Operation.modular, Trace.plain, CHAIN, "7*3-5%10=", "6"),
        (Operation.modular, Trace.scratchpad, CHAIN, "7*3-5%10\n", "7*3=21=1\n1-5=-4=6\n=6"),
        (Operation.modular, Trace.turing, CHAIN, "$7*3-5%10|", "h*3-5%10#0|7*d-5%10#7|7*3-f%10#1|7*3-5%10#6|=6."),
        (Operation.modular, Trace.icot, CHAIN, "7*3-5%10||", "7*3(1)-5####6"),
    ],
)  # fmt: skip
def test_texts_worked_by_hand(operation: Operation, trace: Trace, problem: Problem, prompt: str, solution: str) -> None:
    assert texts(operation, trace, problem) == (prompt, solution)
    verdict = arithmetic(operation, trace).verify(example(*problem.numbers, signs=problem.signs), solution)
    assert verdict.correct and set(verdict.measures.values()) == {1.0}


@pytest.mark.parametrize(
    ("trace", "prompt", "solution"),
    [
        (Trace.plain, "96+7*50%97=", "9"),
        (Trace.reversed, "96+07*50%97=", "90"),
        (Trace.scratchpad, "96+07*50\x2597\n", "96+7=103=6\n6*50=300=9\n=9"),
        (Trace.turing, "$96+07*50%97|", "jg+07*50%97#00|96+ah*50%97#69|96+07*fa%97#60|96+07*50%97#90|=90."),
        (Trace.icot, "69+70*05%97||", "69+70(60)*05####90"),
    ],
)
def test_numbers_of_a_chain_are_as_wide_as_remainders(trace: Trace, prompt: str, solution: str) -> None:
    assert texts(Operation.modular, trace, LONG_CHAIN, 97) == (prompt, solution)


@pytest.mark.parametrize(
    "line",
    [
        "9 1 7 3 * 9 4 3 3||1 7 4 3 3 + 0 6 7 8 4 1 ( 1 3 2 2 8 1 ) + 0 0 7 5 1 1 1 ( 1 3 9 7 9 2 1 ) "
        "+ 0 0 0 7 5 1 1 1 #### 1 3 9 4 5 4 2 1",
        "7 6 9 2 * 1 6 3 6||7 6 9 2 0 + 0 2 0 8 7 1 ( 7 8 9 0 8 1 ) + 0 0 1 0 9 8 0 ( 7 8 0 1 7 0 1 ) "
        "+ 0 0 0 2 0 8 7 1 #### 7 8 0 3 7 8 8 1",
    ],
)
def test_products_are_written_as_in_the_data_of_implicit_chain_of_thought(line: str) -> None:
    """The lines that the README of da03/Internalize_CoT_Step_by_Step shows, without spaces."""
    a, b = (int("".join(part.split())[::-1]) for part in line.split("||")[0].split("*"))
    prompt, solution = texts(Operation.multiply, Trace.icot, Problem((a, b), "*"))
    assert prompt + solution == line.replace(" ", "")


def test_worked_examples_of_the_module_are_what_is_written() -> None:
    shown = sys.modules[Arithmetic.__module__].__doc__ or ""
    sums = {trace: texts(Operation.add, trace, Problem((29, 57), "+")) for trace in Trace}
    products = {Trace.icot: texts(Operation.multiply, Trace.icot, Problem((3719, 3349), "*"))}
    block = re.sub(r"\n {10,}", r"\\n", shown.split("Worked examples")[1])
    for found in (sums, products):
        for trace, (prompt, solution) in found.items():
            start = prompt.rstrip("\n")
            assert re.search(
                rf"^    {trace.name} +{re.escape(start)} +{re.escape(solution).replace(chr(92) + chr(10), '.n')}$",
                block,
                re.MULTILINE,
            ), trace


# Answers, against Python's integers


def read_answer(trace: Trace, solution: str) -> str:
    """The answer's digits as written, read by place: after the last mark."""
    return re.split(r"[=#\n]", solution.removesuffix("."))[-1]


@pytest.mark.parametrize(("operation", "trace"), EVERY, ids=EVERY_ID)
def test_answers_are_right(operation: Operation, trace: Trace) -> None:
    task = arithmetic(operation, trace, max_digits=12, modulus=97 if operation is Operation.modular else 10)
    for one in examples(task, 150):
        backwards = trace is Trace.icot
        parts = re.findall(r"[-+*%]|[0-9]+", re.sub(r"[$|=\n]", "", one.prompt))
        if operation is Operation.modular:
            assert parts[-2:] == ["%", "97"]
            parts = parts[:-2]
        numbers = [int(part[::-1] if backwards else part) for part in parts[::2]]
        total = numbers[0]
        for sign, number in zip(parts[1::2], numbers[1:], strict=True):
            total = total + number if sign == "+" else total - number if sign == "-" else total * number
        if operation is Operation.modular:
            total %= 97
        assert (tuple(numbers), "".join(parts[1::2])) == one.truth
        answer = read_answer(trace, one.solution)
        if trace in (Trace.plain, Trace.scratchpad):
            assert answer == str(total)
        else:
            lengths = [len(str(number)) for number in numbers]
            width = {
                Operation.add: max(lengths) + 1, Operation.subtract: max(lengths),
                Operation.multiply: sum(lengths), Operation.modular: 2,
            }[operation]  # fmt: skip
            assert len(answer) == width and int(answer[::-1]) == total


@pytest.mark.parametrize("trace", [Trace.scratchpad, Trace.icot], ids=lambda trace: trace.name)
@pytest.mark.parametrize("operation", list(SIGN), ids=lambda operation: operation.name)
def test_every_line_of_work_is_true(operation: Operation, trace: Trace) -> None:
    """Sides of equations are equal; running totals are the sum of the terms so far."""
    for problem in pairs(operation, 300, 9, seed=1):
        work = texts(operation, trace, problem)[1]
        if trace is Trace.scratchpad:
            for line in work.split("\n")[:-1]:
                left, right = line.split("=")
                values = [np.prod([int(factor) for factor in part.split("*")]) for part in re.split("[-+]", left)]
                rest = sum(values[1:])
                assert values[0] + (-rest if operation is Operation.subtract else rest) == int(right)
            continue
        total, (chain, answer) = 0, work.split("####")
        for sign, term, shown in re.findall(r"(^|[-+])([0-9]+)(?:\(([0-9]+)\))?", chain):
            total += -int(term[::-1]) if sign == "-" else int(term[::-1])
            assert not shown or int(shown[::-1]) == total
        assert total == int(answer[::-1])


# Turing programs: arXiv 2407.03310, sections as in the module


def next_step(step: str, modulus: int = 10) -> str:
    """What follows a step, read from this step alone: written from the description, by rewriting symbols."""
    tape, register, *rest = step.split("#")
    letters = [place for place, symbol in enumerate(tape) if symbol.isalpha()]
    value = lambda place: "abcdefghij".index(tape[place])  # noqa: E731
    number = int(register[::-1])
    if not letters and not rest:
        return f"={register}."
    if not letters:
        return f"={rest[0]}{'' if '-' in tape else register}."
    symbols = list(tape)
    for place in letters:
        symbols[place] = str(value(place))
    result = rest[0] if rest else None
    if result is None:
        sign = tape[letters[0] - 1] if letters[0] else "+"
        term = int("".join(symbols[place] for place in letters))
        number = (number + term if sign == "+" else number - term if sign == "-" else number * term) % modulus
        after = letters[-1] + 2
        if symbols[letters[-1] + 1] != "%":
            for place in range(after, after + len(letters)):
                symbols[place] = "abcdefghij"[int(symbols[place])]
    else:
        sign = next(symbol for symbol in tape if symbol in "+-*")
        digits = [value(place) for place in letters]
        if sign == "*":
            total = digits[0] * int(tape.split("*")[1]) + number
        elif sign == "+":
            total = digits[0] + digits[1] + number
        else:
            total = digits[0] - digits[1] - number
        result += str(total % 10)
        number = abs(total // 10)
        for place in letters:
            if place and symbols[place - 1].isdigit():
                symbols[place - 1] = "abcdefghij"[int(symbols[place - 1])]
    written = str(number).zfill(len(register))[::-1]
    return "".join(symbols) + f"#{written}" + ("" if result is None else f"#{result}")


def first_step(prompt: str) -> str:
    """The prompt with the head on the tape: on the last digits, or on the first number of a chain."""
    tape = prompt.strip("$|")
    letter = lambda found: "".join("abcdefghij"[int(digit)] for digit in found[0])  # noqa: E731
    if "%" in tape:
        return re.sub("^[0-9]+", letter, tape) + "#" + "0" * len(re.match("[0-9]+", tape)[0])  # type: ignore[index]
    if "*" in tape:
        first, second = tape.split("*")
        return f"{re.sub('[0-9]$', letter, first)}*{second}#{'0' * len(second)}#"
    return re.sub(r"[0-9]\b", letter, tape) + "#0#"


@pytest.mark.parametrize("operation", list(Operation), ids=lambda operation: operation.name)
def test_the_next_token_of_a_turing_program_depends_on_the_last_two_steps_alone(operation: Operation) -> None:
    """Every character is found from the step before and what is there of its own: truncating to them changes none."""
    modulus = 53 if operation is Operation.modular else 10
    task = arithmetic(operation, Trace.turing, max_digits=7, modulus=modulus, seed=3)
    for one in examples(task, 60):
        *steps, answer = (one.prompt + one.solution).split("|")
        assert steps[0].startswith("$") and answer.endswith(".")
        assert steps[1] == first_step(one.prompt)
        for before, after in zip(steps[1:], [*steps[2:], answer], strict=True):
            assert next_step(before, 53) == after


@pytest.mark.parametrize(
    ("operation", "second", "most"),
    [(Operation.add, None, 6), (Operation.subtract, None, 6), (Operation.multiply, 1, 4), (Operation.multiply, 3, 6)],
)
def test_steps_of_a_turing_program_differ_in_a_constant_number_of_places(
    operation: Operation, second: int | None, most: int
) -> None:
    """Two symbols for each head, the register, and the digit appended: whatever the numbers' length."""
    worst = {}
    for digits in (4, 16, 64):
        random, found = Random(digits), []
        for _ in range(60):
            a, b = sorted((random.randint(10 ** (d - 1), 10**d - 1) for d in (digits, second or digits)), reverse=True)
            steps = texts(operation, Trace.turing, Problem((a, b), SIGN[operation]))[1].split("|")[:-1]
            assert len(steps) == digits + 1
            for before, after in pairwise(steps):
                assert len(after) == len(before) + 1  # aligned from the left: the appended digit is the last symbol
                found.append(sum(map(str.__ne__, before, after)) + 1)
        worst[digits] = max(found)
    assert max(worst.values()) <= most
    assert worst[16] == worst[64]


@pytest.mark.parametrize("digits", [4, 16, 64])
def test_steps_of_a_chain_differ_in_a_constant_number_of_places(digits: int) -> None:
    for one in examples(arithmetic(Operation.modular, Trace.turing, min_digits=digits, max_digits=digits), 20):
        steps = one.solution.split("|")[:-1]
        assert len({len(step) for step in steps}) == 1
        assert max(sum(map(str.__ne__, *both)) for both in pairwise(steps)) <= 3


@pytest.mark.parametrize(("operation", "second"), [(op, None) for op in SIGN] + [(Operation.multiply, 3)])
def test_the_last_step_of_a_turing_program_says_the_result(operation: Operation, second: int | None) -> None:
    for problem in pairs(operation, 10_000, 6, second):
        *_, last, answer = texts(operation, Trace.turing, problem)[1].split("|")
        _, register, result = last.split("#")
        a, b = problem.numbers
        expected = {"+": a + b, "-": a - b, "*": a * b}[problem.signs]
        assert int((result + register)[::-1]) == expected
        assert (result + register).startswith(answer[1:-1])


# Running sums: arXiv 2510.00184, section b of its method


def test_running_sums_worked_by_hand() -> None:
    """12 * 34: 2 * 4; 1 * 4 + 2 * 3; 1 * 3 and the carried 1; nothing."""
    assert running_sums(12, 34) == ((8, 10, 3, 0), (8, 10, 4, 0), (0, 1, 0, 0), (8, 0, 4, 0))


def test_running_sums_reproduce_the_product() -> None:
    """10,000 pairs of 4 digits, all 8 digits; and columns are the convolution of the digits."""
    random = Random(0)
    for _ in range(10_000):
        a, b = random.randint(1000, 9999), random.randint(1000, 9999)
        s, chat, r, c = running_sums(a, b)
        assert len(s) == len(chat) == len(r) == len(c) == 8
        assert s[7] == 0
        assert list(chat) == [column + before for column, before in zip(s, (0, *r), strict=False)]
        assert "".join(map(str, c))[::-1] == f"{a * b:08d}"
    for problem in pairs(Operation.multiply, 200, 9, 3):
        first, second = ([int(digit) for digit in reversed(str(number))] for number in problem.numbers)
        assert list(running_sums(*problem.numbers).s) == [*np.convolve(first, second), 0]


def test_scratchpad_of_a_product_shows_its_running_sums() -> None:
    for problem in pairs(Operation.multiply, 200, 5, 4):
        lines = texts(Operation.multiply, Trace.scratchpad, problem)[1].split("\n")[:-1]
        found = running_sums(*problem.numbers)
        assert [int(line.split("=")[1]) for line in lines] == list(found.chat[:-1])
        assert [int(re.split("[+=]", line)[-2]) for line in lines] == [0, *found.r[:-2]]


# What length can be told from


@pytest.mark.parametrize(("operation", "trace"), EVERY, ids=EVERY_ID)
def test_the_lengths_of_a_setting_leave_no_trace_in_its_texts(operation: Operation, trace: Trace) -> None:
    """The same problem is the same text whatever the longest, and layouts depend on the numbers' lengths alone."""
    short = arithmetic(operation, trace, min_digits=3, max_digits=3)
    long = arithmetic(operation, trace, max_digits=200, test_min_digits=100, test_max_digits=250)
    layouts: set[str] = set()
    for one in examples(short, 100):
        problem = Problem(*one.truth)
        assert long.format.prompt(problem) == one.prompt
        assert one.solution.startswith(long.format.work(problem))
        if operation is not Operation.modular:
            assert all(len(str(number)) == 3 for number in problem.numbers)
        layouts.add(re.sub("[0-9a-j]", "0", one.prompt + one.solution))
    if trace in (Trace.reversed, Trace.turing, Trace.icot) and operation is not Operation.modular:
        assert len(layouts) == 1


# Implicit chain of thought: stages


def test_removed_tokens_leave_from_the_left() -> None:
    whole = arithmetic(Operation.multiply, Trace.icot, min_digits=4, max_digits=4)
    for removed in (0, 1, 8, 24, 39, 10_000):
        task = arithmetic(Operation.multiply, Trace.icot, min_digits=4, max_digits=4, removed=removed)
        for one, full in zip(examples(task, 20), examples(whole, 20), strict=True):
            chain, answer = full.solution.split("####")
            assert one.solution == f"{chain[removed:]}####{answer}"
            assert (one.prompt, one.id) == (full.prompt, full.id)
            for text in (one.solution, full.solution):
                verdict = task.verify(one, text)
                assert verdict.correct and verdict.measures == {"digits": 1, "steps": 1, "chain": 1}


def test_measures_of_a_chain_count_from_its_end() -> None:
    chain, answer = "17433+067841(132281)+0075111(1397921)+00075111", "####13945421"
    case = example(3719, 3349, signs="*")
    full, late = (arithmetic(Operation.multiply, Trace.icot, removed=removed) for removed in (0, 32))
    assert chain[32:] == "7921)+00075111"
    for text, at_start, at_end in (
        (chain, (1, 1), (1, 1)),
        (chain[5:], (0.75, 0), (1, 1)),
        (chain[6:], (0.5, 0), (1, 1)),
        (chain[32:], (0.25, 0), (1, 1)),
        (chain[33:], (0.25, 0), (0.5, 0)),
        (chain.replace("1397921", "1397922"), (0.75, 0), (0.75, 0)),
        (chain[32:].replace("7921", "8921"), (0.25, 0), (0.5, 0)),
        ("1+" + chain, (0.6, 0), (0.6, 0)),
        ("", (0, 0), (0, 0)),
    ):
        for task, (steps, whole) in ((full, at_start), (late, at_end)):
            verdict = task.verify(case, text + answer)
            assert verdict.correct
            assert verdict.measures == {"digits": 1, "steps": steps, "chain": whole}, text


# Verdicts


@pytest.mark.parametrize(
    ("trace", "text", "expected"),
    [
        (Trace.plain, "86 \n", Outcome.correct),
        (Trace.plain, "86" + " \n" * 49, Outcome.correct),
        (Trace.plain, "87", Outcome.wrong),
        (Trace.plain, "8", Outcome.wrong),
        (Trace.plain, "860", Outcome.wrong),
        (Trace.plain, "0", Outcome.wrong),
        (Trace.plain, "086", Outcome.malformed),
        (Trace.plain, " 86", Outcome.malformed),
        (Trace.plain, "86.", Outcome.malformed),
        (Trace.plain, "+86", Outcome.malformed),
        (Trace.plain, "8_6", Outcome.malformed),
        (Trace.plain, "8\n6", Outcome.malformed),
        (Trace.plain, "\u0668\u0666", Outcome.malformed),
        (Trace.plain, "", Outcome.malformed),
        (Trace.reversed, "680\t", Outcome.correct),
        (Trace.reversed, "68", Outcome.wrong),
        (Trace.reversed, "6800", Outcome.wrong),
        (Trace.reversed, "086", Outcome.wrong),
        (Trace.reversed, "68\u0660", Outcome.malformed),
        (Trace.scratchpad, "=86", Outcome.correct),
        (Trace.scratchpad, "9+7+0=17\n2+5+1=8\n=86", Outcome.correct),
        (Trace.scratchpad, "9+7+0=16\n2+5+1=8\n=85", Outcome.wrong),
        (Trace.scratchpad, "9+7+0=16\n2+5+1=8\n=086", Outcome.malformed),
        (Trace.scratchpad, "9+7+0=16\n2+5+1=8\n86", Outcome.malformed),
        (Trace.scratchpad, "9+7+0=16\n2+5+1=8=86", Outcome.malformed),
        (Trace.scratchpad, "9+7=16\n=86", Outcome.malformed),
        (Trace.scratchpad, "9-7-0=16\n=86", Outcome.malformed),
        (Trace.scratchpad, "9+7+0=16\n\n=86", Outcome.malformed),
        (Trace.turing, "2j+5h#0#|c9+f7#1#6|29+57#0#68|=680.\n", Outcome.correct),
        (Trace.turing, "2j+5h#1#|=680.", Outcome.correct),
        (Trace.turing, "=680.", Outcome.correct),
        (Trace.turing, "29+57#0#68|=68.", Outcome.wrong),
        (Trace.turing, "29+57#0#68|=681.", Outcome.wrong),
        (Trace.turing, "29+57#0#68|=680", Outcome.malformed),
        (Trace.turing, "29+57#0#68=680.", Outcome.malformed),
        (Trace.turing, "29+57|=680.", Outcome.malformed),
        (Trace.turing, "2k+57#0#68|=680.", Outcome.malformed),
        (Trace.turing, "$29+57#0#68|=680.", Outcome.malformed),
        (Trace.turing, "|=680.", Outcome.malformed),
        (Trace.icot, "92+7(630)+05####680", Outcome.correct),
        (Trace.icot, "30)+05####680", Outcome.correct),
        (Trace.icot, "92+7(630)+05####681", Outcome.wrong),
        (Trace.icot, "92+7(630)+05####68", Outcome.wrong),
        (Trace.icot, "92+7(630)+05###680", Outcome.malformed),
        (Trace.icot, "92 + 7 ( 6 3 0 ) + 0 5 #### 6 8 0", Outcome.malformed),
        (Trace.icot, "####680####680", Outcome.malformed),
    ],
)
def test_outcomes_of_a_sum(trace: Trace, text: str, expected: Outcome) -> None:
    assert arithmetic(trace=trace).verify(example(29, 57), text).outcome is expected


def test_measures_are_shares() -> None:
    task = arithmetic(trace=Trace.scratchpad)
    for text, digits, steps, chain in (
        ("9+7+0=16\n2+5+1=8\n=86", 1, 1, 1),
        ("9+7+0=16\n2+5+0=7\n=86", 1, 1 / 2, 0),
        ("9+7+0=16\n=76", 2 / 3, 1 / 2, 0),
        ("9+7+0=16\n2+5+1=8\n0+0+0=0\n=86", 1, 2 / 3, 0),
        ("2+5+1=8\n9+7+0=16\n=186", 2 / 3, 0, 0),
        ("=9086", 3 / 4, 0, 0),
    ):
        measures = task.verify(example(29, 57), text).measures
        assert measures == pytest.approx({"digits": digits, "steps": steps, "chain": chain}), text
    assert arithmetic().verify(example(29, 57), "87").measures == {"digits": 2 / 3}


@pytest.mark.parametrize(("operation", "trace"), EVERY, ids=EVERY_ID)
def test_a_change_of_any_character_of_the_answer_does_not_verify(operation: Operation, trace: Trace) -> None:
    task = arithmetic(operation, trace, min_digits=4)
    for one in examples(task, 20):
        start = len(one.solution) - len(read_answer(trace, one.solution)) - one.solution.endswith(".")
        for place in range(start, len(one.solution)):
            for other in "0123456789.x=":
                if other != one.solution[place]:
                    changed = one.solution[:place] + other + one.solution[place + 1 :]
                    assert not task.verify(one, changed).correct


@pytest.mark.parametrize(("operation", "trace"), EVERY, ids=EVERY_ID)
def test_verdicts_on_long_text_take_no_long_time(operation: Operation, trace: Trace) -> None:
    """At 100 digits, where texts of up to 100,000 characters are read."""
    task = arithmetic(operation, trace, min_digits=100, max_digits=100)
    one = task.example(Split.train, 0)
    assert task.verify(one, one.solution).correct
    assert task.verify(one, "1" * 10_000_000).detail.startswith("longer than")
    size = min(1_000_000, 4 * len(one.solution) - 100)
    for piece in ("1", "1*1+", "1+", "1*", "1+1+1=1\n", "a", "1#1|", "1+1#1#1|", "1(1)+", "=", "#", "1%1#"):
        started = perf_counter()
        assert not task.verify(one, piece * (size // len(piece))).correct
        assert perf_counter() - started < 10


def test_truth_may_come_from_json() -> None:
    assert arithmetic().verify(Example(id="", prompt="", solution="", truth=[[29, 57], "+"]), "86").correct


# Chance and the short cut


@pytest.mark.parametrize("trace", list(Trace), ids=lambda trace: trace.name)
def test_chance_counts_the_answers_of_the_right_form(trace: Trace) -> None:
    """Sums of one digit: of 100 answers with two digits (or the numbers to 99), one verifies; so for a chain."""
    task = arithmetic(trace=trace)
    case = example(8, 5)
    forms = {task.format.answer(f"{answer:02d}"[::-1]) for answer in range(100)}
    assert len(forms) == 100
    assert sum(task.verify(case, form).correct for form in forms) == 1
    assert task.chance(case) == 1 / 100
    chain = arithmetic(Operation.modular, trace, modulus=97)
    case = example(5, 96, signs="*")
    assert sum(chain.verify(case, chain.format.answer(f"{n:02d}"[::-1])).correct for n in range(97)) == 1
    assert chain.chance(case) == 1 / 97
    assert arithmetic(Operation.multiply).chance(example(1234, 5678, signs="*")) == pytest.approx(1e-8)
    assert arithmetic(Operation.subtract).chance(example(1234, 567, signs="-")) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("operation", "case", "guess"),
    [
        (Operation.add, example(29, 57), "76"),
        (Operation.add, example(123, 456), "579"),
        (Operation.subtract, example(512, 478, signs="-"), "144"),
        (Operation.multiply, example(12, 34, signs="*"), "308"),
        (Operation.multiply, example(12, 32, signs="*"), "384"),
        (Operation.modular, example(7, 3, 5, signs="*-"), "5"),
    ],
)
@pytest.mark.parametrize("trace", list(Trace), ids=lambda trace: trace.name)
def test_guess_carries_nothing(trace: Trace, operation: Operation, case: Example, guess: str) -> None:
    task = arithmetic(operation, trace)
    digits = guess[::-1].ljust(task.rules.answer_width(Problem(*case.truth)), "0")
    assert task.guess(case) == task.format.answer(digits)
    numbers, signs = case.truth
    value = {"+": numbers[0] + numbers[1], "-": numbers[0] - numbers[1], "*": numbers[0] * numbers[1]}[signs[0]]
    assert task.verify(case, task.guess(case)).correct == (int(guess) == value and len(numbers) == 2)


def test_the_short_cut_of_sums_is_right_without_carries() -> None:
    """Of 10 x 10 pairs of digits 55 carry nothing, of 9 x 9 pairs of first digits 36: 0.44 * 0.55^(n - 1)."""
    task = arithmetic(min_digits=2, max_digits=2)
    found = [task.verify(one, task.guess(one)).correct for one in examples(task, 4000)]
    assert sum(found) / 4000 == pytest.approx(36 / 81 * 0.55, abs=0.02)
    assert found == [one.difficulty["carries"] == "none" for one in examples(task, 4000)]


# Which examples there are


@pytest.mark.parametrize("operation", list(SIGN), ids=lambda operation: operation.name)
def test_lengths_are_uniform_and_then_digits(operation: Operation) -> None:
    task = arithmetic(operation, min_digits=2, max_digits=5)
    drawn = examples(task, 4000)
    lengths = Counter(one.difficulty["digits"] for one in drawn)
    assert sorted(lengths) == [2, 3, 4, 5]
    assert all(900 < count < 1100 for count in lengths.values())
    for one in drawn:
        assert [len(str(number)) for number in one.truth[0]] == [one.difficulty["digits"]] * 2
    if operation is not Operation.subtract:
        numbers = [str(number) for one in drawn for number in one.truth[0]]
        heads, tails = (Counter(number[place] for number in numbers) for place in (0, -1))
        assert sorted(heads) == list("123456789") and all(780 < count < 1000 for count in heads.values())
        assert sorted(tails) == list("0123456789") and all(700 < count < 900 for count in tails.values())


def test_the_second_number_may_have_its_own_length() -> None:
    for operation, second in ((Operation.multiply, 1), (Operation.multiply, 3), (Operation.add, 3)):
        for one in examples(arithmetic(operation, min_digits=2, max_digits=6, second_digits=second), 100):
            assert [len(str(number)) for number in one.truth[0]] == [one.difficulty["digits"], second]
    for one in examples(arithmetic(Operation.subtract, min_digits=2, max_digits=6, second_digits=2), 100):
        a, b = one.truth[0]
        assert a >= b and len(str(b)) == 2


def test_test_may_have_other_lengths() -> None:
    task = arithmetic(trace=Trace.reversed, min_digits=2, max_digits=4, test_min_digits=5, test_max_digits=9)
    for split, allowed in ((Split.train, {2, 3, 4}), (Split.val, {2, 3, 4}), (Split.test, {5, 6, 7, 8, 9})):
        drawn = examples(task, 100, split)
        assert {one.difficulty["digits"] for one in drawn} == allowed
        assert all(task.verify(one, one.solution).correct for one in drawn)
    longer = arithmetic(max_digits=3, test_max_digits=20)
    assert max(len(str(one.truth[0][0])) for one in examples(longer, 200, Split.test)) == 20


def test_chains() -> None:
    task = arithmetic(Operation.modular, min_digits=2, max_digits=5, modulus=7, signs="+*")
    drawn = examples(task, 4000)
    assert Counter(sign for one in drawn for sign in one.truth[1]).keys() == {"+", "*"}
    numbers = Counter(number for one in drawn for number in one.truth[0])
    assert sorted(numbers) == list(range(7)) and max(numbers.values()) < 1.15 * min(numbers.values())
    for one in drawn:
        assert len(one.truth[0]) == one.difficulty["numbers"] == len(one.truth[1]) + 1
    plus = arithmetic(Operation.modular, min_digits=2, max_digits=2, modulus=97, signs="+")
    assert all(sum(one.truth[0]) % 97 == int(one.solution) for one in examples(plus))


def test_long_lengths_are_slices_in_bands() -> None:
    task = arithmetic(max_digits=50, test_min_digits=51, test_max_digits=100)
    bands = {one.difficulty["digits"] for split in Split for one in examples(task, 400, split)}
    assert bands == {"1-13", "14-26", "27-39", "40-52", "53-65", "66-78", "79-91", "92-100"}
    for one in examples(task, 200):
        low, high = map(int, str(one.difficulty["digits"]).split("-"))
        assert low <= len(str(one.truth[0][0])) <= high


def slow_carries(operation: Operation, a: int, b: int) -> int:
    """Carries counted with pencil and paper."""
    width = max(len(str(a)), len(str(b)))
    carried = count = 0
    for x, y in zip(str(a).zfill(width)[::-1], str(b).zfill(width)[::-1], strict=True):
        value = int(x) + int(y) + carried if operation is Operation.add else int(x) - int(y) - carried
        carried = int(value > 9 or value < 0)
        count += carried
    return count


@pytest.mark.parametrize("operation", [Operation.add, Operation.subtract], ids=lambda operation: operation.name)
def test_carries_are_counted(operation: Operation) -> None:
    rules = Rules(operation, 10)
    for problem in pairs(operation, 2000, 7):
        assert rules.carries(problem)[0] == slow_carries(operation, *problem.numbers)
    task = arithmetic(operation, min_digits=4, max_digits=4)
    for one in examples(task, 200):
        count = slow_carries(operation, *one.truth[0])
        assert one.difficulty["carries"] == ("none" if count == 0 else "few" if count <= 2 else "many")


def test_carries_of_products_and_chains_are_counted() -> None:
    assert Rules(Operation.multiply, 10).carries(Problem((12, 34), "*")) == (1, 3)
    assert Rules(Operation.multiply, 10).carries(Problem((76, 58), "*")) == (3, 3)
    assert Rules(Operation.modular, 10).carries(CHAIN) == (2, 2)
    assert Rules(Operation.modular, 10).carries(Problem((1, 3, 5, 1), "+-*")) == (1, 3)
    assert Rules(Operation.modular, 10).carries(Problem((4,), "")) == (0, 0)


# Splits


def test_the_order_of_numbers_makes_no_other_problem() -> None:
    rules = Rules(Operation.add, 10)
    assert rules.key(Problem((57, 29), "+")) == rules.key(Problem((29, 57), "+"))
    assert rules.key(Problem((9, 10), "+")) == rules.key(Problem((10, 9), "+")) != rules.key(Problem((10, 8), "+"))
    rules = Rules(Operation.modular, 97)
    same = [Problem((1, 2, 3, 4, 5), "+-*+"), Problem((2, 1, 3, 4, 5), "+-*+")]
    assert rules.key(same[0]) == rules.key(same[1])
    assert rules.key(Problem((2, 3), "*")) == rules.key(Problem((3, 2), "*"))
    assert rules.key(Problem((2, 3), "-")) != rules.key(Problem((3, 2), "-"))
    assert rules.key(Problem((2, 3), "+")) != rules.key(Problem((2, 3), "*"))
    assert rules.key(Problem((2, 3, 4), "+*")) != rules.key(Problem((2, 4, 3), "*+"))


def test_chains_of_one_name_are_of_one_value() -> None:
    """All chains of three numbers below 4: a name stands for one multiset of numbers and one value."""
    rules = Rules(Operation.modular, 4)
    values: dict[str, set[Any]] = {}
    for numbers in product(range(4), repeat=3):
        for signs in product("+-*", repeat=2):
            problem = Problem(numbers, "".join(signs))
            values.setdefault(rules.key(problem), set()).add((tuple(sorted(numbers)), rules.value(problem)))
    assert all(len(found) == 1 for found in values.values())
    # ++ and **: 20 multisets each. +- (and -+, which is the same), --, +*, *+, *-: 10 pairs and a number. -*: no two.
    assert len(values) == 2 * 20 + 5 * 40 + 64


@pytest.mark.parametrize("operation", list(Operation), ids=lambda operation: operation.name)
def test_splits_are_disjoint_in_small_spaces(operation: Operation) -> None:
    fields: dict[str, int] = {"min_digits": 2, "max_digits": 2, "held_out": 4}
    if operation is Operation.modular:
        fields |= {"max_digits": 3, "modulus": 5}
    seen: dict[Split, set[str]] = {split: set() for split in Split}
    for seed in (0, 1):
        for split in Split:
            seen[split] |= set(ids(arithmetic(operation, seed=seed, **fields), split, 1000))
    train, val, test = seen.values()
    assert not (train & val or train & test or val & test)
    every = len(train | val | test)
    assert every / 6 < len(val) < every / 2.5 and every / 6 < len(test) < every / 2.5


def test_one_problem_has_one_name() -> None:
    task = arithmetic(max_digits=2)
    drawn = [one for split in Split for one in examples(task, 1000, split)]
    names: dict[str, set[Any]] = {}
    for one in drawn:
        names.setdefault(one.id, set()).add(tuple(sorted(one.truth[0])))
    assert all(len(found) == 1 for found in names.values())
    assert len(names) == len(set.union(*names.values()))
    long = arithmetic(min_digits=100, max_digits=100)
    assert all(len(name) < 40 for name in ids(long, Split.train, 5)) and len(set(ids(long, Split.train, 50))) == 50


def test_lengths_with_few_problems_are_not_held_out() -> None:
    """Of 45 sums of one digit 1 or 2 would be in val, and be met over and over."""
    task = arithmetic(max_digits=3)
    for split, lengths in ((Split.train, {1, 2, 3}), (Split.val, {2, 3}), (Split.test, {2, 3})):
        assert {one.difficulty["digits"] for one in examples(task, 300, split)} == lengths
    with pytest.raises(ConfigError, match=r"found \(almost\) none.*operation=add of 1 to 1 digits.*held_out=4"):
        arithmetic(max_digits=1)
    task = arithmetic(max_digits=1, held_out=3)
    assert {one.difficulty["digits"] for split in Split for one in examples(task, 50, split)} == {1}


def test_chains_with_few_names_end_in_a_line() -> None:
    """Sums of 20 bits: 2^20 orders, but 21 names, none of which need be in a split."""
    task = arithmetic(Operation.modular, min_digits=20, max_digits=20, modulus=2, signs="+", held_out=256)
    with pytest.raises(ConfigError, match=r"found \(almost\) none"):
        for split in Split:
            examples(task, 1, split)


def test_held_out_examples_do_not_move_with_the_seed() -> None:
    for split in (Split.val, Split.test):
        assert ids(arithmetic(seed=0), split, 20) == ids(arithmetic(seed=9), split, 20)
    assert not set(ids(arithmetic(min_digits=5, seed=0), Split.train, 200)) & set(
        ids(arithmetic(min_digits=5, seed=1), Split.train, 200)
    )


@pytest.mark.parametrize("operation", list(Operation), ids=lambda operation: operation.name)
def test_traces_have_the_same_problems(operation: Operation) -> None:
    expected = ids(arithmetic(operation), Split.test, 20)
    assert all(ids(arithmetic(operation, trace), Split.test, 20) == expected for trace in Trace)


def test_first_examples_are_pinned() -> None:
    """A change here changes every result: raise the option's version with it."""
    assert [one.prompt for one in examples(arithmetic(), 4)] == ["9+4=", "5+2=", "4920+2542=", "5+6="]
    chains = [one.prompt for one in examples(arithmetic(Operation.modular), 2, Split.test)]
    assert chains == ["6*7*6*5*1%10=", "4+8+4%10="]


def test_examples_are_the_same_in_every_process() -> None:
    code = (
        "from rlx.tasks.arithmetic import ArithmeticConfig; from rlx.types import Split;"
        "t = ArithmeticConfig().build(); print([t.example(Split.val, i).prompt for i in (7, 0)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    task = pickle.loads(pickle.dumps(arithmetic()))
    assert run.stdout.strip() == str([task.example(Split.val, index).prompt for index in (7, 0)])


# Settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_digits": 0}, "1 <= min_digits <= max_digits <= 300, got 0 and 5"),
        ({"min_digits": 6}, "got 6 and 5"),
        ({"max_digits": 301}, "got 1 and 301"),
        ({"test_max_digits": 301}, "test_min_digits <= test_max_digits <= 300, got 1 and 301"),
        ({"test_min_digits": 8}, "got 8 and 5"),
        ({"second_digits": 0}, "task.second_digits must be 1 to 300"),
        ({"second_digits": 2, "operation": Operation.subtract}, "task.second_digits must be 1 to 1 "),
        ({"second_digits": 2, "operation": Operation.modular}, "not of task.operation=modular"),
        ({"modulus": 1}, "task.modulus must be 2 to 1000000, got 1"),
        ({"signs": ""}, "task.signs must be some of"),
        ({"signs": "+/"}, "task.signs must be some of"),
        ({"signs": "++"}, "task.signs must be some of"),
        ({"held_out": 2}, "task.held_out must be 3 to 256, got 2"),
        ({"removed": -1, "trace": Trace.icot}, "task.removed must be at least 0"),
        ({"removed": 8}, "with trace=plain"),
    ],
)
def test_wrong_settings_are_a_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        ArithmeticConfig(**fields)
    assert "try task." in str(raised.value) and "\n" not in str(raised.value)


def test_fields_of_chains_are_of_chains() -> None:
    for fields in ({"modulus": 97}, {"signs": "+"}):
        with pytest.raises(ConfigError, match="are of task"):
            arithmetic(Operation.add, Trace.plain, **fields)


def test_work_where_none_is_wanted_is_not_right() -> None:
    """A chain of which all is removed; signs count as work."""
    task = ArithmeticConfig(trace=Trace.icot, removed=1000).build()
    example = task.example(Split.train, 0)
    assert task.verify(example, example.solution).measures["chain"] == 1
    for sign in "+-*":
        measures = task.verify(example, sign + example.solution).measures
        assert measures["steps"] == measures["chain"] == 0
    whole = ArithmeticConfig(operation=Operation.multiply, trace=Trace.icot).build()
    example = whole.example(Split.train, 0)
    doubled = example.solution.replace("+", "++", 1)
    assert whole.verify(example, doubled).measures["steps"] < 1


def test_coupled_positions_by_hand() -> None:
    """1 for signs, 2 for units, 3 for tens; the answer begins with its units, the end mark has none."""
    for operation, problem, prompt, solution, ids in (
        (Operation.add, Problem((653, 49), "+"), "653+049=", "2070", "432 1 432 1 2345 0"),
        (Operation.subtract, Problem((30, 7), "-"), "30-07=", "32", "32 1 32 1 23 0"),
        (Operation.multiply, Problem((12, 345), "*"), "12*345=", "04140", "32 1 432 1 23456 0"),
    ):
        assert texts(operation, Trace.reversed, problem) == (prompt, solution)
        found = trace_format(Trace.reversed, Rules(operation, 10), 0).places(problem)
        assert found == tuple(int(digit) for digit in ids.replace(" ", ""))


def test_coupled_positions_tell_nothing_of_the_answer() -> None:
    """They are equal for prompts of equal form, and there are none where the answer is as long as it happens to be."""
    task = arithmetic(trace=Trace.reversed, max_digits=4)
    by_form: dict[str, set[Any]] = {}
    for each in examples(task):
        by_form.setdefault(re.sub("[0-9]", "9", each.prompt), set()).add(each.places)
    assert len(by_form) == 4 and all(len(found) == 1 for found in by_form.values())
    for operation, trace in EVERY:
        has = trace is Trace.reversed and operation is not Operation.modular
        assert (arithmetic(operation, trace).example(Split.train, 0).places is not None) == has


@pytest.mark.parametrize(("operation", "trace"), EVERY, ids=EVERY_ID)
def test_a_mistake_has_one_other_digit_in_its_answer(operation: Operation, trace: Trace) -> None:
    """What stands before the answer is as in the solution; any digit of it may be the one."""
    task = arithmetic(operation, trace, min_digits=2, max_digits=3)
    changed = set()
    for index in range(60):
        example = task.example(Split.train, index)
        made, wanted = task.mistake(example, Random(index)), example.solution
        work = len(wanted) - len(re.search("[0-9]*[.]?$", wanted)[0])
        assert made[:work] == wanted[:work]
        if len(made) < len(wanted):  # a zero at the head of a plain answer is not written
            made = made[:work] + made[work:].zfill(len(wanted) - work)
        (place,) = (n for n in range(len(wanted)) if made[n] != wanted[n])
        changed.add(place - work)
    assert changed >= ({0} if operation is Operation.modular else {0, 1, 2})
