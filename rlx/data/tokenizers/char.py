"""`tokenizer=char`: one token a character, the same vocabulary for every task, so that checkpoints travel."""

from dataclasses import dataclass

from rlx.data.tokenizers.base import NOTHING, SPECIALS, Material, Tokenizer, TokenizerConfig
from rlx.options import option

CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))


@option("tokenizer", "char")
@dataclass(kw_only=True, slots=True)
class CharConfig(TokenizerConfig):
    """Printable ASCII, newline and the named specials: 112 tokens."""

    def build(self, material: Material = NOTHING) -> Tokenizer:
        from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as Inner

        vocab = {text: number for number, text in enumerate((*SPECIALS, *CHARACTERS))}
        inner = Inner(models.WordLevel(vocab, unk_token="<|spare-11|>"))
        inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        inner.decoder = decoders.Fuse()
        inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
        return Tokenizer(inner)
