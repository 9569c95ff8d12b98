"""Countdown: reach a target from a few numbers with + - * /, each number used exactly once.

Source: Stream of Search (arXiv 2404.03683, section 3, and github.com/kanishkg/stream-of-search); the same instances and
`direct` trace in "To Backtrack or Not to Backtrack" (arXiv 2504.07052).

Where sources differ, or leave a choice, this file does:

1. Inputs are uniform integers, redrawn until the target is reached with ALL of them (Stream of Search; other
   libraries let some be left over). The target is drawn first and kept, so targets are uniform too.
2. Operands are removed by place, not by value, so `7,7,3` keeps one 7 after the other is used; the verifier replays
   operations on a multiset, so a number can be used only as often as it is there. Both fail upstream.
3. The solution written is the first one in depth-first successor order (pairs by place; then + * - /): one rule for
   every size, and a function of the prompt, so it can be learnt. Up to 4 numbers the search is exhaustive. With
   5 to 8 it walks the first `REDUCTIONS` ways down to 4 numbers in the same order (passing over results above
   `REDUCED_LIMIT`) and is exhaustive from there; inputs not solved by then are redrawn. So long
   solutions nearly always begin by adding neighbours (all of 500 with 8 numbers): their depth is in the last 4.
   `solution=random` writes any of the solutions instead, fixed by the problem: a policy fine-tuned on it spreads over
   all ways to a target. Searches end where they end; `difficulty` speaks of this solution in every trace.
4. `test` holds the targets that rank first by a fixed hash, `val` the other targets' instances for which
   `split_of` says so, `train` the rest. Upstream shuffles targets by seed; here neither set moves with a seed, or a
   model trained under one seed would meet another seed's test targets. `task.seed` picks the train stream only. The
   rank is among the setting's own targets: with another range of targets others are held out.
5. The problems do not depend on `trace`, `solution` or how a search is made: example i of a split is the same problem
   in all of them, so arms that differ in them meet the same ones.
6. `direct` and the searches are verified by Stream of Search's rule: the operations of the last printed state and the
   final one are replayed; the number lists in between only have to be lists. Upstream takes the first goal line and
   ignores what follows; here each completion must match its format to the end, white space at the end aside. A search
   that claims no goal is wrong. (An expression may have fractions and negative numbers on its way, operations not.)

Worked example, target 59 from 55, 8, 13, 19. With `trace=operations` the prompt is `59:55,8,13,19\\n`, a solution
`13+19=32,32/8=4,55+4=59`. With `trace=direct` the prompt is the first line, a solution the others:

    Current State: 59:[55, 8, 13, 19], Operations: []
    Exploring Operation: 13+19=32, Resulting Numbers: [55, 8, 32]
    Generated Node #2: [55, 8, 32] from Operation: 13+19=32
    Current State: 59:[55, 8, 32], Operations: ['13+19=32']
    Exploring Operation: 32/8=4, Resulting Numbers: [55, 4]
    Generated Node #3: [55, 4] from Operation: 32/8=4
    Current State: 59:[55, 4], Operations: ['13+19=32', '32/8=4']
    Exploring Operation: 55+4=59, Resulting Numbers: [59]
    59,59 equal: Goal Reached

With `trace=dfs`, `bfs`, `mix` or `think` a solution to the same prompt is a whole search:
`rlx/tasks/countdown_heuristics.py`. `trace=tinyzero` asks for an expression (`rlx/tasks/countdown_expressions.py`);
`stacked=true` makes deeper problems of two (`rlx/tasks/countdown_stacked.py`).

The short cut of `guess` is right on 60 % of problems with 3 numbers, 26 % with 4, 7 to 8 % with 5 to 8; operations
drawn evenly (`chance`) on 5, 0.8 and below 0.1 %.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, TaskConfig
from rlx.tasks.countdown_chance import chance
from rlx.tasks.countdown_expressions import TinyZeroTrace
from rlx.tasks.countdown_heuristics import MOST_NUMBERS, Heuristic, Method, SearchTrace, greedy
from rlx.tasks.countdown_search import BLOCK, Choice, Problem, Space, draw_block, drawn_steps, instance_key, steps_of
from rlx.tasks.countdown_stacked import HALVES, Stacked, prompt, solution, stack
from rlx.tasks.countdown_traces import DirectTrace, OperationsTrace, Step, Trace, TraceFormat
from rlx.types import Example, Outcome, Split, Verdict

_OPERATION = re.compile("[0-9]+[-+*/][0-9]+")
SEARCHES = (Trace.dfs, Trace.bfs, Trace.mix, Trace.think)


@option("task", "countdown")
@dataclass(kw_only=True, slots=True)
class CountdownConfig(TaskConfig):
    """Countdown with every number used once."""

    numbers: int = 4
    """Inputs per problem, 3 to 8."""
    max_number: int = 99
    """Largest input, at most 1000; inputs start at 1."""
    min_target: int = 10
    """Smallest target, at least 1."""
    max_target: int = 100
    """Largest target, itself included."""
    held_out_targets: float = 0.1
    """Share of the targets that only `test` has (rounded down, at least one target)."""
    trace: Trace = Trace.direct
    """Format of solutions: direct (Stream of Search's sentences), operations (short), a search (dfs, bfs, mix, or
    think: dfs with steps skipped), or tinyzero (reasoning, then an expression)."""
    solution: Choice = Choice.first
    """Which of a problem's solutions is written: first (in search order), or random (any, fixed by the problem)."""
    stacked: bool = False
    """Problems are two of half the inputs, and the target from their two targets; for 6 or 8 inputs."""
    heuristic: Heuristic = Heuristic.sum
    """What dfs, think and bfs sort by: sum (distance to the target) or multiply (to its divisors); a mix draws it."""
    beam: int = 5
    """Successors that bfs keeps of a state, and states that it expands at a time; a mix draws it from 1 to 5."""
    keep_failed: bool = False
    """Write searches that miss the target as they are, which do not verify; false widens them until they reach it."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        if not 3 <= self.numbers <= 8:
            raise ConfigError(f"task.numbers must be 3 to 8, got {self.numbers}; try task.numbers=4")
        if not 1 <= self.max_number <= 1000:
            raise ConfigError(f"task.max_number must be 1 to 1000, got {self.max_number}; try task.max_number=99")
        if not 1 <= self.min_target < self.max_target <= 100_000:
            raise ConfigError(
                "task targets need 1 <= min_target < max_target <= 100000, "
                f"got {self.min_target} and {self.max_target}; try task.min_target=10 task.max_target=100"
            )
        if not 0 < self.held_out_targets < 1:
            raise ConfigError(
                f"task.held_out_targets is a share between 0 and 1, got {self.held_out_targets}; "
                "try task.held_out_targets=0.1"
            )
        if self.stacked:
            self._check_stacked()
        elif self.trace in SEARCHES and self.numbers > MOST_NUMBERS:
            raise ConfigError(
                f"task.trace={self.trace.value} needs task.numbers of at most {MOST_NUMBERS}, got {self.numbers}; "
                f"try task.numbers={MOST_NUMBERS} or task.trace=direct"
            )
        if self.beam < 1:
            raise ConfigError(f"task.beam must be at least 1, got {self.beam}; try task.beam=5")

    def _check_stacked(self) -> None:
        if self.numbers not in HALVES:
            raise ConfigError(
                f"task.stacked=true needs task.numbers=6 or 8 (in halves), got {self.numbers}; try task.numbers=8"
            )
        if self.trace is Trace.tinyzero:
            raise ConfigError(
                "task.stacked=true has no task.trace=tinyzero, whose prompt has one target; try task.trace=direct"
            )

    def build(self) -> "Countdown":
        return Countdown(self)


class Countdown(Sized):
    """Problems of one setting, their solutions and their verifier."""

    bounded = True

    def __init__(self, config: CountdownConfig) -> None:
        super().__init__(config)
        self.config = config
        self.space = Space(
            config.numbers // 2 if config.stacked else config.numbers,
            config.max_number,
            config.min_target,
            config.max_target,
            config.held_out_targets,
        )
        self.trace = _format(config)
        self.costly = config.trace in SEARCHES

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no inputs of this setting reach a target of the split.
        """
        seed = self.seed_at(split, index)
        if self.config.stacked:
            first, second = (self._problem(split, seed, place) for place in (2 * index, 2 * index + 1))
            return self._write_stacked(stack(first, second, 2 * self.config.max_target))
        return self._write(self._problem(split, seed, index))

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (legal, but not the target from all numbers), illegal or malformed.

        Text longer than any solution can be is malformed unread.
        """
        if len(completion) > self.trace.longest:
            return Verdict(Outcome.malformed, f"longer than {self.trace.longest} characters")
        target, inputs = example.truth
        verdict = self.trace.judge(target, inputs, completion.rstrip(" \t\r\n"))
        return verdict or Verdict(Outcome.malformed, f"not in the format of trace={self.config.trace.value}")

    def chance(self, example: Example) -> float:
        """Share of the sequences of operations that end at the target, whatever the trace writes around them.

        Each step takes two of the numbers left, by place, and a sign: prod(4 * k * (k - 1) / 2 for k in 2..numbers) of
        them, all counted up to 6 numbers (`countdown_chance.py`).
        """
        target, inputs = example.truth
        return chance(target, tuple(inputs))

    baseline = "steps to what is nearest to the target's divisors"

    def guess(self, example: Example) -> str:
        """The steps of a breadth-first search with the `multiply` heuristic and a beam of 1, in the trace's format."""
        target, inputs = example.truth
        return self.trace.attempt(target, inputs, greedy(target, inputs))

    def calls(self, example: Example) -> list[str]:
        """The operations of the solution, one by one; in a search, all that it tries."""
        return _OPERATION.findall(example.solution)

    def mistake(self, example: Example, random: Random) -> str | None:
        """Operations on the right numbers, drawn until they miss the target, in the trace's format; None for searches,
        which end where their rules say."""
        if self.costly:
            return None
        target, inputs = example.truth
        while True:
            text = self.trace.attempt(target, inputs, drawn_steps(inputs, random))
            if self.verify(example, text).outcome is Outcome.wrong:
                return text

    def words(self) -> list[str]:
        """Words, digits and marks that prompts and solutions are made of."""
        return [*self.trace.words, *"0123456789", *self.trace.marks]

    def _problem(self, split: Split, seed: int, place: int) -> Problem:
        return draw_block(self.space, split, seed, place // BLOCK, self.config.solution)[place % BLOCK]

    def _write(self, problem: Problem) -> Example:
        steps = steps_of(problem.inputs, problem.rank)
        return Example(
            id=f"countdown/{instance_key(problem.target, problem.inputs)}",
            prompt=self.trace.prompt(problem.target, problem.inputs),
            solution=self.trace.solution(problem.target, problem.inputs, steps),
            truth=(problem.target, problem.inputs),
            difficulty=self._difficulty(problem.target, steps, self.config.min_target, self.config.max_target),
        )

    def _write_stacked(self, problem: Stacked) -> Example:
        return Example(
            id=f"countdown/{problem.key}",
            prompt=prompt(self.trace, problem),
            solution=solution(self.trace, problem),
            truth=(problem.target, problem.inputs),
            difficulty=self._difficulty(problem.target, problem.steps(), 1, 2 * self.config.max_target),
        )

    def _difficulty(self, target: int, steps: Sequence[Step], low: int, high: int) -> dict[str, int | float | str]:
        """Inputs, operations `*` and `/`, and the quarter of `low` to `high` that the target lies in."""
        count = high - low + 1
        quarter = 4 * (target - low) // count
        first, after = (low + math.ceil(part * count / 4) for part in (quarter, quarter + 1))
        return {
            "numbers": self.config.numbers,
            "multiplicative": sum(step.operation.sign in "*/" for step in steps),
            "target": f"{first}-{after - 1}",
        }


def _format(config: CountdownConfig) -> TraceFormat:
    """The way in which the setting's solutions are written."""
    digits = len(str(max(config.max_number**config.numbers, config.max_target)))
    if config.trace is Trace.direct:
        return DirectTrace(config.numbers, digits)
    if config.trace is Trace.operations:
        return OperationsTrace(config.numbers, digits)
    if config.trace is Trace.tinyzero:
        return TinyZeroTrace()
    method = Method(config.heuristic, config.beam if config.trace is Trace.bfs else None, config.trace is Trace.think)
    if config.trace is Trace.mix:
        method = None
    return SearchTrace(
        config.numbers // 2 if config.stacked else config.numbers,
        digits,
        method=method,
        keep_failed=config.keep_failed,
        stacked=config.stacked,
    )
