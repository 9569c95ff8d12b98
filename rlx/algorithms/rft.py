"""`algorithm=rft`: rejection-sampling fine-tuning (Yuan et al., arXiv 2308.01825).

The starting policy samples in all iterations; at the end the distinct right completions are trained on, from the
starting policy's weights. There is one round, so curves are flat until the last step.

Choices where sources differ:
1. The paper drops completions with an equation list that another has; here completions are equal when all of their
   tokens are.
2. It fine-tunes the pretrained model on samples of a fine-tuned one together with the data that made that one; here
   both are the run's start, and the samples are all.
"""

from dataclasses import dataclass

from rlx.algorithms.rejection import RejectionConfig, Whose
from rlx.options import option


@option("algorithm", "rft")
@dataclass(kw_only=True, slots=True)
class RftConfig(RejectionConfig):
    """One round of fine-tuning on the starting policy's right samples."""

    epochs: int = 3
    """Passes over the samples."""
    generator: Whose = Whose.start
    """Which weights sample: start or latest."""
    round_iterations: int | None = None
    """Iterations that sample for a round of training; null: all of the run are one round."""
