"""`environment=multi_attempt`: the same problem again after a wrong answer, up to N times.

    3 tries | 3 4 5 make 12: 3+4 <end> | <turn>wrong, 2 left<turn> | 3+4+5 <end>

Source: Chung, Du and Fu, Learning from Failures in Multi-Attempt Reinforcement Learning (arXiv 2503.04808). In training
N is drawn evenly from `least` to `attempts`, the same for all samples of a problem; a model that is measured has
`attempts`. What the episode earns is what its best attempt is worth, on the last one: with algorithm.rewards of 1 for
correct, -0.5 for wrong and illegal, -1 for malformed and truncated the paper's +1, -0.5 (once an answer had the right
form, whatever comes after) and -1. algorithm=ppo passes over the replies in its advantages, as the paper's does.

Choices where sources differ, or are silent:
1. An attempt ends where the model ends it (or its budget does), not where the text first has the form of an answer, as
   in the authors' code, which looks at every 64 tokens.
2. Attempts are not discounted: the authors' option for it has no effect in their code.
3. The prompt and the replies are a few tokens, "3 tries" before the problem and "wrong, 2 left" after an attempt, where
   the authors have sentences of a chat; the problem is not repeated (their `repeat_question`).
4. A text is not mended: the authors take chat marks out of what the model wrote. Here a turn in which it drew a special
   token is malformed, and its text, which the verifier and a reader see, has none.
5. Demonstrations (the authors have none: their model can chat) have from none to all but one of the attempts wrong,
   drawn evenly, by `Task.mistake` where the task has it; where there is no mistake to show
   (`rlx.environments.base.mistake`), the solution comes at once. Mistakes and replies do not count in the loss of sft.
"""

from dataclasses import dataclass
from random import Random

from rlx.environments.base import Answer, Assess, Environment, EnvironmentConfig, Episode, Turn, Worth, mistake
from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Task, stable_hash
from rlx.types import Example

MOST = 64
"""Attempts of a problem."""


@option("environment", "multi_attempt")
@dataclass(kw_only=True, slots=True)
class MultiAttemptConfig(EnvironmentConfig):
    """Up to N answers to a problem, each but a correct one answered that it is wrong."""

    attempts: int = 5
    """Most attempts; 64 at most."""
    least: int = 1
    """Fewest attempts that a problem has in training."""
    turn_tokens: int | None = None
    """Most tokens of an attempt, the end mark included; null: what is left of decode.max_tokens."""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.attempts <= MOST:
            raise ConfigError(
                f"environment.least={self.least} and attempts={self.attempts}: expected 1 <= least <= attempts, and at "
                f"most {MOST}"
            )
        if self.turn_tokens is not None and self.turn_tokens < 1:
            raise ConfigError(f"environment.turn_tokens={self.turn_tokens} must be at least 1; null is no limit")

    def build(self) -> "MultiAttempt":
        return MultiAttempt(self)


class MultiAttempt(Environment):
    """The environment at one setting."""

    def __init__(self, config: MultiAttemptConfig) -> None:
        self.config, self.turns = config, config.attempts

    def open(self, example: Example, assess: Assess, *, key: int, training: bool) -> "Attempts":
        config = self.config
        more = stable_hash("attempts", key) % (config.attempts - config.least + 1)
        return Attempts(example, assess, config.least + more if training else config.attempts, config.turn_tokens)

    def rewards(self, episodes: list[Episode], worth: Worth) -> None:
        for episode in episodes:
            found = [turn.verdict for turn in episode.turns if turn.verdict is not None]
            episode.turns[-1].reward = max(map(worth, found))

    def demonstrate(self, episode: Episode, task: Task, random: Random) -> Turn:
        """A mistake in as many attempts as a draw says, of all but the last one, where there is one to show; then the
        solution."""
        assert isinstance(episode, Attempts)
        if not episode.turns:
            episode.mistakes = int(random.random() * episode.allowed)
        if len(episode.turns) < episode.mistakes:
            text = mistake(task, episode.example, random)
            if text is not None:
                return Turn(text=text, lesson=False)
        return Turn(text=episode.example.solution)

    def words(self) -> list[str]:
        return [*"0123456789", " ", "\n", ",", "tries", "wrong", "left"]


class Attempts(Episode):
    """Over when an attempt is correct, or none is left."""

    def __init__(self, example: Example, assess: Assess, allowed: int, budget: int | None) -> None:
        super().__init__(example, assess)
        self.allowed, self.budget, self.mistakes = allowed, budget, 0
        self.prompt = f"{allowed} tries\n{example.prompt}"

    def answer(self, turn: Turn) -> Answer | None:
        number = len(self.turns)
        turn.name, turn.verdict = f"attempt_{number}", self.assess(self.example, turn)
        if turn.verdict.correct or number == self.allowed:
            return None
        return Answer(f"wrong, {self.allowed - number} left", self.budget)

    def measures(self) -> dict[str, float]:
        """`correct@k`, of each k that there are attempts for: one of the first k was correct. In training, where N is
        drawn, its mean is over the problems with N >= k alone, which are others for each k. `repeated@k`, where there
        was a k-th attempt: its text is that of one before it; `attempts` made."""
        right = [float(turn.verdict is not None and turn.verdict.correct) for turn in self.turns]
        texts = [turn.text for turn in self.turns]
        return {
            **{f"correct@{k}": max(right[:k]) for k in range(1, self.allowed + 1)},
            **{f"repeated@{k + 1}": float(texts[k] in texts[:k]) for k in range(1, len(texts))},
            "attempts": float(len(self.turns)),
        }
