"""`corpus=task`: the task's own traces, one problem a document."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from rlx.data.corpora.base import CorpusConfig
from rlx.data.documents import Document, document_of
from rlx.data.order import Order
from rlx.data.tokenizers.base import Tokenizer
from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Task
from rlx.types import Example, Split


@option("corpus", "task")
@dataclass(kw_only=True, slots=True)
class TaskCorpusConfig(CorpusConfig):
    """Prompts and solutions of `task=`."""

    max_tokens: int | None = None
    """Tokens after which a document is cut, its end mark with the rest; null cuts none."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 2:
            raise ConfigError(
                f"corpus.max_tokens must be at least 2, got {self.max_tokens}; try corpus.max_tokens=4096"
            )

    def needs_task(self) -> bool:
        return True

    def build(
        self, task: Task | None, tokenizer: Tokenizer, *, split: Split, whole: bool, key: tuple[object, ...]
    ) -> "TaskCorpus":
        return TaskCorpus(_given(task), tokenizer, split=split, whole=whole, key=key, max_tokens=self.max_tokens)

    def texts(self, task: Task | None) -> Iterator[str]:
        task = _given(task)
        size = task.size(Split.train)
        for index in count() if size is None else range(size):
            example = task.example(Split.train, index)
            yield example.prompt + example.solution


def _given(task: Task | None) -> Task:
    if task is None:
        raise ConfigError("corpus=task needs a task; add task=countdown (or another)")
    return task


class TaskCorpus:
    """Documents of a task's split, in the order that `key` names; held-out splits in their own, round and round."""

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        *,
        split: Split,
        whole: bool,
        key: tuple[object, ...],
        max_tokens: int | None = None,
    ) -> None:
        self.task, self.tokenizer, self.split, self.whole = task, tokenizer, split, whole
        self.max_tokens = max_tokens
        self.size = task.size(split)
        self.order = Order(self.size, *key) if split is Split.train else None

    def example(self, position: int) -> Example:
        index = position % (self.size or position + 1) if self.order is None else self.order[position]
        return self.task.example(self.split, index)

    def document(self, position: int) -> Document:
        document = document_of(self.example(position), self.tokenizer, whole=self.whole)
        return document if self.max_tokens is None else document.cut(self.max_tokens)
