"""Math: word problems of grade school, made here or read from files, with solutions in several formats.

Sources: GSM8K (arXiv 2110.14168) for the manner of the problems and of `trace=text`; Echo Chamber (arXiv 2504.07912 and
its authors' verifier) for the formats and for how a completion is told and judged; TinyGSM (arXiv 2312.09241)
for `trace=code`; OpenMathInstruct-1 (arXiv 2402.10176) for `trace=tagged`. Problems as graphs of quantities, all of
whose operations are counted, follow iGSM (arXiv 2407.20311), quantities that do not matter GSM-IC (arXiv 2302.00093).

A problem that is made here (`path` is null) is a random graph. It grows from the question until it has the operations
wanted, each of them needed; then it gets numbers, then `distractors`, quantities that are not needed but may be made
from those that are; then a scene, names and things. Every quantity is 1 to `max_number`.

Where sources differ, or leave a choice, this file does:

1. The key of a problem is what the question needs, numbers included. Names, things, wordings, the order of sentences
   and distractors do not count, nor the order of a sum or of "4 boxes with 6 in each": a test problem told about
   other people is no train problem. Splits go by that key, one in 16 in `val` and one in 16 in `test`.
2. The graph is drawn before its numbers, and numbers are drawn until the key is in the split, so that all splits have
   the same graphs. Each number of a problem moves the answer: graphs where one cancels are drawn again.
3. Problems, and their words, do not depend on how solutions are written. With `trace=mixed` the format hangs on the
   problem's key alone, so that a problem is always written one way, and formats have the shares of `shares`.
4. A completion is told as upstream does: a tagged block that runs gives the answer (`format_tagged`); else the last
   function that runs (`format_code`); else the text does (`format_text`). Where a program does not run, the text apart
   from it gives the answer, and the format remains the program's. Upstream looks for "def" anywhere; here a line
   begins with it. Text that is `#### 72` and no more is a format of its own (`format_answer`; upstream has none), and
   `runs` is 1 where a program ran. Programs run in `rlx/tasks/math_program.py`, not in Python.
5. With `strict`, which is our choice, text after a program that ran has to end with the same answer. Upstream reads
   the program alone (`strict=false`).
6. With `path`, problems are read (`rlx/tasks/math_records.py` says how, and what is in which split). Solutions are the
   source's, without calculator marks unless `calculator`, and end in `#### <answer>` where they have no box.
   `task.seed` orders `train`, so that `train_examples` of them are a fair draw; the others come in the order of the
   file, as many as `val_examples` and `test_examples` say: all of GSM8K's test set is `task.test_examples=1319`.

Worked example, the key `total(24,part(24,2))`. The prompt is two lines, of which the second is empty:

    Anna collected 24 coins. Ben collected half as many coins as Anna. How many coins did Anna and Ben collect in total?

With `trace=text` a solution is the first of these, with `calculator` the second; then `code`, `tagged` and `answer`:

    Ben collected 24 / 2 = 12 coins.
    In total that is 24 + 12 = 36.
    #### 36

    Ben collected 24 / 2 = <<24/2=12>>12 coins.
    In total that is 24 + 12 = <<24+12=36>>36.
    #### 36

    def simple_math_problem():
        \"\"\"
        Anna collected 24 coins. [... the rest of the question]
        \"\"\"
        anna_coins = 24
        ben_coins = anna_coins / 2
        result = anna_coins + ben_coins
        return result

    Let's solve this problem using Python code.
    <llm-code>
    anna_coins = 24
    ben_coins = anna_coins / 2
    anna_coins + ben_coins
    </llm-code>
    So the answer is \\boxed{36}

    #### 36
"""

import re
import sys
from dataclasses import dataclass, field, fields
from functools import lru_cache
from random import Random

from rlx.errors import ConfigError
from rlx.options import content, option
from rlx.rows import fingerprint
from rlx.tasks.base import Sized, TaskConfig, stable_hash
from rlx.tasks.math_answers import check_answers, final_answer, same_answer
from rlx.tasks.math_records import Record, Records, read_records
from rlx.tasks.math_traces import FORMATS, Trace, read, trace_words, write
from rlx.tasks.math_words import Limits, draw_problem, tell
from rlx.types import Example, Outcome, Split, Verdict

LONGEST = 20_000
"""Characters of the longest completion that is read."""
MOST_OPERATIONS = 12
MOST_DISTRACTORS = 12
PROCEDURAL = (
    "min_operations",
    "max_operations",
    "distractors",
    "max_given",
    "max_number",
    "shuffle",
    "trace",
    "shares",
    "docstring",
)
"""Fields of problems that are made here."""
_NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3})*")
_MARK = re.compile(r"<<[^<>\n]*>>")
_MARKED = re.compile(r"<<([^<>=\n]*)=")
_EQUATION = re.compile(r"(?<![0-9.,])([0-9(][0-9+*/() -]*[+*/-][0-9+*/() -]*)=")
_WORD = re.compile(r"[A-Za-z]+|[^A-Za-z]")


@option("task", "math")
@dataclass(kw_only=True, slots=True)
class MathConfig(TaskConfig):
    """Word problems of grade school."""

    path: str | None = content()
    """File, folder or hf:<data set> of problems (GSM8K, MATH, rows of question and answer); null makes them here."""
    question_field: str = "question"
    """Column of the questions in `path`; usual names (problem, prompt, query) are found without it."""
    answer_field: str = "answer"
    """Column of the answers in `path`; usual names (solution, final_answer, target, ...) are found without it."""
    min_operations: int = 2
    """Fewest operations that a question needs."""
    max_operations: int = 4
    """Most operations that a question needs, at most 12."""
    distractors: int = 0
    """Quantities told that the question does not need, at most 12."""
    max_given: int = 50
    """Largest number in a question; numbers start at 2."""
    max_number: int = 1000
    """Largest quantity of a problem, its answer included, at most 1000000."""
    shuffle: bool = True
    """Tell quantities in any order; false tells each after those it is made from."""
    trace: Trace = Trace.text
    """Format of solutions: text, code (a function), tagged (a block of code in prose), answer (that alone), mixed."""
    shares: dict[str, float] = field(default_factory=lambda: {"text": 0.3, "code": 0.5, "tagged": 0.0, "answer": 0.2})
    """Parts of text, code, tagged and answer in trace=mixed; they are divided by their sum."""
    docstring: bool = True
    """Begin functions with the question, as TinyGSM does; it doubles their length."""
    calculator: bool = False
    """Write GSM8K's calculator marks, <<48/2=24>>, in text solutions."""
    strict: bool = True
    """Text after a program has to end with the program's answer; false judges the program alone."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        if not 1 <= self.min_operations <= self.max_operations <= MOST_OPERATIONS:
            raise ConfigError(
                f"task operations need 1 <= min_operations <= max_operations <= {MOST_OPERATIONS}, "
                f"got {self.min_operations} and {self.max_operations}; try task.min_operations=2 task.max_operations=4"
            )
        if not 0 <= self.distractors <= MOST_DISTRACTORS:
            raise ConfigError(
                f"task.distractors must be 0 to {MOST_DISTRACTORS}, got {self.distractors}; try task.distractors=2"
            )
        if not 2 <= self.max_given <= self.max_number <= 1_000_000:
            raise ConfigError(
                "task numbers need 2 <= max_given <= max_number <= 1000000, "
                f"got {self.max_given} and {self.max_number}; try task.max_given=50 task.max_number=1000"
            )
        names = [trace.name for trace in FORMATS]
        unknown = [name for name in self.shares if name not in names]
        if unknown:
            raise ConfigError(f"task.shares has {', '.join(names)}, got {unknown[0]!r}; try task.shares.text=1")
        if any(not 0 <= share < 1e9 for share in self.shares.values()) or not sum(self.shares.values()) > 0:
            raise ConfigError(
                f"task.shares must be at least 0 and not all 0, got {self.shares}; try task.shares.text=1"
            )
        self._check_use()

    def _check_use(self) -> None:
        """Raise ConfigError for a field that says how problems are made, where they are read, and the other way."""
        for name in ("question_field", "answer_field"):
            if self.path is None and getattr(self, name) != name.removesuffix("_field"):
                raise ConfigError(f"task.{name} names a column of task.path, which is null; give task.path=<file>")
        for each in fields(self):
            default = each.default_factory() if callable(each.default_factory) else each.default
            if self.path is not None and each.name in PROCEDURAL and getattr(self, each.name) != default:
                raise ConfigError(
                    f"task.{each.name} says how problems are made, but task.path={self.path} has them as they are, "
                    "with text solutions; leave out one of the two"
                )

    def build(self) -> "Math":
        return WordProblems(self) if self.path is None else FileProblems(self, self.path)


class Math(Sized):
    """What problems of both kinds share: how completions are judged."""

    bounded = True
    baseline = "adds all numbers of the question"

    def __init__(self, config: MathConfig) -> None:
        super().__init__(config)
        self.config = config

    def example(self, split: Split, index: int) -> Example:
        raise NotImplementedError

    def chance(self, example: Example) -> float:
        raise NotImplementedError

    def words(self) -> list[str]:
        raise NotImplementedError

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong, or malformed (no answer). A program runs in a bounded interpreter.

        Text longer than `LONGEST` is malformed unread. Measures: `format_text`, `format_code`, `format_tagged` and
        `format_answer`, of which one is 1 or, without an answer or a program, none, and `runs`, 1 where a program ran.
        """
        if len(completion) > LONGEST:
            return Verdict(Outcome.malformed, f"longer than {LONGEST} characters")
        reading = read(completion)
        ran = reading.value is not None
        answer = str(reading.value) if ran else reading.answer
        form = reading.form if answer is not None or reading.form != Trace.text.name else ""
        measures = {f"format_{trace.name}": float(trace.name == form) for trace in FORMATS}
        measures["runs"] = float(ran)
        if answer is None:
            return Verdict(Outcome.malformed, reading.error or "gives no answer", measures)
        if not same_answer(example.truth, answer):
            return Verdict(Outcome.wrong, f"answers {answer[:60]}, not {example.truth[:60]}", measures)
        if ran and reading.rest and self.config.strict:
            after = reading.answer
            if after is None or not same_answer(example.truth, after):
                said = "no answer" if after is None else after[:60]
                return Verdict(Outcome.wrong, f"the program gives {answer[:60]}, the text after it {said}", measures)
        return Verdict(Outcome.correct, "", measures)

    def calls(self, example: Example) -> list[str]:
        """The left sides of the equations in a text solution: of GSM8K's marks, where they are written (`calculator`),
        else of what stands in the sentences."""
        return _MARKED.findall(example.solution) or [text.strip() for text in _EQUATION.findall(example.solution)]

    def guess(self, example: Example) -> str:
        """The sum of the numbers in the question, written in digits; those of more than 12 digits are passed over."""
        numbers = [found.replace(",", "") for found in _NUMBER.findall(example.prompt)]
        return f"#### {sum(int(number) for number in numbers if len(number) <= 12)}"


class WordProblems(Math):
    """Problems that are made here."""

    def __init__(self, config: MathConfig) -> None:
        super().__init__(config)
        self._limits = Limits(
            config.min_operations, config.max_operations, config.distractors, config.max_given, config.max_number
        )
        self._bounds = _bounds(config.shares)

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no problems of this setting belong to the split.
        """
        random = Random(stable_hash("math", split.value, self.seed_at(split, index), index))
        problem = draw_problem(self._limits, split, random)
        story = tell(problem, shuffle=self.config.shuffle, random=random)
        return Example(
            id=f"math/{problem.key}",
            prompt=f"{story.text}\n\n",
            solution=write(
                problem,
                story,
                self.format_of(problem.key),
                calculator=self.config.calculator,
                docstring=self.config.docstring,
            ),
            truth=str(problem.answer),
            difficulty={"operations": problem.operations, "depth": problem.depth},
        )

    def format_of(self, key: str) -> Trace:
        """How the solution of the problem with this key is written."""
        if self.config.trace is not Trace.mixed:
            return self.config.trace
        place = stable_hash("format", key) / 2**64
        return next(trace for trace, bound in self._bounds if place < bound)

    def chance(self, example: Example) -> float:
        """1 / (max_number + 1): answers are drawn evenly from 0 to `max_number`."""
        return 1 / (self.config.max_number + 1)

    def words(self) -> list[str]:
        """Words, digits and marks that prompts and solutions are made of."""
        return trace_words()


def _bounds(shares: dict[str, float]) -> list[tuple[Trace, float]]:
    """Where each format's part of 0 to 1 ends; the last that has a share ends beyond 1."""
    used = [(trace, shares.get(trace.name, 0.0)) for trace in FORMATS if shares.get(trace.name, 0.0) > 0]
    total = sum(share for _, share in used)
    ends = [sum(share for _, share in used[: count + 1]) / total for count in range(len(used))]
    return [(trace, end) for (trace, _), end in zip(used, [*ends[:-1], 2.0], strict=True)]


@lru_cache(maxsize=2)
def _read_once(path: str, content: str, question: str, answer: str) -> Records:
    """The records of a source, read again when its content is another; what is left out of them is said on stderr."""
    records = read_records(path, question=question, answer=answer)
    if records.dropped:
        left_out = ", ".join(f"{count} {reason}" for reason, count in records.dropped.items())
        kept = sum(map(len, records.parts.values()))
        print(f"  task.path={path}: {kept} problems; left out: {left_out}", file=sys.stderr)
    return records


class FileProblems(Math):
    """Problems of a file."""

    def __init__(self, config: MathConfig, path: str) -> None:
        super().__init__(config)
        self._parts = dict(_read_once(path, fingerprint(path), config.question_field, config.answer_field).parts)
        check_answers(record.answer for part in self._parts.values() for record in part)
        train = self._parts[Split.train]
        order = [stable_hash("order", config.seed, record.question) for record in train]
        self._parts[Split.train] = [train[place] for place in sorted(range(len(train)), key=order.__getitem__)]
        for split, part in self._parts.items():
            self._sizes[split] = min(self._sizes[split] or len(part), len(part))

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: the file has no problems for the split.
        """
        if not self._parts[split]:
            raise ConfigError(
                f"task.path={self.config.path} has no {split.value} problems; name a source that has, or "
                "one with more rows"
            )
        self.seed_at(split, index)
        record = self._parts[split][index]
        key = " ".join(record.question.lower().split())
        return Example(
            id=f"math/{stable_hash('question', key):016x}",
            prompt=f"{record.question}\n\n",
            solution=self._solution(record),
            truth=record.answer,
            difficulty=record.difficulty,
        )

    def chance(self, example: Example) -> float:
        """0: there is no end of answers."""
        return 0.0

    def words(self) -> list[str]:
        """Words, and single characters that are no letters, of all problems and their solutions."""
        records = [record for part in self._parts.values() for record in part]
        found = {word for each in records for word in _WORD.findall(f"{each.question} {self._solution(each)}")}
        return sorted(found | {"\n", " "})

    def _solution(self, record: Record) -> str:
        """The working, ending with the answer as GSM8K does, or as it was where it has a box."""
        working = record.solution if self.config.calculator else _MARK.sub("", record.solution)
        if "\\boxed" in working and final_answer(working) == record.answer:
            return working
        return f"{working}\n#### {record.answer}".lstrip()
