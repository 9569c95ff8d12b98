"""`algorithm=gspo`: group sequence policy optimization (Zheng et al., arXiv 2507.18071, section 4).

    s_i = exp( mean_t (log p - log p_old) ),   L = mean_i -min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)

with GRPO's advantages. A whole row is clipped or not, by the geometric mean of its tokens' ratios, so that the clip is
a thousand times narrower. A token's part of the loss is its row's, which makes the paper's mean over rows
`normalization=sequence`; `sum` weighs rows by their length (LUSPO, arXiv 2602.05261, whose clips are 2e-3 and 2.5e-3).
With importance_sampling_cap a row weighs the mean of its tokens' weights. Where turns are rewarded apart, a turn is
such a sequence, with a ratio of its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.algorithms.base import Normalization
from rlx.algorithms.policy_gradient import GroupConfig, GroupRelative, units
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.options import option


@option("algorithm", "gspo")
@dataclass(kw_only=True, slots=True)
class GspoConfig(GroupConfig):
    """Clipped policy gradient on ratios of whole completions."""

    clip_low: float = 3e-4
    """A completion's ratio is clipped below at 1 - clip_low."""
    clip_high: float = 4e-4
    """A completion's ratio is clipped above at 1 + clip_high."""
    normalization: Normalization = Normalization.sequence
    """How the per-token loss becomes one number: token, sequence, constant or sum."""

    def build(self) -> "Gspo":
        return Gspo(self)


class Gspo(GroupRelative[GspoConfig]):
    """The algorithm at one setting."""

    def log_ratio(self, out: PolicyOutput, batch: RolloutBatch) -> Tensor:
        mask = batch.loss_mask
        gaps, found = (out.logprobs - self.old(batch)) * mask, torch.zeros_like(mask)
        for _, own in units(batch):
            count = (mask * own).sum(-1, keepdim=True).clamp(min=1)
            found = found + (gaps * own).sum(-1, keepdim=True) / count * own
        return found.clamp(-20, 20)
