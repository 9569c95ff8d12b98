"""`algorithm=dapo`: decoupled clip and dynamic sampling (Yu et al., arXiv 2503.14476, section 3).

GRPO with a higher upper clip, a mean over the tokens of the step, groups drawn until enough of them have right and
wrong samples, truncated rows left out of the loss (overlong filtering) and a reward that falls over the last fifth of
decode.max_tokens (soft overlong punishment); no KL.

Choices where sources differ:
1. Both treatments of long answers are on, as in the paper's ablation (table 1), where they add up; verl's recipe has
   the punishment alone (`mask_truncated=false`).
2. Groups are judged by the verdicts, not by rewards with the punishment in them (equation 11). Prompts are drawn in
   parts of what is missing; those beyond stage.prompts are dropped. After max_draws the iteration trains on what there
   is, where verl ends the run.
"""

from dataclasses import dataclass

from rlx.algorithms.policy_gradient import GroupConfig, GroupRelative
from rlx.options import option


@option("algorithm", "dapo")
@dataclass(kw_only=True, slots=True)
class DapoConfig(GroupConfig):
    """GRPO with clip-higher, dynamic sampling, a token-level loss and overlong shaping."""

    clip_high: float = 0.28
    """The ratio is clipped above at 1 + clip_high."""
    dynamic_sampling: bool = True
    """Only prompts with right and wrong samples are trained on; more are drawn until there are stage.prompts of
    them."""
    overlong_share: float | None = 0.2
    """The last share of decode.max_tokens in which the reward falls by overlong_penalty; null: length costs nothing."""
    mask_truncated: bool = True
    """Completions that are cut count in their group's mean and are not trained on (overlong filtering)."""

    def build(self) -> "GroupRelative[DapoConfig]":
        return GroupRelative(self)
