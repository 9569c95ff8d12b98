"""`environment=thinker`: a quick answer, a verdict on it, a slow answer where it was wrong, and that one in short.

    fast | 29+57 <end> =76 <end> | verify <end> No <end> | think <end> 9+7+0=16 ... =86 <end> | sum <end> =86 <end>

Source: Chung, Du and Fu, Thinker: Learning to Think Fast and Slow (arXiv 2505.21097, section 3). Each of the four steps
is a turn with a budget, and what it earns is for its own tokens alone. With y the worth of an answer
(algorithm.rewards: 1 for a correct one) and p the share of fast answers that were correct of late:

    fast      y                                                    verify    1 - p for a Yes to a correct fast answer,
    slow      y                                                              p for a No to another, else 0
    sum       y + summary_coefficient * log P(its text | fast prompt) where it is correct, else y

Always Yes and always No earn p (1 - p) both, a verifier that is never wrong 2 p (1 - p). In training an episode is over
after the verdict on a correct fast answer, whatever it was, and goes on after any other; it ends after a slow answer
that is not correct. A model that is measured accepts with its own Yes, and goes on otherwise.

Choices where sources differ, or are silent (the rewards of slow and sum, and the end after a wrong slow answer, are
read from descriptions of the paper, not from its text):
1. A model that is measured is not asked for a summary: its answer is the fast one if it says Yes, else the slow one.
   That of an episode in training is the last that was given.
2. p is that of the training episodes of the last `window` iterations, the one at hand included, so that there is one
   in the first. A run that goes on keeps it. Where nothing was drawn for training yet (a preflight), p is that of the
   episodes at hand.
3. A verdict is the last word of its turn, Yes or No, so that work may stand before it; none, or a turn that was cut,
   earns nothing, and is no Yes.
4. The summary's log-probability is that of its text and end mark under the policy that drew it, in nats, not divided
   by its length.
5. Demonstrations: the fast answer is a mistake for `mistakes` of the problems, where there is one to show, and then not
   to be learnt; the verdict is what is the case, with `verify_work` after the solution; the slow answer is the task's
   solution, and fast answer and summary are it without its work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Any

from rlx.environments.base import (
    Answer,
    Assess,
    Environment,
    EnvironmentConfig,
    Episode,
    Likelihood,
    Turn,
    Worth,
    brief,
    mistake,
)
from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Task
from rlx.types import Example, Outcome, Verdict


class Steps(str, Enum):
    """Which steps there are."""

    all = "all"
    """Fast, verify, slow and sum."""
    fast = "fast"
    """The fast one alone: plain answers within its budget, to compare with."""


@option("environment", "thinker")
@dataclass(kw_only=True, slots=True)
class ThinkerConfig(EnvironmentConfig):
    """Fast answer, verdict, slow answer and summary, each with a budget and a reward of its own."""

    steps: Steps = Steps.all
    """Which steps there are: all, or fast alone, to compare with."""
    fast_tokens: int | None = 16
    """Most tokens of the fast answer, the end mark included; null: what is left of decode.max_tokens."""
    verify_tokens: int | None = 16
    """Most tokens of the verdict."""
    slow_tokens: int | None = 96
    """Most tokens of the slow answer."""
    summary_tokens: int | None = 16
    """Most tokens of the summary."""
    balanced: bool = True
    """Verdicts on correct and on other fast answers earn 1 - p and p, of their share p; else 1 each."""
    window: int = 10
    """Iterations that p is of."""
    summary_coefficient: float = 1e-3
    """Weight of the summary's log-probability (nats) under the fast prompt; 0: it is not asked for."""
    mistakes: float = 0.5
    """Share of demonstrations whose fast answer is a mistake."""
    verify_work: bool = False
    """Demonstrations have the solution before the last word of a verdict."""

    def __post_init__(self) -> None:
        for name in ("fast_tokens", "verify_tokens", "slow_tokens", "summary_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"environment.{name}={value} must be at least 1; null is no limit")
        if self.window < 1:
            raise ConfigError(f"environment.window={self.window} must be at least 1; 10 is usual")
        if self.summary_coefficient < 0:
            raise ConfigError(f"environment.summary_coefficient={self.summary_coefficient} must be at least 0")
        if not 0 <= self.mistakes <= 1:
            raise ConfigError(f"environment.mistakes={self.mistakes:g} must be in [0, 1]")

    def build(self) -> "Thinker":
        return Thinker(self)


class Thinker(Environment):
    """The environment at one setting, and how often fast answers were correct of late."""

    apart = True

    def __init__(self, config: ThinkerConfig) -> None:
        self.config = config
        self.turns = 4 if config.steps is Steps.all else 1
        self.counts: dict[int, tuple[int, int]] = {}
        """Correct fast answers, and all, of the last iterations."""

    def open(self, example: Example, assess: Assess, *, key: int, training: bool) -> "Thinking":
        return Thinking(example, assess, self.config, training=training)

    def count(self, episodes: Sequence[Episode], iteration: int) -> None:
        right, count = self.counts.get(iteration, (0, 0))
        self.counts[iteration] = (right + _right(episodes), count + len(episodes))
        self.counts = {number: each for number, each in self.counts.items() if number > iteration - self.config.window}

    def rewards(self, episodes: Sequence[Episode], worth: Worth) -> None:
        right, count = map(sum, zip(*(self.counts or {0: (_right(episodes), len(episodes))}).values(), strict=True))
        share = right / count
        weights = {True: 1 - share, False: share} if self.config.balanced else {True: 1.0, False: 1.0}
        for episode in episodes:
            correct = _is_right(episode.turns[0])
            for turn in episode.turns:
                if turn.name == "verify":
                    turn.reward = weights[correct] if says(turn) is correct else 0.0
                    continue
                assert turn.verdict is not None
                turn.reward = worth(turn.verdict)
                if turn.name == "sum" and turn.verdict.correct and self.config.summary_coefficient:
                    turn.likelihood = Likelihood(episode.prompt, self.config.summary_coefficient)

    def demonstrate(self, episode: Episode, task: Task, random: Random) -> Turn:
        example, number = episode.example, len(episode.turns)
        if number == 0 and random.random() < self.config.mistakes:
            text = mistake(task, example, random)
            if text is not None:
                return Turn(text=brief(task, text), lesson=False)
        if number == 1:
            word = "Yes" if _is_right(episode.turns[0]) else "No"
            return Turn(text=f"{example.solution}\n{word}" if self.config.verify_work else word)
        return Turn(text=example.solution if number == 2 else brief(task, example.solution))

    def words(self) -> list[str]:
        return ["fast", "verify", "think", "sum", "Yes", "No", "\n"]

    def state(self) -> dict[str, Any]:
        return {"fast": [[iteration, *counts] for iteration, counts in self.counts.items()]}

    def restore(self, state: dict[str, Any]) -> None:
        self.counts = {iteration: (right, count) for iteration, right, count in state.get("fast", [])}


class Thinking(Episode):
    """One problem thought about."""

    def __init__(self, example: Example, assess: Assess, config: ThinkerConfig, *, training: bool) -> None:
        super().__init__(example, assess)
        self.config, self.training = config, training
        self.prompt, self.budget = f"fast\n{example.prompt}", config.fast_tokens

    def answer(self, turn: Turn) -> Answer | None:
        config, number = self.config, len(self.turns)
        turn.name = ("fast", "verify", "slow", "sum")[number - 1]
        if turn.name != "verify":
            turn.verdict = self.assess(self.example, turn)
        if turn.name == "fast":
            return Answer("verify", config.verify_tokens) if config.steps is Steps.all else None
        if turn.name == "verify":
            accepted = _is_right(self.turns[0]) if self.training else says(turn)
            return None if accepted else Answer("think", config.slow_tokens)
        if turn.name == "slow" and self.training and _is_right(turn):
            return Answer("sum", config.summary_tokens)
        return None

    @property
    def verdict(self) -> Verdict:
        """What the answer is that is the last one given; it may have been cut."""
        answers = [turn.verdict for turn in self.turns if turn.verdict is not None]
        found = Verdict(Outcome.truncated, "no room for another turn") if self.cut else answers[-1]
        return replace(found, measures={**found.measures, **self.measures()})

    def measures(self) -> dict[str, float]:
        """`fast`: the fast answer is correct; `yes_to_right`, `no_to_wrong`: it is and is accepted, is not and is
        refused, so that their means over the means of `fast` and of the rest are what the verifier gets of both kinds;
        `slow`: of episodes that have one, the slow answer is correct."""
        fast = _is_right(self.turns[0])
        said = says(self.turns[1]) if len(self.turns) > 1 else None
        found = {"fast": float(fast), "yes_to_right": float(fast and said is True)}
        found["no_to_wrong"] = float(not fast and said is False)
        if len(self.turns) > 2:
            found["slow"] = float(_is_right(self.turns[2]))
        return found


def says(turn: Turn) -> bool | None:
    """The verdict of a turn: whether its last word is Yes; None where it is neither Yes nor No."""
    word = turn.text.split()[-1:] if turn.ended and turn.clean else []
    return {"Yes": True, "No": False}.get("".join(word))


def _is_right(turn: Turn) -> bool:
    return turn.verdict is not None and turn.verdict.correct


def _right(episodes: Sequence[Episode]) -> int:
    """How many episodes have a correct fast answer."""
    return sum(_is_right(episode.turns[0]) for episode in episodes)
