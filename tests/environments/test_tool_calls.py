"""What tasks calculate (`Task.calls`), which environment=tool demonstrates."""

import json
from pathlib import Path

import pytest

from rlx.environments.calculator import calculated
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.tasks.arithmetic_problems import Operation
from rlx.tasks.arithmetic_traces import Trace as Writing
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.tasks.math import MathConfig
from rlx.types import Split


@pytest.mark.parametrize("operation", [Operation.add, Operation.subtract, Operation.multiply])
@pytest.mark.parametrize("trace", [Writing.plain, Writing.scratchpad])
def test_arithmetic_calls_the_operation(operation: Operation, trace: Writing) -> None:
    task = ArithmeticConfig(operation=operation, min_digits=2, max_digits=4, trace=trace).build()
    for index in range(100):
        example = task.example(Split.train, index)
        (call,) = task.calls(example)
        assert example.prompt[:-1] == call and example.solution.split("=")[-1] == calculated(call)


def test_a_chain_is_read_from_left_to_right() -> None:
    task = ArithmeticConfig(operation=Operation.modular, min_digits=2, max_digits=5, modulus=7).build()
    for index in range(100):
        example = task.example(Split.train, index)
        (call,) = task.calls(example)
        assert call.replace("(", "").replace(")", "") == example.prompt.split("%")[0].split("=")[0]
        assert str(int(calculated(call)) % 7) == example.solution


@pytest.mark.parametrize("trace", [Trace.operations, Trace.tinyzero])
def test_countdown_calls_the_steps_of_its_solution(trace: Trace) -> None:
    task = CountdownConfig(trace=trace).build()
    for index in range(50):
        example = task.example(Split.train, index)
        calls = task.calls(example)
        assert len(calls) == 3 and calculated(calls[-1]) == str(example.truth[0])
        assert all(f"{call}={calculated(call)}" in example.solution for call in calls)


@pytest.mark.parametrize("calculator", [False, True])
def test_word_problems_call_their_equations(calculator: bool) -> None:
    task = MathConfig(calculator=calculator, max_operations=6).build()
    for index in range(100):
        example = task.example(Split.train, index)
        calls = task.calls(example)
        assert len(calls) == example.solution.count(" = ") and calculated(calls[-1]) == example.truth
        assert all(f"{call} = " in example.solution or f"<<{call}=" in example.solution for call in calls)


@pytest.mark.parametrize(
    ("calculator", "calls"),
    [(False, ["48 / 2", "12+48/2"]), (True, [".5*2", "48/2", "12+48/2"])],
    ids=["text", "marks"],
)
def test_problems_of_a_file_call_what_stands_there(tmp_path: Path, calculator: bool, calls: list[str]) -> None:
    answer = "Half is .5*2 = <<.5*2=1>>1 of 5% = 3.\nHe has 48 / 2 = <<48/2=24>>24.\nThat is 12+48/2=<<12+48/2=36>>36."
    for name in ("train", "test"):
        rows = [{"question": f"How many of {n} {name}?", "answer": f"{answer}\n#### 36"} for n in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = MathConfig(path=str(tmp_path), calculator=calculator).build()
    assert task.calls(task.example(Split.train, 0)) == calls
