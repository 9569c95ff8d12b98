"""Examples of a task that are slow to make: made ahead by several processes, kept on the disk as documents.

1. A block is `BLOCK` neighbouring examples of a split, which a walk reads together (`rlx.data.order`), in a store of
   its own (`rlx.data.stored`): `examples/<digest>/<split>-<number>` in the cache. Nothing there is ever changed, and
   all of it may be removed at any time.
2. The digest covers the task's option, version and fields (data files by their content), the tokenizer, and the source
   of all tasks, so that other code never meets documents that it would not make. Prompts are told apart in a stored
   document, so that pretrain and sft share it; it is whole, and cut when it is read.
3. A document from the cache is the document that the task would make. One that is not there is made as it is needed,
   and not kept: nothing is lost but time where less was made ahead than is read.
4. Blocks are made in processes of their own (`rlx.bounded`), which import no torch. Two runs that want the same blocks
   at the same time may both make them; one of each is kept.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import fields
from functools import cache
from pathlib import Path
from threading import Event, Lock
from typing import Any, BinaryIO

from rlx.bounded import READY, BoundedProcess, Ended, Overran, packed, private_pipes, unpacked
from rlx.data.documents import Document, document_of
from rlx.data.order import BLOCK
from rlx.data.stored import Store, cache_folder, stored
from rlx.data.tokenizers.base import Tokenizer
from rlx.errors import RlxError, RunError
from rlx.options import option_of, plain_value
from rlx.progress import Progress
from rlx.rows import fingerprint
from rlx.tasks.base import Task, TaskConfig
from rlx.types import Split

FORMAT = 1
"""Raised when stores of before are not to be read any more."""
PIECE = 32
"""Documents between two looks at whether to stop."""
SILENCE_S = 600.0
"""Seconds by the clock that a piece may take."""
LOOK_S = 0.1
"""Seconds between looks at what the processes have made."""
MADE = b"made\n"
"""The answer that ends a block; before it come the documents made so far."""


class Blocks:
    """Documents of one split of a task, with their prompts told apart.

    Args:
        config: the task's.
        size: examples of the split; None where there is no end of them.
        folder: where the blocks are; None: in the cache.
    """

    def __init__(
        self, config: TaskConfig, size: int | None, tokenizer: Tokenizer, split: Split, folder: Path | None = None
    ) -> None:
        self.config, self.size, self.tokenizer, self.split = config, size, tokenizer, split
        self.folder = folder or cache_folder("examples") / _digest(config, tokenizer)
        self._open: tuple[int, Store | None] | None = None

    def find(self, index: int) -> Document | None:
        """The document of the example at `index`; None where it is not in the cache.

        Raises:
            RunError: its block is damaged.
        """
        number, place = divmod(index, BLOCK)
        if self._open is None or self._open[0] != number:
            folder = self.place(number)
            self._open = number, Store(folder) if folder.is_dir() else None
        store = self._open[1]
        return None if store is None else store[place]

    def place(self, number: int) -> Path:
        """The folder of a block."""
        return self.folder / f"{self.split.value}-{number}"

    def length(self, number: int) -> int:
        """Examples in a block: fewer in the last of a bounded set."""
        return BLOCK if self.size is None else min(BLOCK, self.size - number * BLOCK)

    def make(self, numbers: Sequence[int], *, processes: int, stop: Callable[[], bool]) -> None:
        """Make those of the blocks that are missing; ends early when `stop` says so.

        Raises:
            RunError: the cache cannot be written, or a process failed.
            ConfigError: the task's class cannot be sent to one.
        """
        missing = [number for number in numbers if not self.place(number).is_dir()]
        if not missing:
            return
        work = _Work(iter(missing))
        bar = Progress("examples made ahead", sum(map(self.length, missing)))
        self._open = None
        count = min(processes, len(missing))
        with ThreadPoolExecutor(count) as threads:
            try:
                left = {threads.submit(self._make, work) for _ in range(count)}
                while left and not work.over.is_set() and not stop():
                    ended, left = wait(left, LOOK_S, FIRST_EXCEPTION)
                    for each in ended:
                        each.result()
                    if left:  # the last line is for the end
                        bar.update(min(work.made, bar.total - 1))
                bar.update(work.made)
            finally:
                work.over.set()
                bar.close()

    def _make(self, work: "_Work") -> None:
        maker = _Maker(self)
        try:
            while (number := work.next()) is not None:
                maker.make(number, work)
        finally:
            maker.end()


class _Work:
    """What the threads share that wait for the processes."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.over = Event()
        """Set when no more is to be made."""
        self.made = 0
        """Documents."""
        self._numbers, self._lock = numbers, Lock()

    def next(self) -> int | None:
        """A block that is nobody's yet."""
        with self._lock:
            return None if self.over.is_set() else next(self._numbers, None)

    def add(self, count: int) -> None:
        with self._lock:
            self.made += count


class _Maker(BoundedProcess):
    """A process that makes blocks."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(__name__, "makes examples")
        self.blocks = blocks

    def greeting(self) -> bytes:
        """The task's config, then the rest."""
        blocks, own = self.blocks, self.blocks.tokenizer
        recipe = [str(blocks.folder), blocks.split.value, blocks.size, own.to_json(), own.tokens, own.vocab_size]
        return packed(blocks.config, "leave nothing to make ahead: corpus.cache=false") + _line(recipe)

    def make(self, number: int, work: _Work) -> None:
        """Make a block, or what of it there is time for.

        Raises:
            RunError: it cannot be made.
        """
        told, question = 0, _line(number)
        while not work.over.is_set():
            try:
                answer = self.ask(question, SILENCE_S)
            except Overran:
                raise RunError(f"a process that makes examples was silent for {SILENCE_S:g} s") from None
            except Ended as ended:
                raise RunError(f"a process that makes examples ended (exit code {ended.code})") from None
            if answer == MADE:
                work.add(self.blocks.length(number) - told)
                return
            if not answer.strip().isdigit():
                raise RunError(answer.decode(errors="replace").strip())
            work.add(int(answer) - told)
            told, question = int(answer), b"\n"


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _serve() -> None:
    """Make blocks until no more are asked for."""
    questions, answers = private_pipes()

    def say(line: bytes) -> None:
        answers.write(line)
        answers.flush()

    try:
        config = unpacked(questions)
        task = config.build()
        blocks = _received(config, json.loads(questions.readline()))
    except BaseException as error:
        say(_told(error))
        return
    say(READY)
    while question := questions.readline():
        number = int(question)
        documents = _reported(_documents(task, blocks, number), questions, say)
        try:
            stored(blocks.place(number), documents, vocab_size=blocks.tokenizer.vocab_size)
        except Exception as error:
            say(_told(error))
        else:
            say(MADE)


def _received(config: TaskConfig, recipe: list[Any]) -> Blocks:
    from tokenizers import Tokenizer as Inner

    folder, split, size, tokenizer, tokens, vocab_size = recipe
    own = Tokenizer(Inner.from_str(tokenizer), tokens, vocab_size)
    return Blocks(config, size, own, Split(split), Path(folder))


def _documents(task: Task, blocks: Blocks, number: int) -> Iterator[Document]:
    for index in range(number * BLOCK, number * BLOCK + blocks.length(number)):
        yield document_of(task.example(blocks.split, index), blocks.tokenizer, whole=False)


def _reported(documents: Iterator[Document], questions: BinaryIO, say: Callable[[bytes], None]) -> Iterator[Document]:
    """The documents; after each piece of them their number is told, and whether to go on is asked.

    Raises:
        SystemExit: nobody wants more.
    """
    for count, document in enumerate(documents, 1):
        yield document
        if count % PIECE == 0:
            say(_line(count))
            if not questions.readline():
                raise SystemExit


def _told(error: BaseException) -> bytes:
    """An error as one line."""
    text = " ".join(str(error).split())[:1000]
    return f"{text if isinstance(error, RlxError) else f'{type(error).__name__}: {text}'}\n".encode()


def _digest(config: TaskConfig, tokenizer: Tokenizer) -> str:
    """What documents are made of, as the name of a folder."""
    found = option_of(config)
    own = sys.modules[type(config).__module__]
    parts = {
        "format": FORMAT,
        "task": [found.name, found.version],
        "fields": {f.name: _field(config, f) for f in fields(config) if f.metadata.get("identity", True)},
        "code": [_code(), fingerprint(own.__file__) if own.__file__ else ""],
        "tokenizer": [tokenizer.to_json(), tokenizer.tokens, tokenizer.vocab_size],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _field(config: TaskConfig, f: Any) -> Any:
    value = plain_value(getattr(config, f.name))
    return fingerprint(value) if value is not None and f.metadata.get("identity") == "content" else value


@cache
def _code() -> str:
    """A digest of the files that examples, their texts and their tokens come from."""
    home = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    folders = (home / "tasks", home / "data/tokenizers")
    for path in [home / "data/documents.py", *(path for folder in folders for path in sorted(folder.glob("*.py")))]:
        digest.update(f"{path.name}\0{fingerprint(str(path))}\n".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    _serve()
