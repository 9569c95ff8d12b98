"""Texts that nobody drew as a `RolloutBatch`, for whoever asks a model how likely they are."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlx.batches import RolloutBatch
from rlx.data.documents import Document


def as_rows(documents: Sequence[Document], *, pad_id: int, device: torch.device, coupled: bool = False) -> RolloutBatch:
    """A row a document, the mask on the tokens that count; nothing but tokens, mask and (where they are `coupled`)
    places is meant to be read."""
    width = max(len(document.ids) for document in documents)

    def rows(of: Callable[[Document], Sequence[int]], empty: int) -> Tensor:
        found = [[*of(document), *[empty] * (width - len(document.ids))] for document in documents]
        return torch.tensor(found, device=device)

    tokens = rows(lambda document: document.ids, pad_id)
    mask = rows(lambda document: document.counted(), 0).float()
    nothing, row = torch.zeros_like(mask), torch.zeros_like(tokens[:, 0])
    return RolloutBatch(
        tokens=tokens,
        loss_mask=mask,
        logprobs=nothing,
        rewards=nothing,
        group=row,
        turn=torch.zeros_like(tokens),
        finished=row == 0,
        correct=row == 0,
        places=rows(lambda document: document.places or (), 0) if coupled else None,
    )
