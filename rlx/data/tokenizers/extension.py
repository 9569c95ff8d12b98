"""More tokens for a tokenizer of characters or words: `tokenizer.extend=true`.

What is missing is looked for in the words of the run's task and corpus, and in their texts, held-out ones too (of a
task's some, since they have no end and its words are all that it writes). A tokenizer of characters gets their
characters; one of words gets the words, and single characters where no word begins. New tokens come after all ids that
there are, sorted.

A word that could be written before as several (10 as 1 and 0) is one token afterwards, in texts of the parent's too
(`cut_anew`).
"""

import json
import re
from collections.abc import Iterable, Sequence

from rlx.data.tokenizers.base import Material, Tokenizer
from rlx.data.tokenizers.words import finder, pattern_of
from rlx.errors import ConfigError

_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: no character, and nothing that a file can hold."""


def missing(tokenizer: Tokenizer, material: Material) -> list[str]:
    """Tokens that the material needs and the tokenizer lacks, sorted.

    Raises:
        ConfigError: it is a tokenizer that cannot be extended, and not one of bytes, which lacks nothing.
    """
    if tokenizer.writes_bytes:
        return []
    known = set(_known(tokenizer))
    words = [word for word in material.words() if word]
    if tokenizer.of_characters:
        found, cut = {character for word in words for character in word}, _characters
    else:
        found, cut = set(words), finder(known.union(words))
    for text in material.all_texts():
        found.update(cut(text))
    return sorted(token for token in found - known if not _HALF.search(token))


def extended(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """The tokenizer with `tokens` more, after all ids that it has.

    Raises:
        ConfigError: it is none of characters or words.
    """
    if not tokens:
        return tokenizer
    from tokenizers import Tokenizer as Inner

    known = _known(tokenizer)
    described = json.loads(tokenizer.to_json())
    described["model"]["vocab"].update({token: tokenizer.vocab_size + n for n, token in enumerate(tokens)})
    if not tokenizer.of_characters:
        described["pre_tokenizer"]["pattern"]["Regex"] = pattern_of([*known, *tokens])
    return Tokenizer(Inner.from_str(json.dumps(described)), tokenizer.tokens)


def cut_anew(tokenizer: Tokenizer, tokens: Iterable[str]) -> list[str]:
    """Those of the tokens, new to it, that the tokenizer writes as several: texts with them will be cut otherwise."""
    known = _known(tokenizer)
    cut = _characters if tokenizer.of_characters else finder(known)
    return [token for token in tokens if all(piece in known for piece in cut(token))]


def _known(tokenizer: Tokenizer) -> dict[str, int]:
    if tokenizer.words is None:
        raise ConfigError(
            "tokenizer.extend=true adds tokens to tokenizer=char and tokenizer=word, and the checkpoint's is neither; "
            "leave it out"
        )
    return tokenizer.words


def _characters(text: str) -> Iterable[str]:
    return text
