"""One problem as a document: begin mark, prompt, solution, end mark."""

from dataclasses import dataclass

from rlx.data.tokenizers.base import Tokenizer
from rlx.types import Example


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids, of which the first `given` are not the model's to produce."""

    ids: list[int]
    given: int

    def cut(self, size: int) -> "Document":
        """The first `size` tokens of the document."""
        return Document(self.ids[:size], min(self.given, size))


def prompt_ids(example: Example, tokenizer: Tokenizer) -> list[int]:
    """Begin mark and prompt: what a completion goes on from."""
    return [tokenizer.begin_id, *tokenizer.encode(example.prompt)]


def document_of(example: Example, tokenizer: Tokenizer, *, whole: bool) -> Document:
    """The example's document; with `whole` every token after the begin mark counts in the loss, else the solution's."""
    prompt = prompt_ids(example, tokenizer)
    ids = [*prompt, *tokenizer.encode(example.solution), tokenizer.end_id]
    return Document(ids, 1 if whole else len(prompt))
