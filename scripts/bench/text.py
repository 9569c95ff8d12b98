"""Text: learning a vocabulary, tokenizing, packing from the cache; and what held-out text takes without a model.

python scripts/bench/text.py [folder, default the standard library] [pattern] [left out ...]

Of packing the CPU seconds of one process count, of the others the time by the clock on all cores. Bits a byte of the
held-out text: bytes drawn alone and after the byte before, counted on the training text with one added to every count;
zlib and xz on the held-out text by itself; and what xz adds for it after the training text.
"""

import lzma
import math
import os
import sys
import sysconfig
import tempfile
import time
import zlib
from collections.abc import Callable
from statistics import median
from typing import Any

import _results
import numpy as np

from rlx.data.corpora.text import TextCorpus, TextCorpusConfig
from rlx.data.packing import Packer
from rlx.data.stored import CACHE
from rlx.data.tokenizers.base import Material
from rlx.options import discover
from rlx.types import Split

REPEATS = 9
BATCHES = 64
ROWS, LENGTH = 12, 640
VOCABULARY = 4096
HELD_OUT = 16
CHARACTERS = 4_000_000
"""That the vocabulary is learnt from."""
ONE_BY_ONE = 300
"""Texts that are tokenized one by one too."""


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def packed(corpus: TextCorpus, pad_id: int) -> float:
    """Tokens that are not padding a CPU second."""
    packer = Packer(corpus.document, rows=ROWS, length=LENGTH, pad_id=pad_id)
    began = time.process_time()
    batches = [packer.next() for _ in range(BATCHES)]
    seconds = time.process_time() - began
    return sum(int((batch.documents >= 0).sum()) for batch in batches) / seconds


def rates(config: TextCorpusConfig) -> tuple[list[dict[str, Any]], float]:
    """Rows of the table; and tokens of the held-out text, each of which counts."""
    material = Material(texts=lambda: config.texts(None))
    options = discover("tokenizer")["bpe"].config(vocab_size=VOCABULARY, sample_characters=CHARACTERS)
    learning, tokenizer = timed(lambda: options.build(material))
    size = sum(map(len, config.texts(None)))

    def built(split: Split, *key: object) -> TextCorpus:
        return config.build(None, tokenizer, split=split, whole=True, key=key)

    making, corpus = timed(lambda: built(Split.train, "bench"))
    some = list(config.texts(None))[:ONE_BY_ONE]
    alone, _ = timed(lambda: [tokenizer.encode(text) for text in some])
    together, _ = timed(lambda: tokenizer.encode_all(some))
    found = median(packed(built(Split.train, "bench", repeat), tokenizer.pad_id) for repeat in range(REPEATS))
    held_out = built(Split.val).store
    rows = [
        {"work": "learn", "seconds": learning, "characters/s": min(CHARACTERS, size) / learning},
        {"work": "tokenize and keep", "seconds": making, "characters/s": size / making,
         "tokens/s": corpus.store.tokens / making},
        {"work": "tokenize one by one", "seconds": alone, "characters/s": sum(map(len, some)) / alone},
        {"work": "tokenize together", "seconds": together, "characters/s": sum(map(len, some)) / together},
        {"work": "pack from the cache", "tokens/s": found},
    ]  # fmt: skip
    return rows, held_out.tokens - len(held_out)


def without_model(train: bytes, held_out: bytes) -> dict[str, float]:
    """Bits a byte of the held-out text."""
    seen, asked = (np.frombuffer(text, dtype=np.uint8).astype(np.int64) for text in (train, held_out))
    single = np.bincount(seen, minlength=256) + 1.0
    pairs = np.bincount(seen[:-1] * 256 + seen[1:], minlength=65536).reshape(256, 256) + 1.0
    after = pairs / pairs.sum(1, keepdims=True)
    told = len(lzma.compress(train + held_out, preset=9)) - len(lzma.compress(train, preset=9))
    return {
        "bytes": -float(np.log2(single[asked] / single.sum()).mean()),
        "bytes after bytes": -float(np.log2(after[asked[:-1], asked[1:]]).mean()),
        "zlib": 8 * len(zlib.compress(held_out, 9)) / len(held_out),
        "xz": 8 * len(lzma.compress(held_out, preset=9)) / len(held_out),
        "xz after the training text": 8 * told / len(held_out),
    }


def main() -> None:
    folder, pattern, *names = [*sys.argv[1:], *(sysconfig.get_path("stdlib"), "**/*.py")[len(sys.argv) - 1 :]]
    exclude = names or ["site-packages", "test", "tests", "encodings"]
    config = TextCorpusConfig(path=folder, pattern=pattern, exclude=exclude, held_out=HELD_OUT)
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE] = cache
        rows, counted = rates(config)
    train, held_out = (
        "".join(passage.text for passage in config.passages(split)).encode() for split in (Split.train, Split.val)
    )
    bits = without_model(train, held_out)
    print(_results.table(rows))
    print(
        f"{len(train):,} bytes of train, {len(held_out):,} held out, in {counted:,} tokens that count: a loss of L nats"
    )
    print(f"a token is {counted / len(held_out) / math.log(2):.4f} L bits a byte; without a model:")
    print(_results.table([bits]))
    settings = {
        "pattern": pattern,
        "exclude": exclude,
        "held_out": HELD_OUT,
        "vocab_size": VOCABULARY,
        "row_tokens": LENGTH,
    }
    sizes = {"train_bytes": len(train), "held_out_bytes": len(held_out), "held_out_tokens": counted}
    _results.append(
        "text", [*rows, {"work": "bits a byte", **bits}], **settings, **sizes, python=sys.version.split()[0]
    )


if __name__ == "__main__":
    main()
