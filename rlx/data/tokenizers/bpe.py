"""`tokenizer=bpe`: tokens learnt from text, byte-level.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.

1. There is a token for every byte, so that any text can be encoded, and merges stay inside what GPT-2's pattern cuts.
2. Every digit is a token of its own and no blank is joined to one: models that are to calculate see numbers place by
   place (LLaMA, arXiv 2302.13971, section 2.1, splits them so). GPT-2's own tokens of several digits cut a number
   differently with its length and with what stands before it.
3. A pair that is seen once is not merged. Text that repeats itself, as a task's does, is soon told by few tokens:
   `vocab_size` is then not reached.
4. What was learnt is kept in the cache (`rlx/data/stored.py`) under a digest of the settings, of what the texts are
   made of and of the version of `tokenizers`. A file that is damaged is made again.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from rlx.data.stored import CACHE, cache_folder
from rlx.data.tokenizers.base import SPECIALS, Material, Tokenizer, TokenizerConfig
from rlx.errors import ConfigError, RunError
from rlx.options import content, option
from rlx.rows import Files, fingerprint, rows, splits

FORMAT = 1
"""Raised when the same settings and texts are made into other tokens."""
LEAST = len(SPECIALS) + 256
"""Special tokens and bytes."""
MOST = 1 << 20
"""More tokens than any text here can teach."""
SEEN = 2
"""Times that a pair is seen before it is merged."""


@option("tokenizer", "bpe")
@dataclass(kw_only=True, slots=True)
class BpeConfig(TokenizerConfig):
    """Byte-level BPE, learnt from the run's corpus or from a file."""

    vocab_size: int = 4096
    """Tokens at most, specials and bytes included; fewer where no pair is left that is seen twice."""
    path: str | None = content(texts=True)
    """A file (rows or text), folder or hf:<name> to learn from, of several splits train; null: the run's own corpus."""
    column: str = "text"
    """Column of its rows that holds the text."""
    sample_characters: int = 4_000_000
    """Characters that are learnt from at most, the first ones: some seconds of a task's, and ample for 4096 tokens."""

    def __post_init__(self) -> None:
        if self.vocab_size < LEAST:
            raise ConfigError(f"tokenizer.vocab_size={self.vocab_size} must be at least {LEAST}: specials and bytes")
        if self.vocab_size > MOST:
            raise ConfigError(f"tokenizer.vocab_size={self.vocab_size} must be at most {MOST}")
        if self.sample_characters < 1:
            raise ConfigError(f"tokenizer.sample_characters={self.sample_characters} must be at least 1")

    def check(self, material: Material) -> None:
        if next(self._texts(material), None) is None:
            raise ConfigError(
                "tokenizer=bpe has no text to learn from; add task=countdown (or another), or tokenizer.path=<file>"
            )

    def made(self, material: Material) -> Tokenizer:
        path = cache_folder("tokenizers") / f"{self._digest(material)}.json"
        text = _kept(path)
        if text is None:
            self.check(material)
            text = self._learnt(material)
            _keep(path, text)
        return Tokenizer(_inner(text))

    def _digest(self, material: Material) -> str:
        import tokenizers

        source = material.identity() if self.path is None else [fingerprint(self.path, Files()), self.column]
        parts = [FORMAT, tokenizers.__version__, self.vocab_size, self.sample_characters, source]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _texts(self, material: Material) -> Iterator[str]:
        return material.texts() if self.path is None else _column(self.path, self.column)

    def _learnt(self, material: Material) -> str:
        """The tokenizer.json of what the texts teach; says so, since it takes seconds."""
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers, trainers

        began, read = time.monotonic(), 0

        def texts() -> Iterator[str]:
            nonlocal read
            for text in self._texts(material):
                text = text[: self.sample_characters - read]
                read += len(text)
                yield text.encode(errors="ignore").decode()  # without halves of surrogate pairs, which are no text
                if read >= self.sample_characters:
                    return

        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=SEEN,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(texts(), trainer)
        with suppress(OSError):  # a screen that is gone ends no run
            print(
                f"tokenizer: {inner.get_vocab_size():,} tokens learnt from {read / 1e6:.1f}M characters in "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        return inner.to_str()


def _column(path: str, column: str) -> Iterator[str]:
    """Texts of a source's rows.

    Raises:
        ConfigError: as `rows`, or a row has no text there.
    """
    split = "train" if "train" in splits(path, Files()) else None
    for number, row in enumerate(rows(path, split=split, files=Files()), 1):
        if not isinstance(row.get(column), str):
            raise ConfigError(
                f"{path}: row {number} has no text in tokenizer.column={column}; its columns are {', '.join(row)}"
            )
        yield row[column]


def _inner(text: str) -> Any:
    from tokenizers import Tokenizer as Inner

    return Inner.from_str(text)


def _kept(path: Path) -> str | None:
    """The tokenizer.json that was kept; None where there is none, or it is not as it was written."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["text"] if kept["sha256"] == _sha256(kept["text"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(path: Path, text: str) -> None:
    """Write the file under another name and rename it: nobody meets half of one.

    Raises:
        RunError: it cannot be written.
    """
    half = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{path.name}.{uuid4().hex}")
        with open(half, "x", encoding="utf-8") as file:
            json.dump({"sha256": _sha256(text), "text": text}, file)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; set {CACHE} to a folder with room") from error
    finally:
        if half is not None:
            half.unlink(missing_ok=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
