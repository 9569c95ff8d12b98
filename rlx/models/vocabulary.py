"""Rows for tokens that a model has not met."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rlx.models.base import TIED

OF_VOCABULARY = ("embed.weight", TIED)
"""Tensors with a row a token."""


def with_rows(tensors: Mapping[str, Tensor], before: int, after: int) -> dict[str, Tensor]:
    """A decoder's tensors for `after` tokens, from those for `before`: the rows that there are stay as they are.

    Each new row is the mean of the old ones (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language
    Models", https://nlp.stanford.edu/~johnhew/vocab-expansion.html): where the head has rows of its own, the logit of a
    new token is then the mean of all, and what the model said of the others hardly changes.
    """
    found = dict(tensors)
    for name in OF_VOCABULARY if after > before else ():
        if name in found:
            rows = found[name]  # [V, D]
            mean = rows.double().mean(dim=0, keepdim=True).to(rows.dtype)
            found[name] = torch.cat([rows, mean.expand(after - before, -1)])
    return found
