"""`merge=sce`: select by variance, calculate weights, erase minorities (Wan et al., FuseChat, arXiv 2408.07990).

The entries whose deltas W_i - W0 differ most between the parents are selected; a parent's weight is the mean square of
its selected delta, divided by the sum over the parents; entries without the sign of the sum of deltas are erased, and
the rest is averaged by the weights.

1. `select` is a share of the entries that differ at all (mergekit 0.1.5), at least one. Where none differ all are
   selected, so that copies of one model give that model; mergekit gives the base. Entries as different as the last one
   selected are selected too.
2. Weights are divided by their sum however small it is; mergekit takes equal ones below 1e-6, which is where the deltas
   of a short fine-tune are.
3. Signs are elected over the deltas without weights (mergekit); a sum of 0 counts as plus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, MergeConfig, refuse_weights
from rlx.merges.consensus import DeltaConfig, Divide, Elect, agreed, blocks, flat, smallest
from rlx.options import option


@option("merge", "sce")
@dataclass(kw_only=True, slots=True)
class SceConfig(DeltaConfig):
    """Differences where parents disagree most, weighted by their energy."""

    select: float = 1.0
    """Share of the entries that is selected, those of largest variance between the parents."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        refuse_weights(self, "merge=sce takes them from the deltas")
        if not 0 < self.select <= 1:
            raise ConfigError(f"merge.select={self.select} must be above 0 and at most 1; it is the share selected")

    def change(self, given: Given) -> Tensor:
        deltas = list(flat(given))
        if self.select < 1:
            select(deltas, self.select)
        energies = [energy(delta) for delta in deltas]
        total = sum(energies)
        weights = [each / total for each in energies] if total > 0 else [1.0] * len(deltas)
        return agreed(deltas, weights, Elect.unweighted, Divide.weights)


def select(deltas: Sequence[Tensor], share: float) -> None:
    """Set all but that share of the entries that differ most to 0, in place."""
    variance = torch.empty_like(deltas[0])
    for place in blocks(variance.numel()):
        variance[place] = torch.stack([delta[place] for delta in deltas]).var(dim=0, correction=0)
    differ = int(variance.count_nonzero())
    if differ == 0:
        return
    least = smallest(variance, variance.numel() - max(1, int(share * differ)) + 1)
    for place in blocks(variance.numel()):
        chosen = variance[place] >= least
        for delta in deltas:
            delta[place].mul_(chosen)


def energy(delta: Tensor) -> float:
    """Sum of squares."""
    return sum(delta[place].square().sum().item() for place in blocks(delta.numel()))
