"""`environment=tool`: a calculator, which the model may ask before it answers.

    12*34= | [12*34] | <turn>408<turn> | 408 <end>

Source: SimpleTIR (Xue et al., arXiv 2509.02479). A turn ends at `]`, and is then a call; its value is the reply, and
the model goes on, up to `most_turns` turns. A turn that the model ends itself is the answer, and the task's verifier
says what it is. A turn that is neither, a void one, ends the episode, and with `filter_void` the whole of it is not
trained on, while its reward counts in its group: a row without a mask, and so in no denominator of a loss.

Choices where sources differ:
1. What the brackets have is an expression (`rlx.environments.calculator`), not a program. A call is from the last `[`
   of its turn to `]`; what stands before it is not looked at. A call that is answered with an error is a call (section
   "void turns": a complete block of code, whatever comes of it).
2. A turn is void that was cut at its budget, that has another special token, that ends at `]` without a `[`, whose
   last `[` is not closed (whatever a verifier may find in it: that is not asked), or whose answer is malformed, the
   task's word for what has not the form of an answer (the paper: no boxed answer).
3. The last turn may be a call: it is not answered, the episode has no answer and is malformed, and it is not void. Nor
   is one void whose reply did not fit into decode.max_tokens (the authors leave out all completions that are too long).
4. There is no reward for calls, and no helper that answers out of the tool (the authors': `final_answer`).
5. `noise` is ours, for what the paper calls feedback that is off the model's distribution: so many digits as the reply
   has characters, the same for all samples of a problem in their n-th turn, and in training alone.
6. Demonstrations call what the task says, where it has a method `calls` (arithmetic, countdown, math), as much of it as
   `most_turns` leaves room for and the calculator has values for; the problems of others are answered at once. A share
   `flaws` of those with calls are flawed, so that a model has void turns to begin with: one half end within their first
   call, the other are answered digits as `noise` has them, and go on all the same. Both count in the loss of sft: that
   is what they are for.
7. A solution with `[` or `]` in it (two of GSM8K's 7473) is shown without its work (`Task.brief`), or, where there is
   no such answer, without these marks, and then does not count in the loss of sft. A task most of whose solutions have
   them is refused by `corpus=dialogues`, before anything is written; rl and eval read no solutions.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random

from rlx.environments.base import Answer, Assess, Environment, EnvironmentConfig, Episode, Turn, brief
from rlx.environments.calculator import ERROR, calculated
from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Task, stable_hash
from rlx.types import Example, Outcome, Verdict

OPEN, CLOSE = "[", "]"
_CALL = re.compile(r"\[([^\[\]]*)\]")


@option("environment", "tool")
@dataclass(kw_only=True, slots=True)
class ToolConfig(EnvironmentConfig):
    """A calculator that is called with [12*34], and an answer."""

    most_turns: int = 4
    """Most turns of the model, its answer included."""
    turn_tokens: int | None = None
    """Most tokens of a turn, its end included; null: what is left of decode.max_tokens."""
    reply_chars: int = 24
    """Characters at which a reply is cut that is no error."""
    noise: float = 0.0
    """Share of the replies in training that are random digits."""
    flaws: float = 0.05
    """Share of the demonstrations that have an unfinished call or random digits as a reply."""
    filter_void: bool = True
    """Episodes with a turn that is neither a call nor an answer are not trained on, and count in their group."""

    def __post_init__(self) -> None:
        if self.most_turns < 2:
            raise ConfigError(f"environment.most_turns={self.most_turns} must be at least 2: a call, and the answer")
        if self.turn_tokens is not None and self.turn_tokens < 1:
            raise ConfigError(f"environment.turn_tokens={self.turn_tokens} must be at least 1; null is no limit")
        if self.reply_chars < 1:
            raise ConfigError(f"environment.reply_chars={self.reply_chars} must be at least 1; 24 is the default")
        for name in ("noise", "flaws"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"environment.{name}={getattr(self, name):g} must be in [0, 1]")

    def build(self) -> "Tool":
        return Tool(self)


class Flaw(Enum):
    """What is wrong with a demonstration."""

    unfinished = "unfinished"
    """It ends within its first call."""
    reply = "reply"
    """Its first reply is random digits."""


class Tool(Environment):
    """The environment at one setting."""

    stops = CLOSE

    def __init__(self, config: ToolConfig) -> None:
        self.config, self.turns, self.filters_void = config, config.most_turns, config.filter_void

    def open(self, example: Example, assess: Assess, *, key: int, training: bool) -> "Calling":
        return Calling(example, assess, self.config, key=key, noise=self.config.noise if training else 0.0)

    def demonstrate(self, episode: Episode, task: Task, random: Random) -> Turn:
        """The next call, or the solution where there is none left."""
        assert isinstance(episode, Calling)
        if not episode.turns:
            episode.planned = _calls(task, episode.example)[: self.turns - 1]
            if episode.planned and random.random() < self.config.flaws:
                episode.flaw = Flaw.unfinished if random.random() < 0.5 else Flaw.reply
        done = len(episode.turns)
        if done == len(episode.planned):
            return self._answered(episode.example.solution, task)
        text = f"{OPEN}{episode.planned[done]}{CLOSE}"
        if episode.flaw is Flaw.unfinished:
            text = text[: 1 + int(random.random() * (len(text) - 1))]
        return Turn(text=text)

    def _answered(self, solution: str, task: Task) -> Turn:
        """The answer to a problem: its solution; where that has marks of calls, without its work; where that has them
        too, without the marks, and not to be learnt."""
        for text in (solution, brief(task, solution)):
            if not _marks(text):
                return Turn(text=text)
        return Turn(text=solution.replace(OPEN, "").replace(CLOSE, ""), lesson=False)

    def unshown(self, solution: str) -> str:
        marks = _marks(solution)
        return f"{marks[0]}, a mark of calls" if marks else ""

    def words(self) -> list[str]:
        return [*"0123456789", *"+-*/()", " ", ":", OPEN, CLOSE, "error", "form", "zero", "size"]


def _marks(text: str) -> str:
    """The marks of a call that a text has, in their order."""
    return "".join(each for each in text if each in (OPEN, CLOSE))


def _calls(task: Task, example: Example) -> list[str]:
    """Expressions that the task's problem is solved with and the calculator has values for; none where the task does
    not say them."""
    named: Callable[[Example], list[str]] | None = getattr(task, "calls", None)
    texts = [] if named is None else named(example)
    return [text for text in texts if not calculated(text).startswith(ERROR)]


class Calling(Episode):
    """Over when a turn is not a call, or is the last.

    Args:
        key: what random digits hang on.
        noise: share of the replies that are random digits.
    """

    def __init__(self, example: Example, assess: Assess, config: ToolConfig, *, key: int, noise: float) -> None:
        super().__init__(example, assess)
        self.config, self.key, self.noise, self.budget = config, key, noise, config.turn_tokens
        self.calls = self.errors = 0
        self.planned: list[str] = []
        """Of a demonstration: what it calls."""
        self.flaw: Flaw | None = None

    def answer(self, turn: Turn) -> Answer | None:
        call = _CALL.search(turn.text) if turn.clean else None
        if call is None:
            broken = turn.ended and bool(_marks(turn.text))
            no_call = Verdict(Outcome.malformed, f"{OPEN} or {CLOSE}, and no call")
            turn.verdict = no_call if broken else self.assess(self.example, turn)
            self.void = turn.verdict.outcome in (Outcome.malformed, Outcome.truncated)
            turn.name = "void" if self.void else "answer"
            return None
        turn.name = "call"
        value = calculated(call[1])
        self.calls, self.errors = self.calls + 1, self.errors + value.startswith(ERROR)
        if len(self.turns) == self.config.most_turns:
            return None
        return Answer(self._reply(value), self.config.turn_tokens)

    def _reply(self, value: str) -> str:
        """The value, or random digits in its place."""
        number = len(self.turns)
        drawn = stable_hash("noise", self.key, number)
        if drawn < self.noise * 2**64 or (number == 1 and self.flaw is Flaw.reply):
            value = "".join(str(stable_hash("digit", self.key, number, place) % 10) for place in range(len(value)))
        return value if value.startswith(ERROR) else value[: self.config.reply_chars]

    def measures(self) -> dict[str, float]:
        """`calls` made; `call_errors`, the share of them with an error, where there are any; `void`, 1 or 0."""
        errors = {"call_errors": self.errors / self.calls} if self.calls else {}
        return {"calls": float(self.calls), **errors, "void": float(self.void)}
