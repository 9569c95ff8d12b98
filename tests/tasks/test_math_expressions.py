"""Expressions are compared in a process that is bounded, replaced when it is lost, and ends with ours."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlx.errors import ConfigError, RunError
from rlx.runs.processes import is_alive
from rlx.tasks import math_expressions as module
from rlx.tasks.math_answers import check_answers, same_answer
from rlx.tasks.math_expressions import is_readable, same_expression
from tests.conftest import environment

pytest.importorskip("math_verify")

PAIRS = {
    r"\sqrt{2}": {r"\frac{2}{\sqrt{2}}": True, "1.4142135624": False},
    r"\frac{x}{2}": {"0.5x": True, "x/3": False, r"\frac{2x}{4}": True},
    r"\sqrt{8}": {r"2\sqrt{2}": True, "2.8284271": False, "2.83": False, r"\sqrt8": False},
    r"\sqrt3": {r"\sqrt{3}": True, r"\sqrt{2}": False},
    "x^2+2x+1": {"(x+1)^2": True, "(x+1)(1+x)": True, "(x-1)^2": False, "(y+1)^2": False},
    "1<x<2": {"(1,2)": True, "[1,2]": False},
    "(1,2)": {"1<x<2": False, "(1, 2)": True, "(2,1)": False},
    "1,2": {"2, 1": True, "1,3": False},
    r"[0,\infty)": {r"\left[0, \infty\right)": True, r"(0,\infty)": False},
    r"\begin{pmatrix}1\\2\end{pmatrix}": {r"\begin{bmatrix}1\\2\end{bmatrix}": True},
    r"3\pi": {r"\pi \cdot 3": True, "3": False, r"3\pi\text{ cm}": True},
    "2+3i": {"3i+2": True, "2-3i": False},
}
"""The interval and its order are the sheet's; the rest is school mathematics. A gold answer that is not well formed is
mended, an answer is not."""


@pytest.fixture(scope="module")
def worker():
    """The process of these tests, with a shorter time."""
    made = module._Worker()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_worker", made)
        patch.setattr(module, "LIMIT_S", 0.8)
        yield made
    made.end(kill=True)


@pytest.mark.parametrize("gold", PAIRS)
def test_expressions(worker, gold):
    assert {answer: same_expression(gold, answer) for answer in PAIRS[gold]} == PAIRS[gold]
    assert {answer: same_answer(gold, answer) for answer in PAIRS[gold]} == PAIRS[gold]


COSTLY = {
    "tower": "9^{9^{9^9}}",
    "product": "(x+y+z)^{99999}",
    "matrix": r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{99999999}",
    "python": "__import__('os').system('true')",
}
UNREAD = {
    "deep": "(" * 10**5 + ")" * 10**5,
    "long": "x+" * 10**6 + "1",
    "digits": "9" * 299,
    "out of the box": "1} 2 {",
    "another box": r"\boxed{7}\boxed{x^2}",
    "not ASCII": "x²",
    "nothing": "",
}


def test_hostile_text_is_no_match_and_takes_bounded_time(worker):
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    for text in (*COSTLY.values(), *UNREAD.values()):
        assert not same_answer("x^2", text)
    assert same_answer("x^2", "x*x")
    # 0.8 s of the processor a question, about as much for a new process after each that overran
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - spent < 2 * len(COSTLY)


def test_what_is_read():
    assert all(is_readable(text) for pairs in PAIRS.values() for text in pairs)
    assert all(is_readable(text) for text in COSTLY.values())
    assert not any(is_readable(text) for text in UNREAD.values())
    assert is_readable("(" * 12 + ")" * 12) and not is_readable("(" * 13 + ")" * 13)


def test_a_process_that_is_killed_is_replaced(worker):
    assert same_expression("2x", "x+x")
    first = worker._process.pid
    if hasattr(resource, "prlimit"):  # Linux
        assert resource.prlimit(first, resource.RLIMIT_AS)[0] == module.MEMORY
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # what a run is stopped by passes it by
        os.kill(first, number)
    assert same_expression("3x", "x+x+x") and worker._process.pid == first
    os.kill(first, signal.SIGKILL)
    assert same_expression("4x", "2(x+x)") and worker._process.pid != first
    assert not is_alive(first)


def test_a_question_that_is_interrupted_leaves_no_answer_behind(worker, monkeypatch):
    assert same_expression("2x", "x+x")

    def interrupt(process, deadline):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_line", interrupt)
        with pytest.raises(KeyboardInterrupt):
            same_expression("2x", "2*x")
    assert not same_expression("2x", "3x")


def test_a_process_that_takes_too_long_by_the_clock_is_killed(worker, monkeypatch):
    assert same_expression("2x", "x+x")
    first = worker._process.pid
    os.kill(first, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(module, "WAIT_S", 0.2)
        assert not same_expression("2x", "2*x")
    assert not is_alive(first) and same_expression("2x", "2*x")


def test_a_process_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setattr(module, "_worker", module._Worker())
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RunError, match=r"does not start \(exit code 1\)"):
        same_expression("2x", "x+x")


def test_threads_take_turns(worker):
    found = {}

    def ask(number):
        found[number] = [same_expression(f"{number}x", f"x*{other}") for other in range(4)]

    threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number == other for other in range(4)] for number in range(4)}


SCRIPT = """
import multiprocessing, os, sys
from rlx.tasks import math_expressions as module
same = module.same_expression

def ask(queue):
    queue.put([same("2x", "x+x"), same("2x", "3x"), module._worker._process.pid])

if __name__ == "__main__":
    pids = [os.getpid()]
    assert same("2x", "x+x") and not same("2x", "3x")
    for method in ("fork", "spawn")[:int(sys.argv[1])]:
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=ask, args=[queue])
        process.start()
        found = queue.get()
        process.join()
        assert found[:2] == [True, False] and process.exitcode == 0
        pids.append(found[2])
    assert same("3x", "x+x+x")
    print(*pids, module._worker._process.pid, "torch" in sys.modules, flush=True)
    if sys.argv[1] == "0":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("children", [2, 0], ids=["in children", "killed"])
def test_every_process_has_its_own_which_ends_with_it(tmp_path, children):
    path = tmp_path / "ask.py"
    path.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, path, str(children)],
        capture_output=True,
        text=True,
        env=environment(PYTHONWARNINGS="default"),
        timeout=120,
    )
    assert done.returncode == (0 if children else -signal.SIGKILL) and not done.stderr
    *pids, torch = done.stdout.split()
    assert torch == "False"
    assert len(set(pids)) == 2 + children
    deadline = time.monotonic() + 20
    while any(is_alive(int(pid)) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_alive(int(pid))]


def test_without_math_verify_only_expressions_are_refused(monkeypatch):
    check_answers(["72", r"\frac{1}{2}", "x^2"])
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    check_answers(["72", r"\frac{1}{2}", r"\text{even}", "(A)", "4210_7", "50\\%"])
    with pytest.raises(ConfigError, match=r"install it: pip install 'rlx\[math\]'"):
        check_answers(["72", "x^2"])
