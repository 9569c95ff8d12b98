"""`corpus=text`: what is written in files, or in a data set of the hub.

    rlx stage=pretrain corpus=text corpus.path=books tokenizer=bpe
    rlx stage=pretrain corpus=text corpus.path=src 'corpus.pattern=**/*.py' corpus.exclude=[site-packages] tokenizer=bpe

`rlx.rows` says what can be read: .txt files (one text each), rows of .jsonl, .json, .csv and .parquet, folders of these
or of the files that `pattern` finds, and what `datasets` saved or the hub has. `rlx.data.passages` says what is held
out. Choices:

1. A passage is tokenized once and for all: its tokens lie in the cache (`rlx.data.stored`), named after the files'
   content, what is asked of them, and the tokenizer. A data set of the hub is known by its name alone; one that changes
   is told apart by `@<revision>`.
2. A passage of more than `max_tokens` tokens is several documents, which do not overlap. Each begins with the begin
   mark; the end mark stands where the text ends. Nothing of it is a prompt: sft trains on all of it, as pretrain does.
3. `train` is walked in epochs, each in an order of its own; held-out documents in the source's order, round and round.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle, islice
from json import dumps
from pathlib import Path

from rlx.data.corpora.base import CorpusConfig
from rlx.data.documents import Document
from rlx.data.order import Order
from rlx.data.passages import Passage, Source
from rlx.data.stored import Store, cache_folder, stored
from rlx.data.tokenizers.base import Tokenizer
from rlx.errors import ConfigError
from rlx.options import content, option, recorded
from rlx.progress import Progress, counted
from rlx.rows import Files
from rlx.tasks.base import Task
from rlx.types import Example, Split

CHUNK = 1 << 20
"""Characters that are tokenized at once."""
FORMAT = 1
"""Raised when the same passages give other documents."""
SHOWN = 3
"""Files that are named of those that are left out."""
_told: set[str] = set()


@option("corpus", "text")
@dataclass(kw_only=True, slots=True)
class TextCorpusConfig(CorpusConfig):
    """Texts of files or of a data set."""

    path: str | None = content("pattern", "exclude")
    """A file, a folder, or hf:<owner>/<name>[:<config>][@<revision>]."""
    pattern: str | None = recorded(None)
    """Files of the folder that are read: *.md are those right in it, **/*.md those below it too; null: .txt, rows."""
    exclude: list[str] = recorded([])  # noqa: RUF009
    """Names, or patterns of names, of files and folders that are passed by."""
    column: str = "text"
    """Field of a row that is the text; a text file has `text`."""
    lines: bool = False
    """Each line is a text of its own."""
    held_out: int = 64
    """One text in so many is drawn for val, and one for test, where the source has none of its own."""
    max_tokens: int = 640
    """Tokens after which a text is divided, the marks included; what fills a row (stage.row_tokens) wastes least."""
    train_texts: int | None = None
    """Texts of train that are used, the first of the source; null: all. Held-out ones are the same."""

    def __post_init__(self) -> None:
        if self.max_tokens < 3:
            raise ConfigError(f"corpus.max_tokens must be at least 3, got {self.max_tokens}; try corpus.max_tokens=640")
        if self.held_out < 3:
            raise ConfigError(
                f"corpus.held_out must be at least 3, got {self.held_out}: one text in so many is held out"
            )
        if self.train_texts is not None and self.train_texts < 1:
            raise ConfigError(f"corpus.train_texts must be at least 1, got {self.train_texts}; null takes all")

    def check(self, task: Task | None) -> None:
        if next(self.passages(Split.val), None) is None:
            raise ConfigError(f"{self.path} has no texts in val: all are blank, or there is none")

    def build(
        self, task: Task | None, tokenizer: Tokenizer, *, split: Split, whole: bool, key: tuple[object, ...]
    ) -> "TextCorpus":
        source = self._source()
        parts = [FORMAT, source.identity, self.max_tokens, split.value, tokenizer.tokens, tokenizer.to_json()]
        parts.append(self.train_texts if split is Split.train else None)
        folder = cache_folder("tokens") / sha256(dumps(parts).encode()).hexdigest()[:32]
        if not folder.is_dir():
            print(f"  corpus: reading {split.value} of {self.path}, to tokenize it once", flush=True)
        store = stored(folder, self._made(tokenizer, split, _note(folder)), vocab_size=tokenizer.vocab_size)
        _tell(_note(folder))
        return TextCorpus(store, split=split, key=key)

    def sample(self, task: Task | None, tokenizer: Tokenizer, *, split: Split, count: int) -> list[Document]:
        passages = islice(self.passages(split), count)
        found = list(islice(documents_of(passages, tokenizer, self.max_tokens), count))
        return list(islice(cycle(found), count))

    def texts(self, task: Task | None) -> Iterator[str]:
        return (passage.text for passage in self.passages(Split.train))

    def all_texts(self, task: Task | None) -> Iterator[str]:
        return (passage.text for split in Split for passage in self.passages(split))

    def passages(self, split: Split, left_out: list[Path] | None = None) -> Iterator[Passage]:
        """What documents are made of, in the order of the source; files that are not UTF-8 are added to `left_out`."""
        found = self._source().passages(split, None if left_out is None else left_out.append)
        return islice(found, self.train_texts) if split is Split.train else found

    def _source(self) -> Source:
        if self.path is None:
            raise ConfigError("corpus=text needs corpus.path=, a file, a folder or hf:<owner>/<name>")
        return Source(self.path, Files(self.pattern, tuple(self.exclude)), self.column, self.lines, self.held_out)

    def _made(self, tokenizer: Tokenizer, split: Split, note: Path) -> Iterator[Document]:
        """Documents of a split, with a line of progress; read only where they are not in the cache. Names of files that
        are left out are written to `note`."""
        left_out: list[Path] = []
        total = sum(len(passage.text) for passage in self.passages(split, left_out))
        if not total and split is not Split.test:  # which nothing is measured on
            raise ConfigError(f"{self.path} has no texts in {split.value}: all are blank, or there is none")
        if left_out:
            folder = os.path.expanduser(self._source().path)
            note.write_text("".join(f"{os.path.relpath(path, folder)}\n" for path in left_out))
        progress = Progress(f"  tokenizing {split.value}", total)
        shown = _counted(self.passages(split), progress)
        try:
            yield from documents_of(shown, tokenizer, self.max_tokens)
        finally:
            progress.close()


def _note(folder: Path) -> Path:
    """Where it is written, beside a store, which files are left out of it."""
    return folder.with_suffix(".left_out")


def _tell(note: Path) -> None:
    """Say which files are left out, once in a process."""
    if not note.is_file():
        return
    paths = note.read_text().splitlines()
    more = ", ..." if len(paths) > SHOWN else ""
    line = f"  corpus: {counted(len(paths), 'file')} left out, not UTF-8: {', '.join(paths[:SHOWN])}{more}"
    if line not in _told:
        print(line, flush=True)
    _told.add(line)


def _counted(passages: Iterable[Passage], progress: Progress) -> Iterator[Passage]:
    done = 0
    for passage in passages:
        yield passage
        done += len(passage.text)
        progress.update(done, "characters")


def documents_of(passages: Iterable[Passage], tokenizer: Tokenizer, size: int) -> Iterator[Document]:
    """Documents of at most `size` tokens, passage after passage."""
    for chunk in _chunks(passages):
        for passage, ids in zip(chunk, tokenizer.encode_all([each.text for each in chunk]), strict=True):
            if passage.ends:
                ids.append(tokenizer.end_id)
            for start in range(0, len(ids), size - 1):
                yield Document([tokenizer.begin_id, *ids[start : start + size - 1]], 1)


def _chunks(passages: Iterable[Passage]) -> Iterator[Sequence[Passage]]:
    """The passages in lists of about `CHUNK` characters."""
    chunk: list[Passage] = []
    held = 0
    for passage in passages:
        chunk.append(passage)
        held += len(passage.text)
        if held >= CHUNK:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


class TextCorpus:
    """Documents of a store: train in the order that `key` names, held-out splits in their own, round and round."""

    def __init__(self, store: Store, *, split: Split, key: tuple[object, ...]) -> None:
        self.store, self.size = store, len(store)
        self.order = Order(self.size, *key) if split is Split.train else None

    def document(self, position: int) -> Document:
        return self.store[position % self.size if self.order is None else self.order[position]]

    def example(self, position: int) -> Example | None:
        return None
