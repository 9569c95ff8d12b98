"""What an environment is: it opens an episode on a problem, answers the model's turns, and says what they are worth.

1. An episode is text. How it becomes tokens is decided elsewhere (`rlx.evaluation.episodes`): a turn of the model ends
   with the end mark, and a reply stands between two turn marks. A model that draws such a mark has written a special
   token, so it can forge no reply; where the tokenizer has no such mark (those that come with a model from elsewhere),
   replies are unmarked, and it can.
2. What a verdict is worth is the algorithm's (`algorithm.rewards`); an environment says which turn earns it, and what
   else is earned.
3. Demonstrations (`corpus=dialogues`) are episodes whose turns the environment writes itself, so that what a model has
   read and what it meets in rl have one form.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from rlx.tasks.base import Task, assessed
from rlx.types import Example, Outcome, Split, Verdict

MISTAKES = 4096
"""Problems whose solutions serve as mistakes."""
TRIES = 8
"""Of them looked at for one that is a mistake."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What the policy is asked of a turn that is trained on: how likely it is as an answer to another prompt."""

    prompt: str
    weight: float
    """Of the log-probability (nats) of the turn's text and end mark, which is added to what the turn earned."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """One turn of the model."""

    text: str
    """What it wrote, without the end mark."""
    ended: bool = True
    """It ended by itself; else it was cut at its budget."""
    clean: bool = True
    """It has no special token but the end mark."""
    name: str = "answer"
    """What kind of turn it is; it stands in metrics, as in turns/answer/reward."""
    verdict: Verdict | None = None
    """What the task's verifier says of it, where it was asked."""
    reply: str = ""
    """What it was answered; empty where it was the last."""
    reward: float = 0.0
    """What it earned."""
    likelihood: Likelihood | None = None
    """What it earns besides, where it is trained on."""
    lesson: bool = True
    """Of a demonstration: it is as the model is to write it, so that it counts in the loss of sft."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the environment says after a turn."""

    text: str
    budget: int | None = None
    """Tokens of the model's next turn; None: what is left of decode.max_tokens."""


Assess = Callable[[Example, Turn], Verdict]
"""What the task's verifier says of a turn: truncated where it was cut, malformed where it is not clean."""
Worth = Callable[[Verdict], float]
"""The reward of a verdict."""


class Episode:
    """One problem, and the turns so far.

    Args:
        assess: asked what a turn is.
    """

    def __init__(self, example: Example, assess: Assess) -> None:
        self.example, self.assess = example, assess
        self.turns: list[Turn] = []
        self.prompt = example.prompt
        """What the model is given first."""
        self.budget: int | None = None
        """Tokens of the first turn; None: decode.max_tokens."""
        self.void = False
        """A turn of it is nothing that the environment can go on from: with `Environment.filters_void` it is not
        trained on, and counts in its group."""
        self.cut = False
        """It could not go on: what was to be said did not fit into decode.max_tokens."""

    def take(self, turn: Turn) -> Answer | None:
        """Answer the model's next turn; None: the episode is over."""
        self.turns.append(turn)
        answer = self.answer(turn)
        turn.reply = "" if answer is None else answer.text
        return answer

    def answer(self, turn: Turn) -> Answer | None:
        """`take`, of a turn that is the last of `turns` already."""
        raise NotImplementedError

    @property
    def verdict(self) -> Verdict:
        """What the whole is, with what is measured of it; the last turn's where that was assessed."""
        found = self.turns[-1].verdict
        if self.cut or found is None:
            found = Verdict(Outcome.truncated, "no room for another turn") if self.cut else self.unanswered()
        return replace(found, measures={**found.measures, **self.measures()})

    def unanswered(self) -> Verdict:
        """What an episode is whose last turn was not assessed."""
        return Verdict(Outcome.malformed, "no answer")

    def measures(self) -> dict[str, float]:
        """What is measured of an episode that is over, by name; means are reported."""
        return {}


class Environment:
    """A way to work on a problem."""

    turns: int = 1
    """Most turns of the model."""
    stops: str = ""
    """Characters that end a turn where the model writes one, as its last."""
    filters_void: bool = True
    """Void episodes are not trained on."""
    apart: bool = False
    """What a turn earns is for its own tokens alone; else for all of the episode's."""

    def open(self, example: Example, assess: Assess, *, key: int, training: bool) -> Episode:
        """A new episode; the samples of a problem have equal keys, and the same prompt."""
        raise NotImplementedError

    def count(self, episodes: Sequence[Episode], iteration: int) -> None:
        """Take note of the episodes of a draw for training, before they are rewarded; what is only measured is not
        counted."""

    def rewards(self, episodes: Sequence[Episode], worth: Worth) -> None:
        """Write into every turn of the episodes of one draw, which are over, what it earned."""
        for episode in episodes:
            episode.turns[-1].reward = worth(episode.verdict)

    def demonstrate(self, episode: Episode, task: Task, random: Random) -> Turn:
        """The next turn, as a demonstration has it."""
        return Turn(text=episode.example.solution)

    def unshown(self, solution: str) -> str:
        """What a solution has that a demonstration cannot show as it is; empty where it has nothing of the kind."""
        return ""

    def words(self) -> list[str]:
        """Words, digits and marks that prompts, replies and demonstrations have besides the task's."""
        return []

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; one of another environment is left."""


@dataclass(kw_only=True, slots=True)
class EnvironmentConfig:
    """Fields that every environment has: none."""

    def build(self) -> Environment:
        raise NotImplementedError


def mistake(task: Task, example: Example, random: Random) -> str | None:
    """A text of the form of the task's solutions that is not correct: the task's own (`mistake(example, random)`),
    where it has such a method, else another problem's solution. None where the task has none, or none was found."""
    own: Callable[[Example, Random], str | None] | None = getattr(task, "mistake", None)
    if own is not None:
        return own(example, random)
    size = task.size(Split.train) or MISTAKES
    for _ in range(TRIES):
        text = task.example(Split.train, int(random.random() * min(size, MISTAKES))).solution
        if not assessed(task, example, text).correct:
            return text
    return None


def brief(task: Task, solution: str) -> str:
    """The answer of a solution without the work before it: the task's own (`brief(solution)`), where it has such a
    method, else the solution."""
    own: Callable[[str], str] | None = getattr(task, "brief", None)
    return solution if own is None else own(solution)
