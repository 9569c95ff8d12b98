"""What a corpus is: position in the stream to document, pure."""

from dataclasses import dataclass
from typing import Protocol

from rlx.data.documents import Document
from rlx.data.tokenizers.base import Tokenizer
from rlx.tasks.base import Task
from rlx.types import Split


class Corpus(Protocol):
    """An endless stream of documents."""

    def document(self, position: int) -> Document:
        """The document at `position` (>= 0): same position, same document."""
        ...


@dataclass(kw_only=True, slots=True)
class CorpusConfig:
    """Fields that every corpus has (none yet)."""

    def build(
        self, task: Task | None, tokenizer: Tokenizer, *, split: Split, whole: bool, key: tuple[object, ...]
    ) -> Corpus:
        """The stream of `split`; `whole` counts the prompt in the loss, `key` names the order (`rlx.data.order`)."""
        raise NotImplementedError
