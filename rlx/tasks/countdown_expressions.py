"""Countdown as TinyZero asks it (github.com/Jiayi-Pan/TinyZero): reasoning, then one expression as the answer.

1. The prompt has TinyZero's parts (a preamble, the task, an example, the assistant's turn up to `<think>`) in words of
   our own. A solution thinks its operations and answers with them as one expression.
2. The answer is the last `<answer>` on the last line; where TinyZero lets text follow it, here the completion ends with
   it. What stands before it is not looked at, and `</think>` is not asked for, as there.
3. The answer may have the given numbers, `+ - * /` (a sign before an operand too), parentheses and blanks. Its value is
   exact, and what is in between may be a fraction or negative, unlike in the other traces, whose operations leave
   natural numbers. `**` and `//`, which TinyZero computes because Python does, are no expression.
4. No such answer is malformed (TinyZero: reward 0). An answer that is no expression of exactly the given numbers, or
   divides by zero, is illegal; one of another value is wrong (TinyZero: 0.1 for both).
"""

import re
from collections.abc import Sequence

from rlx.expressions import evaluate
from rlx.tasks.countdown_traces import CORRECT, Step
from rlx.types import Outcome, Verdict

ASK = (
    "A user asks a question and an assistant answers it: the assistant reasons first, then gives the final answer.\n"
    "User: Make {target} from the numbers {inputs} with + - * /, using every number exactly once. "
    "Reason inside <think> </think>, then write the expression inside <answer> </answer>, "
    "as in <answer>(1 + 2) / 3</answer>.\n"
    "Assistant: I try the operations one by one.\n"
    "<think>"
)
LONGEST = 16_384
"""Characters up to which a completion is read: TinyZero's 1,024 tokens are some 4,000."""
OPEN, CLOSE = "<answer>", "</answer>"


class TinyZeroTrace:
    """`13+19=32, 32/8=4, 55+4=59</think>` and, a line below, `<answer>55 + ((13 + 19) / 8)</answer>`."""

    words: tuple[str, ...] = tuple(dict.fromkeys(re.findall("[A-Za-z]+", ASK.format(target="", inputs=""))))
    marks = "+*-/=:,.[]()<> \n"
    longest = LONGEST

    def prompt(self, target: int, inputs: Sequence[int]) -> str:
        return ASK.format(target=target, inputs=list(inputs))

    def solution(self, target: int, inputs: Sequence[int], steps: Sequence[Step]) -> str:
        thought = ", ".join(str(step.operation) for step in steps)
        return f"{thought}</think>\n{OPEN}{expression(inputs, steps)}{CLOSE}"

    attempt = solution

    def judge(self, target: int, inputs: Sequence[int], text: str) -> Verdict | None:
        start = text.rfind(OPEN, text.rfind("\n") + 1) + len(OPEN)
        answer = text[start : -len(CLOSE)]
        if start < len(OPEN) or not text.endswith(CLOSE) or CLOSE in answer:
            return None
        return verdict_on(target, inputs, answer)


_NUMBER = re.compile("[0-9.]+")
_TOKEN = re.compile("[0-9.]+|[^0-9. \t]")


def verdict_on(target: int, inputs: Sequence[int], answer: str) -> Verdict:
    """The verdict on an expression that should be `target`, made of each of `inputs` once."""
    numbers: list[str] = _NUMBER.findall(answer)
    # As text, so that no long number is made an int: 08 and 8.0 are no inputs.
    if len(numbers) != len(inputs) or sorted(numbers) != sorted(map(str, inputs)):
        return Verdict(Outcome.illegal, f"expected each of {list(inputs)} once")
    try:
        value = evaluate(_TOKEN.findall(answer))
    except ZeroDivisionError:
        value = None
    if value is None:
        return Verdict(Outcome.illegal, "no expression of numbers, + - * / and parentheses, or a division by zero")
    numerator, denominator = value
    if numerator == target * denominator:
        return CORRECT
    return Verdict(Outcome.wrong, f"is {numerator}/{denominator}, not {target}")


def expression(inputs: Sequence[int], steps: Sequence[Step]) -> str:
    """The steps as one expression; every operation but the last stands in parentheses."""
    pool: dict[int, list[str]] = {}
    for number in inputs:
        pool.setdefault(number, []).append(str(number))
    text = ""
    for left, sign, right, result in (step.operation for step in steps):
        first, second = pool[left].pop(), pool[right].pop()
        text = f"{first} {sign} {second}"
        pool.setdefault(result, []).append(f"({text})")
    return text
