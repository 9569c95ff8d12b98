"""`tokenizer=word`: one token a word of the tasks, as they say what their texts are made of.

1. The vocabulary is the union of `words()` of the run's task at its settings, of what its corpus says, and of
   `tokenizer.tasks` at theirs by default, so that a model can be made for tasks that it meets later. It is sorted: the
   same on every machine and for every order of tasks.
2. A text is cut from its beginning, at each place by the longest word that begins there. Digits are words of their own
   wherever a task has them as such.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rlx.data.tokenizers.base import Material, Tokenizer, TokenizerConfig, whole_words
from rlx.data.tokenizers.words import pattern_of
from rlx.errors import ConfigError, nearest
from rlx.options import discover, option


@option("tokenizer", "word")
@dataclass(kw_only=True, slots=True)
class WordConfig(TokenizerConfig):
    """Words, digits and marks of tasks, and the named specials."""

    tasks: list[str] = field(default_factory=list)
    """Tasks whose words are in the vocabulary besides those of the run's own, each at its default settings."""

    def __post_init__(self) -> None:
        known = discover("task") if self.tasks else {}
        for name in self.tasks:
            if name not in known:
                raise ConfigError(f"tokenizer.tasks has {name}, which is no task{nearest(name, known)}")
        self.tasks = sorted(set(self.tasks))  # one way to write equal vocabularies

    def check(self, material: Material) -> None:
        if next(iter(self._words(material)), None) is None:
            raise ConfigError(
                "tokenizer=word has no words, since there is no task and text names none; add task=countdown (or "
                "another) or tokenizer.tasks=[countdown], or take tokenizer=bpe"
            )

    def made(self, material: Material) -> Tokenizer:
        self.check(material)
        words = sorted({word for word in self._words(material) if word})
        return whole_words(words, pattern_of(words))

    def _words(self, material: Material) -> Iterable[str]:
        yield from material.words()
        for name in self.tasks:
            yield from discover("task")[name].config().build().words()
