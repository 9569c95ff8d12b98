"""One problem as a document: begin mark, prompt, solution, end mark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlx.data.tokenizers.base import Tokenizer
from rlx.errors import ConfigError
from rlx.tasks.base import stable_hash
from rlx.types import Example


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids, of which the first `given` are not the model's to produce."""

    ids: list[int]
    given: int
    places: tuple[int, ...] | None = None
    """Coupled positions of the tokens, where the example has some and a token is a character."""
    source: int = 0
    """Which source of a mixture it comes from, counted from 0."""
    told: tuple[tuple[int, int], ...] = ()
    """Begins and ends of runs after the given tokens that are not the model's to produce either: what an environment
    says, and mistakes that are shown."""

    def cut(self, size: int) -> "Document":
        """The first `size` tokens of the document."""
        if len(self.ids) <= size:
            return self
        places = None if self.places is None else self.places[:size]
        told = tuple((start, min(end, size)) for start, end in self.told if start < size)
        return Document(self.ids[:size], min(self.given, size), places, self.source, told)

    def counted(self) -> list[bool]:
        """Which tokens are the model's to produce."""
        found = [place >= self.given for place in range(len(self.ids))]
        for start, end in self.told:
            found[start:end] = [False] * (end - start)
        return found


def prompt_ids(example: Example, tokenizer: Tokenizer) -> list[int]:
    """Begin mark and prompt: what a completion goes on from."""
    return [tokenizer.begin_id, *tokenizer.encode(example.prompt)]


def document_of(example: Example, tokenizer: Tokenizer, *, whole: bool) -> Document:
    """The example's document; with `whole` every token after the begin mark counts in the loss, else the solution's."""
    prompt = prompt_ids(example, tokenizer)
    ids = [*prompt, *tokenizer.encode(example.solution), tokenizer.end_id]
    places = None if example.places is None else (0, *example.places)
    return Document(ids, 1 if whole else len(prompt), places if places and len(places) == len(ids) else None)


def coupled(document: Document, most: int) -> tuple[int, ...]:
    """The coupled positions of a document, of a model that knows ids up to `most`.

    Raises:
        ConfigError: the document has none, or one above `most`.
    """
    if document.places is None:
        raise ConfigError(
            "the documents have no coupled positions, which model.position=coupled|predicted needs: the task gives "
            "none, or a token is not a character (tokenizer=char)"
        )
    if max(document.places) > most:
        raise ConfigError(
            f"a document of {len(document.ids)} tokens has coupled positions up to {max(document.places)}, "
            f"model.max_position={most}; try model.max_position={2 * max(document.places)}"
        )
    return document.places


def moved(places: tuple[int, ...], most: int, *key: object) -> tuple[int, ...]:
    """Coupled positions from another start: moved up, each way as likely that leaves them at most `most`."""
    by = stable_hash("places", *key) % (most - max(places) + 1)
    return tuple(place and place + by for place in places)


def guides(
    examples: Sequence[Example], tokenizer: Tokenizer, most: int, *, key: tuple[object, ...] | None
) -> list[tuple[int, ...]]:
    """Coupled positions of each example's prompt and solution, for completions of it; moved as in `coupled_stream`."""
    stream = coupled_stream(lambda n: document_of(examples[n], tokenizer, whole=False), most, key=key)
    return [stream(n).places or () for n in range(len(examples))]


def coupled_stream(
    document: Callable[[int], Document], most: int, *, key: tuple[object, ...] | None
) -> Callable[[int], Document]:
    """A stream of documents that all have coupled positions, checked; each moved by a draw of its own where `key` names
    the draws (in training), else as the task gives them."""

    def made(position: int) -> Document:
        found = document(position)
        places = coupled(found, most)
        return replace(found, places=places if key is None else moved(places, most, *key, position))

    return made
