"""What travels between data, models and algorithms.

Every per-token tensor is aligned with `tokens`: entry t speaks of token t itself, so `logprobs[:, t]` is the
log-probability of `tokens[:, t]` given the tokens before it, and a loss mask of 1 at t means that predicting token t
counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor


def _nothing() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """What goes through a model: how many tokens attend how many positions, of which their costs depend."""

    counts: Tensor = field(default_factory=_nothing)
    """[S] float64 on the CPU: entry n is how many tokens attend n + 1 positions, themselves included."""

    @classmethod
    def of(cls, attended: Tensor) -> "Extent":
        """Of tokens that attend so many positions, [N] int64, each at least 1."""
        return cls(torch.bincount(attended.flatten() - 1).double().cpu())

    @classmethod
    def spans(cls, first: Tensor, last: Tensor) -> "Extent":
        """Of N runs of tokens: the n-th has one that attends each number of positions from first[n] to last[n] ([N]
        int64, first at least 1), and none where last is below first."""
        some = last >= first
        first, last = first[some], last[some]
        size = int(last.max()) + 1 if len(last) else 0
        steps = torch.bincount(first - 1, minlength=size) - torch.bincount(last, minlength=size)
        return cls(steps.cumsum(0)[: max(size - 1, 0)].double().cpu())

    @classmethod
    def read(cls, counts: Sequence[float]) -> "Extent":
        """From what `plain` gave."""
        return cls(torch.tensor(counts, dtype=torch.float64))

    def plain(self) -> list[int]:
        """Whole counts, as JSON holds them."""
        return [int(count) for count in self.counts.tolist()]

    def __add__(self, other: "Extent") -> "Extent":
        short, long = sorted((self.counts, other.counts), key=len)
        return Extent(long + torch.nn.functional.pad(short, (0, len(long) - len(short))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extent) and torch.equal(self.counts, other.counts)

    def __mul__(self, share: float) -> "Extent":
        return Extent(self.counts * share)

    @property
    def tokens(self) -> float:
        """How many tokens there are."""
        return float(self.counts.sum())


@dataclass(slots=True, kw_only=True)
class Batch:
    """Rows of packed documents."""

    tokens: Tensor
    """[B, T] int64."""
    positions: Tensor
    """[B, T] int64, position of each token in its own document."""
    documents: Tensor
    """[B, T] int64, number of the token's document in its row; padding is one document of its own."""
    loss_mask: Tensor
    """[B, T] float32, 1 where predicting the token counts."""
    places: Tensor | None = None
    """[B, T] int64, ids of coupled positions, for models that embed them; 0 is none."""
    sources: Tensor | None = None
    """[B, T] int64, which source of a mixture the token's document comes from; padding has 0."""

    def _tensors(self) -> dict[str, Tensor]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def to(self, device: torch.device | str) -> Self:
        return replace(self, **{name: value.to(device) for name, value in self._tensors().items()})

    def split(self, rows: int) -> list[Self]:
        """The batch in parts of `rows` rows, the last perhaps fewer."""
        parts = {name: value.split(rows) for name, value in self._tensors().items()}
        return [replace(self, **dict(zip(parts, values, strict=True))) for values in zip(*parts.values(), strict=True)]

    def extent(self) -> Extent:
        """Of the tokens that are not padding."""
        return Extent.of(self.positions[self.documents >= 0] + 1)


@dataclass(slots=True, kw_only=True)
class RolloutBatch:
    """Prompts with sampled completions, right-padded; what an algorithm sees."""

    tokens: Tensor
    """[B, T] int64: prompt, completion, padding."""
    loss_mask: Tensor
    """[B, T] float32, 1 on sampled tokens, the marks that end turns included; 0 on what an environment says."""
    logprobs: Tensor
    """[B, T] float32, log-probabilities recorded while sampling (0 where the mask is 0)."""
    rewards: Tensor
    """[B, T] float32, token-level rewards; what a turn earned stands on its last sampled token."""
    group: Tensor
    """[B] int64, rows of equal number share a prompt."""
    turn: Tensor
    """[B, T] int64, which turn of the model the token belongs to, or, of a reply, comes before (0 in single-turn
    rollouts and on padding)."""
    finished: Tensor
    """[B] bool, False where the completion was cut at its limit."""
    correct: Tensor
    """[B] bool, what the verifier found, whatever the rewards are."""
    credit: Tensor | None = None
    """[B, T] int64: sampled tokens of equal number (0, 1, ...) share what is earned on them, and nothing else of their
    row's rewards; -1 on all others. None: a row's rewards are for all of its tokens."""
    reference_logprobs: Tensor | None = None
    """[B, T] float32 under the reference policy, for algorithms that need "reference"."""
    old_logprobs: Tensor | None = None
    """[B, T] float32, the trainer's own before an iteration's first update, for algorithms that need "old_logprobs"."""
    values: Tensor | None = None
    """[B, T] float32, the critic's before an iteration's first update, for algorithms that need "values"; entry t is
    the return expected before token t is drawn."""
    routing: Tensor | None = None
    """[B, T, L, K] int16, experts that the L routed layers chose while sampling; -1 where nothing was passed."""
    places: Tensor | None = None
    """[B, T] int64, ids of coupled positions as they were while sampling, for models that embed them."""
    sampled: Tensor | None = None
    """[B, T] float32, the loss mask as it was before rows lost theirs; None: none has."""

    def masked(self, heard: Tensor) -> Self:
        """The batch with a loss mask on the rows of `heard` [B] bool alone; the others count in their group."""
        return replace(self, loss_mask=self.loss_mask * heard[:, None], sampled=self.drawn())

    def drawn(self) -> Tensor:
        """[B, T] float32, 1 on sampled tokens, those of rows without a loss mask included."""
        return self.loss_mask if self.sampled is None else self.sampled

    def returns(self) -> Tensor:
        """[B] float32: the sum of each row's rewards."""
        return self.rewards.sum(-1)

    def extent(self) -> Extent:
        """Of the tokens that are not padding: up to each row's last sampled one."""
        width = self.tokens.shape[1]
        lengths = (self.loss_mask * torch.arange(1, width + 1, device=self.tokens.device)).amax(-1).long()
        return Extent.spans(torch.ones_like(lengths), lengths)

    def rows(self, index: Tensor) -> Self:
        """The batch with only the rows in `index` ([N] int64), all tensors indexed alike."""
        return replace(self, **{name: value[index] for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def padded(self, width: int, pad_id: int) -> Self:
        """The batch with columns of padding on the right, up to `width` of them in all."""
        more = width - self.tokens.shape[1]

        def wide(name: str, value: Tensor) -> Tensor:
            empty = {"tokens": pad_id, "routing": -1, "credit": -1}.get(name, 0)
            sides = (0, 0) * (value.dim() - 2) + (0, more)
            return torch.nn.functional.pad(value, sides, value=empty)

        return replace(self, **{name: wide(name, value) for name, value in self.tensors().items() if value.dim() > 1})

    @classmethod
    def joined(cls, batches: "Sequence[RolloutBatch]", pad_id: int) -> "RolloutBatch":
        """Rows of several batches, which have the same fields, one after the other; their groups stay apart."""
        width = max(batch.tokens.shape[1] for batch in batches)
        parts, first = [], 0
        for batch in batches:
            part = batch.padded(width, pad_id)
            part.group = part.group - part.group.min() + first if len(part.group) else part.group
            first = int(part.group.max()) + 1 if len(part.group) else first
            parts.append(part.tensors())
        return cls(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


@dataclass(slots=True, kw_only=True)
class PolicyOutput:
    """What the current policy says of a rollout's tokens."""

    logprobs: Tensor
    """[B, T] float32, with gradient."""
    entropy: Tensor | None = None
    """[B, T] float32, nats, of the distribution each token was drawn from."""
    values: Tensor | None = None
    """[B, T] float32, the critic's, with gradient, for algorithms that need "values"."""
