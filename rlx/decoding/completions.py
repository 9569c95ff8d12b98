"""What the engine gives back, and what may answer it on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from rlx.batches import Extent
from rlx.decoding.lengths import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a sample is answered, and goes on from."""

    tokens: Sequence[int]
    """At least one: it stands between two turns of the model."""
    budget: int | None = None
    """Tokens that the model may draw in its next turn, at least 1; None: what is left of decode.max_tokens."""


class Exchange(Protocol):
    """What answers a sample whose turn is over, so that it goes on (environments: `rlx.evaluation.episodes`)."""

    ends: Tensor | None
    """[V] bool, tokens besides the end mark that end a turn, as its last one; None: none do."""

    def budget(self, place: int) -> int | None:
        """Tokens of the first turn of the sample `place` (0 to N - 1), as `Reply.budget`."""
        ...

    def reply(self, place: int, tokens: list[int], ended: bool) -> Reply | None:
        """What the sample `place` is answered to its turn's tokens, the mark that `ended` it included;
        None: nothing, it is over. Called once a turn, in the order in which turns end."""
        ...


@dataclass(slots=True, kw_only=True)
class Completions:
    """Completions of P prompts x G samples, prompt by prompt: N = P * G rows, M = decode.max_tokens columns."""

    tokens: Tensor
    """[N, M] int64, the end mark included, padded after it; in an interaction with the replies between turns."""
    logprobs: Tensor
    """[N, M] float32, of the drawn token at the sampling temperature over the whole vocabulary; 0 on padding and
    replies."""
    lengths: Tensor
    """[N] int64, tokens that there are, the end mark and replies included."""
    finished: Tensor
    """[N] bool, True when the end mark was drawn; in an interaction, when the last turn ended by itself and was not
    answered more than fits."""
    sampled: Tensor
    """[N, M] bool, True on tokens that the model drew."""
    turns: Tensor
    """[N, M] int64, which turn of the model a token belongs to (0, 1, ...), or, of a reply, comes before; 0 on
    padding."""
    prefilled: Extent = field(default_factory=Extent)
    """Of the prompts' tokens, which go through the model once per group."""
    decoded: Extent = field(default_factory=Extent)
    """Of the tokens after the prompt that went through it, one a step: all but the last of each completion."""
    routing: Tensor | None = None
    """[N, S, L, K] int16, where it was asked for: experts that the L routed layers chose for the token at each position
    of prompt and completion; -1 where none was passed, as for the last token drawn."""
    places: Tensor | None = None
    """[N, M] int64, coupled positions of the tokens; 0 on padding. None for models without."""
    preempted: int = 0
    """Times that a running sample was set aside for a shorter one."""
    predictions: int = 0
    """Predictions of lengths that were made: one at each prompt's end, for each of its samples, and one for each token
    passed."""
    seen: Seen | None = None
    """What lengths are to be learnt from, where they are."""

    def rows(self, count: int) -> "Completions":
        """A copy of the first `count` rows."""
        return replace(self, **{name: value[:count].clone() for name, value in self._tensors().items()})

    def holds(self, count: int, columns: int, *, routing: bool) -> bool:
        """True where so many samples have room, and what is to be written of them."""
        enough = len(self.tokens) > count and self.tokens.shape[1] == columns
        return enough and (self.routing is not None or not routing)

    def clear(self, pad_id: int) -> None:
        """Nothing is drawn yet."""
        self.preempted, self.predictions, self.seen = 0, 0, None
        for name, value in self._tensors().items():
            value.fill_({"tokens": pad_id, "routing": -1}.get(name, 0))

    def _tensors(self) -> dict[str, Tensor]:
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def empty(rows: int, columns: int, pad_id: int, device: torch.device) -> Completions:
    """Nothing drawn for `rows` samples, and one row more, which is written to in vain."""
    rows += 1
    return Completions(
        tokens=torch.full((rows, columns), pad_id, dtype=torch.int64, device=device),
        logprobs=torch.zeros(rows, columns, device=device),
        lengths=torch.zeros(rows, dtype=torch.int64, device=device),
        finished=torch.zeros(rows, dtype=torch.bool, device=device),
        sampled=torch.zeros(rows, columns, dtype=torch.bool, device=device),
        turns=torch.zeros(rows, columns, dtype=torch.int64, device=device),
    )
