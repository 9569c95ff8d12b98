"""The loader: from a task to packed batches, tokens per second of one core.

python scripts/bench/loader.py [tokenizer option, default char]
"""

import sys
import time
from statistics import median
from typing import Any

import _results

from rlx.data.corpora.task import TaskCorpusConfig
from rlx.data.packing import Packer
from rlx.options import discover
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_search import draw_block
from rlx.tasks.countdown_traces import Trace
from rlx.types import Split

REPEATS = 9
BATCHES = 24
BATCH_TOKENS = 8192
SETTINGS = (
    (Trace.direct, 640),
    (Trace.operations, 128),
    (Trace.dfs, 8192),
)
"""Trace and tokens a row; documents longer than a row are cut."""


def packer_of(trace: Trace, length: int, repeat: int, tokenizer: Any) -> Packer:
    """Batches of training documents that no other repeat has."""
    corpus = TaskCorpusConfig(max_tokens=length).build(
        CountdownConfig(trace=trace).build(), tokenizer, split=Split.train, whole=True, key=("bench", repeat)
    )
    return Packer(corpus.document, rows=BATCH_TOKENS // length, length=length, pad_id=tokenizer.pad_id)


def measured(packer: Packer) -> tuple[float, int]:
    """CPU seconds for `BATCHES` batches, their problems drawn anew, and the tokens in them that are not padding."""
    draw_block.cache_clear()
    began = time.process_time()
    batches = [packer.next() for _ in range(BATCHES)]
    seconds = time.process_time() - began
    return seconds, sum(int((batch.documents >= 0).sum()) for batch in batches)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "char"
    tokenizer = discover("tokenizer")[name].config().build()
    packers = {setting: [packer_of(*setting, repeat, tokenizer) for repeat in range(REPEATS)] for setting in SETTINGS}
    found: dict[Any, list[tuple[float, int]]] = {setting: [] for setting in SETTINGS}
    for repeat in range(REPEATS):
        for setting in SETTINGS:
            found[setting].append(measured(packers[setting][repeat]))
    rows: list[dict[str, Any]] = []
    for (trace, length), results in found.items():
        cells = BATCHES * (BATCH_TOKENS // length) * length
        rows.append(
            {
                "trace": trace.name,
                "row_tokens": length,
                "ms/batch": 1000 * median(seconds for seconds, _ in results) / BATCHES,
                "real tokens/s": median(real / seconds for seconds, real in results),
                "padded tokens/s": median(cells / seconds for seconds, _ in results),
                "filled": sum(real for _, real in results) / (REPEATS * cells),
            }
        )
    print(_results.table(rows))
    _results.append("loader", rows, tokenizer=name, batch_tokens=BATCH_TOKENS, batches=BATCHES, repeats=REPEATS)


if __name__ == "__main__":
    main()
