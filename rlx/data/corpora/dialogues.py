"""`corpus=dialogues`: a task's problems as an environment's episodes, whose turns the environment writes itself.

    rlx stage=sft task=countdown corpus=dialogues corpus.environment=multi_attempt
    ... 'corpus.environment={name:multi_attempt,attempts:3}' corpus.share=0.1

A document is begin mark, prompt, and turns with what they are answered, in the tokens that rl plays them in
(`rlx.evaluation.episodes`). What the environment says, and turns that show a mistake, count in the loss of pretrain, as
prompts do, and not in that of sft.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import count
from random import Random
from typing import Any

from rlx.data.corpora.base import Corpus, CorpusConfig, made
from rlx.data.documents import Document, document_of
from rlx.data.order import Order
from rlx.data.tokenizers.base import Tokenizer
from rlx.environments.base import Environment, EnvironmentConfig, Episode, Turn
from rlx.errors import ConfigError, nearest
from rlx.options import discover, option
from rlx.tasks.base import Task, assessed, stable_hash
from rlx.types import Example, Split, Verdict

READ = 2048
"""Problems of a split that are read, at most, for what a vocabulary lacks."""
LOOKED_AT = 16
"""Problems whose solutions are looked at before anything is written; a single one may not fit."""


@dataclass(kw_only=True, slots=True)
class SpokenIn:
    """An environment inside a corpus' config."""

    name: str
    """As environment= has it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its fields that are given."""

    def config(self) -> EnvironmentConfig:
        """The environment's config.

        Raises:
            ConfigError: there is no such environment or field, or a value is none for it.
        """
        known = discover("environment")
        if self.name not in known:
            raise ConfigError(f"corpus.environment: {self.name} is no environment{nearest(self.name, known)}")
        try:
            return made(known[self.name].config, self.settings, f"environment={self.name}")
        except ConfigError as error:
            raise ConfigError(re.sub(r"^environment\b", "corpus.environment", str(error))) from None

    def stands_for(self) -> dict[str, Any]:
        """What a run's hash sees."""
        return {"environment": self.config()}


@option("corpus", "dialogues")
@dataclass(kw_only=True, slots=True)
class DialoguesConfig(CorpusConfig):
    """Demonstrations of an environment on `task=`."""

    environment: Any = None
    """As environment= has it, or with fields of its own: {name: multi_attempt, attempts: 3}."""
    share: float = 1.0
    """Share of the documents that are dialogues; the others are the task's own."""

    def __post_init__(self) -> None:
        if self.environment is None:
            raise ConfigError("corpus=dialogues needs an environment; try corpus.environment=multi_attempt")
        if not 0 < self.share <= 1:
            raise ConfigError(f"corpus.share={self.share:g} must be in (0, 1]; 0 is corpus=task")
        self.environment = _spoken_in(self.environment)
        self.environment.config()

    def needs_task(self) -> bool:
        return True

    def check(self, task: Task | None) -> None:
        """As in the base: most of the first solutions can be shown."""
        task, environment = _given(task), self.environment.config().build()
        if has := _unshown(environment, task):
            raise ConfigError(
                f"corpus.environment={self.environment.name}: solutions of the task have {has}; "
                f"{_shown_by(environment, task)}"
            )

    def build(
        self, task: Task | None, tokenizer: Tokenizer, *, split: Split, whole: bool, key: tuple[object, ...]
    ) -> "Dialogues":
        return Dialogues(self, _given(task), tokenizer, split=split, whole=whole, key=key)

    def words(self, task: Task | None) -> list[str]:
        return [*_given(task).words(), *self.environment.config().build().words()]

    def all_texts(self, task: Task | None) -> Iterator[str]:
        task = _given(task)
        for split in Split:
            size = task.size(split)
            for index in range(READ if size is None else min(READ, size)):
                yield from self._said(task, split, index)

    def texts(self, task: Task | None) -> Iterator[str]:
        task = _given(task)
        size = task.size(Split.train)
        for index in count() if size is None else range(size):
            yield from self._said(task, Split.train, index)

    def _said(self, task: Task, split: Split, index: int) -> Iterator[str]:
        """All texts of a dialogue."""
        episode = demonstrated(self.environment.config().build(), task, split, index)
        yield episode.prompt
        for turn in episode.turns:
            yield turn.text
            yield turn.reply


def _spoken_in(value: Any) -> SpokenIn:
    """An environment as the command line, a file or a config that was read has it."""
    if isinstance(value, SpokenIn):
        return value
    if isinstance(value, str) and ":" in value:
        raise ConfigError(
            f"corpus.environment={value}: a shell took the braces apart; quote them, as in "
            "'corpus.environment={name:multi_attempt,attempts:3}'"
        )
    if isinstance(value, str):
        return SpokenIn(name=value)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ConfigError(f"corpus.environment={value!r}: expected a name, or {{name: multi_attempt, attempts: 3}}")
    settings = value.get("settings") or {}
    if not isinstance(settings, dict):
        raise ConfigError(
            f"corpus.environment.settings={settings!r}: expected fields, as in {{name: multi_attempt, attempts: 3}}"
        )
    own = {key: each for key, each in value.items() if key not in ("name", "settings")}
    return SpokenIn(name=value["name"], settings={**settings, **own})


def _given(task: Task | None) -> Task:
    if task is None:
        raise ConfigError("corpus=dialogues needs a task; add task=countdown (or another)")
    return task


def _unshown(environment: Environment, task: Task) -> str:
    """What most of a task's first solutions have that the environment cannot show; empty where they do not."""
    size = task.size(Split.train)
    count = LOOKED_AT if size is None else min(LOOKED_AT, size)
    found = [environment.unshown(task.example(Split.train, index).solution) for index in range(count)]
    has = [each for each in found if each]
    return has[0] if 2 * len(has) > count else ""


def _shown_by(environment: Environment, task: Task) -> str:
    """What to do about solutions that cannot be shown: another trace, of a task that has one which can."""
    config: Any = getattr(task, "config", None)
    works: list[str] = []
    trace = getattr(config, "trace", None)
    for other in type(trace) if isinstance(trace, Enum) else ():
        with suppress(ConfigError):  # a trace that does not go with the other fields
            if not _unshown(environment, replace(config, trace=other).build()):
                works.append(other.name)
    if not works:
        return "no task.trace that it has is without, so take another task, or another environment"
    return f"take task.trace={'|'.join(works)}"


def demonstrated(environment: Environment, task: Task, split: Split, index: int, *, training: bool = True) -> Episode:
    """The episode that an environment shows of a problem, opened as in training or for a model that is measured: the
    same arguments, the same episode.

    Raises:
        ConfigError: the environment goes on for more turns than it says.
    """

    def assess(example: Example, turn: Turn) -> Verdict:
        return assessed(task, example, turn.text)

    key = stable_hash("dialogue", split.value, index)
    random = Random(key)
    episode = environment.open(task.example(split, index), assess, key=key % 2**63, training=training)
    for _ in range(environment.turns):
        if episode.take(environment.demonstrate(episode, task, random)) is None:
            return episode
    raise ConfigError(f"{type(environment).__name__} says {environment.turns} turns and goes on after them")


def dialogue_of(episode: Episode, environment: Environment, tokenizer: Tokenizer, *, whole: bool) -> Document:
    """An episode's document; with `whole` all tokens after the begin mark count, else those of the model's turns."""
    ids = [tokenizer.begin_id, *tokenizer.encode(episode.prompt)]
    given, told = len(ids), []
    for turn in episode.turns:
        start = len(ids)
        ids += tokenizer.encode(turn.text)
        if not turn.text or turn.text[-1] not in environment.stops:
            ids.append(tokenizer.end_id)
        if not turn.lesson:
            told.append((start, len(ids)))
        if turn.reply:
            start = len(ids)
            ids += tokenizer.reply_ids(turn.reply)
            told.append((start, len(ids)))
    return Document(ids, 1 if whole else given, told=() if whole else tuple(told))


class Dialogues(Corpus):
    """Dialogues of a task's split, in the order that `key` names; held-out splits in their own, round and round."""

    def __init__(
        self,
        config: DialoguesConfig,
        task: Task,
        tokenizer: Tokenizer,
        *,
        split: Split,
        whole: bool,
        key: tuple[object, ...],
    ) -> None:
        self.task, self.tokenizer, self.split, self.whole, self.share = task, tokenizer, split, whole, config.share
        self.environment = config.environment.config().build()
        self.size = task.size(split)
        self.order = Order(self.size, *key) if split is Split.train else None

    def example(self, position: int) -> Example | None:
        index = self._index(position)
        return None if self._spoken(index) else self.task.example(self.split, index)

    def episode(self, position: int) -> Episode | None:
        """The dialogue that the document at `position` is made of; None where it is the problem's own."""
        index = self._index(position)
        return demonstrated(self.environment, self.task, self.split, index) if self._spoken(index) else None

    def document(self, position: int) -> Document:
        episode = self.episode(position)
        if episode is None:
            example = self.task.example(self.split, self._index(position))
            return document_of(example, self.tokenizer, whole=self.whole)
        return dialogue_of(episode, self.environment, self.tokenizer, whole=self.whole)

    def _index(self, position: int) -> int:
        return position % (self.size or position + 1) if self.order is None else self.order[position]

    def _spoken(self, index: int) -> bool:
        """True where the problem's document is a dialogue."""
        return stable_hash("spoken", self.split.value, index) < self.share * 2**64
