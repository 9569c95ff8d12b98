"""`environment=single`: one turn, which is the answer."""

from dataclasses import dataclass
from typing import ClassVar

from rlx.environments.base import Answer, Assess, Environment, EnvironmentConfig, Episode, Turn
from rlx.options import option
from rlx.types import Example


@option("environment", "single")
@dataclass(kw_only=True, slots=True)
class SingleConfig(EnvironmentConfig):
    """The task's prompt, and the model's answer to it."""

    unnamed: ClassVar[bool] = True
    """It is what every run did before there were environments, and moves no run's place."""

    def build(self) -> "Single":
        return Single()


class Single(Environment):
    """Every problem is answered once."""

    def open(self, example: Example, assess: Assess, *, key: int, training: bool) -> "OneTurn":
        return OneTurn(example, assess)


class OneTurn(Episode):
    """Over after its first turn."""

    def answer(self, turn: Turn) -> Answer | None:
        turn.verdict = self.assess(self.example, turn)
        return None
