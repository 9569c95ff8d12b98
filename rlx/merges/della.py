"""`merge=della`: as DARE, where larger differences are kept with a higher probability (Deep et al., arXiv 2406.11617).

Within each row of a delta W_i - W0 the entries are ranked by magnitude; the one at normalised rank r, from 0 to 1, is
kept with probability density - epsilon + 2 epsilon r and divided by it. Then signs are elected and what agrees is
averaged.

1. A row is a vector along the last axis, the inputs of one unit; a tensor of fewer than two axes is one row (mergekit
   0.1.5 too, but it ranks along the second axis of tensors that have three). A row of one entry has `density`.
2. `epsilon` is half of the range, as in mergekit; the paper's is the whole.
3. `rescale=inverse` is the paper's; mergekit keeps the sum of magnitudes: `rescale=l1`.
4. `consensus=ties` is the paper's (mergekit's della), `linear` mergekit's della_linear.
5. Equal magnitudes are ranked in their order in memory. Masks: see `rlx/merges/consensus.py`, 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import BLOCK, Given
from rlx.merges.consensus import AgreeConfig, Consensus, EitherConfig, Rescale, drop
from rlx.options import option


@option("merge", "della")
@dataclass(kw_only=True, slots=True)
class DellaConfig(EitherConfig):
    """Differences kept at random by their rank, scaled up."""

    draws: ClassVar[bool] = True

    density: float = 0.5
    """Mean probability with which an entry of a delta is kept."""
    epsilon: float = 0.15
    """How far the probabilities of the smallest and of the largest entry of a row are from it."""
    rescale: Rescale = Rescale.inverse
    """What makes up for dropped entries: inverse (of the probability), l1 (the sum of magnitudes stays), none."""
    consensus: Consensus = Consensus.ties
    """How deltas become one: linear (their weighted sum), ties (those that have the elected sign)."""

    def __post_init__(self) -> None:
        AgreeConfig.__post_init__(self)
        low, high = self.density - self.epsilon, self.density + self.epsilon
        if self.density < 1 and not (0 < low <= high <= 1):
            raise ConfigError(
                f"merge.density={self.density} and merge.epsilon={self.epsilon} give probabilities from {low:.4g} to "
                f"{high:.4g}; they must be above 0 and at most 1"
            )

    def thinned(self, delta: Tensor, given: Given) -> Tensor:
        if self.density >= 1 or delta.numel() == 0:
            return delta
        assert given.base is not None
        columns = given.base.shape[-1] if given.base.dim() > 1 else delta.numel()
        return drop(delta, self.chances(delta.view(-1, columns)), self.rescale, given.generator)

    def chances(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Probabilities of the entries, a block of rows at a time."""
        columns = rows.shape[1]
        if columns == 1:
            by_rank = rows.new_full((1,), self.density)
        else:
            ends = self.density - self.epsilon, self.density + self.epsilon
            by_rank = torch.linspace(*ends, columns, dtype=rows.dtype)
        height = max(1, BLOCK // columns)
        for top in range(0, rows.shape[0], height):
            part = rows[top : top + height]
            order = part.abs().argsort(dim=1, stable=True)
            found = torch.empty_like(part).scatter_(1, order, by_rank.expand_as(part))
            yield slice(top * columns, top * columns + part.numel()), found.view(-1)
