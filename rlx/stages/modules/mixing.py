"""What a step's documents were, where they come from several sources: the loss of each, and tokens so far."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlx.batches import Batch


class SourceLog:
    """Counts micro-batches until a row is made; of a corpus that is not mixed it says nothing.

    Args:
        names: of the sources, in the order of `Batch.sources`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.tokens = [0] * len(names)
        """Tokens of each source trained on, prompts included, padding not."""
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, batch: Batch, logprobs: Tensor) -> None:
        """A micro-batch of the step, and the log-probabilities [B, T] of its tokens."""
        if batch.sources is not None:
            self._parts.append(sums_by_source(batch, logprobs, len(self.names)))

    def row(self) -> dict[str, float | Tensor]:
        """Metrics of the step: `train/loss/<name>` (nats; where any of its tokens counted) and `train/tokens/<name>`
        (since the run began)."""
        if not self._parts:
            return {}
        losses, counted, tokens = (torch.stack(part).sum(0).tolist() for part in zip(*self._parts, strict=True))
        self._parts = []
        self.tokens = [had + int(more) for had, more in zip(self.tokens, tokens, strict=True)]
        found: dict[str, float | Tensor] = {}
        for name, loss, count, total in zip(self.names, losses, counted, self.tokens, strict=True):
            if count:
                found[f"train/loss/{name}"] = loss / count
            found[f"train/tokens/{name}"] = total
        return found

    def clear(self) -> None:
        self.tokens = [0] * len(self.names)

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": list(self.tokens)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tokens = list(state.get("tokens", self.tokens))


def sums_by_source(batch: Batch, logprobs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each source [S]: the sum of -log p (nats) over tokens that count, how many these are, and how many tokens
    there are that are not padding."""
    assert batch.sources is not None
    sources = batch.sources.flatten()

    def summed(values: Tensor) -> Tensor:
        sums = torch.zeros(count, dtype=torch.float64, device=values.device)
        return sums.index_add(0, sources, values.flatten().double())

    present = (batch.documents >= 0).double()
    return summed(-logprobs.float() * batch.loss_mask), summed(batch.loss_mask), summed(present)
