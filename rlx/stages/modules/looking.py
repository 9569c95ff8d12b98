"""What a model says of a rollout's tokens: log-probabilities and entropies of a policy, values of a critic."""

from typing import Any

import torch
from torch import Tensor

from rlx.batches import PolicyOutput, RolloutBatch
from rlx.decoding.logprobs import token_logprobs_and_entropy
from rlx.nn.aux import Aux
from rlx.nn.compiled import compiled, halved, rounded
from rlx.nn.decoder import Decoder
from rlx.nn.rows import Rows

SMALLEST_ROWS = 32
"""Rows that a compiled pass has at least."""


class Looker:
    """Passes over whole rows, `micro_rows` at most at once; compiled for few shapes, to which the rows are padded."""

    def __init__(self, *, pad_id: int, micro_rows: int, temperature: float, routed: bool, compile: bool) -> None:
        self.pad_id, self.micro_rows, self.temperature = pad_id, micro_rows, temperature
        self.routed, self.is_compiled = routed, compile
        self._outlook: Any = compiled(_outlook) if compile else _outlook
        self._worth: Any = compiled(_worth) if compile else _worth

    def parts(self, rows: int, unit: int = 1) -> tuple[Tensor, ...]:
        """Row numbers in parts that go through a model at once, none of which parts `unit` neighbouring rows."""
        return torch.arange(rows).split(max(self.micro_rows // unit, 1) * unit) if rows else ()

    def policy(self, model: Decoder, batch: RolloutBatch, *, tempered: bool = True) -> tuple[PolicyOutput, Aux]:
        """Log-probabilities and entropies, with what layers have to say besides: of the policy that samples, or of the
        model as it is (not `tempered`), which fine-tuning is about."""
        count, width = batch.tokens.shape
        temperature = self.temperature if tempered else 1.0
        logprobs, entropy, aux = self._outlook(model, *self._padded(model, batch), temperature)
        return PolicyOutput(logprobs=logprobs[:count, :width], entropy=entropy[:count, :width]), aux

    def values(self, critic: Decoder, batch: RolloutBatch) -> Tensor:
        """[B, T] float32: the return that the critic, a decoder with one output, expects before each token is drawn."""
        count, width = batch.tokens.shape
        return self._worth(critic, *self._padded(critic, batch))[:count, :width]

    @torch.no_grad()
    def logprobs(self, model: Decoder, batch: RolloutBatch) -> Tensor:
        """[B, T] without gradient, in parts."""
        found = [self.policy(model, batch.rows(rows))[0].logprobs for rows in self.parts(len(batch.tokens))]
        return torch.cat(found) if found else torch.zeros_like(batch.logprobs)

    @torch.no_grad()
    def all_values(self, critic: Decoder, batch: RolloutBatch) -> Tensor:
        """[B, T] without gradient, in parts, 0 where the loss mask is 0."""
        found = [self.values(critic, batch.rows(rows)) for rows in self.parts(len(batch.tokens))]
        return torch.cat(found) * batch.loss_mask if found else torch.zeros_like(batch.logprobs)

    def _padded(self, model: Decoder, batch: RolloutBatch) -> tuple[Tensor, Rows]:
        count, width = batch.tokens.shape
        tokens, places, pad = batch.tokens, batch.places, torch.nn.functional.pad
        right = below = 0
        if self.is_compiled:
            right, below = rounded(width) - width, halved(self.micro_rows, count, SMALLEST_ROWS) - count
            tokens = pad(tokens, (0, right, 0, below), value=self.pad_id)
        lengths = pad(lengths_of(batch), (0, below)) if self.routed else None  # loads and losses are of real tokens
        rows = model.rows(tokens, lengths=lengths)
        rows.places = None if places is None else pad(places, (0, right, 0, below))
        if batch.routing is not None:
            rows.routing = pad(batch.routing, (0, 0, 0, 0, 0, right, 0, below), value=-1).permute(2, 0, 1, 3).long()
        return tokens, rows


def _outlook(model: Decoder, tokens: Tensor, rows: Rows, temperature: float) -> tuple[Tensor, Tensor, Aux]:
    """Log-probabilities of tokens [B, T] and entropies, each [B, T], and what layers have to say besides: the part that
    is worth compiling."""
    hidden, aux = model.run(tokens, rows)
    return *token_logprobs_and_entropy(model.logits(hidden), tokens, temperature), aux


def _worth(critic: Decoder, tokens: Tensor, rows: Rows) -> Tensor:
    hidden, _ = critic.run(tokens, rows)
    return torch.nn.functional.pad(critic.logits(hidden[:, :-1]).float().squeeze(-1), (1, 0))


def lengths_of(batch: RolloutBatch) -> Tensor:
    """[B] int64: tokens up to each row's last sampled one."""
    width = batch.tokens.shape[1]
    return (batch.loss_mask * torch.arange(1, width + 1, device=batch.tokens.device)).amax(-1).long()
