"""Text to token ids and back.

1. Special tokens are named and shared by all tokenizers that rlx builds: padding, the begin and end marks of a
   document, and spares for interactions. They are never made from text: a model that writes `<|end|>` in characters
   writes characters.
2. A tokenizer that was saved by others has other names for them; which token pads, begins and ends is then told by the
   files beside it (`named_tokens`), and written into the config.json of our checkpoints.
3. Who has no begin mark begins with the end mark (Qwen sets documents apart by end-of-text alone), and who has no
   padding pads with the end mark: a padded place is known by its mask and never looked at.
4. A model may have more rows than its tokenizer has tokens. Ids without a token are special: they decode to nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from rlx.errors import CheckpointError, RunError

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
SPECIALS = (PAD, BEGIN, END, "<|turn|>", *(f"<|spare-{n}|>" for n in range(12)))
TOKENS = {"pad": PAD, "begin": BEGIN, "end": END}
"""Which tokens pad, begin and end a document; two of them may be one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a vocabulary can be made of, read only by a tokenizer that asks for it."""

    words: Callable[[], Iterable[str]] = tuple
    """Words, digits and marks of the run's task and of the tasks in its corpus."""
    texts: Callable[[], Iterator[str]] = lambda: iter(())
    """Texts that the run trains on, perhaps without end, always in the same order."""
    identity: Callable[[], str] = str
    """A text that is another where the texts are others: what they are made of, files by their content."""


NOTHING = Material()


@dataclass(kw_only=True, slots=True)
class TokenizerConfig:
    """Fields that every tokenizer has (none yet)."""

    def build(self, material: Material = NOTHING) -> "Tokenizer":
        """The tokenizer: the same from the same settings and material, on every machine."""
        raise NotImplementedError


class Tokenizer:
    """A `tokenizers.Tokenizer` with the names that rlx uses.

    Args:
        inner: the tokenizer; truncation and padding are turned off.
        tokens: as `TOKENS`, names in the tokenizer's vocabulary.
        size: token ids of the model, at least as many as the tokenizer has; None: as many.
    """

    def __init__(self, inner: Any, tokens: Mapping[str, str] = TOKENS, size: int | None = None) -> None:
        self.inner, self.tokens = inner, dict(tokens)
        inner.encode_special_tokens = True  # `<|end|>` in a text is text, for tokenizers that encode through `inner`
        inner.no_truncation()
        inner.no_padding()
        self.pad_id, self.begin_id, self.end_id = (inner.token_to_id(self.tokens[name]) for name in TOKENS)
        self.vocab_size = size or own_size(inner)

    @classmethod
    def load(cls, path: Path, tokens: Any = None, size: int | None = None) -> Self:
        """From a tokenizer.json; `tokens` and `size` as a config.json has them, None for rlx's own.

        Raises:
            CheckpointError: no such file, not a tokenizer, a token of `tokens` is not in it, or it has more than
                `size` tokens.
        """
        return cls._checked(path, read_inner(path), TOKENS if tokens is None else tokens, size)

    @classmethod
    def load_foreign(cls, path: Path, settings: Sequence[Mapping[str, Any]], size: int) -> Self:
        """From a tokenizer.json that others saved; `settings` as for `named_tokens`.

        Raises:
            CheckpointError: as `load`, or nothing says which token ends a document.
        """
        inner = read_inner(path)
        return cls._checked(path, inner, named_tokens(inner, settings, path), size)

    @classmethod
    def _checked(cls, path: Path, inner: Any, tokens: Any, size: int | None) -> Self:
        if not (isinstance(tokens, Mapping) and all(isinstance(tokens.get(name), str) for name in TOKENS)):
            raise CheckpointError(f"{path.parent}: config.json has tokens {tokens!r}; expected names as in {TOKENS}")
        missing = [tokens[name] for name in TOKENS if inner.token_to_id(tokens[name]) is None]
        if missing:
            raise CheckpointError(f"{path}: the tokenizer lacks {', '.join(missing)}")
        if size is not None and own_size(inner) > size:
            raise CheckpointError(f"{path.parent}: tokenizer.json has {own_size(inner)} tokens, the model {size}")
        return cls(inner, {name: tokens[name] for name in TOKENS}, size)

    def to_json(self) -> str:
        return self.inner.to_str(pretty=True)

    @cached_property
    def _names(self) -> dict[str, int]:
        return self.inner.get_vocab()

    @cached_property
    def _special_names(self) -> set[str]:
        added = self.inner.get_added_tokens_decoder().values()
        return {token.content for token in added if token.special} | set(self.tokens.values())

    @cached_property
    def _characters(self) -> dict[str, int] | None:
        """Character to id where a token is a character and nothing else happens to a text, else None."""
        from tokenizers import decoders

        inner, sample = self.inner, " a  \n1é"
        if inner.normalizer is not None or inner.pre_tokenizer is None or not isinstance(inner.decoder, decoders.Fuse):
            return None
        vocab = {text: number for text, number in self._names.items() if text not in self._special_names}
        pieces = [piece for piece, _ in inner.pre_tokenizer.pre_tokenize_str(sample)]
        return vocab if pieces == list(sample) and all(len(text) == 1 for text in vocab) else None

    @cached_property
    def _texts(self) -> list[str]:
        """Text of each id; special tokens decode to nothing."""
        texts = [""] * self.vocab_size
        for text, number in self._names.items():
            texts[number] = "" if text in self._special_names else text
        return texts

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that decode to nothing."""
        named = {number for text, number in self._names.items() if text not in self._special_names}
        return frozenset(range(self.vocab_size)) - named

    @cached_property
    def _unknown_id(self) -> int | None:
        """The id that stands for text which the vocabulary lacks."""
        name = getattr(self.inner.model, "unk_token", None)
        return None if name is None else self.inner.token_to_id(name)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added.

        Raises:
            RunError: a character that the vocabulary lacks, named.
        """
        table = self._characters
        if table is not None:
            try:
                return [table[character] for character in text]
            except KeyError as error:
                raise RunError(_lacks(error.args[0], text)) from error
        found = self.inner.encode(text, add_special_tokens=False)
        if self._unknown_id is not None and self._unknown_id in found.ids:
            start, end = found.offsets[found.ids.index(self._unknown_id)]
            raise RunError(_lacks(text[start:end], text))
        return found.ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens give nothing."""
        if self._characters is not None:
            texts = self._texts
            return "".join([texts[number] for number in ids])
        return self.inner.decode([number for number in ids if number not in self.special_ids])


def read_inner(path: Path) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json.

    Raises:
        CheckpointError: no such file, or not a tokenizer.
    """
    from tokenizers import Tokenizer as Inner

    try:
        return Inner.from_file(str(path))
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable tokenizer.json ({error})") from error


def own_size(inner: Any) -> int:
    """One more than the largest token id."""
    return 1 + max(inner.get_vocab().values(), default=-1)


def named_tokens(inner: Any, settings: Sequence[Mapping[str, Any]], where: Path) -> dict[str, str]:
    """Which tokens pad, begin and end, by the settings that lie beside a tokenizer of others: the first that says it.

    A setting names a token (`eos_token`) or an id (`eos_token_id`, of several the first). A name must be in the
    vocabulary. An id must be that of a special token: models are saved with ids that another tokenizer would have.

    Raises:
        CheckpointError: nothing says which token ends a document.
    """
    special = {number: token.content for number, token in inner.get_added_tokens_decoder().items() if token.special}

    def find(key: str) -> str | None:
        for setting in settings:
            name, number = setting.get(f"{key}_token"), setting.get(f"{key}_token_id")
            name = name.get("content") if isinstance(name, dict) else name
            if isinstance(name, str) and inner.token_to_id(name) is not None:
                return name
            number = number[0] if isinstance(number, list) and number else number
            if isinstance(number, int) and number in special:
                return special[number]
        return None

    end = find("eos")
    if end is None:
        raise CheckpointError(
            f"{where}: no file beside it says which token ends a document; name one of the tokenizer's special tokens "
            "as eos_token in its configuration"
        )
    return {"pad": find("pad") or end, "begin": find("bos") or end, "end": end}


def _lacks(what: str, text: str) -> str:
    return f"the tokenizer has no token for {what!r} (in {text[:40]!r})"
