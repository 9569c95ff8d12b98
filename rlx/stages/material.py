"""What a run's vocabulary can be made of: its task and its corpus."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from rlx.data.tokenizers.base import Material
from rlx.errors import ConfigError
from rlx.runs.identity import described, digest

if TYPE_CHECKING:
    from rlx.config import Config


def material_of(config: "Config") -> Material:
    """The words of `task=` and, where the stage reads it, of `corpus=`; and the texts of that."""
    assert config.stage is not None
    corpus = config.corpus if "corpus" in config.stage.uses else None

    def words() -> Iterable[str]:
        task = config.task.build() if config.task is not None else None
        return chain(task.words() if task is not None else (), corpus.words(task) if corpus is not None else ())

    def texts() -> Iterator[str]:
        if corpus is None:
            raise ConfigError("a tokenizer that is learnt needs a corpus; make it in stage=pretrain or stage=sft")
        return corpus.texts(config.task.build() if config.task is not None else None)

    def identity() -> str:
        return digest([None if part is None else described(part) for part in (config.task, corpus)])

    return Material(words=words, texts=texts, identity=identity)
