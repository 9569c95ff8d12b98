"""What a corpus is: position in the stream to document, pure."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol, get_type_hints

from rlx.data.documents import Document
from rlx.data.tokenizers.base import Tokenizer
from rlx.errors import ConfigError, nearest
from rlx.options import field_value
from rlx.tasks.base import Task, TaskConfig
from rlx.types import Example, Split


class Corpus(Protocol):
    """An endless stream of documents.

    One that keeps documents on the disk has `prepare`, as `corpus=task` does (`TaskCorpus.prepare`). One of dialogues
    has `episode(position) -> Episode | None`, as `corpus=dialogues` does: the episode that the document at
    `position` is made of, where it is one.
    """

    size: int | None
    """Documents of one walk through all of them; None where there is no end of them."""

    def document(self, position: int) -> Document:
        """The document at `position` (>= 0): same position, same document."""
        ...

    def example(self, position: int) -> Example | None:
        """The problem that the document at `position` is made of; None where it is text."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """Held-out documents of one source."""

    name: str
    """What metrics of it are called; empty where there is but one source."""
    share: float
    """Of the held-out loss."""
    corpus: Corpus


@dataclass(kw_only=True, slots=True)
class CorpusConfig:
    """Fields that every corpus has (none yet)."""

    def build(
        self, task: Task | None, tokenizer: Tokenizer, *, split: Split, whole: bool, key: tuple[object, ...]
    ) -> Corpus:
        """The stream of `split`; `whole` counts the prompt in the loss, `key` names the order (`rlx.data.order`)."""
        raise NotImplementedError

    def needs_task(self) -> bool:
        """True where nothing can be trained on without `task=`."""
        return False

    def check(self, task: Task | None) -> None:
        """Raise ConfigError where no documents can be made; called before anything is written."""

    def sample(self, task: Task | None, tokenizer: Tokenizer, *, split: Split, count: int) -> list[Document]:
        """So many documents whose lengths are about those of all, for estimates."""
        corpus = self.build(task, tokenizer, split=split, whole=True, key=("estimate",))
        return [corpus.document(place) for place in range(count)]

    def names(self) -> list[str]:
        """What documents come from, in the order that `Document.source` counts; empty where all come from one."""
        return []

    def source(
        self, name: str, task: Task | None, tokenizer: Tokenizer, *, split: Split, whole: bool, key: tuple[object, ...]
    ) -> Corpus:
        """The stream of one of the sources that `names` has, alone."""
        raise NotImplementedError

    def tasks(self) -> dict[str, TaskConfig]:
        """Tasks besides the run's own that documents come from, by the names of `names`."""
        return {}

    def validation(
        self, task: Task | None, tokenizer: Tokenizer, *, whole: bool, key: tuple[object, ...]
    ) -> list[Part]:
        """What the held-out loss is measured on: documents of `val`, each source apart."""
        return [Part("", 1.0, self.build(task, tokenizer, split=Split.val, whole=whole, key=key))]

    def words(self, task: Task | None) -> list[str]:
        """Words that the documents are made of, for a vocabulary of words; of text none."""
        return task.words() if task is not None else []

    def all_texts(self, task: Task | None) -> Iterator[str]:
        """Texts of all splits, of a stream without end some, for what a vocabulary lacks."""
        raise NotImplementedError

    def texts(self, task: Task | None) -> Iterator[str]:
        """Texts of `train`, perhaps without end and always in the same order, for a vocabulary that is learnt."""
        raise NotImplementedError


def made(kind: type, settings: dict[str, Any], what: str) -> Any:
    """A config of these fields.

    Raises:
        ConfigError: it has no such field, or a value is none for it.
    """
    kinds = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for name in settings:
        if name not in known:
            raise ConfigError(f"{what} has no {name}{nearest(str(name), known)}")
    try:
        return kind(**{name: field_value(name, value, kinds[name]) for name, value in settings.items()})
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from None
