"""Whether two mathematical expressions are equal, as math-verify finds it in a process of its own.

1. Text that a model wrote reaches a parser in that process only, and only LaTeX's: math-verify's reader of plain
   expressions is Python's `eval` and is not used. Before that its length, characters, nesting and numbers are checked.
2. A question has `LIMIT_S` seconds of the processor, so that a verdict does not hang on what else the machine does, and
   the process `MEMORY` bytes. One that overruns is killed by its own timer, its question answered with no, and another
   is started by the next question. math-verify's own limits use signals that only a main thread can have.
3. There is one such process in each of ours (`rlx.bounded`), started by the first question. The signals that ask a run
   to stop pass it by: a run that is stopped counts no answer as wrong for it.
4. An answer's LaTeX is read as it stands: operators that are not well formed (`\\sqrt3`) are mended in the gold answer
   alone, so that a model is not paid for them.
"""

import json
import re
import signal
import sys
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, BinaryIO

from rlx.bounded import READY, BoundedProcess, Ended, Overran, private_pipes
from rlx.errors import ConfigError

LIMIT_S = 1.0
"""Seconds of processor time for one question."""
WAIT_S = 60.0
"""Seconds by the clock after which a process that neither answers nor ends is killed."""
MEMORY = 1 << 30
"""Bytes of address space of the process."""
DECIMALS = 14
"""Places to which math-verify compares values that it cannot compare exactly: an answer rounded to fewer is wrong."""
LONGEST = 300
"""Characters of the longest expression."""
NESTING = 12
"""Brackets of any kind inside of each other."""
_ALLOWED = re.compile(r"[A-Za-z0-9 \\{}()\[\]+\-*/^_=<>,.;:!'|&%]+")
_LONG_NUMBER = re.compile(r"[0-9]{61}")
_TRUE, _FALSE = b"true\n", b"false\n"


def check_installed() -> None:
    """Raise ConfigError without math-verify; for tasks that have answers which are no numbers."""
    if find_spec("math_verify") is None:
        raise ConfigError(
            "answers that are no numbers are compared by math-verify; install it: pip install 'rlx[math]'"
        )


def same_expression(gold: str, answer: str) -> bool:
    """True when `answer` is equal to `gold`, both LaTeX or plain ASCII; the order matters (`1<x<2` is answered by the
    interval `(1,2)` and not the other way round). False for text that is no expression, or takes too long.

    Raises:
        RunError: the process does not start.
    """
    return is_readable(gold) and is_readable(answer) and _worker.same(gold, answer)


def is_readable(text: str) -> bool:
    """True for text that is handed to the parser: short, of the characters of formulas, with braces in order."""
    if len(text) > LONGEST or not _ALLOWED.fullmatch(text) or _LONG_NUMBER.search(text) or "\\boxed" in text:
        return False
    depth = braces = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        braces += (character == "{") - (character == "}")
        if depth > NESTING or braces < 0:
            return False
    return braces == 0


class _Worker(BoundedProcess):
    """The process that compares."""

    def __init__(self) -> None:
        super().__init__(__name__, "compares expressions")

    def arguments(self) -> list[str]:
        return [str(LIMIT_S), str(MEMORY)]

    def same(self, gold: str, answer: str) -> bool:
        question = json.dumps([gold, answer]).encode() + b"\n"
        for _ in range(2):  # again where the process was ended by others
            try:
                return self.ask(question, WAIT_S) == _TRUE
            except Overran:
                return False
            except Ended as ended:
                if ended.code == -signal.SIGPROF:  # its own timer's
                    return False
        return False


_worker = _Worker()


def _serve(limit_s: float, memory: int) -> None:
    """Answer questions, one a line, until there are no more."""
    import resource

    questions, answers = private_pipes()
    _compare("\\frac{x}{2}", "0.5x")
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    _write(answers, READY)
    for line in questions:
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # nobody handles the signal: it ends the process
        same = _compare(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answers, _TRUE if same else _FALSE)


def _write(answers: BinaryIO, line: bytes) -> None:
    answers.write(line)
    answers.flush()


def _compare(gold: str, answer: str) -> bool:
    verify: Any = import_module("math_verify").verify
    return bool(
        verify(_parse(gold, mend=True), _parse(answer, mend=False), float_rounding=DECIMALS, timeout_seconds=None)
    )


@lru_cache(maxsize=1 << 10)
def _parse(text: str, mend: bool) -> list[Any]:
    verifier: Any = import_module("math_verify")
    normal: Any = import_module("latex2sympy2_extended").NormalizationConfig
    normal = normal(basic_latex=True, units=True, malformed_operators=mend, nits=False, boxed="all", equations=False)
    latex = verifier.LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal)
    return verifier.parse(f"\\boxed{{{text}}}", [latex], parsing_timeout=None)


if __name__ == "__main__":
    _serve(float(sys.argv[1]), int(sys.argv[2]))
