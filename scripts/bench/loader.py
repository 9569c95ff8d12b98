"""The loader: from a task to packed batches, tokens per second of one core, of every task in each of its formats.

python scripts/bench/loader.py [tokenizer option, default char] [beginning of a label, default all]

A repeat reads examples that no other has. Rows are as long as the task's documents need, a step about `BATCH_TOKENS`.
Tokens are counted without padding. What is made block by block is read block by block: a repeat ends after `TOKENS`
tokens and `DOCUMENTS` documents at the earliest, and after `SECONDS` at the latest. A second table has tasks whose
examples are kept on the disk.
"""

import sys
import time
from dataclasses import fields
from enum import Enum
from itertools import product
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import _results

from rlx.data.corpora.task import TaskCorpusConfig
from rlx.data.order import BLOCK
from rlx.data.packing import ROOM, Packer
from rlx.data.stored import CACHE
from rlx.data.tokenizers.base import Tokenizer
from rlx.options import discover
from rlx.tasks.base import Task
from rlx.types import Split

REPEATS = 3
BATCH_TOKENS = 8192
TOKENS = 250_000
DOCUMENTS = 2048
SECONDS = 2.0
SIZED = 64
"""Documents that say how long rows are."""
KEPT = (
    "sudoku trace=solver",
    "sudoku trace=search",
    "countdown trace=dfs solution=first heuristic=sum",
    "countdown trace=bfs solution=first heuristic=sum",
)
"""Tasks that are slow to make, whose documents are kept on the disk."""


def variants() -> dict[str, Any]:
    """The config of every task at each choice of its Enum fields, the rest at their defaults."""
    found = {}
    for name, option in discover("task").items():
        kinds = {f.name: type(f.default) for f in fields(option.config) if isinstance(f.default, Enum)}
        for choice in product(*kinds.values()):
            label = " ".join([name, *(f"{key}={member.name}" for key, member in zip(kinds, choice, strict=True))])
            found[label] = option.config(**dict(zip(kinds, choice, strict=True)))
    return found


def packer_of(task: Task, tokenizer: Tokenizer, *key: object) -> Packer:
    """Batches of training documents that no other key has, so that nothing is made already; the rare document that is
    longer than a row is cut."""
    corpus = TaskCorpusConfig().build(task, tokenizer, split=Split.train, whole=True, key=("bench", *key))
    length = ROOM * -(-max(len(corpus.document(n).ids) for n in range(SIZED)) // ROOM)
    rows = max(1, BATCH_TOKENS // length)
    return Packer(lambda n: corpus.document(n).cut(length), rows=rows, length=length, pad_id=tokenizer.pad_id)


def measured(packer: Packer) -> tuple[float, int, int]:
    """CPU seconds, tokens that are not padding, and batches."""
    began = time.process_time()
    tokens = batches = 0
    while (tokens < TOKENS or packer.position < DOCUMENTS) and time.process_time() - began < SECONDS:
        tokens += int((packer.next().documents >= 0).sum())
        batches += 1
    return time.process_time() - began, tokens, batches


def kept_rates(label: str, config: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    """A block of examples: tokens per CPU second as they are made and as they are read, and seconds by the clock in
    which one process starts and makes the block."""
    config.train_examples = BLOCK
    found: dict[str, Any] = {"task": label}
    with TemporaryDirectory() as folder, patch.dict("os.environ", {CACHE: folder}):
        for name, cache in (("made tokens/s", False), ("kept tokens/s", True)):
            corpus = TaskCorpusConfig(cache=cache).build(
                config.build(), tokenizer, split=Split.train, whole=True, key=("kept", label)
            )
            began = time.perf_counter()
            corpus.prepare(0, 10**12, processes=1, stop=lambda: False)
            found["s/block"] = time.perf_counter() - began
            began = time.process_time()
            tokens = sum(len(corpus.document(position).ids) for position in range(BLOCK))
            found[name] = tokens / (time.process_time() - began)
    return {**found, "tokens/block": tokens}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "char"
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    tokenizer = discover("tokenizer")[name].config().build()
    rows: list[dict[str, Any]] = []
    for label, config in variants().items():
        if not label.startswith(wanted):
            continue
        task = config.build()
        packer_of(task, tokenizer, label, "first").next()
        packers = [packer_of(task, tokenizer, label, repeat) for repeat in range(REPEATS)]
        found = [measured(packer) for packer in packers]
        cells = sum(batches * each.rows * each.length for (_, _, batches), each in zip(found, packers, strict=True))
        rows.append(
            {
                "task": label,
                "real tokens/s": median(tokens / seconds for seconds, tokens, _ in found),
                "row_tokens": packers[0].length,
                "tokens/document": sum(tokens for _, tokens, _ in found) / sum(each.position for each in packers),
                "filled": sum(tokens for _, tokens, _ in found) / cells,
            }
        )
        print(f"{label}: {rows[-1]['real tokens/s']:,.0f}", file=sys.stderr)
    rows.sort(key=lambda row: row["real tokens/s"])
    print(_results.table(rows))
    kept = [kept_rates(label, variants()[label], tokenizer) for label in KEPT if label.startswith(wanted)]
    print(_results.table(kept))
    settings = {"tokenizer": name, "batch_tokens": BATCH_TOKENS, "tokens": TOKENS, "repeats": REPEATS}
    _results.append("loader", rows, kept=kept, **settings)


if __name__ == "__main__":
    main()
