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
   all ways to a target.
4. `test` holds the targets that rank first by a fixed hash, `val` the other targets' instances for which
   `is_held_out` is true, `train` the rest. Upstream shuffles targets by seed; here neither set moves with a seed, or a
   model trained under one seed would meet another seed's test targets. `task.seed` picks the train stream only.
5. The problems do not depend on `trace` or `solution`, so arms that differ in them meet the same ones.
6. `direct` is verified by Stream of Search's rule: the operations of the last printed state and the final one are
   replayed; the number lists in between only have to be lists. Upstream takes the first goal line and ignores what
   follows; here each completion must match its format to the end, white space at the end aside.

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
"""

import math
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import Enum
from functools import lru_cache
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import HELD_OUT_SHARE, TaskConfig, is_held_out, stable_hash
from rlx.types import Example, Outcome, Split, Verdict

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SIGNS = "+*-/"
"""The four operations in successor order."""
PAIRS = {count: list(combinations(range(count), 2)) for count in range(2, 9)}
"""Places (i, j) of the operands in a list of `count` numbers, in successor order."""
EXHAUSTIVE = 4
"""From so many numbers on, every sequence of operations is tried."""
REDUCTIONS = 64
"""Ways down to `EXHAUSTIVE` numbers that are tried before inputs are redrawn."""
REDUCED_LIMIT = 9_740
"""Results above this are passed over on the way down: its fourth power is still exact in a float64."""
BLOCK = 128
"""Examples drawn together; reading one costs as much as reading all of its block."""
WIDTH = {3: 512, 4: 256, 5: 256, 6: 256, 7: 256, 8: 256}
"""Candidates searched at once, by inputs; wider arrays leave the CPU's cache."""
PATIENCE = 4_096
"""Candidates without a solution after which a target is given up for another one."""
MAX_TRIES = 1_000_000
"""Exhaustive searches per block after which a setting is refused: some seconds."""
ENUMERABLE = 20_000_000
"""Size of the search over all inputs up to which reachable targets are found exactly beforehand."""


class Trace(Enum):
    """How a solution is written."""

    direct = "direct"
    operations = "operations"


class Choice(Enum):
    """Which solution is written where there are several."""

    first = "first"
    random = "random"


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
    """Format of prompts and solutions: direct (sentences of Stream of Search) or operations (short)."""
    solution: Choice = Choice.first
    """Which of a problem's solutions is written: first (in search order), or random (any, fixed by the problem)."""
    test_examples: int = 1000
    """Size of `test`, in examples."""
    val_examples: int = 1000
    """Size of `val`, in examples."""
    train_examples: int | None = None
    """Size of `train`, in examples; null is an unbounded stream."""

    def __post_init__(self) -> None:
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
        for name in ("test_examples", "val_examples", "train_examples"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ConfigError(f"task.{name} must be at least 1, got {size}; try task.{name}=1000")

    def build(self) -> "Countdown":
        return Countdown(self)


class Countdown:
    """Problems of one setting, their solutions and their verifier."""

    def __init__(self, config: CountdownConfig) -> None:
        self.config = config
        self.space = Space(
            config.numbers, config.max_number, config.min_target, config.max_target, config.held_out_targets
        )
        self._sizes: dict[Split, int | None] = {
            Split.train: config.train_examples,
            Split.val: config.val_examples,
            Split.test: config.test_examples,
        }
        digits = len(str(max(config.max_number**config.numbers, config.max_target)))
        self.trace = TRACES[config.trace](digits)
        self._longest = 4 * len(self.trace.solution(10**digits - 1, _widest_steps(config.numbers, digits)))

    def size(self, split: Split) -> int | None:
        """Number of examples, None when the stream is unbounded."""
        return self._sizes[split]

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no inputs of this setting reach a target of the split.
        """
        size = self._sizes[split]
        if index < 0 or (size is not None and index >= size):
            raise IndexError(f"{split.value} has examples 0 to {'...' if size is None else size - 1}, got {index}")
        # Held-out examples do not move with the seed, so that runs are compared on the same ones.
        seed = self.config.seed if split is Split.train else 0
        problem = draw_block(self.space, split, seed, index // BLOCK, self.config.solution)[index % BLOCK]
        return self._write(problem)

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (legal, but not the target from all numbers), illegal or malformed.

        Text longer than four times the longest legal solution is malformed unread.
        """
        if len(completion) > self._longest:
            return Verdict(Outcome.malformed, f"longer than {self._longest} characters")
        parsed = self.trace.parse(completion.rstrip(" \t\r\n"))
        if parsed is None:
            return Verdict(Outcome.malformed, f"not in the format of trace={self.config.trace.value}")
        target, inputs = example.truth
        verdict = replay(target, inputs, parsed.operations)
        if verdict.correct and any(number != target for number in parsed.goal):
            return Verdict(Outcome.wrong, f"the goal line does not say {target},{target}")
        return verdict

    def words(self) -> list[str]:
        """Words, digits and marks that prompts and solutions are made of."""
        return [*self.trace.words, *"0123456789", *self.trace.marks]

    def _write(self, problem: "Problem") -> Example:
        steps = steps_of(problem.inputs, problem.rank)
        return Example(
            id=f"countdown/{instance_key(problem.target, problem.inputs)}",
            prompt=self.trace.prompt(problem.target, problem.inputs),
            solution=self.trace.solution(problem.target, steps),
            truth=(problem.target, problem.inputs),
            difficulty={
                "numbers": self.config.numbers,
                "multiplicative": sum(step.operation.sign in "*/" for step in steps),
                "target": self._target_band(problem.target),
            },
        )

    def _target_band(self, target: int) -> str:
        """The quarter of the target range that `target` lies in, as `low-high`."""
        low, count = self.config.min_target, self.config.max_target - self.config.min_target + 1
        quarter = 4 * (target - low) // count
        first, after = (low + math.ceil(part * count / 4) for part in (quarter, quarter + 1))
        return f"{first}-{after - 1}"


# Solutions and how they are replayed


class Operation(NamedTuple):
    """One line of arithmetic, `left sign right = result`."""

    left: int
    sign: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.sign}{self.right}={self.result}"


class Step(NamedTuple):
    """An operation and the numbers there are after it."""

    operation: Operation
    numbers: list[int]


def calculate(left: int, sign: str, right: int) -> int | None:
    """The result of a legal operation; None where it would be negative, inexact or a division by zero."""
    if sign == "+":
        return left + right
    if sign == "*":
        return left * right
    if sign == "-":
        return left - right if left >= right else None
    return left // right if right and left % right == 0 else None


def replay(target: int, inputs: Sequence[int], operations: Sequence[Operation]) -> Verdict:
    """The verdict on `operations`, carried out one by one on the multiset `inputs`."""
    pool = list(inputs)
    for operation in operations:
        left, sign, right, result = operation
        for operand in (left, right):
            if operand not in pool:
                return Verdict(Outcome.illegal, f"{operation}: {operand} is not available")
            pool.remove(operand)
        if calculate(left, sign, right) != result:
            return Verdict(Outcome.illegal, f"{operation}: not exact arithmetic on natural numbers")
        pool.append(result)
    if pool == [target]:
        return CORRECT
    return Verdict(Outcome.wrong, f"ends with {pool}, not {[target]}")


CORRECT = Verdict(Outcome.correct)


def steps_of(inputs: Sequence[int], rank: int) -> list[Step]:
    """The solution at `rank` in depth-first successor order."""
    numbers = list(inputs)
    steps: list[Step] = []
    for i, j, sign in moves_of(rank, len(inputs)):
        left, right = numbers[i], numbers[j]
        if sign in "-/" and left < right:
            left, right = right, left
        result = calculate(left, sign, right)
        assert result is not None, "the search only returns legal operations"
        numbers = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :] + [result]
        steps.append(Step(Operation(left, sign, right, result), numbers))
    return steps


def moves_of(rank: int, count: int, until: int = 1) -> list[tuple[int, int, str]]:
    """The places and signs of a path from `count` to `until` numbers, given its rank among all such paths."""
    moves: list[tuple[int, int, str]] = []
    for left_over in range(until + 1, count + 1):
        rank, place = divmod(rank, 4 * len(PAIRS[left_over]))
        moves.append((*PAIRS[left_over][place // 4], SIGNS[place % 4]))
    return moves[::-1]


def paths(count: int, until: int = 1) -> int:
    """Number of paths from `count` to `until` numbers, illegal operations included."""
    return math.prod(4 * len(PAIRS[left_over]) for left_over in range(until + 1, count + 1))


# Traces: one class each, listed in TRACES


class Parsed(NamedTuple):
    """What a completion says: operations, and the numbers it claims to be the target (if its format has them)."""

    operations: list[Operation]
    goal: tuple[int, ...] = ()


class TraceFormat(Protocol):
    """A way to write problems and solutions. `parse` is given text of bounded length."""

    words: tuple[str, ...]
    marks: str

    def __init__(self, digits: int) -> None: ...

    def prompt(self, target: int, inputs: Sequence[int]) -> str: ...

    def solution(self, target: int, steps: Sequence[Step]) -> str: ...

    def parse(self, text: str) -> Parsed | None: ...


def _number(digits: int) -> str:
    """Pattern of a natural number: ASCII, no leading zeros, at most `digits` long so that int() stays cheap."""
    return rf"(?:0|[1-9][0-9]{{0,{digits - 1}}})"


def _operations(found: Sequence[tuple[str, str, str, str]]) -> list[Operation]:
    return [Operation(int(left), sign, int(right), int(result)) for left, sign, right, result in found]


class OperationsTrace:
    """`59:55,8,13,19` and `13+19=32,32/8=4,55+4=59`."""

    words: tuple[str, ...] = ()
    marks = "+*-/=:,\n"

    def __init__(self, digits: int) -> None:
        number = _number(digits)
        self._one = re.compile(rf"({number})([-+*/])({number})=({number})")
        one = rf"{number}[-+*/]{number}={number}"
        self._whole = re.compile(rf"{one}(?:,{one})*")

    def prompt(self, target: int, inputs: Sequence[int]) -> str:
        return f"{target}:{','.join(map(str, inputs))}\n"

    def solution(self, target: int, steps: Sequence[Step]) -> str:
        return ",".join(str(step.operation) for step in steps)

    def parse(self, text: str) -> Parsed | None:
        if not self._whole.fullmatch(text):
            return None
        return Parsed(_operations(self._one.findall(text)))


class DirectTrace:
    """The optimal path in Stream of Search's words."""

    words: tuple[str, ...] = (
        "Current", "State", "Operations", "Exploring", "Operation", "Resulting", "Numbers",
        "Generated", "Node", "from", "equal", "Goal", "Reached",
    )  # fmt: skip
    marks = "+*-/=:,[]'# \n"

    def __init__(self, digits: int) -> None:
        number = _number(digits)
        one = rf"{number}[-+*/]{number}={number}"
        numbers = rf"\[{number}(?:, {number})*\]"
        explore = rf"Exploring Operation: {one}, Resulting Numbers: {numbers}\n"
        node = rf"Generated Node #{number}: {numbers} from Operation: {one}\n"
        state = rf"Current State: {number}:{numbers}, Operations: \['{one}'(?:, '{one}')*\]\n"
        self._whole = re.compile(rf"(?:{explore}{node}{state})*{explore}({number}),({number}) equal: Goal Reached")
        self._one = re.compile(rf"({number})([-+*/])({number})=({number})")

    def prompt(self, target: int, inputs: Sequence[int]) -> str:
        return f"Current State: {target}:{list(inputs)}, Operations: []\n"

    def solution(self, target: int, steps: Sequence[Step]) -> str:
        done: list[str] = []
        lines: list[str] = []
        for node, (operation, numbers) in enumerate(steps, start=2):
            done.append(str(operation))
            lines.append(f"Exploring Operation: {done[-1]}, Resulting Numbers: {numbers}")
            if node <= len(steps):
                lines.append(f"Generated Node #{node}: {numbers} from Operation: {done[-1]}")
                lines.append(f"Current State: {target}:{numbers}, Operations: {done}")
        lines.append(f"{steps[-1].numbers[-1]},{target} equal: Goal Reached")
        return "\n".join(lines)

    def parse(self, text: str) -> Parsed | None:
        whole = self._whole.fullmatch(text)
        if not whole:
            return None
        last_state = max(text.rfind("Operations: ["), 0)
        found: list[tuple[str, str, str, str]] = self._one.findall(text, last_state)
        return Parsed(_operations(found), (int(whole[1]), int(whole[2])))


TRACES: dict[Trace, type[TraceFormat]] = {Trace.direct: DirectTrace, Trace.operations: OperationsTrace}


def _widest_steps(count: int, digits: int) -> list[Step]:
    """Steps as long as any legal ones with numbers of `digits` digits; only their text is meant."""
    wide = 10**digits - 1
    return [Step(Operation(wide, "+", wide, wide), [wide] * left_over) for left_over in range(count - 1, 0, -1)]


# Which problems there are


class Problem(NamedTuple):
    """Inputs in the order of the prompt, and the rank of the solution to write."""

    target: int
    inputs: tuple[int, ...]
    rank: int


@dataclass(frozen=True, slots=True)
class Space:
    """The settings that decide which problems there are."""

    numbers: int
    max_number: int
    min_target: int
    max_target: int
    held_out_targets: float


def instance_key(target: int, inputs: Sequence[int]) -> str:
    """Canonical name of an instance: equal for every order of the inputs."""
    return f"{target}:{','.join(map(str, sorted(inputs)))}"


def split_targets(space: Space, split: Split) -> list[int]:
    """The targets of a split: `test` has those that rank first by a fixed hash, `train` and `val` the others."""
    targets = range(space.min_target, space.max_target + 1)
    ranked = sorted(targets, key=lambda target: stable_hash("countdown target", target))
    held_out = max(1, int(space.held_out_targets * len(ranked)))
    return sorted(ranked[:held_out] if split is Split.test else ranked[held_out:])


def in_split(split: Split, target: int, inputs: Sequence[int]) -> bool:
    """True when an instance whose target is one of the split's belongs to the split."""
    return split is Split.test or is_held_out(instance_key(target, inputs)) == (split is Split.val)


@lru_cache(maxsize=64)
def draw_block(
    space: Space, split: Split, seed: int, block: int, choice: Choice = Choice.first
) -> tuple[Problem, ...]:
    """`BLOCK` problems, a pure function of the arguments; `choice` changes their solutions alone.

    Raises:
        ConfigError: no problem was found for some place in `MAX_TRIES` searches.
    """
    # Raw output of a bit generator is the same in every numpy version; methods of Generator need not be.
    bits = np.random.PCG64(stable_hash("countdown", *astuple(space), split.value, seed, block))
    choices = np.array(_reachable_targets(space, split), dtype=np.int64)
    if not len(choices):
        raise _no_problem(space, split)
    targets = choices[_uniform(bits, (BLOCK,), len(choices))]
    found: dict[int, Problem] = {}
    # One instance in HELD_OUT_SHARE is in `val`: so many more are drawn, and few of them searched.
    share = HELD_OUT_SHARE if split is Split.val else 1
    tries = target_tries = 0
    while len(found) < BLOCK:
        open_slots = np.array([slot for slot in range(BLOCK) if slot not in found])
        each = max(1, WIDTH[space.numbers] // len(open_slots))
        if target_tries + each > PATIENCE:
            targets[open_slots] = choices[_uniform(bits, open_slots.shape, len(choices))]
            target_tries = 0
        slots = open_slots.repeat(each * share)
        inputs = 1 + _uniform(bits, (len(slots), space.numbers), space.max_number)
        _collect(found, split, slots, targets[slots], inputs, choice)
        target_tries += each
        tries += each * len(open_slots) * _prefixes(space.numbers)
        if tries > MAX_TRIES:
            raise _no_problem(space, split)
    return tuple(found[slot] for slot in range(BLOCK))


def _collect(
    found: dict[int, Problem], split: Split, slots: Ints, targets: Ints, inputs: Ints, choice: Choice
) -> None:
    """Put the first solvable candidate of the split into each open slot."""
    if split is Split.val and inputs.shape[1] > 3:  # a search among 3 numbers costs less than the hash
        pairs = zip(targets.tolist(), inputs.tolist(), strict=True)
        kept = np.array([in_split(split, target, numbers) for target, numbers in pairs])
        slots, targets, inputs = slots[kept], targets[kept], inputs[kept]
    picks = _picks(targets, inputs) if choice is Choice.random else None
    ranks = first_solutions(targets, inputs, picks)
    for row in np.flatnonzero(ranks >= 0).tolist():
        slot = int(slots[row])
        if slot in found:
            continue
        problem = Problem(int(targets[row]), tuple(inputs[row].tolist()), int(ranks[row]))
        if in_split(split, problem.target, problem.inputs):
            found[slot] = problem


def _uniform(bits: np.random.PCG64, shape: tuple[int, ...], below: int) -> Ints:
    """Uniform integers from 0; the modulus is off by less than 1 in 10^14."""
    raw = np.asarray(bits.random_raw(math.prod(shape)), dtype=np.uint64)
    return (raw % np.uint64(below)).astype(np.int64).reshape(shape)


def _no_problem(space: Space, split: Split) -> ConfigError:
    return ConfigError(
        f"task=countdown expected inputs that reach targets of {split.value}, found (almost) none with "
        f"numbers={space.numbers} max_number={space.max_number} targets {space.min_target}..{space.max_target}; "
        "raise task.max_number or task.numbers, or lower task.max_target"
    )


@lru_cache(maxsize=16)
def _reachable_targets(space: Space, split: Split) -> list[int]:
    """The split's targets; in a small space only those that some instance of the split reaches."""
    targets = split_targets(space, split)
    count = math.comb(space.max_number + space.numbers - 1, space.numbers)
    if space.numbers > EXHAUSTIVE or count * max(paths(space.numbers), space.max_target) > ENUMERABLE:
        return targets
    reached = _reached_values(space)
    inputs = list(combinations_with_replacement(range(1, space.max_number + 1), space.numbers))

    def has_instance(target: int) -> bool:
        return any(in_split(split, target, inputs[row]) for row in np.flatnonzero(reached[:, target]).tolist())

    return [target for target in targets if has_instance(target)]


def _reached_values(space: Space) -> Bools:
    """Which values up to `max_target` each multiset of inputs reaches: [N, values], multisets in sorted order."""
    inputs = np.array(list(combinations_with_replacement(range(1, space.max_number + 1), space.numbers)))
    reached = np.zeros((len(inputs), space.max_target + 1), dtype=np.bool_)
    width = WIDTH[space.numbers]
    for start in range(0, len(inputs), width):
        state = inputs[start : start + width].T.astype(np.float64)[:, None]  # [numbers, 1, N]
        while len(state) > 1:
            state = expand(state)
        _, leaf, row = np.nonzero(state <= space.max_target)
        reached[start + row, state[0, leaf, row].astype(np.int64)] = True
    return reached


# The search, over many instances at once: N instances, L nodes of one depth in depth-first order


def first_solutions(targets: Ints, inputs: Ints, picks: Ints | None = None) -> Ints:
    """The rank of each instance's first solution in depth-first successor order, -1 where none is found.

    Args:
        targets: [N] integers from 1.
        inputs: [N, numbers] integers from 1.
        picks: [N] integers from 0; given, solution `picks` modulo their number is taken in place of the first. With
            5 numbers or more these are the solutions below the first way down to 4 numbers that has any.
    """
    count = inputs.shape[1]
    base = min(count, EXHAUSTIVE)
    ranks = np.full(len(targets), -1, dtype=np.int64)
    for prefix in range(_prefixes(count)):
        rows = np.flatnonzero(ranks < 0)
        state = inputs[rows].T.astype(np.float64)
        for i, j, sign in moves_of(prefix, count, base):
            state = _reduce(state, i, j, sign)
        legal = ~np.isnan(state).any(axis=0)
        rows, state = rows[legal], state[:, legal]
        if len(rows):
            leaf = _first_leaf(targets[rows], state, None if picks is None else picks[rows])
            ranks[rows] = np.where(leaf >= 0, prefix * paths(base) + leaf, -1)
    return ranks


def _prefixes(count: int) -> int:
    """Ways down to `EXHAUSTIVE` numbers that are tried."""
    return min(REDUCTIONS, paths(count, min(count, EXHAUSTIVE)))


def _reduce(state: Floats, i: int, j: int, sign: str) -> Floats:
    """One move for all instances, [numbers, N] -> [numbers - 1, N]; NaN where it is illegal or too large."""
    result = np.empty((4, state.shape[1]))
    _results(state[i], state[j], result)
    chosen = result[SIGNS.index(sign)]
    rest = [state[place] for place in range(len(state)) if place not in (i, j)]
    return np.stack([*rest, np.where(chosen <= REDUCED_LIMIT, chosen, np.nan)])


def _first_leaf(targets: Ints, state: Floats, picks: Ints | None) -> Ints:
    """The first (or picked) path from `state` [numbers, N] that ends at the target [N], -1 where there is none."""
    nodes = state[:, None]  # [numbers, L, N]
    while len(nodes) > 2:
        nodes = expand(nodes)
    hits = _hits(nodes, targets.astype(np.float64)).reshape(-1, len(targets))  # [L * 4, N]
    if picks is not None:
        wanted = 1 + picks % np.maximum(hits.sum(axis=0), 1)
        hits &= hits.cumsum(axis=0) == wanted
    first = hits.argmax(axis=0)
    return np.where(hits[first, np.arange(len(targets))], first, -1)


def _picks(targets: Ints, inputs: Ints) -> Ints:
    """[N] integers from 0 that look random and are fixed by the problem (a multiplicative hash)."""
    mixed = targets.astype(np.uint64)
    for column in inputs.T:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(20)).astype(np.int64)


def expand(nodes: Floats) -> Floats:
    """All successors of all nodes, [numbers, L, N] -> [numbers - 1, L * moves, N]; NaN marks an illegal result.

    A NaN stays NaN through every further operation and equals no target. All values are below 2^53, hence exact.
    """
    count, length, width = nodes.shape
    children = np.empty((count - 1, length, len(PAIRS[count]), 4, width))
    for place, (i, j) in enumerate(PAIRS[count]):
        rest = [k for k in range(count) if k not in (i, j)]
        for row, k in enumerate(rest):
            children[row, :, place] = nodes[k][:, None]
        _results(nodes[i], nodes[j], children[-1, :, place].swapaxes(0, 1))
    return children.reshape(count - 1, -1, width)


def _results(left: Floats, right: Floats, out: Floats) -> None:
    """The four results in the order of `SIGNS`, into out [4, ...]."""
    high, low = np.maximum(left, right), np.minimum(left, right)
    np.add(left, right, out=out[0])
    np.multiply(left, right, out=out[1])
    np.subtract(high, low, out=out[2])
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.divide(high, low, out=out[3])
        # Division by zero gives inf or NaN here, and neither times zero equals anything.
        quotient[np.rint(quotient) * low != high] = np.nan


def _hits(nodes: Floats, targets: Floats) -> Bools:
    """Which of the four results of the last two numbers, nodes [2, L, N], are the target [N]: [L, 4, N]."""
    left, right = nodes
    hits = np.empty((left.shape[0], 4, left.shape[1]), dtype=np.bool_)
    np.equal(left + right, targets, out=hits[:, 0])
    np.equal(left * right, targets, out=hits[:, 1])
    np.equal(np.abs(left - right), targets, out=hits[:, 2])
    high, low = np.maximum(left, right), np.minimum(left, right)
    hits[:, 3] = (low * targets == high) & (low > 0)
    return hits
