"""What a run's vocabulary can be made of, its task and its corpus, and whose text it is."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from rlx.data.corpora.task import TaskCorpusConfig
from rlx.data.tokenizers.base import Material
from rlx.options import option_of
from rlx.runs.identity import described, digest

if TYPE_CHECKING:
    from rlx.config import Config
    from rlx.data.corpora.base import CorpusConfig


def material_of(config: "Config") -> Material:
    """The words of `task=` and, where the stage reads it, of `corpus=`; and the texts of that, else the task's."""
    corpus = _corpus_of(config)

    def words() -> Iterable[str]:
        task = config.task.build() if config.task is not None else None
        own = task.words() if task is not None else ()
        return chain(own, corpus.words(task) if corpus is not None else (), environment_words(config))

    def texts() -> Iterator[str]:
        task = config.task.build() if config.task is not None else None
        if corpus is None and task is None:
            return iter(())
        return (corpus or TaskCorpusConfig()).texts(task)

    def all_texts() -> Iterator[str]:
        task = config.task.build() if config.task is not None else None
        own = [] if task is None or isinstance(corpus, TaskCorpusConfig) else [TaskCorpusConfig().all_texts(task)]
        return chain(*own, corpus.all_texts(task) if corpus is not None else ())

    def identity() -> str:
        return digest([None if part is None else described(part) for part in (config.task, corpus)])

    return Material(words=words, texts=texts, all_texts=all_texts, identity=identity)


def environment_words(config: "Config") -> list[str]:
    """What `environment=` says, where the stage reads it."""
    return config.environment.build().words() if reads_environment(config) and config.environment is not None else []


def reads_environment(config: "Config") -> bool:
    """True where the run plays episodes, in its steps or in evaluations on the way."""
    assert config.stage is not None
    return "environment" in config.stage.uses or bool("environment" in config.stage.measures and config.eval.every)


def source_of(config: "Config") -> str:
    """Whose text a run reads, as it is typed: the corpus', where that is not the task's own."""
    corpus = _corpus_of(config)
    if config.task is not None and (corpus is None or isinstance(corpus, TaskCorpusConfig)):
        return f"task={option_of(config.task).name}"
    return f"corpus={option_of(corpus).name}" if corpus is not None else "nothing named"


def _corpus_of(config: "Config") -> "CorpusConfig | None":
    assert config.stage is not None
    return config.corpus if "corpus" in config.stage.uses else None
