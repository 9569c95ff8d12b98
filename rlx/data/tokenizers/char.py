"""`tokenizer=char`: one token a character, the same vocabulary for every task, so that checkpoints travel."""

from dataclasses import dataclass

from rlx.data.tokenizers.base import Material, Tokenizer, TokenizerConfig, whole_words
from rlx.options import option

CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))


@option("tokenizer", "char")
@dataclass(kw_only=True, slots=True)
class CharConfig(TokenizerConfig):
    """Printable ASCII, newline and the named specials: 112 tokens."""

    def made(self, material: Material) -> Tokenizer:
        return whole_words(CHARACTERS, r"[\s\S]")
