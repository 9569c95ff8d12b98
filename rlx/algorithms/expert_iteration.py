"""`algorithm=expert_iteration`: sample, keep what is right, fine-tune, repeat (Anthony et al., arXiv 1705.08439; for
language models Zelikman et al., arXiv 2203.14465, and Echo Chamber, arXiv 2504.07912).

round_iterations iterations sample with the weights of the last round; then the samples kept are trained on for `epochs`
passes, with a schedule and an optimizer of the round's own, and the next round samples with what came of it.

Choices where sources differ:
1. A round begins with the weights that the run began with (`train_from=start`), as in Echo Chamber and STaR, so that
   errors do not add up; `latest` is the online form, and with `round_iterations=1 epochs=1 deduplicate=false` it is a
   policy gradient on successes.
2. A round trains on its own samples (`buffer_rounds=1`); `null` keeps those of all rounds.
3. Exact duplicates of (prompt, completion) are dropped.
"""

from dataclasses import dataclass

from rlx.algorithms.rejection import RejectionConfig
from rlx.options import option


@option("algorithm", "expert_iteration")
@dataclass(kw_only=True, slots=True)
class ExpertIterationConfig(RejectionConfig):
    """Rounds of fine-tuning on the right samples of the round before."""
