"""A verifier may do anything: what it fails on is malformed and says so, and the next text gets its right verdict."""

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rlx.errors import ConfigError, RunError, Stopped
from rlx.evaluation.judge import Judge
from rlx.evaluation.verdicts import failure_counts, first_failure
from rlx.options import discover
from rlx.runs.processes import is_alive
from rlx.tasks.base import is_bounded
from rlx.tasks.countdown import Countdown, CountdownConfig
from rlx.types import Example, Failure, Outcome, Split, Verdict
from tests.conftest import environment

SOURCE = """
import os, signal, subprocess, sys, time
from dataclasses import dataclass
from rlx.tasks.base import Sized, TaskConfig
from rlx.types import Example, Outcome, Verdict

@dataclass(kw_only=True, slots=True)
class UnrulyConfig(TaskConfig):
    def build(self):
        return Unruly(self)

def flood(*_):
    print("printed", flush=True)
    os.write(1, b"{}\\n" * 100)

def family(path):
    child = subprocess.Popen(["sleep", "600"])
    open(path, "w").write(str(child.pid))
    time.sleep(600)

KEPT = []

FAULTS = {
    "keep": lambda _: KEPT.append(b"x" * (1 << 26)),
    "raise": lambda _: int("x"),
    "exit": lambda _: sys.exit(3),
    "hang": lambda _: [None for _ in iter(int, 1)],
    "sleep": lambda _: time.sleep(600),
    "family": family,
    "eat": lambda _: bytearray(1 << 34),
    "die": lambda _: os._exit(3),
    "crash": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "flood": flood,
    "ask": lambda _: sys.stdin.read(),
}

class Unruly(Sized):
    baseline = "none"

    def example(self, split, index):
        return Example(str(index), f"{index}=", str(index))

    def verify(self, example, completion):
        name, _, rest = completion.partition(" ")
        if name in FAULTS:
            FAULTS[name](rest)
        if name == "none":
            return None
        if name == "text":
            return Verdict("correct")
        if name == "measures":
            return Verdict(Outcome.correct, measures={"share": "a lot"})
        right = completion == example.solution
        measures = {"length": len(completion), "torch": float("torch" in sys.modules)}
        return Verdict(Outcome.correct if right else Outcome.wrong, f"read {completion[:9]}", measures)
"""
EXAMPLE = Example("7", "7=", "7")
FINE = Verdict(Outcome.correct, "read 7", {"length": 1.0, "torch": 0.0})


@pytest.fixture(scope="module")
def unruly(tmp_path_factory):
    """The config class of a task that is defined outside of rlx."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "unruly_task.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield import_module("unruly_task").UnrulyConfig
    del sys.modules["unruly_task"]


@pytest.fixture(scope="module")
def judge(unruly):
    """Asks it in a process of its own, with little time and memory."""
    config = unruly(verify_seconds=0.3, verify_gib=0.25)
    made = Judge(config.build(), config)
    assert made._apart is not None
    yield made
    made._apart.end(kill=True)


def at(fault: str) -> str:
    """The place in the file where a fault is."""
    (line,) = [n for n, text in enumerate(SOURCE.splitlines(), start=1) if text.startswith(f'    "{fault}":')]
    return f"(unruly_task.py:{line})"


EXPECTED = "; expected a Verdict of an Outcome, a text, and measures that are numbers"
FAULTS = {
    "raise": (Failure.error, f"verifier raised ValueError: invalid literal for int() with base 10: 'x' {at('raise')}"),
    "exit": (Failure.error, f"verifier raised SystemExit: 3 {at('exit')}"),
    "none": (Failure.error, f"verifier returned None (NoneType){EXPECTED}"),
    "text": (Failure.error, "verifier returned Verdict(outcome='correct', detail=''"),
    "measures": (Failure.error, "verifier returned Verdict(outcome=<Outcome.correct: 'correct'>,"),
    "hang": (Failure.timeout, "verifier took more than 0.3 s"),
    "sleep": (Failure.timeout, "verifier took more than 0.3 s"),
    "eat": (Failure.memory, f"verifier raised MemoryError {at('eat')}"),
    "die": (Failure.death, "verifier ended its process (exit code 3)"),
    "crash": (Failure.death, f"verifier ended its process (exit code {-signal.SIGSEGV})"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_apart_is_malformed_and_the_next_text_is_judged(judge, fault):
    assert judge.verify(EXAMPLE, "7") == FINE
    failure, why = FAULTS[fault]
    verdict = judge.verify(EXAMPLE, fault)
    assert (verdict.outcome, verdict.failure) == (Outcome.malformed, failure)
    assert verdict.detail.startswith(why) and "\n" not in verdict.detail and len(verdict.detail) < 300
    assert judge.verify(EXAMPLE, "7") == FINE
    assert judge.verify(EXAMPLE, "8").outcome is Outcome.wrong


@pytest.mark.parametrize("fault", ["raise", "exit", "none", "text", "measures"])
def test_a_failure_here_is_the_same(unruly, fault):
    verdict = Judge(unruly().build()).verify(EXAMPLE, fault)
    failure, why = FAULTS[fault]
    assert (verdict.outcome, verdict.failure) == (Outcome.malformed, failure) and verdict.detail.startswith(why)


@pytest.mark.parametrize("text", ["flood", "ask", "x" * 1_000_000, "\ud800 \x00"], ids=["flood", "ask", "long", "odd"])
def test_what_it_prints_and_reads_is_nothing(judge, text):
    """Its input and output are not ours to be mixed up with answers."""
    for _ in range(3):
        verdict = judge.verify(EXAMPLE, text)
        assert verdict.outcome is Outcome.wrong and verdict.detail == f"read {text[:9]}" and verdict.failure is None
    assert judge.verify(EXAMPLE, "7") == FINE


def test_memory_that_is_lost_bit_by_bit_costs_no_verdict(judge):
    """64 MiB a text, of the 256 that there are."""
    processes = set()
    for _ in range(9):
        assert judge.verify(EXAMPLE, "keep").outcome is Outcome.wrong
        processes.add(judge._apart._process.pid)
    assert 2 <= len(processes) <= 4


def test_what_it_has_started_ends_with_it(judge, tmp_path):
    path = tmp_path / "pid"
    assert judge.verify(EXAMPLE, f"family {path}").failure is Failure.timeout
    assert gone(int(path.read_text()))


def test_what_ends_it_from_outside_is_not_held_against_the_text(judge):
    assert judge.verify(EXAMPLE, "7") == FINE
    process = judge._apart._process
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # what a run is stopped by passes it by
        os.kill(process.pid, number)
    assert judge.verify(EXAMPLE, "7") == FINE and judge._apart._process is process
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    os.kill(process.pid, signal.SIGKILL)
    assert judge.verify(EXAMPLE, "7") == FINE and judge._apart._process is not process


def test_a_stop_is_heeded_between_two_texts(unruly):
    config = unruly(verify_seconds=0.3)
    judge = Judge(config.build(), config, stop=lambda: True)
    with pytest.raises(Stopped):
        judge.verify(EXAMPLE, "7")


def test_what_cannot_be_sent_is_one_line(judge, unruly, monkeypatch):
    with pytest.raises(RunError, match=r"example 7 cannot be sent .* make its truth of plain values"):
        judge.verify(Example("7", "7=", "7", truth=lambda: 7), "7")
    assert judge.verify(EXAMPLE, "7") == FINE
    monkeypatch.setattr(unruly, "__module__", "__main__")
    with pytest.raises(ConfigError, match="UnrulyConfig is defined in a script"):
        Judge(judge.task, unruly()).verify(EXAMPLE, "7")


def test_a_process_that_cannot_build_the_task_is_one_line(judge, unruly, monkeypatch):
    monkeypatch.setattr(sys.modules["unruly_task"], "__file__", None)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(RunError, match=r"does not start: ModuleNotFoundError: No module named 'unruly_task'$"):
        Judge(judge.task, unruly()).verify(EXAMPLE, "7")


SCRIPT = """
import os, sys, threading, time
from unruly_task import UnrulyConfig
from rlx.evaluation.judge import Judge
from rlx.types import Example

config = UnrulyConfig(verify_seconds=600)
judge, example = Judge(config.build(), config), Example("7", "7=", "7")
assert judge.verify(example, "7").correct
pid = judge._apart._process.pid
if sys.argv[1] == "killed":
    threading.Thread(target=judge.verify, args=[example, "hang"], daemon=True).start()
    time.sleep(0.3)
print(pid, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_it_ends_with_the_process_that_asks(unruly, tmp_path, how):
    path = tmp_path / "ask.py"
    path.write_text(SCRIPT)
    folder = str(Path(sys.modules["unruly_task"].__file__ or "").parent)
    env = environment(PYTHONWARNINGS="default")
    env["PYTHONPATH"] += os.pathsep + folder
    done = subprocess.run([sys.executable, path, how], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == (-signal.SIGKILL if how == "killed" else 0) and not done.stderr
    assert gone(int(done.stdout))


def gone(pid: int) -> bool:
    """The process ends soon."""
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_who_is_bounded():
    """Whoever has `verify` must say so: what is derived from a bounded task and judges otherwise is not."""
    assert all(is_bounded(discover("task")[name].config().build()) for name in ("countdown", "graph", "math", "sudoku"))

    class Quiet(Countdown):
        def words(self) -> list[str]:
            return []

    class Other(Countdown):
        def verify(self, example: Example, completion: str) -> Verdict:
            return Verdict(Outcome.correct)

    config = CountdownConfig()
    assert is_bounded(Quiet(config)) and not is_bounded(Other(config))
    apart = {(kind, asked): Judge(kind(config), CountdownConfig(verify_apart=asked))._apart is not None
             for kind in (Quiet, Other) for asked in (None, True, False)}  # fmt: skip
    assert apart == {(Quiet, None): False, (Quiet, True): True, (Quiet, False): False,
                     (Other, None): True, (Other, True): True, (Other, False): False}  # fmt: skip


@pytest.mark.parametrize("name", discover("task"))
def test_every_task_says_the_same_apart(name):
    config = discover("task")[name].config(verify_apart=True)
    task: Any = config.build()
    judge = Judge(task, config)
    for index in range(3):
        example = task.example(Split.train, index)
        for text in (example.solution, example.solution[:-1], task.guess(example), ""):
            assert judge.verify(example, text) == task.verify(example, text)


def test_failures_are_counted_by_kind_and_the_first_is_named():
    kinds = [None, Failure.error, Failure.timeout, None, Failure.timeout, Failure.memory, Failure.death, None]
    verdicts = [Verdict(Outcome.malformed, f"why {row}", failure=kind) for row, kind in enumerate(kinds)]
    assert failure_counts(verdicts) == {
        "verifier/errors": 5, "verifier/timeouts": 2, "verifier/memory": 1, "verifier/deaths": 1
    }  # fmt: skip
    assert failure_counts(verdicts[:1]) == {"verifier/errors": 0}
    examples = [Example(f"problem {number}", "", "") for number in range(4)]
    assert first_failure(verdicts, examples) == "why 1, first on problem 0"
    assert first_failure(verdicts[:1], examples[:1]) == ""


@pytest.mark.parametrize("field", ["verify_seconds", "verify_gib"])
def test_limits_are_above_0(field):
    with pytest.raises(ConfigError, match=f"task.{field}=0 must be above 0"):
        CountdownConfig(**{field: 0})
