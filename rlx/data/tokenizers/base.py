"""Text to token ids and back.

Special tokens are named and shared by all tokenizers: padding, the begin and end marks of a document, and spares for
interactions. They are never made from text: a model that writes `<|end|>` in characters writes characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from rlx.errors import CheckpointError, RunError

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
SPECIALS = (PAD, BEGIN, END, "<|turn|>", *(f"<|spare-{n}|>" for n in range(12)))


@dataclass(kw_only=True, slots=True)
class TokenizerConfig:
    """Fields that every tokenizer has (none yet)."""

    def build(self) -> "Tokenizer":
        raise NotImplementedError


class Tokenizer:
    """A `tokenizers.Tokenizer` with the names that rlx uses."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        inner.encode_special_tokens = True  # `<|end|>` in a text is text, for tokenizers that encode through `inner`
        self.pad_id, self.begin_id, self.end_id = (inner.token_to_id(name) for name in (PAD, BEGIN, END))

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a tokenizer.json.

        Raises:
            CheckpointError: no such file, not a tokenizer, or the named special tokens are not in it.
        """
        from tokenizers import Tokenizer as Inner

        try:
            inner = Inner.from_file(str(path))
        except Exception as error:
            raise CheckpointError(f"{path}: not a readable tokenizer.json ({error})") from error
        missing = [name for name in (PAD, BEGIN, END) if inner.token_to_id(name) is None]
        if missing:
            raise CheckpointError(f"{path}: the tokenizer lacks {', '.join(missing)}")
        return cls(inner)

    def to_json(self) -> str:
        return self.inner.to_str(pretty=True)

    @property
    def vocab_size(self) -> int:
        return self.inner.get_vocab_size()

    @cached_property
    def _characters(self) -> dict[str, int] | None:
        """Character to id when every token that is not special is one character, else None."""
        vocab = {text: number for text, number in self.inner.get_vocab().items() if text not in SPECIALS}
        return vocab if all(len(text) == 1 for text in vocab) else None

    @cached_property
    def _texts(self) -> list[str]:
        """Text of each id; special tokens decode to nothing."""
        texts = [""] * self.vocab_size
        for text, number in self.inner.get_vocab().items():
            texts[number] = "" if text in SPECIALS else text
        return texts

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that decode to nothing."""
        return frozenset(number for text, number in self.inner.get_vocab().items() if text in SPECIALS)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added.

        Raises:
            RunError: a character that the vocabulary lacks, named.
        """
        table = self._characters
        try:
            if table is not None:
                return [table[character] for character in text]
            return self.inner.encode(text, add_special_tokens=False).ids
        except KeyError as error:
            raise RunError(f"the tokenizer has no token for {error.args[0]!r} (in {text[:40]!r})") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens give nothing."""
        if self._characters is not None:
            texts = self._texts
            return "".join([texts[number] for number in ids])
        return self.inner.decode(list(ids), skip_special_tokens=True)
