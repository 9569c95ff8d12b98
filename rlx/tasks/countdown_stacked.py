"""Stacked problems of Countdown: two problems, and a third one on their targets.

"To Backtrack or Not to Backtrack" (arXiv 2504.07052) has a stacked Countdown of 8 inputs, whose search trees are
deeper; how its problems are made was not seen. Here one is two problems of half the inputs, then the target from their
two targets, so a tree is three trees in a row, where a tree over 8 inputs has 26 billion leaves. The prompt has the
first lines of all three, a search writes them one after the other, and the last state has all operations so far.
Within 512, 1024, 2048 and 4096 tokens depth first solves 0, 1, 8 and 20 % of 8 inputs (68 % in the end, `keep_failed`),
`think` 0, 9, 24 and 42 %, the paper's 17M models 1, 7.5, 13 and 18.5 %; a direct trace has 820 tokens.

1. The last operation is drawn, fixed by the problem, from those whose result is 1 to twice `max_target` (the sum is).
2. A problem is in a split when both its halves are, so splits share no half; its own target may be any.
3. What is verified is the target from all inputs; that the way there leads over the halves' targets is not asked for.

Worked example, 6 inputs, `trace=operations`: the prompt `28:2,2,13\\n22:5,6,8\\n6:28,22\\n` and a solution,
`2*13=26,2+26=28,5*6=30,30-8=22,28-22=6`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rlx.tasks.base import stable_hash
from rlx.tasks.countdown_heuristics import SearchTrace
from rlx.tasks.countdown_search import SIGNS, Problem, instance_key, steps_of
from rlx.tasks.countdown_traces import Operation, Step, TraceFormat, calculate

HALVES = (6, 8)
"""Inputs that a stacked problem can have."""


class Stacked(NamedTuple):
    """Two problems and the operation on their targets."""

    first: Problem
    second: Problem
    last: Operation

    @property
    def target(self) -> int:
        return self.last.result

    @property
    def inputs(self) -> tuple[int, ...]:
        return (*self.first.inputs, *self.second.inputs)

    @property
    def key(self) -> str:
        """Canonical name: equal for every order of the halves and of the inputs in each."""
        halves = sorted(instance_key(half.target, half.inputs) for half in (self.first, self.second))
        return f"{self.target}:{';'.join(halves)}"

    @property
    def parts(self) -> list[tuple[int, tuple[int, ...]]]:
        """Target and inputs of the three problems."""
        both = (self.first, self.second)
        return [(half.target, half.inputs) for half in both] + [(self.target, (both[0].target, both[1].target))]

    def steps(self) -> list[Step]:
        """The steps of the halves, the second's inputs waiting behind the first's, and the last one."""
        first = [
            Step(step.operation, [*step.numbers, *self.second.inputs])
            for step in steps_of(self.first.inputs, self.first.rank)
        ]
        second = [
            Step(step.operation, [self.first.target, *step.numbers])
            for step in steps_of(self.second.inputs, self.second.rank)
        ]
        return [*first, *second, Step(self.last, [self.target])]


def stack(first: Problem, second: Problem, limit: int) -> Stacked:
    """The problem of two halves whose target is at most `limit`, or their sum."""
    high, low = max(first.target, second.target), min(first.target, second.target)
    results = {sign: calculate(high, sign, low) for sign in SIGNS}
    legal = [sign for sign, result in results.items() if result and (result <= limit or sign == "+")]
    sign = legal[
        stable_hash("countdown stack", first.target, *first.inputs, second.target, *second.inputs) % len(legal)
    ]
    left, right = (first.target, second.target) if sign in "+*" else (high, low)
    return Stacked(first, second, Operation(left, sign, right, results[sign] or 0))


def prompt(writer: TraceFormat, problem: Stacked) -> str:
    """The prompts of the three problems."""
    return "".join(writer.prompt(target, inputs) for target, inputs in problem.parts)


def solution(writer: TraceFormat, problem: Stacked) -> str:
    """The steps of the three problems, or their searches up to one that fails."""
    if not isinstance(writer, SearchTrace):
        return writer.solution(problem.target, problem.inputs, problem.steps())
    return "\n".join(_searches(writer, problem.parts))


def _searches(writer: SearchTrace, parts: Sequence[tuple[int, tuple[int, ...]]]) -> list[str]:
    lines: list[str] = []
    done: list[str] = []
    for place, (target, inputs) in enumerate(parts, start=1):
        tree = writer.grow(target, inputs, done if place == len(parts) else ())
        lines += tree.lines
        if tree.way is None:
            break
        done += tree.way
    return lines
