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

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from rlx.data.tokenizers.words import LONGEST, finder, pattern_of
from rlx.errors import CheckpointError, UnknownTextError

PAD, BEGIN, END, TURN = "<|pad|>", "<|begin|>", "<|end|>", "<|turn|>"
SPECIALS = (PAD, BEGIN, END, TURN, *(f"<|spare-{n}|>" for n in range(12)))
TOKENS = {"pad": PAD, "begin": BEGIN, "end": END}
"""Which tokens pad, begin and end a document; two of them may be one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a vocabulary can be made of, read only by a tokenizer that asks for it."""

    words: Callable[[], Iterable[str]] = tuple
    """Words, digits and marks of the run's task and of the tasks in its corpus."""
    texts: Callable[[], Iterator[str]] = lambda: iter(())
    """Texts that the run trains on, perhaps without end, always in the same order."""
    all_texts: Callable[[], Iterator[str]] = lambda: iter(())
    """Texts of the run's splits, held-out ones too, with an end; only for what a vocabulary lacks."""
    identity: Callable[[], str] = str
    """A text that is another where the texts are others: what they are made of, files by their content."""


NOTHING = Material()


@dataclass(kw_only=True, slots=True)
class TokenizerConfig:
    """Fields that every tokenizer has."""

    extend: bool = False
    """Tokens are added for what the task and the corpus write and the tokenizer lacks: to fresh ones of characters or
    words and, where training goes on from a parent (init_from), to the parent's, whose model gets rows for them."""

    def check(self, material: Material) -> None:
        """Raise ConfigError where nothing can be made of the material; called before anything is written."""

    def build(self, material: Material = NOTHING) -> "Tokenizer":
        """The tokenizer: the same from the same settings and material, on every machine."""
        from rlx.data.tokenizers.extension import extended, missing

        tokenizer = self.made(material)
        return extended(tokenizer, missing(tokenizer, material)) if self.extend else tokenizer

    def made(self, material: Material) -> "Tokenizer":
        """`build` without what `extend` adds."""
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
    def of_characters(self) -> bool:
        """A token is a character, whichever others there are, and nothing else happens to a text."""
        sample = " a  \n1é"
        if not self._is_plain or self._of_words or any(len(text) != 1 for text in self._named):
            return False
        return [piece for piece, _ in self.inner.pre_tokenizer.pre_tokenize_str(sample)] == list(sample)

    @cached_property
    def words(self) -> dict[str, int] | None:
        """Word to id where a token is a character, or the longest word at its place, and nothing else happens to a
        text; else None."""
        return self._named if self.of_characters or self._of_words else None

    @cached_property
    def writes_bytes(self) -> bool:
        """There are tokens for all bytes, so that no text lacks one."""
        from tokenizers import decoders, models, pre_tokenizers

        inner = self.inner
        bytewise = isinstance(inner.model, models.BPE) and isinstance(inner.decoder, decoders.ByteLevel)
        return bytewise and self._named.keys() >= set(pre_tokenizers.ByteLevel.alphabet())

    @cached_property
    def _of_words(self) -> bool:
        """A text is cut into words, none of them too long to be found here."""
        if not self._is_plain or not all(0 < len(text) <= LONGEST for text in self._named):
            return False
        return json.loads(self.to_json())["pre_tokenizer"] == _cut_at(pattern_of(self._named))

    @cached_property
    def _cut(self) -> Callable[[str], Iterable[str]]:
        """Cuts a text into its words, where there are any."""
        return str if self.of_characters else finder(self.words or ())

    @cached_property
    def _is_plain(self) -> bool:
        """Pieces of a text are looked up as they are, and put together again as they are."""
        from tokenizers import decoders, models

        inner = self.inner
        looked_up = isinstance(inner.model, models.WordLevel) and isinstance(inner.decoder, decoders.Fuse)
        return looked_up and inner.normalizer is None and inner.pre_tokenizer is not None

    @cached_property
    def _named(self) -> dict[str, int]:
        """Text to id, without special tokens."""
        return {text: number for text, number in self._names.items() if text not in self._special_names}

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
        return frozenset(range(self.vocab_size)) - set(self._named.values())

    @cached_property
    def turn_id(self) -> int | None:
        """The mark around what a model is told between its turns; None where there is none."""
        return self.inner.token_to_id(TURN)

    @cached_property
    def _unknown_id(self) -> int | None:
        """The id that stands for text which the vocabulary lacks."""
        name = getattr(self.inner.model, "unk_token", None)
        return None if name is None else self.inner.token_to_id(name)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added.

        Raises:
            UnknownTextError: a character that the vocabulary lacks, named.
        """
        table = self.words
        if table is not None:
            try:
                return list(map(table.__getitem__, self._cut(text)))
            except KeyError as error:
                raise self._unknown(table, text) from error
        try:
            found = self.inner.encode(text, add_special_tokens=False)
        except TypeError as error:  # half of a surrogate pair is no text to it
            halves = [character for character in text if "\ud800" <= character <= "\udfff"]
            raise UnknownTextError(halves[0] if halves else text, text) from error
        if self._unknown_id is not None and self._unknown_id in found.ids:
            start, end = found.offsets[found.ids.index(self._unknown_id)]
            raise UnknownTextError(text[start:end], text, start)
        return found.ids

    def _unknown(self, table: Mapping[str, int], text: str) -> UnknownTextError:
        """The first character where no word begins."""
        place = 0
        for word in self._cut(text):
            if word not in table:
                return UnknownTextError(word, text, place)
            place += len(word)
        raise AssertionError("all words are known")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens give nothing."""
        if self.words is not None:
            texts = self._texts
            return "".join([texts[number] for number in ids])
        return self.inner.decode([number for number in ids if number not in self.special_ids])

    def reply_ids(self, text: str) -> list[int]:
        """Token ids of what a model is told between its turns, in turn marks where there are any.

        Raises:
            UnknownTextError: as `encode`.
        """
        mark = [] if self.turn_id is None else [self.turn_id]
        return [*mark, *self.encode(text), *mark]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, of many texts at once: on all cores, where a token is more than what a table says."""
        from tokenizers import models

        if not isinstance(self.inner.model, models.WordLevel):
            found = [each.ids for each in self.inner.encode_batch_fast(texts, add_special_tokens=False)]
            if self._unknown_id is None or not any(self._unknown_id in ids for ids in found):
                return found
        return [self.encode(text) for text in texts]


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


def whole_words(words: Iterable[str], pattern: str) -> Tokenizer:
    """A tokenizer of the special tokens and `words`, with ids in that order; `pattern` finds the words in a text."""
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    vocab = {text: number for number, text in enumerate((*SPECIALS, *words))}
    inner = Inner(models.WordLevel(vocab, unk_token="<|spare-11|>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return Tokenizer(inner)


def _cut_at(pattern: str) -> dict[str, Any]:
    """How a tokenizer.json has it that a text is cut into what a regular expression finds."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@contextmanager
def text_of(source: str) -> Iterator[None]:
    """Text that cannot be encoded inside is told to be that of `source`, such as task=math, unless it is known more
    narrowly."""
    try:
        yield
    except UnknownTextError as error:
        error.source = error.source or source
        raise
