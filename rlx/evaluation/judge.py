"""A task's verifier, contained: it may raise, return junk, hang, eat memory or end its process, and the run goes on.

1. What it was asked then counts as malformed, the least favourable thing to be said of a text, with how the verifier
   failed as its `failure` and why as its `detail`.
2. A task that says that it is bounded (`rlx.tasks.base.is_bounded`) is asked here, at no cost. Any other is asked in a
   process of its own (`rlx.bounded`), which builds the task from its config again and never imports torch.
3. There a verdict has `task.verify_seconds` by the clock and `task.verify_gib` of memory. The process is replaced where
   it overran either, or died. Where memory ran out or it died, the new one is asked once more: earlier texts may have
   filled the memory bit by bit, and others may have ended the process.
4. Questions are pickled. Verdicts come back as JSON: nothing that the process writes is ever unpickled.
"""

import importlib
import json
import pickle
import sys
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any

from rlx.bounded import (
    READY,
    BoundedProcess,
    Ended,
    Overran,
    end_with_parent,
    limit_memory,
    packed,
    private_pipes,
    unpacked,
)
from rlx.errors import RlxError, RunError, Stopped
from rlx.tasks.base import Task, TaskConfig, is_bounded
from rlx.types import Example, Failure, Outcome, Verdict

LONGEST = 200
"""Characters of what is told of an exception."""
EXPECTED = "expected a Verdict of an Outcome, a text, and measures that are numbers"
LONGEST_DETAIL = 1000
"""Characters of a verdict's detail that are taken from the process."""


class Judge:
    """What a task's verifier says of texts, whatever it does.

    Args:
        task: asked here where it is bounded, and where there is no config.
        config: the task's; says how it is contained, and builds the task in a process of its own.
        stop: looked at after each verdict of such a process.
    """

    def __init__(
        self, task: Task, config: TaskConfig | None = None, *, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.task, self.stop = task, stop
        apart = config is not None and (not is_bounded(task) if config.verify_apart is None else config.verify_apart)
        self._apart = Apart(config) if apart and config is not None else None

    def verify(self, example: Example, text: str) -> Verdict:
        """The verdict; one with a `failure` where the verifier did not find any.

        Raises:
            Stopped: the process was asked to stop, while the verifier runs apart.
            RunError: the process does not start, or the example cannot be sent to it.
        """
        if self._apart is None:
            return attempt(self.task, example, text)
        verdict = self._apart.verify(example, text)
        if self.stop():
            raise Stopped
        return verdict


def attempt(task: Task, example: Example, text: str) -> Verdict:
    """`task.verify` where it cannot be interrupted: what it raises or returns, no verdict included, is a verdict.

    Raises:
        RlxError: the verifier asks for something of the user.
    """
    try:
        verdict: Any = task.verify(example, text)
        if _is_verdict(verdict):
            return verdict
    except RlxError:
        raise
    except MemoryError as error:
        return failed(Failure.memory, f"raised {_told(error)}")
    except (Exception, SystemExit) as error:
        return failed(Failure.error, f"raised {_told(error)}")
    return failed(Failure.error, f"returned {_shown(verdict)}; {EXPECTED}")


def failed(failure: Failure, why: str) -> Verdict:
    """What a verifier's failure says of the text."""
    return Verdict(Outcome.malformed, f"verifier {why}", failure=failure)


def _is_verdict(verdict: Any) -> bool:
    if not (isinstance(verdict, Verdict) and isinstance(verdict.outcome, Outcome) and isinstance(verdict.detail, str)):
        return False
    measures: Any = verdict.measures
    return isinstance(measures, Mapping) and all(
        isinstance(name, str) and (type(value) is float or isinstance(value, Real)) for name, value in measures.items()
    )


def _shown(value: object) -> str:
    """A value in a few words, whatever its class says of itself."""
    try:
        text = repr(value)
    except Exception:
        text = "something"
    return f"{_one_line(text, 60)} ({type(value).__name__})"


def _told(error: BaseException) -> str:
    """An exception in one line, with the last place in the verifier's own file."""
    try:
        text = str(error)
    except Exception:
        text = ""
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return _one_line(what, LONGEST) + _place(error.__traceback__)


def _place(trace: TracebackType | None) -> str:
    """` (mine.py:42)`: the innermost frame in the file of the outermost one that is neither ours nor the importer's."""
    steps = []
    while trace is not None:
        steps.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    ours = (__file__, importlib.__file__, unpacked.__code__.co_filename)
    theirs = [step for step in steps if step[0] not in ours and step[0][0] != "<"]
    lines = [line for name, line in theirs if name == theirs[0][0]]
    return f" ({Path(theirs[0][0]).name}:{lines[-1]})" if lines else ""


def _one_line(text: str, longest: int) -> str:
    text = " ".join(text[: 4 * longest].split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


class Apart(BoundedProcess):
    """The process that verifies one task's completions."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(__name__, "verifies completions")
        self.config = config

    def arguments(self) -> list[str]:
        return [str(int(self.config.verify_gib * 2**30))]

    def greeting(self) -> bytes:
        """The task's config."""
        return packed(self.config, "verify in this process: task.verify_apart=false")

    def verify(self, example: Example, text: str) -> Verdict:
        """The verdict, or how the verifier failed.

        Raises:
            RunError: the process does not start, or the example cannot be sent to it.
        """
        config = self.config
        try:
            question = pickle.dumps((example, text))
        except Exception as error:
            raise RunError(
                f"example {example.id} cannot be sent to the process that verifies ({_told(error)}); make its truth of "
                "plain values, or verify in this process: task.verify_apart=false"
            ) from error
        for _ in range(2):
            try:
                verdict = _read(self.ask(question, config.verify_seconds))
            except Overran:
                return failed(Failure.timeout, f"took more than {config.verify_seconds:g} s")
            except Ended as ended:
                verdict = failed(Failure.death, f"ended its process (exit code {ended.code})")
            if verdict.failure not in (Failure.memory, Failure.death):
                return verdict
            self.end(kill=True)
        return verdict


def _read(line: bytes) -> Verdict:
    """The verdict of an answer; what is none is a failure of the verifier too."""
    try:
        said = json.loads(line)
        failure = said["failure"] and Failure(said["failure"])
        verdict = Verdict(Outcome(said["outcome"]), said["detail"], said["measures"], failure)
    except (ValueError, TypeError, LookupError, RecursionError):
        return failed(Failure.error, f"wrote something else; {EXPECTED}")
    return verdict if _is_verdict(verdict) else failed(Failure.error, f"wrote something else; {EXPECTED}")


def _serve(growth: int) -> None:
    """Answer questions until there are no more."""
    questions, answers = private_pipes()

    def say(line: bytes) -> None:
        answers.write(line)
        answers.flush()

    try:
        task = unpacked(questions).build()
    except BaseException as error:
        say(f"{_told(error)}\n".encode())
        return
    end_with_parent(questions)
    limit_memory(growth)
    say(READY)
    while True:
        verdict = _attempt_all(task, *pickle.load(questions))
        measures = {name: float(value) for name, value in verdict.measures.items()}
        said = {"outcome": verdict.outcome, "detail": verdict.detail[:LONGEST_DETAIL], "measures": measures}
        say(json.dumps({**said, "failure": verdict.failure}).encode() + b"\n")


def _attempt_all(task: Task, example: Example, text: str) -> Verdict:
    """`attempt`, where nobody hears what the verifier asks for."""
    try:
        return attempt(task, example, text)
    except BaseException as error:
        return failed(Failure.error, f"raised {_told(error)}")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
