"""`corpus=task`: the task's own traces, one problem a document."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from rlx.data.blocks import Blocks
from rlx.data.corpora.base import CorpusConfig
from rlx.data.documents import Document, document_of
from rlx.data.order import BLOCK, Order
from rlx.data.stored import token_bytes
from rlx.data.tokenizers.base import Tokenizer
from rlx.errors import ConfigError
from rlx.options import option, recorded
from rlx.tasks.base import Task, TaskConfig, is_costly
from rlx.types import Example, Split

FEW, MANY = 256, 20000
"""Problems of a split that are read, at most, for what a vocabulary lacks: of tasks without end, whose `words()` say
all, and of others, which may be read from files."""
FEWEST = 4096
"""Fewer documents are not made ahead: it takes half a second until the processes are there."""
GLANCE, SAMPLE = 32, 512
"""Documents that say how long others are: whether there are as many as that, and how many there are."""


@option("corpus", "task")
@dataclass(kw_only=True, slots=True)
class TaskCorpusConfig(CorpusConfig):
    """Prompts and solutions of `task=`."""

    max_tokens: int | None = None
    """Tokens after which a document is cut, its end mark with the rest; null cuts none."""

    cache: bool | None = recorded(None)
    """Examples are made ahead of the training and kept on the disk; null: where the task says that they are slow to
    make."""
    cache_gib: float = recorded(4.0)
    """GiB of examples that one run makes ahead, at most; the rest is made as it is needed."""

    def __post_init__(self) -> None:
        if not self.cache_gib >= 0:
            raise ConfigError(f"corpus.cache_gib={self.cache_gib:g} must be at least 0; try corpus.cache_gib=4")
        if self.max_tokens is not None and self.max_tokens < 2:
            raise ConfigError(
                f"corpus.max_tokens must be at least 2, got {self.max_tokens}; try corpus.max_tokens=4096"
            )

    def needs_task(self) -> bool:
        return True

    def build(
        self, task: Task | None, tokenizer: Tokenizer, *, split: Split, whole: bool, key: tuple[object, ...]
    ) -> "TaskCorpus":
        task = _given(task)
        blocks = self._blocks(task, tokenizer, split)
        most = int(self.cache_gib * 2**30)
        return TaskCorpus(
            task, tokenizer, split=split, whole=whole, key=key, max_tokens=self.max_tokens, blocks=blocks, most=most
        )

    def _blocks(self, task: Task, tokenizer: Tokenizer, split: Split) -> Blocks | None:
        """Where the documents are kept, if they are."""
        if split is not Split.train or not (is_costly(task) if self.cache is None else self.cache):
            return None
        config = getattr(task, "config", None)
        if not isinstance(config, TaskConfig):
            raise ConfigError(
                f"examples are kept of tasks that have their config as `config`, {type(task).__name__} has not; try "
                "corpus.cache=false"
            )
        return Blocks(config, task.size(split), tokenizer, split)

    def all_texts(self, task: Task | None) -> Iterator[str]:
        task = _given(task)
        most = FEW if task.size(Split.train) is None else MANY
        for split in Split:
            size = task.size(split)
            for index in range(most if size is None else min(most, size)):
                example = task.example(split, index)
                yield example.prompt + example.solution

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
    """Documents of a task's split, in the order that `key` names; held-out splits in their own, round and round.

    Args:
        max_tokens: where documents are cut; None: nowhere.
        blocks: where documents are kept that were made ahead; None: all are made as they are needed.
        most: bytes that are made ahead at most.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        *,
        split: Split,
        whole: bool,
        key: tuple[object, ...],
        max_tokens: int | None = None,
        blocks: Blocks | None = None,
        most: int = 0,
    ) -> None:
        self.task, self.tokenizer, self.split, self.whole = task, tokenizer, split, whole
        self.max_tokens, self.blocks, self.most = max_tokens, blocks, most
        self.size = task.size(split)
        self.order = Order(self.size, *key) if split is Split.train else None

    def example(self, position: int) -> Example:
        return self.task.example(self.split, self._index(position))

    def document(self, position: int) -> Document:
        document = self._whole(position)
        return document if self.max_tokens is None else document.cut(self.max_tokens)

    def prepare(self, after: int, tokens: int, *, processes: int, stop: Callable[[], bool]) -> None:
        """Make ahead what a walk reads, where documents are kept and it is more than a few; ends early when `stop` says
        so.

        Args:
            after: tokens from the start to where the walk begins, about.
            tokens: of the walk, about.
            processes: that make examples at the same time.

        Raises:
            RunError: the cache cannot be written, or a process that makes examples failed.
            ConfigError: the task's class cannot be sent to one.
        """
        if self.blocks is None or tokens * GLANCE < FEWEST * self._tokens(GLANCE):
            return
        read = self._tokens(SAMPLE)
        position, count = (SAMPLE * part // read for part in (after, tokens))
        kept = sum(len(self._whole(place).ids) for place in range(SAMPLE)) * token_bytes(self.tokenizer.vocab_size)
        numbers = self._read_whole(position, count, self.most * SAMPLE // (kept * BLOCK))
        self.blocks.make(numbers, processes=processes, stop=stop)

    def _tokens(self, count: int) -> int:
        """Tokens of the first documents."""
        return sum(len(self.document(position).ids) for position in range(count))

    def _index(self, position: int) -> int:
        return position % (self.size or position + 1) if self.order is None else self.order[position]

    def _whole(self, position: int) -> Document:
        """The document at a position, not cut."""
        kept = None if self.blocks is None else self.blocks.find(self._index(position))
        if kept is None:
            return document_of(self.example(position), self.tokenizer, whole=self.whole)
        return Document(kept.ids, 1, kept.places) if self.whole else kept

    def _read_whole(self, position: int, count: int, most: int) -> list[int]:
        """Up to `most` blocks of which `count` documents from `position` on are all, in the order of the walk."""
        assert self.blocks is not None and self.order is not None
        end, found = position + min(count, self.size or count), dict[int, None]()
        while position < end and len(found) < most:
            number = self.order[position] // BLOCK
            position += self.blocks.length(number)
            if position <= end:
                found[number] = None
        return list(found)
